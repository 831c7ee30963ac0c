//! Which rules a host has, what decides at a path, and what no default may ever hide.

use super::*;
use crate::decide::drift::classes::{CLASSES, class};
use crate::decide::drift::declared::{Declared, loosened};
use crate::decide::drift::finding::Aspect;
use crate::decide::drift::policy;
use proptest::prelude::*;

fn pattern(text: &str) -> Pattern {
    Pattern::new(text.as_bytes()).unwrap()
}

fn declared(path: &str, action: Action) -> Declared {
    let what = What::Path(pattern(path));
    Declared { what, aspects: Aspects::ALL, action, content: false, why: "w".into(), until: None }
}

fn exception(number: u32, path: &str, until: u64) -> Rule {
    Rule {
        pattern: pattern(path),
        aspects: Aspects::ALL,
        action: Action::Allow,
        content: false,
        why: "w".into(),
        until: Some(until),
        from: format!("exception {number}"),
    }
}

fn all(policies: impl IntoIterator<Item = DriftPolicy>) -> Policies {
    policies.into_iter().map(|policy| (policy.name.clone(), policy)).collect()
}

fn named(name: &str, images: &[&str], action: Action) -> DriftPolicy {
    let images = images.iter().map(|image| (*image).to_string()).collect();
    DriftPolicy { images, rules: vec![declared("/etc/motd", action)], ..DriftPolicy::new(name) }
}

/// The place of a policy's name in the list is the answer to "who comes first".
#[test]
fn the_nearest_that_speaks_of_a_path_decides() {
    let policies = all([
        named("a-name", &["debian"], Action::Report),
        named("b-version", &["debian:12.4"], Action::Report),
        named("c-other", &["debian:13"], Action::Report),
        named("group", &[], Action::Report),
        named("host", &["debian:12.4"], Action::Report),
    ]);
    let place = Place { host: Some("host"), group: Some("group"), image: Some("debian:12.4") };
    let of_host = super::policies(&policies, &place);
    let names: Vec<&str> = of_host.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["host", "group", "b-version", "a-name"], "`host` is named twice and counts once");
    let rules = rules(&[exception(7, "/etc/motd", 100)], &of_host, Family::Debian, 50);
    let from: Vec<&str> = rules.iter().take(6).map(|rule| rule.from.as_str()).collect();
    let defaults = "defaults of debian, class kernel-filesystems";
    assert_eq!(
        from,
        [
            "exception 7",
            "policy host, rule 1",
            "policy group, rule 1",
            "policy b-version, rule 1",
            "policy a-name, rule 1",
            defaults
        ]
    );
}

/// Exceptions end by themselves: a host whose clock was set back is not told of them any more.
#[test]
fn what_has_ended_is_gone_from_the_list() {
    let mut policy = named("web", &[], Action::Allow);
    policy.rules[0].until = Some(80);
    let of_host = [&policy];
    let at = |now| rules(&[exception(7, "/etc/issue", 100)], &of_host, Family::None, now).len();
    assert_eq!((at(79), at(80), at(99), at(100)), (2, 1, 1, 0));
}

/// What is accepted can be brought back into the image: the agent goes on to report it, with its content where a rule
/// lets content leave, and only where the exception means one path.
#[test]
fn an_accepted_path_is_reported_by_the_agent_and_allowed_by_the_server() {
    let content = Declared { content: true, ..declared("/etc/**", Action::Report) };
    let policy = DriftPolicy { rules: vec![content], ..DriftPolicy::new("web") };
    let accepted = [exception(1, "/etc/motd", 9), exception(2, "/opt/*", 9), exception(3, "/opt", 9)];
    let rules = rules(&accepted, &[&policy], Family::None, 5);
    let shown = |rules: &[Rule]| rules.iter().map(|rule| (rule.action, rule.content)).collect::<Vec<_>>();
    let (allow, report) = (Action::Allow, Action::Report);
    assert_eq!(shown(&rules), [(allow, true), (allow, false), (allow, false), (report, true)]);
    assert_eq!(shown(&for_agent(&rules)), [(report, true), (allow, false), (report, false), (report, true)]);
}

