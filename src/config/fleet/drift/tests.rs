//! Drift policies as documents: what is taken, and what is refused in which words.

use super::*;
use crate::config::fleet::read::{Source, parse};
use crate::config::fleet::{Fleet, export};

fn read(text: &str) -> Result<Fleet, String> {
    parse(&[Source { path: "fleet/web.toml".into(), text: text.into() }]).map_err(|error| error.to_string())
}

fn policy(text: &str) -> DriftPolicy {
    read(text).unwrap_or_else(|error| panic!("{error}\n{text}")).drift.remove("web").expect("a policy")
}

#[test]
fn a_policy_means_what_it_says_and_what_it_leaves_out_has_its_default() {
    let read = policy(
        "[drift.web]\nimages = [\"debian\", \"debian:12.4\"]\nscan = \"5m\"\nread_only = [\"/usr\"]\n\
         [[drift.web.rule]]\npath = \"/etc/m*\"\ndiffers = [\"mode\", \"content\"]\naction = \"allow\"\nwhy = \"w\"\n\
         until = \"2027-03-01\"\n\
         [[drift.web.rule]]\nclass = \"logs\"\naction = \"rebuild\"\n\
         [[drift.web.rule]]\npath = \"/a\\\\xff\"\naction = \"report\"\ncontent = true\n",
    );
    assert_eq!((read.images.len(), read.defaults), (2, None));
    assert_eq!(read.pace, Pace { scan_seconds: 300, ..Pace::default() });
    assert_eq!(read.rules[0].aspects.to_string(), "content+mode");
    // 2027-03-01T00:00:00Z.
    assert_eq!(read.rules[0].until, Some(1_803_859_200));
    assert_eq!(read.rules[1].action, Action::Rebuild { grace_seconds: 3_600, scans_min: 3 });
    assert!(matches!(read.rules[1].what, What::Class(class) if class.name == "logs"));
    assert!(matches!(&read.rules[2].what, What::Path(pattern) if pattern.bytes() == b"/a\xff"));
    assert_eq!(policy("[drift.web]\n"), DriftPolicy::new("web"));
    // Whoever writes YAML, too.
    let yaml = "drift:\n  web:\n    rule:\n    - { class: tmp, action: report }\n";
    let yaml = parse(&[Source { path: "a.yaml".into(), text: yaml.into() }]).unwrap();
    assert_eq!(yaml.drift["web"].rules.len(), 1);
}

