//! Conditional and range requests for content that is known by a strong entity tag (RFC 9110, sections 8.8.3, 13 and 14).

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::ops::Range;

/// What a GET is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    Part(Range<usize>),
    /// 304, 412 or 416.
    Nothing(StatusCode),
}

/// Preconditions in the order of RFC 9110 section 13.2.2. `etag` is without quotes. There is no Last-Modified, so a date
/// never matches: conditions on dates are not heeded, and an If-Range with one gets the whole.
#[must_use]
pub fn wanted(headers: &HeaderMap, etag: &str, length: usize, is_head: bool) -> Wanted {
    if headers.contains_key(header::IF_MATCH) && !names(headers, &header::IF_MATCH, etag, Compare::Strong) {
        return Wanted::Nothing(StatusCode::PRECONDITION_FAILED);
    }
    if names(headers, &header::IF_NONE_MATCH, etag, Compare::Weak) {
        return Wanted::Nothing(StatusCode::NOT_MODIFIED);
    }
    // A range means something for GET only (section 14.2).
    let is_bytes =
        |range: &&HeaderValue| range.as_bytes().get(..6).is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes="));
    // One in a unit that is not known is as none.
    let Some(range) = headers.get(header::RANGE).filter(|_| !is_head).filter(is_bytes) else { return Wanted::Whole };
    if let Some(known) = headers.get(header::IF_RANGE)
        && known.as_bytes() != format!("\"{etag}\"").as_bytes()
    {
        return Wanted::Whole;
    }
    let asked = range.to_str().ok().and_then(|text| one_range(text, length));
    asked.map_or(Wanted::Nothing(StatusCode::RANGE_NOT_SATISFIABLE), |(first, last)| Wanted::Part(first..last + 1))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Strong,
    Weak,
}

/// Whether a header with a list of tags, or `*`, names this one. A list that is broken names what stands before the break.
fn names(headers: &HeaderMap, name: &HeaderName, etag: &str, compare: Compare) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        if list.trim() == "*" {
            return true;
        }
        let mut rest = list;
        while let Some((tag, is_weak, after)) = next_tag(rest) {
            if tag == etag && (compare == Compare::Weak || !is_weak) {
                return true;
            }
            rest = after;
        }
        false
    })
}

/// `W/"tag"` or `"tag"` at the head of a list, and what follows it. A tag may hold commas.
fn next_tag(list: &str) -> Option<(&str, bool, &str)> {
    let list = list.trim_start_matches([' ', '\t', ',']);
    let (list, is_weak) = list.strip_prefix("W/").map_or((list, false), |list| (list, true));
    let (tag, after) = list.strip_prefix('"')?.split_once('"')?;
    Some((tag, is_weak, after))
}

/// `bytes=A-B`, `bytes=A-` and `bytes=-N` (the last N) of RFC 9110 section 14.1.2, one range, inside `length`. Lists are not
/// ours: the agent always knows what it wants.
pub(super) fn one_range(text: &str, length: usize) -> Option<(usize, usize)> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.split_once('-').filter(|_| unit.eq_ignore_ascii_case("bytes"))?;
    let end = length.checked_sub(1)?;
    let (first, last) = match (first, last) {
        ("", suffix) => (length.checked_sub(number(suffix)?.min(length))?, end),
        (first, "") => (number(first)?, end),
        (first, last) => (number(first)?, number(last)?.min(end)),
    };
    (first <= last).then_some((first, last))
}