#[test]
fn the_first_policy_says_how_often_and_whose_defaults() {
    let mut near = DriftPolicy { defaults: Some(Family::Rhel), ..DriftPolicy::new("near") };
    near.pace.scan_seconds = 60;
    let far = DriftPolicy { defaults: Some(Family::None), ..DriftPolicy::new("far") };
    assert_eq!((family(&[&near, &far], Family::Debian), pace(&[&near, &far]).scan_seconds), (Family::Rhel, 60));
    let silent = DriftPolicy::new("silent");
    assert_eq!(family(&[&silent, &near], Family::Ubuntu), Family::Ubuntu, "auto is the image's own");
    assert_eq!((family(&[], Family::Other), pace(&[])), (Family::Other, Pace::default()));
}

/// Its author may except something from a read-only place; what is left asks for a rebuild.
#[test]
fn a_read_only_place_asks_for_a_rebuild_but_for_what_the_same_policy_allows() {
    let rules_of = |place: &str| {
        let rules = vec![declared("/usr/local/cache/**", Action::Allow)];
        of_policy(&DriftPolicy { read_only: vec![pattern(place)], rules, ..DriftPolicy::new("web") })
    };
    let rules = rules_of("/usr");
    let decided = |path: &str| {
        let ruling = policy::rule(&rules, path.as_bytes(), Aspects::NONE.with(Aspect::Content), 0);
        ruling.decided[0].1.map(|rule| (rule.action, rule.from.clone()))
    };
    let rebuild = Action::Rebuild { grace_seconds: 0, scans_min: 2 };
    assert_eq!(decided("/usr/bin/ls"), Some((rebuild, "policy web, read_only /usr".to_string())));
    assert_eq!(decided("/usr"), Some((rebuild, "policy web, read_only /usr".to_string())));
    assert_eq!(decided("/usr/local/cache/x"), Some((Action::Allow, "policy web, rule 1".to_string())));
    assert_eq!(decided("/usrx"), None);
    assert_eq!(rules_of("/").last().map(|rule| rule.pattern.matches(b"/etc/a")), Some(true), "the whole system");
}

/// A class says which ways to differ may be; a rule that allows it cannot widen them, one that reports is about all.
#[test]
fn a_class_is_no_wider_by_a_rule_that_names_it() {
    let what = || What::Class(class("machine-id").unwrap());
    let rule = |action, aspects| Declared { what: what(), aspects, ..declared("/x", action) };
    let of = |declared| of_policy(&DriftPolicy { rules: vec![declared], ..DriftPolicy::new("web") });
    let allowed = of(rule(Action::Allow, Aspects::ALL));
    assert_eq!((allowed.len(), allowed[0].aspects.to_string()), (2, "added+content".to_string()));
    assert_eq!(allowed[0].from, "policy web, rule 1, class machine-id");
    assert!(of(rule(Action::Allow, Aspects::NONE.with(Aspect::Mode))).is_empty());
    assert_eq!(of(rule(Action::Report, Aspects::ALL))[0].aspects, Aspects::ALL);
}

