//! Lengths of time and amounts of bytes in words: what is shown can be typed into the configuration again.

const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];

/// `2d 3h`, `12m 5s`, `0s`: the two largest units that count.
#[must_use]
pub fn span(seconds: u64) -> String {
    let Some(largest) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else { return "0s".to_string() };
    let mut left = seconds;
    let mut words = Vec::new();
    for (unit, word) in UNITS.iter().skip(largest).take(2) {
        if left >= *unit {
            words.push(format!("{}{word}", left / unit));
        }
        left %= unit;
    }
    words.join(" ")
}

/// `1.2 GiB`, cut, not rounded: a thing is never shown larger than it is.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(step) = (1..=6usize).rev().find(|step| count >> (10 * step) > 0) else { return format!("{count} B") };
    let unit = 1u128 << (10 * step);
    let tenths = u128::from(count) * 10 / unit;
    format!("{}.{} {}", tenths / 10, tenths % 10, units[step - 1])
}

/// `1 host`, `3 hosts`.
#[must_use]
pub fn hosts(count: usize) -> String {
    if count == 1 { "1 host".to_string() } else { format!("{count} hosts") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_at_a_glance() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (725, "12m 5s"),
            (3_600, "1h"),
            (3_601, "1h"),
            (90_061, "1d 1h"),
            (30 * 86_400, "30d"),
            (u64::MAX, "213503982334601d 7h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn bytes_are_never_shown_larger_than_they_are() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (254_017_536, "242.2 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