/// Digits and nothing else; one that is too large is as large as can be.
fn number(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(HeaderName, &str)]) -> Wanted {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| {
            map.append(name, value);
        });
        wanted(&map, "abc", 100, false)
    }

    /// faults.md H4: one good range or none; never other bytes than were asked for.
    #[test]
    fn only_one_range_inside_the_pack_is_served() {
        assert_eq!(one_range("bytes=0-9", 100), Some((0, 9)));
        assert_eq!(one_range("bytes=90-", 100), Some((90, 99)));
        assert_eq!(one_range("bytes=90-500", 100), Some((90, 99)));
        assert_eq!(one_range("Bytes=90-99999999999999999999999", 100), Some((90, 99)));
        assert_eq!((one_range("bytes=-5", 100), one_range("bytes=-500", 100)), (Some((95, 99)), Some((0, 99))));
        let bad =
            ["bytes=9-0", "bytes=100-", "bytes=-0", "bytes=-", "bytes=--5", "bytes=+1-5", "bytes=-+5", "bytes= 1-5"];
        let worse = ["bytes=0-1,3-4", "0-9", "lines=0-9", "bytes=a-b", "bytes=0", "bytes=99999999999999999999999-"];
        for text in bad.into_iter().chain(worse) {
            assert_eq!(one_range(text, 100), None, "{text}");
        }
        assert_eq!((one_range("bytes=0-", 0), one_range("bytes=-1", 0)), (None, None));
    }

    /// RFC 9110, 14.2: a range in a unit that is not known is as none.
    #[test]
    fn other_units_are_not_heeded() {
        for other in ["lines=1-2", "0-9", "bytes", "", "bytess=0-9"] {
            assert_eq!(asked(&[(header::RANGE, other)]), Wanted::Whole, "{other}");
        }
        assert_eq!(asked(&[(header::RANGE, "BYTES=-10")]), Wanted::Part(90..100));
    }

    #[test]
    fn who_has_it_already_is_told_so() {
        use header::IF_NONE_MATCH as NONE;
        let same = Wanted::Nothing(StatusCode::NOT_MODIFIED);
        for list in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "\"a,b\",W/\"abc\" ", "*", " \"abc\""] {
            assert_eq!(asked(&[(NONE, list)]), same, "{list}");
        }
        assert_eq!(asked(&[(NONE, "\"x\""), (NONE, "\"abc\"")]), same);
        for list in ["\"x\"", "abc", "\"abc", "", "\"a\"bc\"", "\"ABC\"", "x*"] {
            assert_eq!(asked(&[(NONE, list)]), Wanted::Whole, "{list}");
        }
        // Also with a range: there is nothing new of it.
        assert_eq!(asked(&[(NONE, "\"abc\""), (header::RANGE, "bytes=0-1")]), same);
    }

    #[test]
    fn who_goes_on_with_other_content_is_refused_or_gets_the_whole() {
        use header::{IF_MATCH, IF_RANGE, RANGE};
        let refused = Wanted::Nothing(StatusCode::PRECONDITION_FAILED);
        for list in ["\"x\"", "W/\"abc\"", "", "abc"] {
            assert_eq!(asked(&[(IF_MATCH, list)]), refused, "{list}");
        }
        assert_eq!(asked(&[(IF_MATCH, "\"abc\", \"x\"")]), Wanted::Whole);
        assert_eq!(asked(&[(IF_MATCH, "*"), (RANGE, "bytes=5-9")]), Wanted::Part(5..10));
        assert_eq!(asked(&[(IF_RANGE, "\"abc\""), (RANGE, "bytes=5-9")]), Wanted::Part(5..10));
        for other in ["\"x\"", "W/\"abc\"", "Sat, 28 Nov 2026 00:00:00 GMT", "\"abc\", \"abc\""] {
            assert_eq!(asked(&[(IF_RANGE, other), (RANGE, "bytes=5-9")]), Wanted::Whole, "{other}");
            // And then a range that could not be had is no matter either.
            assert_eq!(asked(&[(IF_RANGE, other), (RANGE, "bytes=500-")]), Wanted::Whole, "{other}");
        }
        assert_eq!(asked(&[(IF_MATCH, "\"x\""), (header::IF_NONE_MATCH, "\"abc\"")]), refused);
    }

    #[test]
    fn a_range_means_nothing_for_head() {
        let headers = HeaderMap::from_iter([(header::RANGE, "bytes=5-9".parse().unwrap())]);
        assert_eq!(wanted(&headers, "abc", 100, true), Wanted::Whole);
        assert_eq!(wanted(&headers, "abc", 100, false), Wanted::Part(5..10));
        assert_eq!(wanted(&headers, "abc", 3, false), Wanted::Nothing(StatusCode::RANGE_NOT_SATISFIABLE));
    }
}
