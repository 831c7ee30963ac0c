//! An error with all that is behind it, for people. Error types here never repeat their source in their own
//! words, so whoever shows one must show the chain.

use std::error::Error;

/// `what: cause: cause of the cause`, for a log line, a report or an answer.
#[must_use]
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// One cause a line, for standard error.
#[must_use]
pub fn in_lines(program: &str, error: &(dyn Error + 'static)) -> String {
    let mut lines = chain(error).map(ToString::to_string);
    let first = format!("{program}: {}", lines.next().unwrap_or_default());
    lines.fold(first, |text, cause| text + "\n  because: " + &cause)
}

fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the image was not read")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn no_cause_is_lost_on_the_way_to_a_person() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(in_one_line(&error), "the image was not read: disk on fire");
        assert_eq!(in_lines("regild", &error), "regild: the image was not read\n  because: disk on fire");
    }
}
