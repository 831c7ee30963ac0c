//! os-release(5): assignments as a shell reads them, of which only the quotes count here.

use crate::wire::image_facts::{OsFacts, text_of};

/// `evidence`: the file. The text is outside text, and may be anything.
pub(super) fn parse(text: &[u8], evidence: &str) -> OsFacts {
    let value = |key: &str| {
        // As in a shell: the last one counts.
        let lines = text.split(|byte| *byte == b'\n').rev();
        let mut said = lines.filter_map(|line| line.trim_ascii().strip_prefix(key.as_bytes())?.strip_prefix(b"="));
        let value = unquoted(said.next()?.trim_ascii());
        (!value.is_empty()).then(|| text_of(&value))
    };
    let (id, version_id, pretty_name) = (value("ID"), value("VERSION_ID"), value("PRETTY_NAME").or(value("NAME")));
    let is_none = id.is_none() && pretty_name.is_none();
    let unknown = is_none.then(|| format!("{evidence} has neither ID nor PRETTY_NAME"));
    OsFacts { id, version_id, pretty_name, evidence: Some(evidence.to_owned()), unknown }
}

fn unquoted(value: &[u8]) -> Vec<u8> {
    let inner = match value {
        [quote @ (b'"' | b'\''), inner @ .., last] if last == quote => (inner, *quote == b'"'),
        bare => (bare, true),
    };
    let (inner, has_escapes) = inner;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' if has_escapes => bytes.extend(rest.next()),
            byte => bytes.push(byte),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::path;
    use proptest::prelude::*;

    #[test]
    fn it_is_read_as_a_shell_reads_it() {
        let text =
            b"# made\nPRETTY_NAME=\"Debian \\\"x\\\" 12\"\nID=other\n ID='debian' \r\nVERSION_ID=\"12\"\nIDX=no\n";
        let os = parse(text, "/etc/os-release");
        let said = [os.id, os.version_id, os.pretty_name].map(Option::unwrap_or_default);
        assert_eq!(said, ["debian", "12", "Debian \"x\" 12"]);
        assert_eq!((os.evidence.as_deref(), os.unknown), (Some("/etc/os-release"), None));
        assert_eq!(parse(b"NAME=Plain\n", "f").pretty_name.unwrap(), "Plain");
        assert_eq!(parse(b"\0\xff", "f").unknown.unwrap(), "f has neither ID nor PRETTY_NAME");
    }

    proptest! {
        /// Bad input: it is bounded, and nothing in it reaches a terminal as it is.
        #[test]
        fn whatever_it_holds_can_be_shown(value in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let os = parse(&[b"ID=", &value[..], b"\nPRETTY_NAME=\"", &value[..]].concat(), "f");
            for text in [os.id, os.pretty_name].into_iter().flatten() {
                prop_assert!(text.len() <= 4 * crate::wire::image_facts::TEXT_BYTES_MAX);
                prop_assert!(!text.chars().any(path::is_hidden));
            }
        }
    }
}
