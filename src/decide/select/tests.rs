//! What an operator types, what it matches, and what is refused (faults.md O1, rule R1).

use super::*;
use crate::decide::host::Step;
use proptest::prelude::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let mut labels = Labels::default();
    for (key, value) in pairs {
        labels.set(key, value).expect("a test's label is a label");
    }
    labels
}

const MACS: [Mac; 2] = [Mac([0x52, 0x54, 0, 0, 0, 1]), Mac([0x52, 0x54, 0, 0, 0, 2])];

fn web_1(labels: &Labels) -> Facts<'_> {
    Facts {
        id: "h-525400000001",
        name: Some("web-1"),
        macs: &MACS,
        group: "compute",
        image: Some("debian:12.4"),
        state: &State::Ready { confirmed: true },
        labels,
    }
}

fn selects(text: &str, host: &Facts<'_>) -> bool {
    Selector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}")).matches(host)
}

#[test]
fn a_host_is_matched_by_what_the_record_and_its_labels_say() {
    let labels = labels(&[("rack", "12"), ("role", "web")]);
    let host = web_1(&labels);
    for (text, matched) in [
        ("all", true),
        ("group=compute,rack=12", true),
        ("group=compute,rack=13", false),
        ("rack=12|13", true),
        ("rack=1", false),
        ("rack!=3", true),
        ("rack!=3|12", false),
        ("rack!=3,rack!=4", true),
        ("image=debian:12.4", true),
        ("image!=debian:12.4", false),
        ("image!=debian:12.4+fix", true),
        ("state=ready", true),
        ("state=failed|held", false),
        ("name=web-1", true),
        ("name=web-10", false),
        ("id=h-525400000001", true),
        ("mac=52:54:00:00:00:02", true),
        ("mac=52-54-00-00-00-02", true),
        ("mac=52:54:00:00:00:01,mac=52:54:00:00:00:02", true),
        ("mac!=52:54:00:00:00:02", false),
        ("mac!=52:54:00:00:00:03", true),
    ] {
        assert_eq!(selects(text, &host), matched, "{text}");
    }
}

/// A mistyped label must not turn "not rack 3" into "everything".
#[test]
fn a_host_that_lacks_the_key_is_matched_neither_by_the_value_nor_by_its_negation() {
    let none = Labels::default();
    let blank = Facts {
        id: "h-1",
        name: None,
        macs: &[],
        group: "default",
        image: None,
        state: &State::Enrolled,
        labels: &none,
    };
    for key in ["rack", "rakc", "name", "image", "mac"] {
        let value = if key == "mac" { "52:54:00:00:00:09" } else { "x:1" };
        let value = if ["rack", "rakc", "name"].contains(&key) { "x" } else { value };
        for operator in ["=", "!="] {
            assert!(!selects(&format!("{key}{operator}{value}"), &blank), "{key}{operator}{value}");
        }
    }
}

