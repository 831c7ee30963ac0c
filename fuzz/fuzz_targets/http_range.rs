//! The Range header of a request for pack data.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::http::fuzzing::one_range;

#[derive(Debug, Arbitrary)]
enum Input {
    Any(String, usize),
    Numbers(u64, Option<u64>, u16),
}

fuzz_target!(|input: Input| {
    let (text, length) = match input {
        Input::Any(text, length) => (text, length),
        Input::Numbers(first, last, length) => {
            (format!("bytes={first}-{}", last.map_or(String::new(), |last| last.to_string())), usize::from(length))
        }
    };
    if let Some((first, last)) = one_range(&text, length) {
        assert!(first <= last && last < length, "{text:?} of {length} gave {first}-{last}");
        assert!(text.to_ascii_lowercase().starts_with("bytes="));
    }
});