/// Faults: a policy that means something else than its author thinks hides what it should not, or hides nothing.
#[test]
fn what_cannot_be_meant_is_refused_with_file_place_and_what_to_do() {
    let rule = |lines: &str| format!("[drift.web]\n[[drift.web.rule]]\n{lines}\n");
    let many = "[[drift.web.rule]]\nclass = \"tmp\"\naction = \"report\"\n".repeat(RULES_MAX + 1);
    for (text, said) in [
        (
            rule("class = \"log\"\naction = \"allow\""),
            "fleet/web.toml:3: \"log\" is no class; there are kernel-filesystems",
        ),
        (
            rule("path = \"etc/motd\"\naction = \"report\""),
            "web.toml:3: \"etc/motd\" is no path pattern: it must begin with /",
        ),
        (rule("path = \"/etc/../x\"\naction = \"report\""), "which no path has"),
        (rule("path = '/etc/a\\b'\naction = \"report\""), "a backslash is written"),
        (rule("path = \"/a\"\naction = \"ignore\""), "web.toml:4: unknown variant `ignore`"),
        (
            rule("path = \"/a\"\naction = \"report\"\ndiffers = [\"time\"]"),
            "\"time\" is no way to differ; there are added",
        ),
        (
            rule("path = \"/a\"\naction = \"report\"\ndiffers = []"),
            "drift web: rule[1].differs: names no way to differ",
        ),
        (
            rule("path = \"/a\"\naction = \"report\"\ngrace = \"1h\""),
            "rule[1].grace: only a rule with action = \"rebuild\"",
        ),
        (rule("path = \"/a\"\naction = \"report\"\nscans = 3"), "rule[1].scans: only a rule"),
        (rule("path = \"/a\"\naction = \"rebuild\"\nscans = 0"), "rule[1].scans: must be 1 to"),
        (rule("path = \"/a\"\naction = \"rebuild\"\ngrace = \"99d\""), "must be 0s to 30d"),
        (rule("path = \"/a\"\naction = \"allow\""), "rule[1].why: is missing: say why"),
        (rule("path = \"/a\"\naction = \"report\"\nwhy = \"a\\nb\""), "rule[1].why: must be one line"),
        (
            rule("path = \"/a\"\naction = \"report\"\nuntil = \"soon\""),
            "\"soon\" is no time; write a day like 2027-03-01",
        ),
        (rule("path = \"/a\"\naction = \"report\"\nuntill = \"2027-03-01\""), "unknown field `untill`"),
        (rule("action = \"report\""), "rule[1].path: is missing: a rule is about a path or a class"),
        (
            rule("path = \"/a\"\nclass = \"tmp\"\naction = \"report\""),
            "rule[1].class: a rule is about a path or a class",
        ),
        (rule("path = \"/a\""), "missing field `action`"),
        ("[drift.web]\nimages = [\"Debian!\"]\n".to_string(), "web.toml:2: \"Debian!\" is no image name"),
        ("[drift.web]\ndefaults = \"suse\"\n".to_string(), "\"suse\" has no defaults; there are auto, debian"),
        ("[drift.web]\nread_only = [\"/usr/**\"]\n".to_string(), "must be a directory such as /usr"),
        ("[drift.web]\nscan = \"1s\"\n".to_string(), "must be 1m to 1d"),
        ("[drift.web]\nscan = \"12h\"\ncycle = \"6h\"\n".to_string(), "drift web: cycle: is shorter than scan"),
        ("[drift.\"a b\"]\n".to_string(), "\"a b\" is no name"),
        (format!("[drift.web]\n{many}"), "drift web: rule: has 1001 entries, at most 1000"),
    ] {
        let error = read(&text).expect_err(&text);
        assert!(error.contains(said), "{error}\nwanted {said}");
    }
}

#[test]
fn a_policy_twice_or_too_many_are_refused() {
    let source = |path: &str, text: String| Source { path: path.into(), text };
    let twice = [source("a.toml", "[drift.web]\n".into()), source("b.yaml", "drift:\n  web: {}\n".into())];
    assert_eq!(parse(&twice).unwrap_err().to_string(), "drift web is in a.toml and in b.yaml; keep one of them");
    let many: String = (0..=declared::POLICIES_MAX).map(|number| format!("[drift.p{number}]\n")).collect();
    assert_eq!(read(&many).unwrap_err(), "more than 1000 drift policies; that is not one fleet");
}

/// A day is written as a day again, a second as a second.
#[test]
fn an_end_is_written_as_it_was_read() {
    for text in ["2027-03-01", "2027-03-01T12:00:01Z", "1970-01-01"] {
        assert_eq!(text.parse::<Moment>().unwrap().to_string(), text);
    }
    for text in ["2027-3-1", "1969-12-31", "2027-03-01T12:00:00", "", "99999-01-01"] {
        assert!(text.parse::<Moment>().is_err(), "{text}");
    }
}

#[test]
fn groups_and_hosts_name_policies_and_give_them_back() {
    let text = "[drift.web]\n[group.web]\ndrift = \"web\"\n\
                [[host]]\nmac = \"52:54:00:00:00:01\"\ndrift = \"\"\n[[host]]\nmac = \"52:54:00:00:00:02\"\ndrift = \"web\"\n";
    let fleet = read(text).unwrap();
    assert_eq!(fleet.groups["web"].drift.as_deref(), Some("web"));
    let own: Vec<_> = fleet.hosts.values().map(|host| host.drift.as_deref()).collect();
    assert_eq!(own, [Some(""), Some("web")]);
    assert_eq!(read(&export::to_toml(&fleet).unwrap()).unwrap(), fleet);
    assert!(read("[group.web]\ndrift = \"\"\n").unwrap_err().contains("is no name"));
}