/// O1: empty selector, regular expression, CIDR, unknown operator: an error that names the place.
#[test]
fn what_does_not_say_exactly_which_hosts_is_refused_with_the_place_and_the_reason() {
    for (text, at, says) in [
        ("", 1, "write `all`"),
        ("  ", 1, "write `all`"),
        ("*", 1, "no patterns"),
        ("rack=.*", 7, "no patterns"),
        ("name=web-[1-9]", 10, "no patterns"),
        ("rack=^12$", 6, "no patterns"),
        ("mac=52:54:00:00:00:01/0", 22, "no ranges"),
        ("0.0.0.0/0", 8, "no ranges"),
        ("name=web-?", 10, "no patterns"),
        ("rack==12", 5, "\"==\" is no operator"),
        ("rack=~12", 5, "\"=~\" is no operator"),
        ("rack>12", 5, "\">\" is no operator"),
        ("rack!12", 5, "\"!\" is no operator"),
        ("rack:12", 5, "\":\" is no operator"),
        ("rack=1=2", 7, "\"=\" is no operator"),
        ("rack", 5, "`rack` says nothing by itself"),
        ("rack=", 6, "a value is missing"),
        ("rack!=", 7, "a value is missing"),
        ("rack=12|", 9, "a value is missing"),
        ("=12", 1, "a key is missing"),
        (",", 1, "a term is missing"),
        ("rack=12,", 9, "a term is missing"),
        ("rack=12,,role=web", 9, "a term is missing"),
        ("rack=12, role=web", 9, "white space"),
        (" rack=12", 1, "white space"),
        ("all,rack=12", 1, "`all` stands alone"),
        ("rack=12,all", 9, "`all` stands alone"),
        ("all=1", 1, "`all` stands alone"),
        ("ALL", 4, "`ALL` says nothing"),
        ("Rack=12", 1, "\"Rack\" is no key"),
        ("state=redy", 7, "one of discovered"),
        ("mac=52:54:00", 5, "six hexadecimal bytes"),
        ("image=debian", 7, "NAME:VERSION"),
        ("image=debian:", 7, "NAME:VERSION"),
        ("image=a:b:c", 7, "NAME:VERSION"),
        ("image=debian@stable", 13, "in no key and no value"),
        ("rack=12,role=web,rack=13", 18, "rack=ONE|OTHER"),
        ("rack=\"12\"", 6, "in no key and no value"),
        ("rack=zw\u{f6}lf", 8, "in no key and no value"),
        ("r\u{e4}ck=1,rack=*", 2, "in no key and no value"),
    ] {
        let error = Selector::parse(text).expect_err(text);
        assert_eq!(error.at, at, "{text:?}: {error}");
        assert!(error.to_string().contains(says), "{text:?}: {error}");
    }
}

#[test]
fn a_selector_of_any_size_is_answered_and_too_long_ones_are_refused() {
    let many = |count: usize, separator: &str, item: &dyn Fn(usize) -> String| {
        (0..count).map(item).collect::<Vec<_>>().join(separator)
    };
    let why = |text: &str| Selector::parse(text).expect_err("too much").why;
    assert_eq!(why(&"x".repeat(1 << 20)), Why::TooLong);
    assert_eq!(why(&many(TERMS_MAX + 1, ",", &|n| format!("l{n}=1"))), Why::TooManyTerms);
    assert_eq!(why(&format!("rack={}", many(VALUES_MAX + 1, "|", &|n| n.to_string()))), Why::TooManyValues);
    assert!(Selector::parse(&format!("rack={}", many(VALUES_MAX, "|", &|n| n.to_string()))).is_ok());
}

/// The list of states in here follows the enum: a new state must be added to both.
#[test]
fn every_state_can_be_selected_by_its_word() {
    let (step, reason, by) = (Step::Netboot, String::new(), String::new());
    let all = [
        State::Discovered,
        State::Enrolled,
        State::Queued,
        State::Netbooting,
        State::Deploying(step),
        State::Verifying,
        State::Rebooting,
        State::Ready { confirmed: false },
        State::Failed { step, attempts: 1, reason: reason.clone() },
        State::Held { by, reason, until: None },
    ];
    let listed = |state: &State| match state {
        State::Discovered | State::Enrolled | State::Queued | State::Netbooting | State::Deploying(_) => true,
        State::Verifying | State::Rebooting | State::Ready { .. } | State::Failed { .. } | State::Held { .. } => true,
    };
    assert_eq!(all.len(), State::WORDS.len());
    let none = Labels::default();
    for state in &all {
        assert!(
            listed(state) && State::WORDS.contains(&state.word()) && STATE_FORM.contains(state.word()),
            "{state:?}"
        );
        let host = Facts { state, ..web_1(&none) };
        assert!(selects(&format!("state={}", state.word()), &host), "{state:?}");
    }
}