/// What a class allows of privileges it allows without their being named, and no rule that names it adds one.
#[test]
fn a_privilege_is_allowed_by_name_only() {
    let privilege = Aspects::NONE.with(Aspect::Privilege);
    for family in Family::ALL {
        let allowing = defaults::rules(family).into_iter().filter(|rule| rule.aspects.has(Aspect::Privilege));
        assert_eq!(allowing.map(|rule| rule.pattern).collect::<Vec<_>>(), [], "{}", family.word());
    }
    let with = CLASSES.iter().filter(|class| class.members.iter().any(|own| own.aspects.has(Aspect::Privilege)));
    assert_eq!(with.map(|class| class.name).collect::<Vec<_>>(), ["containers"]);
    let of = |name: &str, aspects: Option<Aspects>| {
        let what = What::Class(class(name).unwrap());
        let aspects = aspects.unwrap_or_else(|| what.aspects_unnamed(Action::Allow));
        let rule = Declared { what, aspects, ..declared("/x", Action::Allow) };
        of_policy(&DriftPolicy { rules: vec![rule], ..DriftPolicy::new("web") })
    };
    assert!(of("containers", None).iter().all(|rule| rule.aspects == Aspects::ALL));
    assert!(of("user-homes", None).iter().all(|rule| rule.aspects == Aspects::ALL_BUT_PRIVILEGE));
    assert!(of("user-homes", Some(privilege)).is_empty());
    // By name, in front of what the class says.
    let what = What::Path(pattern("/home/*/chroot/**"));
    let named = Declared { what, aspects: privilege, ..declared("/x", Action::Allow) };
    let homes = Declared { what: What::Class(class("user-homes").unwrap()), ..declared("/x", Action::Allow) };
    let unnamed = homes.what.aspects_unnamed(Action::Allow);
    let rules = vec![named, Declared { aspects: unnamed, ..homes }];
    let rules = of_policy(&DriftPolicy { rules, ..DriftPolicy::new("web") });
    let left = |path: &str| policy::rule(&rules, path.as_bytes(), Aspects::ALL, 0).left();
    assert_eq!((left("/home/ann/chroot/bin/su"), left("/home/ann/su")), (Aspects::NONE, privilege));
}

#[test]
fn every_class_has_a_sentence_and_patterns_that_are_some_and_every_default_names_one() {
    for class in CLASSES {
        let written = class.members.iter().map(|member| member.patterns.len()).sum::<usize>();
        assert_eq!(defaults::of_members(class).count(), written, "a pattern of {} is none", class.name);
        assert!(written > 0 && class.sentence.len() > 10, "{}", class.name);
        assert_eq!(CLASSES.iter().filter(|other| other.name == class.name).count(), 1);
    }
    assert_eq!(Family::Debian.classes().count(), 23);
    for family in [Family::Ubuntu, Family::Rhel, Family::Other] {
        assert!(family.classes().count() > 20, "a name in the defaults of {} is no class", family.word());
    }
    assert_eq!(Family::None.classes().count(), 0);
}

#[test]
fn the_distribution_is_read_off_os_release() {
    for (text, family) in [
        ("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n", Family::Debian),
        ("ID=ubuntu\nID_LIKE=debian\n", Family::Ubuntu),
        ("ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n", Family::Rhel),
        ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Family::Ubuntu),
        ("VERSION_ID=3\nID=alpine\n", Family::Other),
        ("", Family::Other),
    ] {
        assert_eq!(Family::of_os_release(text), family, "{text}");
    }
}

