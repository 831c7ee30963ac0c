//! Paths as bytes, since a file name may hold any byte but `/` and NUL: their order and their form as text.

use std::cmp::Ordering;

/// The order of every baseline, scan and state file: by components, each bytewise. It is the order of a walk that
/// takes the names of each directory sorted, and a directory before what is in it. (`/a/b` < `/a!`, though `!` < `/`.)
#[must_use]
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    // The same as comparing the components one by one, at the first byte that differs: a name that ends there comes
    // first. A scan asks this several times for each file.
    match a.iter().zip(b).find(|(x, y)| x != y) {
        None => a.len().cmp(&b.len()),
        Some((b'/', _)) => Ordering::Less,
        Some((_, b'/')) => Ordering::Greater,
        Some((x, y)) => x.cmp(y),
    }
}

/// Whether `path` is `top` or lies under it.
#[must_use]
pub fn is_within(path: &[u8], top: &[u8]) -> bool {
    let top = top.strip_suffix(b"/").unwrap_or(top);
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// As text that shows every byte and can be typed again: UTF-8 stays, a backslash is `\\`, and control characters and
/// bytes that are no UTF-8 are `\xNN`. Nothing in it can move a terminal's cursor or end a line.
#[must_use]
pub fn to_text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                hidden if is_hidden(hidden) => {
                    let mut buffer = [0; 4];
                    hidden.encode_utf8(&mut buffer).bytes().for_each(|byte| push_escaped(&mut text, byte));
                }
                shown => text.push(shown),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_escaped(&mut text, *byte));
    }
    text
}

/// What [`to_text`] wrote, as bytes again; `None` where it is not of that form.
#[must_use]
pub fn from_text(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        match rest {
            [b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [b'x', high, low, after @ ..] => {
                bytes.push(hex(*high)? << 4 | hex(*low)?);
                rest = after;
            }
            _ => return None,
        }
    }
    Some(bytes)
}

/// Control characters, and those of Unicode that turn the direction of what follows or are not seen at all: a name
/// with them looks like another one.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn push_escaped(text: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    text.push_str("\\x");
    text.push(char::from(HEX[usize::from(byte >> 4)]));
    text.push(char::from(HEX[usize::from(byte & 15)]));
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_is_that_of_a_sorted_walk() {
        let walk: [&[u8]; 6] = [b"/", b"/a", b"/a/b", b"/a/b/c", b"/a!", b"/b"];
        for pair in walk.windows(2) {
            assert_eq!(order(pair[0], pair[1]), Ordering::Less, "{} {}", to_text(pair[0]), to_text(pair[1]));
        }
    }

    #[test]
    fn within_ends_at_a_name() {
        assert!(is_within(b"/var/log", b"/var/log") && is_within(b"/var/log/x", b"/var/log") && is_within(b"/x", b"/"));
        assert!(!is_within(b"/var/logs", b"/var/log"));
    }

    /// faults.md, rule 10: a file name from a host goes to an operator's terminal.
    #[test]
    fn a_name_cannot_act_on_a_terminal() {
        assert_eq!(to_text(b"/a\n\x1b[2J\xff\\"), "/a\\x0a\\x1b[2J\\xff\\\\");
        assert_eq!(to_text("/m\u{fc}ll/\u{202e}fdp.exe".as_bytes()), "/m\u{fc}ll/\\xe2\\x80\\xaefdp.exe");
        assert_eq!(from_text("/a\\"), None);
        assert_eq!(from_text("/a\\x0"), None);
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_components(a in "[/!a\\x00]{0,8}", b in "[/!a\\x00]{0,8}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            let components = a.split(|byte| *byte == b'/').cmp(b.split(|byte| *byte == b'/'));
            prop_assert_eq!(order(a, b), components);
        }

        #[test]
        fn text_holds_every_byte(path in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = to_text(&path);
            prop_assert!(text.chars().all(|c| !c.is_control()));
            prop_assert_eq!(from_text(&text), Some(path));
        }
    }
}
