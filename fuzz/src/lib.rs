//! What the targets share: something valid, and the ways in which it is spoiled.

pub mod agents;
pub mod machines;
pub mod memory_db;

use arbitrary::Arbitrary;

/// One byte at one place. A list of these turns something valid into something nearly valid, which gets deeper into
/// a parser than random bytes do.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Patch {
    pub at: u16,
    pub byte: u8,
}

/// Applies patches; places wrap around the end.
pub fn spoil(bytes: &mut [u8], patches: &[Patch]) {
    for patch in patches {
        if !bytes.is_empty() {
            let at = usize::from(patch.at) % bytes.len();
            bytes[at] = patch.byte;
        }
    }
}

/// Whether a text is safe in a table, a log and a history: one line, nothing that steers a terminal.
#[must_use]
pub fn is_one_line(text: &str) -> bool {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    !text.chars().any(steers)
}