/// Issue 4: what an intruder or a hurried hand changes is found under the defaults of every distribution, whatever the
/// difference. (`/boot/grub/grubenv` and its like are in no list: their content alone may change.)
const MUST_BE_FOUND: &[&str] = &[
    "/",
    "/etc",
    "/usr",
    "/boot",
    "/var",
    "/var/lib",
    "/home",
    "/root",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/sudoers.d/90-cloud-init-users",
    "/etc/ssh/sshd_config",
    "/etc/ssh/sshd_config.d/a.conf",
    "/etc/fstab",
    "/etc/crontab",
    "/etc/cron.d/x",
    "/etc/motd",
    "/etc/profile.d/x.sh",
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/etc/pam.d/sshd",
    "/etc/systemd/system/x.service",
    "/etc/systemd/system/multi-user.target.wants/ssh.service",
    "/etc/systemd/network/80-dhcp.network",
    "/etc/sysctl.conf",
    "/etc/sysctl.d/99-x.conf",
    "/etc/default/grub",
    "/etc/modprobe.d/x.conf",
    "/etc/udev/rules.d/99-x.rules",
    "/etc/cloud/cloud.cfg",
    "/etc/cloud/cloud.cfg.d/99.cfg",
    "/etc/apt/sources.list",
    "/etc/yum.repos.d/x.repo",
    "/etc/nsswitch.conf",
    "/etc/rc.local",
    "/etc/alternatives/editor",
    "/etc/init.d/x",
    "/etc/netplan/99-x.yaml",
    // Each of these can name a program that root runs.
    "/etc/network/interfaces.d/50-cloud-init",
    "/etc/sysconfig/network-scripts/ifcfg-eth0",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/usr/bin/sudo",
    "/usr/bin/new-setuid",
    "/usr/local/bin/x",
    "/usr/sbin/sshd",
    "/usr/lib/systemd/system/ssh.service",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/python3/dist-packages/__pycache__/x.pyc",
    "/usr/lib/modules/6.1.0/kernel/x.ko",
    "/usr/share/dbus-1/system-services/x.service",
    "/lib/systemd/systemd",
    "/bin/sh",
    "/sbin/init",
    "/opt/x",
    "/srv/x",
    "/boot/vmlinuz-6.1.0",
    "/boot/initrd.img-6.1.0",
    "/boot/grub/grub.cfg",
    "/boot/efi/EFI/BOOT/BOOTX64.EFI",
    "/boot/loader/entries/a.conf",
    "/root/.ssh/authorized_keys",
    "/root/.bashrc",
    "/root/.profile",
    "/home/ann",
    "/home/ann/.ssh/authorized_keys",
    "/home/ann/.config/systemd/user/x.service",
    "/var/spool/cron/crontabs/root",
    "/var/spool/cron/root",
    "/var/lib/dpkg/status",
    "/var/lib/dpkg/info/x.list",
    "/var/lib/dpkg/diversions",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/dnf/history.sqlite",
    "/var/lib/systemd/linger/ann",
    "/var/lib/systemd/deb-systemd-helper-enabled/x",
    "/var/lib/cloud/scripts/per-boot/x.sh",
    "/var/lib/cloud/seed/nocloud/user-data",
    "/var/lib/cloud/handlers/x.py",
    "/var/lib/polkit-1/localauthority/x.pkla",
    "/var/lib/docker/x",
];

#[test]
fn no_default_hides_what_must_be_found() {
    for family in [Family::Debian, Family::Ubuntu, Family::Rhel, Family::Other] {
        let rules = defaults::rules(family);
        for path in MUST_BE_FOUND {
            let ruling = policy::rule(&rules, path.as_bytes(), Aspects::ALL, 0);
            let hidden: Vec<_> =
                ruling.decided.iter().filter_map(|(aspect, rule)| Some((*aspect, *rule.as_ref()?))).collect();
            assert!(hidden.is_empty(), "{} hides {path}: {hidden:?}", family.word());
        }
        assert!(rules.iter().all(|rule| rule.action == Action::Allow && !rule.content && rule.until.is_none()));
        // Of the files in /etc that a system writes by itself, none may become another's or setuid.
        let mode = Aspects::NONE.with(Aspect::Mode).with(Aspect::Owner);
        for path in ["/etc/machine-id", "/etc/hostname", "/etc/hosts", "/etc/ssh/ssh_host_rsa_key"] {
            assert_eq!(policy::rule(&rules, path.as_bytes(), mode, 0).left(), mode, "{path}");
        }
    }
}

/// What a real Debian 12 differed in: two lists, each line the ways to differ and the path (docs/drift-policy.md says how
/// they were made).
fn observed(text: &'static str) -> impl Iterator<Item = (Aspects, &'static str)> {
    text.lines().map(|line| {
        let (words, path) = line.split_once(' ').unwrap();
        (words.split('+').map(|word| Aspect::from_word(word).unwrap()).collect(), path)
    })
}

