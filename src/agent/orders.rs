//! The agent's orders: what the server put on the kernel command line.

/// `regild.server=http://IP:PORT regild.host=ID regild.generation=N regild.token=HEX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// `http://IP:PORT`, without a slash at the end.
    pub server: String,
    pub host: String,
    pub generation: u64,
    /// One-time; dead once it was claimed.
    pub token: String,
}

/// Why the command line holds no orders. An agent without orders does nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrdersError {
    #[error("no {0}= on the kernel command line: this boot was not ordered by a regild server")]
    Missing(&'static str),
    #[error("{key}={value:?} on the kernel command line is not right")]
    Wrong { key: &'static str, value: String },
}

impl Orders {
    /// Reads the text of /proc/cmdline.
    ///
    /// # Errors
    /// [`OrdersError`] names the key.
    pub fn parse(command_line: &str) -> Result<Orders, OrdersError> {
        let value = |key: &'static str| {
            let words = command_line.split_ascii_whitespace();
            let mut values = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            values.next().ok_or(OrdersError::Missing(key))
        };
        let wrong = |key, value: &str| OrdersError::Wrong { key, value: value.to_string() };
        let server = value("regild.server")?;
        if !server.starts_with("http://") {
            return Err(wrong("regild.server", server));
        }
        let generation = value("regild.generation")?;
        Ok(Orders {
            server: server.trim_end_matches('/').to_string(),
            host: value("regild.host")?.to_string(),
            generation: generation.parse().map_err(|_| wrong("regild.generation", generation))?,
            token: value("regild.token")?.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "initrd=initrd.img regild.server=http://10.0.0.1:8080 regild.host=h-1 regild.generation=3 regild.token=ab quiet\n";

    #[test]
    fn orders_are_read_among_other_words() {
        let orders = Orders::parse(LINE).unwrap();
        assert_eq!((orders.server.as_str(), orders.host.as_str()), ("http://10.0.0.1:8080", "h-1"));
        assert_eq!((orders.generation, orders.token.as_str()), (3, "ab"));
    }

    #[test]
    fn a_boot_without_orders_is_refused_by_the_name_of_what_is_missing() {
        assert_eq!(Orders::parse("quiet"), Err(OrdersError::Missing("regild.server")));
        assert_eq!(Orders::parse(&LINE.replace("regild.token=ab", "")), Err(OrdersError::Missing("regild.token")));
        assert!(matches!(Orders::parse(&LINE.replace("=3", "=x")), Err(OrdersError::Wrong { .. })));
        assert!(matches!(Orders::parse(&LINE.replace("http://", "file://")), Err(OrdersError::Wrong { .. })));
    }
}
