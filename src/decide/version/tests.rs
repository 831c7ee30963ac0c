//! The state machine of a version, edge by edge.

use super::*;

const DAY: u64 = 86_400;

fn host_runs() -> Use {
    Use::Reported { host: "web-1".into() }
}

fn channel() -> Use {
    Use::Channel { channel: "debian@stable".into() }
}

#[test]
fn every_edge_is_as_drawn() {
    for from in Stage::ALL {
        for to in Stage::ALL {
            let moved = step(from, Word::To(to), false, &[]);
            let is_edge = to != Stage::Preview || matches!(from, Stage::Active | Stage::Preview);
            assert_eq!(moved.ok(), is_edge.then_some(to), "{from:?} to {to:?}");
        }
        assert_eq!(step(from, Word::Remove, false, &[]), Ok(Stage::Retired), "{from:?}");
    }
}

/// Never collected while any host reports it, wants it, or may go back to it.
#[test]
fn a_version_in_use_is_not_removed_and_the_refusal_names_the_users() {
    let host = || "web-1".to_string();
    let uses = [
        host_runs(),
        Use::Desired { host: host() },
        Use::Asked { host: host() },
        Use::Ordered { host: host() },
        Use::RollingOut { host: host(), rollout: 3 },
        Use::WayBack { host: host(), rollout: 3 },
        channel(),
    ];
    for one in &uses {
        let refused = step(Stage::Active, Word::Remove, false, std::slice::from_ref(one)).unwrap_err();
        assert!(refused.to_string().contains(&one.to_string()), "{refused}");
        let version = version("1", 0, Stage::Retired, Some((one.clone(), 1)));
        assert_eq!(fates(&[version], Retention::default(), 99 * DAY), [Fate::Stays(one.to_string())]);
    }
    let many: Vec<Use> = (0..500).map(|number| Use::Reported { host: format!("web-{number}") }).collect();
    let refused = step(Stage::Active, Word::Remove, false, &many).unwrap_err().to_string();
    assert!(refused.contains("web-19 runs it; and 480 more"), "{refused}");
}

#[test]
fn a_version_is_retired_under_its_hosts_but_not_under_a_channel_or_a_rollout() {
    assert_eq!(step(Stage::Active, Word::To(Stage::Retired), false, &[host_runs()]), Ok(Stage::Retired));
    let rolling = Use::RollingOut { host: "web-1".into(), rollout: 3 };
    for public in [channel(), rolling] {
        for to in [Stage::Retired, Stage::Preview] {
            let refused = step(Stage::Active, Word::To(to), false, &[host_runs(), public.clone()]);
            assert_eq!(refused, Err(Refusal::Public { uses: vec![public.clone()] }));
        }
        assert_eq!(step(Stage::Active, Word::To(Stage::Blocked), false, &[public]), Ok(Stage::Blocked));
    }
}

/// Data that is half gone must not become somebody's again.
#[test]
fn what_is_being_collected_does_not_come_back() {
    for to in [Stage::Active, Stage::Preview, Stage::Deprecated, Stage::Blocked] {
        assert_eq!(step(Stage::Retired, Word::To(to), true, &[]), Err(Refusal::Collected));
    }
    assert_eq!(step(Stage::Retired, Word::Remove, true, &[]), Ok(Stage::Retired), "asked twice is done");
}

#[test]
fn who_gets_a_version_in_which_stage() {
    let named = |have_it| Asker::NamedHosts { have_it };
    let table = [
        (Stage::Preview, [true, true, false, true]),
        (Stage::Active, [true, true, true, true]),
        (Stage::Deprecated, [false, true, false, true]),
        (Stage::Blocked, [false; 4]),
        (Stage::Retired, [false; 4]),
    ];
    for (stage, expected) in table {
        let given = [named(false), named(true), Asker::Many, Asker::Undo].map(|asker| refuses(stage, asker).is_none());
        assert_eq!(given, expected, "{stage:?}");
    }
    assert_eq!(Stage::ALL.map(|stage| Stage::named(stage.word())), Stage::ALL.map(Some));
}

fn version(version: &str, imported_at: u64, stage: Stage, used: Option<(Use, usize)>) -> Version {
    Version { name: "debian".into(), version: version.into(), imported_at, stage, used }
}

fn goes(versions: &[Version], retention: Retention, now: u64) -> Vec<bool> {
    fates(versions, retention, now).iter().map(|fate| matches!(fate, Fate::Goes(_))).collect()
}

#[test]
fn retention_keeps_the_newest_the_young_and_what_is_used() {
    let at = |day: u64| version(&day.to_string(), day * DAY, Stage::Active, None);
    let mut versions: Vec<Version> = (0..6).map(at).collect();
    let newest = |count| Retention { keep_newest: Some(count), keep_younger_than_seconds: None };
    let young = |days: u64| Retention { keep_newest: None, keep_younger_than_seconds: Some(days * DAY) };
    let now = 6 * DAY;
    assert_eq!(goes(&versions, Retention::default(), now), [false; 6], "off by default");
    assert_eq!(goes(&versions, newest(2), now), [true, true, true, true, false, false]);
    assert_eq!(goes(&versions, young(3), now), [true, true, true, true, false, false]);
    assert_eq!(goes(&versions, young(5), now), [true, true, false, false, false, false]);
    let both = Retention { keep_newest: Some(1), keep_younger_than_seconds: Some(2 * DAY) };
    assert_eq!(goes(&versions, both, now + 30 * DAY), [true, true, true, true, true, false]);
    versions[0].used = Some((host_runs(), 4));
    versions[1].stage = Stage::Blocked;
    assert_eq!(goes(&versions, newest(2), now), [false, false, true, true, false, false]);
    // A blocked newest version does not push a good one out.
    versions[5].stage = Stage::Blocked;
    assert_eq!(goes(&versions, newest(2), now), [false, false, true, false, false, false]);
    // Each name by itself, and a clock that went back deletes nothing by age.
    versions[2].name = "alpine".into();
    assert_eq!(goes(&versions, young(1), 0), [false; 6]);
    assert!(!goes(&versions, newest(1), now)[2]);
}

#[test]
fn a_retired_version_goes_as_soon_as_nobody_uses_it() {
    let keep_all = Retention { keep_newest: Some(99), keep_younger_than_seconds: Some(99 * DAY) };
    assert_eq!(goes(&[version("1", 0, Stage::Retired, None)], keep_all, 1), [true]);
    assert_eq!(goes(&[version("1", 0, Stage::Retired, Some((host_runs(), 1)))], keep_all, 1), [false]);
}