fn found(list: &'static str, family: Family) -> Vec<&'static str> {
    let rules = defaults::rules(family);
    let is_found =
        |(aspects, path): &(Aspects, &str)| !policy::rule(&rules, path.as_bytes(), *aspects, 0).left().is_empty();
    observed(list).filter(is_found).map(|(_, path)| path).collect()
}

/// Issue 4: "freshly deployed Debian golden image, booted, logged into, rebooted: zero findings with the default policy".
#[test]
fn a_used_debian_has_no_finding() {
    let used = include_str!("debian-12-used.txt");
    assert!(observed(used).count() > 100);
    assert_eq!(found(used, Family::Debian), Vec::<&str>::new());
    assert!(found(used, Family::None).len() > 100, "it is the defaults that say so");
}

/// And: "the same after apt install, an edited file in /etc, a swapped binary with restored mtime, a new setuid file, a
/// changed kernel parameter file, a removed unit: each found, nothing else".
#[test]
fn what_was_done_to_that_debian_by_hand_is_found_and_nothing_else() {
    let found = found(include_str!("debian-12-drifted.txt"), Family::Debian);
    let expected = [
        "/etc/default/grub",
        "/etc/ssh/sshd_config",
        "/etc/sysctl.d/99-x.conf",
        "/usr/bin/cut",
        "/usr/bin/tree",
        "/usr/lib/systemd/system/man-db.timer",
        "/usr/local/bin/helper",
        "/usr/share/doc/tree",
        "/usr/share/doc/tree/README.gz",
        concat!("/usr/share/doc/tree/TO", "DO"),
        "/usr/share/doc/tree/changelog.Debian.gz",
        "/usr/share/doc/tree/changelog.gz",
        "/usr/share/doc/tree/copyright",
        "/usr/share/man/man1/tree.1.gz",
        "/var/lib/dpkg/info/tree.list",
        "/var/lib/dpkg/info/tree.md5sums",
        "/var/lib/dpkg/status",
        "/var/lib/dpkg/status-old",
    ];
    assert_eq!(found, expected);
}

/// What a change takes away from watching is told by key; what only adds to it is not.
#[test]
fn a_policy_that_hides_for_good_loosens_and_one_that_hides_for_a_while_does_not() {
    let base = DriftPolicy { rules: vec![declared("/a", Action::Report)], ..DriftPolicy::new("web") };
    let with = |rules: Vec<Declared>| DriftPolicy { rules, ..base.clone() };
    let (report, allow) = (declared("/a", Action::Report), declared("/b", Action::Allow));
    let after = |new: &DriftPolicy| loosened(Some(&base), Some(new));
    assert_eq!(after(&base), Vec::<&str>::new());
    assert_eq!(after(&with(vec![report.clone(), allow.clone()])), ["rule"]);
    let a_while = Declared { until: Some(9), ..allow.clone() };
    assert_eq!(after(&with(vec![a_while, report.clone()])), Vec::<&str>::new());
    assert_eq!(after(&with(vec![report.clone(), declared("/c", Action::Report)])), Vec::<&str>::new());
    assert_eq!(after(&with(vec![])), ["rule"], "a rule that reports is gone");
    let both = with(vec![report.clone(), allow.clone()]);
    assert_eq!(loosened(Some(&both), Some(&with(vec![allow.clone(), report.clone()]))), ["rule"], "another order");
    assert_eq!(loosened(Some(&both), Some(&base)), Vec::<&str>::new(), "what hid is gone");
    let content = Declared { content: true, ..declared("/c", Action::Report) };
    assert_eq!(after(&with(vec![report, content])), ["rule"]);
    let pace = Pace { scan_seconds: 86_400, ..Pace::default() };
    let slower = DriftPolicy { pace, read_only: vec![pattern("/usr")], ..base.clone() };
    assert_eq!((after(&slower), loosened(Some(&slower), Some(&base))), (vec!["scan"], vec!["read_only"]));
    assert_eq!(loosened(None, Some(&with(vec![allow]))), ["rule"]);
    let moved = DriftPolicy { images: vec!["debian".into()], ..both.clone() };
    assert_eq!(loosened(Some(&both), Some(&moved)), ["images"]);
    let stricter = DriftPolicy { defaults: Some(Family::None), ..base.clone() };
    assert_eq!((after(&stricter), loosened(Some(&stricter), Some(&base))), (vec![], vec!["defaults"]));
}

fn any_path() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec!["etc", "usr", "var", "log", "a", "motd", "machine-id", "bin", "x.conf"]);
    proptest::collection::vec(name, 1..4).prop_map(|names| format!("/{}", names.join("/")))
}

