//! Causes: why a host is to be rebuilt. Every cause only asks; the brakes decide when an order is opened.

use super::host::ImageChoice;

/// Causes that one host keeps at most; further ones of a kind replace the older one of that kind.
pub const CAUSES_MAX: usize = 8;

/// What asks for a rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CauseKind {
    /// A person, by `host reimage` or `host approve`.
    Operator,
    /// Wave of a rollout.
    Rollout { number: u64 },
    /// The group's cron line came due.
    Schedule,
    /// The disk was written longer ago than the group's `max_age`.
    MaxAge,
    /// Content differs from the image.
    Drift,
    /// The group's channel moved to another version.
    Channel,
    /// The version it runs was deprecated.
    ImageDeprecated,
    /// The version it runs was blocked.
    ImageBlocked,
}

impl CauseKind {
    /// Every word of [`CauseKind::word`].
    pub const WORDS: [&str; 8] =
        ["operator", "rollout", "schedule", "max_age", "drift", "channel", "image_deprecated", "image_blocked"];

    /// The word in JSON, history, ledger and selectors.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            CauseKind::Operator => "operator",
            CauseKind::Rollout { .. } => "rollout",
            CauseKind::Schedule => "schedule",
            CauseKind::MaxAge => "max_age",
            CauseKind::Drift => "drift",
            CauseKind::Channel => "channel",
            CauseKind::ImageDeprecated => "image_deprecated",
            CauseKind::ImageBlocked => "image_blocked",
        }
    }

    /// Whether nobody is watching when it acts: such causes keep to maintenance windows and the pause between
    /// rebuilds. A person's order and a rollout (which a person started) do not wait for a window.
    #[must_use]
    pub fn is_automatic(self) -> bool {
        !matches!(self, CauseKind::Operator | CauseKind::Rollout { .. })
    }
}

/// One cause, as it is kept with a host until the order it led to is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub kind: CauseKind,
    /// One line for people.
    pub reason: String,
    /// Who: an operator's name, `schedule`, `rollout 7 (ann)`.
    pub by: String,
    /// Unix seconds.
    pub at: u64,
    /// The image it wants; `None`: what the host should run anyway.
    pub image: Option<ImageChoice>,
    /// Foreign content on the target disk may be overwritten. Only a person says so.
    pub releases_disk: bool,
    /// What the asker calls this one request: asked twice with the same key, it is one request.
    pub key: Option<String>,
}

impl Cause {
    /// A cause that names no image and releases no disk.
    #[must_use]
    pub fn new(kind: CauseKind, reason: &str, by: &str, at: u64) -> Cause {
        Cause { kind, reason: reason.to_string(), by: by.to_string(), at, image: None, releases_disk: false, key: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_word_in_the_list() {
        // A new kind does not compile until it stands here.
        let place = |kind| match kind {
            CauseKind::Operator => 0,
            CauseKind::Rollout { .. } => 1,
            CauseKind::Schedule => 2,
            CauseKind::MaxAge => 3,
            CauseKind::Drift => 4,
            CauseKind::Channel => 5,
            CauseKind::ImageDeprecated => 6,
            CauseKind::ImageBlocked => 7,
        };
        let all = [
            CauseKind::Operator,
            CauseKind::Rollout { number: 1 },
            CauseKind::Schedule,
            CauseKind::MaxAge,
            CauseKind::Drift,
            CauseKind::Channel,
            CauseKind::ImageDeprecated,
            CauseKind::ImageBlocked,
        ];
        for kind in all {
            assert_eq!(CauseKind::WORDS[place(kind)], kind.word());
        }
    }
}