#[test]
fn many_hosts_must_be_counted_and_a_count_must_be_right() {
    for (matched, expected, says) in [
        (10, None, Count::Confirmed),
        (11, None, Count::NeedsExpectCount { matched: 11, threshold: 10 }),
        (11, Some(11), Count::Confirmed),
        (11, Some(12), Count::Differs { matched: 11, expected: 12 }),
        (3, Some(4), Count::Differs { matched: 3, expected: 4 }),
        (3, Some(3), Count::Confirmed),
        (0, None, Count::Nobody),
        (0, Some(0), Count::Nobody),
        (0, Some(5), Count::Differs { matched: 0, expected: 5 }),
    ] {
        assert_eq!(confirm(matched, EXPECT_COUNT_ABOVE, expected), says, "{matched} of {expected:?}");
    }
    let text = confirm(5000, 10, None).to_string();
    assert!(text.ends_with("--expect-count 5000"), "{text}");
}

/// One term of the hand model: key, negated, values.
type ModelTerm = (&'static str, bool, Vec<&'static str>);

fn model_term() -> impl Strategy<Value = ModelTerm> {
    let values = |key: &'static str| -> Vec<&'static str> {
        match key {
            "group" => vec!["compute", "default"],
            "state" => vec!["ready", "failed"],
            "image" => vec!["debian:12.4", "debian:12.5"],
            _ => vec!["1", "2", "3"],
        }
    };
    prop::sample::select(vec!["group", "state", "image", "rack", "row"]).prop_flat_map(move |key| {
        let some = prop::sample::subsequence(values(key), 1..=2);
        (Just(key), any::<bool>(), some)
    })
}

proptest! {
    /// Against a model that knows no syntax: every term holds for a value that the host has.
    #[test]
    fn any_selector_agrees_with_the_plain_reading(
        terms in prop::collection::vec(model_term(), 1..5),
        rack in prop::option::of("[1-3]"),
        row in prop::option::of("[1-3]"),
        group in prop::sample::select(vec!["compute", "default"]),
        image in prop::option::of(prop::sample::select(vec!["debian:12.4", "debian:12.5"])),
        ready in any::<bool>(),
    ) {
        let mut labels = Labels::default();
        for (key, value) in [("rack", &rack), ("row", &row)] {
            if let Some(value) = value {
                labels.set(key, value).unwrap();
            }
        }
        let failed = State::Failed { step: Step::Netboot, attempts: 3, reason: String::new() };
        let state = if ready { State::Ready { confirmed: true } } else { failed };
        let host = Facts { id: "h-1", name: None, macs: &[], group, image, state: &state, labels: &labels };
        let written: Vec<String> = terms.iter().map(|(key, negated, values)| {
            format!("{key}{}{}", if *negated { "!=" } else { "=" }, values.join("|"))
        }).collect();
        let positive_twice = terms.iter().enumerate().any(|(at, (key, negated, _))| {
            !negated && terms[..at].iter().any(|(other, other_negated, _)| other == key && !other_negated)
        });
        match Selector::parse(&written.join(",")) {
            Err(error) => prop_assert!(positive_twice, "{error}"),
            Ok(selector) => {
                prop_assert!(!positive_twice);
                let has = |key: &str| match key {
                    "group" => Some(group),
                    "state" => Some(if ready { "ready" } else { "failed" }),
                    "image" => image,
                    "rack" => rack.as_deref(),
                    _ => row.as_deref(),
                };
                let expected = terms.iter().all(|(key, negated, values)| {
                    has(key).is_some_and(|value| values.contains(&value) != *negated)
                });
                prop_assert_eq!(selector.matches(&host), expected);
            }
        }
    }

    /// Whatever is typed: an answer, and only the four letters `all` mean everyone.
    #[test]
    fn any_text_is_a_selector_or_an_error_inside_the_text(text in "[a-z0-9=!|,*. :\\PC]{0,40}") {
        match Selector::parse(&text) {
            Ok(selector) => {
                prop_assert_eq!(selector.is_all(), text == "all");
                prop_assert_eq!(selector.to_string(), text);
            }
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.at), "{}", error),
        }
    }
}
