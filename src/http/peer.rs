//! Who an operator is: the user at the other end of the Unix socket, by the kernel's word (SO_PEERCRED).
//!
//! What a client says of itself is no name. From root it is kept as a remark, `root (for ann)`, so that history shows the
//! person behind sudo; root is one person all the same wherever two are needed, since root may say anything. From anybody
//! else it is not heeded.

use super::operator::one_line;
use super::problem::Problem;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use nix::unistd::{Uid, User};

const ROOT: u32 = 0;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub uid: u32,
    name: String,
}

impl Operator {
    /// Asks the system's user database, which may ask the network: not for an async task.
    #[must_use]
    pub fn of_uid(uid: u32) -> Operator {
        let known = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let printable = |name: &String| !name.is_empty() && name.chars().all(|char| char.is_ascii_graphic());
        Operator { uid, name: known.filter(printable).unwrap_or_else(|| format!("uid {uid}")) }
    }

    /// The name for history. `on_behalf_of` is what the client says; empty when it says nothing.
    ///
    /// # Errors
    /// 400 for a remark of root's that is not one line.
    pub fn called(&self, on_behalf_of: &str) -> Result<String, Problem> {
        if self.uid != ROOT || on_behalf_of.is_empty() || on_behalf_of == self.name {
            return Ok(self.name.clone());
        }
        Ok(format!("{} (for {})", self.name, one_line(on_behalf_of)?))
    }
}

/// Put there by the listener for each connection.
impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Operator, Problem> {
        let unknown = || Problem::new(StatusCode::FORBIDDEN, "it is not known who asks");
        parts.extensions.get::<Operator>().cloned().ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_is_heard_when_it_says_for_whom_it_asks() {
        let (root, daemon) = (Operator::of_uid(0), Operator::of_uid(1));
        assert_eq!(root.called("").unwrap(), "root");
        assert_eq!(root.called("ann").unwrap(), "root (for ann)");
        assert_eq!(root.called("root").unwrap(), "root");
        assert!(root.called("ann\nroot").is_err());
        assert_eq!(daemon.called("ann").unwrap(), "daemon");
        assert_eq!(Operator::of_uid(4_000_000_000).called("").unwrap(), "uid 4000000000");
    }
}
