//! Grace and quorum, by the server's own knowledge.

use super::super::policy::Pattern;
use super::*;

const HOUR: u64 = 3600;

fn aspects(words: &str) -> Aspects {
    words.split('+').filter_map(Aspect::from_word).collect()
}

fn rebuild(pattern: &str, of: &str, grace_seconds: u64, scans_min: u32) -> Rule {
    let action = Action::Rebuild { grace_seconds, scans_min };
    let aspects = if of.is_empty() { Aspects::ALL } else { aspects(of) };
    let (pattern, why, from) = (Pattern::new(pattern.as_bytes()).unwrap(), String::new(), pattern.to_string());
    Rule { pattern, aspects, action, content: false, why, until: None, from }
}

fn verdict_of(rules: &[Rule], known: &[Known], look: u64, now: u64) -> Verdict {
    judge(rules, b"/usr/bin/ssh", known, look, now).verdict
}

/// Issue 4: "with grace time and quorum (seen in N scans)".
#[test]
fn a_finding_asks_once_its_grace_is_over_and_it_was_seen_often_enough() {
    let rules = [rebuild("/usr/**", "", HOUR, 3)];
    let known = known(&[], aspects("content"), 7, 1000);
    assert_eq!(verdict_of(&rules, &known, 7, 1000), Verdict::Later { at: Some(1000 + HOUR), looks: 2 });
    assert_eq!(verdict_of(&rules, &known, 8, 1000 + HOUR), Verdict::Later { at: None, looks: 1 });
    assert_eq!(verdict_of(&rules, &known, 9, 999 + HOUR), Verdict::Later { at: Some(1000 + HOUR), looks: 0 });
    assert_eq!(verdict_of(&rules, &known, 9, 1000 + HOUR), Verdict::Asks);
    let at_once = [rebuild("/usr/**", "", 0, 0)];
    assert_eq!(verdict_of(&at_once, &known, 7, 1000), Verdict::Asks);
    assert_eq!(verdict_of(&[], &known, 9, u64::MAX), Verdict::Reported, "what no rule matches is reported");
    // A host whose count of looks went back is not thereby seen often.
    assert_eq!(verdict_of(&rules, &known, 0, 1000 + HOUR), Verdict::Later { at: None, looks: 2 });
}

/// What was there for long does not lend its age to what came to it just now.
#[test]
fn each_aspect_has_its_own_age() {
    let old = known(&[], aspects("mode"), 1, 10);
    let both = known(&old, aspects("mode+content"), 5, 500);
    assert_eq!(
        both.iter().map(|known| (known.aspects.to_string(), known.since, known.look)).collect::<Vec<_>>(),
        [("mode".to_string(), 10, 1), ("content".to_string(), 500, 5)]
    );
    let rules = [rebuild("/usr/**", "content", 100, 0)];
    assert_eq!(verdict_of(&rules, &both, 5, 500), Verdict::Later { at: Some(600), looks: 0 });
    let gone = known(&both, aspects("content"), 6, 700);
    assert_eq!(gone.len(), 1);
    let again = known(&gone, aspects("mode+content"), 7, 800);
    assert_eq!(again[1].since, 800, "what went away and came back begins anew");
}

#[test]
fn the_heaviest_aspect_decides_and_its_rule_is_named() {
    let allow = Rule { action: Action::Allow, ..rebuild("/usr/bin/*", "mode", 0, 0) };
    let rules = [allow, rebuild("/usr/bin/ssh", "owner", HOUR, 0), rebuild("/usr/**", "content", 0, 0)];
    let known = known(&[], aspects("mode+owner+content+xattrs"), 1, 10);
    let judged = judge(&rules, b"/usr/bin/ssh", &known, 1, 10);
    assert_eq!((judged.verdict, judged.left.to_string().as_str()), (Verdict::Asks, "content+owner+xattrs"));
    assert_eq!(judged.rule.unwrap().from, "/usr/**");
    let judged = judge(&rules[..2], b"/usr/bin/ssh", &known, 1, 10);
    assert_eq!(judged.rule.unwrap().from, "/usr/bin/ssh", "it will ask, which weighs more than what is reported");
    let judged = judge(&rules[..1], b"/usr/bin/ssh", &known[..0], 1, 10);
    assert_eq!((judged.verdict, judged.left), (Verdict::Allowed, Aspects::NONE));
}

#[test]
fn a_host_is_silent_after_three_reports_or_half_an_hour() {
    assert_eq!(silent_at(100, HOUR), 100 + 3 * HOUR);
    assert_eq!(silent_at(100, 60), 100 + 1800);
    assert_eq!(silent_at(100, u64::MAX), u64::MAX);
}

/// faults.md, rule 10: a sentence with a path of a host's goes into history, logs and terminals.
#[test]
fn a_sentence_is_one_bounded_line() {
    assert_eq!(sentence(b"/usr/bin/ssh", aspects("content"), 3), "/usr/bin/ssh: content; and 3 more");
    assert_eq!(sentence(b"/a\nb", aspects("mode+owner"), 0), "/a\\x0ab: mode+owner");
    for byte in [b'a', b'\n', b'\\', 0xff] {
        let long = sentence(&[b"/".as_slice(), &[byte; 5000]].concat(), Aspects::ALL, u64::MAX);
        assert!(long.len() < 300 && long.chars().all(|c| !c.is_control()) && long.contains("..."), "{long}");
    }
}

/// faults.md C5: the message says which paths are common to the hosts.
#[test]
fn what_most_hosts_share_is_named_and_what_few_share_is_not() {
    let hosts: Vec<Vec<&str>> = (0..10).map(|n| if n == 0 { vec!["/x", "/y"] } else { vec!["/x", "/z"] }).collect();
    assert_eq!(common(hosts.clone()), [("/x", 10), ("/z", 9)]);
    assert_eq!(common([["/a"], ["/b"]]), []);
    assert_eq!(common([["/a"]]), [], "one host has nothing in common with others");
    let shared = [(b"/usr/bin/ssh".to_vec(), 10)];
    assert_eq!(common_sentence(&shared, 10), "common to them: /usr/bin/ssh (10 of 10)");
    assert_eq!(common_sentence(&[], 10), "no path is common to them");
}
