//! What the server put on the kernel command line: the agent's orders, or the call to look at the disk.
//!
//! The two have one word each that the other has not, and a command line with both is neither.

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

/// `regild.server=http://IP:PORT regild.host=ID regild.verify=N regild.token=HEX`: look, and write nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyCall {
    /// `http://IP:PORT`, without a slash at the end.
    pub server: String,
    pub host: String,
    pub number: u64,
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
    #[error("both regild.generation= and regild.verify= on the kernel command line: it is no order of a regild server")]
    Both,
}

impl Orders {
    /// Reads the text of /proc/cmdline.
    ///
    /// # Errors
    /// [`OrdersError`] names the key.
    pub fn parse(command_line: &str) -> Result<Orders, OrdersError> {
        let (server, host, token) = common(command_line)?;
        Ok(Orders { server, host, generation: number(command_line, "regild.generation", "regild.verify")?, token })
    }
}

impl VerifyCall {
    /// Reads the text of /proc/cmdline.
    ///
    /// # Errors
    /// [`OrdersError`] names the key.
    pub fn parse(command_line: &str) -> Result<VerifyCall, OrdersError> {
        let (server, host, token) = common(command_line)?;
        Ok(VerifyCall { server, host, number: number(command_line, "regild.verify", "regild.generation")?, token })
    }
}

fn value<'c>(command_line: &'c str, key: &'static str) -> Result<&'c str, OrdersError> {
    let words = command_line.split_ascii_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    values.next().ok_or(OrdersError::Missing(key))
}

/// Server, host and token.
fn common(command_line: &str) -> Result<(String, String, String), OrdersError> {
    let server = value(command_line, "regild.server")?;
    if !server.starts_with("http://") {
        return Err(OrdersError::Wrong { key: "regild.server", value: server.to_string() });
    }
    let text = |key| value(command_line, key).map(str::to_string);
    Ok((server.trim_end_matches('/').to_string(), text("regild.host")?, text("regild.token")?))
}

fn number(command_line: &str, key: &'static str, other: &'static str) -> Result<u64, OrdersError> {
    let text = value(command_line, key)?;
    if value(command_line, other).is_ok() {
        return Err(OrdersError::Both);
    }
    text.parse().map_err(|_| OrdersError::Wrong { key, value: text.to_string() })
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

    /// No order, no write: a boot to look is no order, and one that says both is nothing at all.
    #[test]
    fn a_call_to_verify_is_no_order_and_an_order_is_no_call() {
        let call = LINE.replace("regild.generation", "regild.verify");
        let parsed = VerifyCall::parse(&call).unwrap();
        assert_eq!((parsed.number, parsed.host.as_str(), parsed.token.as_str()), (3, "h-1", "ab"));
        assert_eq!(Orders::parse(&call), Err(OrdersError::Missing("regild.generation")));
        assert_eq!(VerifyCall::parse(LINE), Err(OrdersError::Missing("regild.verify")));
        let both = format!("{} regild.verify=3", LINE.trim());
        assert_eq!((Orders::parse(&both), VerifyCall::parse(&both)), (Err(OrdersError::Both), Err(OrdersError::Both)));
    }

    #[test]
    fn a_boot_without_orders_is_refused_by_the_name_of_what_is_missing() {
        assert_eq!(Orders::parse("quiet"), Err(OrdersError::Missing("regild.server")));
        assert_eq!(Orders::parse(&LINE.replace("regild.token=ab", "")), Err(OrdersError::Missing("regild.token")));
        assert!(matches!(Orders::parse(&LINE.replace("=3", "=x")), Err(OrdersError::Wrong { .. })));
        assert!(matches!(Orders::parse(&LINE.replace("http://", "file://")), Err(OrdersError::Wrong { .. })));
    }
}