fn any_pattern() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec!["etc", "usr", "var", "log", "*", "**", "m*", "?", "motd", "x.conf"]);
    proptest::collection::vec(name, 1..4).prop_map(|names| format!("/{}", names.join("/")))
}

/// Often all, or all but privileges.
fn any_aspects() -> impl Strategy<Value = Aspects> {
    let some = proptest::sample::subsequence(Aspect::ALL.to_vec(), 1..=Aspect::ALL.len());
    prop_oneof![
        some.prop_map(|aspects| aspects.into_iter().collect()),
        Just(Aspects::ALL),
        Just(Aspects::ALL_BUT_PRIVILEGE)
    ]
}

fn any_rule() -> impl Strategy<Value = Declared> {
    let action = prop_oneof![
        Just(Action::Allow),
        Just(Action::Report),
        Just(Action::Rebuild { grace_seconds: 1, scans_min: 2 })
    ];
    let until = proptest::option::of(0..100u64);
    (any_pattern(), action, until, any_aspects()).prop_map(|(path, action, until, aspects)| Declared {
        until,
        aspects,
        ..declared(&path, action)
    })
}

proptest! {
    /// A directory that scans leave out, or look through for privileges only, holds nothing else that would be found.
    #[test]
    fn what_a_scan_leaves_out_is_allowed(
        rules in proptest::collection::vec(any_rule(), 0..6),
        covering in proptest::collection::vec(any_aspects(), 0..3),
        (directory, name, now) in (any_path(), any_path(), 0..100u64),
    ) {
        let covers = |aspects: Aspects| Declared { aspects, ..declared(&format!("{directory}/**"), Action::Allow) };
        let rules = rules.into_iter().chain(covering.into_iter().map(covers)).collect();
        let rules = of_policy(&DriftPolicy { rules, ..DriftPolicy::new("web") });
        if let Some(left_out) = policy::leaves_out(&rules, directory.as_bytes(), now) {
            let told = Aspects::NONE.with(Aspect::Privilege);
            let told = if left_out.but_privilege { told } else { Aspects::NONE };
            let left = policy::rule(&rules, format!("{directory}{name}").as_bytes(), Aspects::ALL, now).left();
            prop_assert!(left.without(told).is_empty(), "{left} in {directory}{name}");
        }
    }

    /// `drift accept` is for taking findings away: whatever it is about and whatever there was, nothing new is found.
    #[test]
    fn adding_an_exception_never_adds_a_finding(
        rules in proptest::collection::vec(any_rule(), 0..6),
        exception_path in any_pattern(),
        aspects in proptest::sample::subsequence(Aspect::ALL.to_vec(), 1..=Aspect::ALL.len()),
        (path, now, until) in (any_path(), 0..100u64, 1..200u64),
    ) {
        let policy = DriftPolicy { rules, ..DriftPolicy::new("web") };
        let accepted = Rule { aspects: aspects.into_iter().collect(), ..exception(1, &exception_path, until) };
        let without = super::rules(&[], &[&policy], Family::Debian, now);
        let with = super::rules(std::slice::from_ref(&accepted), &[&policy], Family::Debian, now);
        let (before, after) = (
            policy::rule(&without, path.as_bytes(), Aspects::ALL, now).left(),
            policy::rule(&with, path.as_bytes(), Aspects::ALL, now).left(),
        );
        prop_assert!(after.without(before).is_empty(), "{} more", after.without(before));
        let holds = now < until && accepted.pattern.matches(path.as_bytes());
        let taken = if holds { accepted.aspects } else { Aspects::NONE };
        prop_assert_eq!(after, before.without(taken), "and what it is about is gone while it holds");
        // The same once it has ended, by its own word and by having been left out.
        prop_assert_eq!(super::rules(&[accepted], &[&policy], Family::Debian, until.max(now)), super::rules(&[], &[&policy], Family::Debian, until.max(now)));
    }
}
