//! What the brakes promise: each says no by itself, whoever asks, and none can be switched off.

use super::*;
use crate::decide::boot::{BootPolicy, Halt};
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::host::{Event, ImageChoice, Outcome, Step, transition};
use proptest::prelude::*;

const NOW: u64 = 1_000_000;

fn host(number: u8, labels: &[(&str, &str)]) -> Host {
    let mut host = Host::discovered(Mac([2, 0, 0, 0, 0, number]), "web", 1);
    for (key, value) in labels {
        host.labels.set(key, value).unwrap();
    }
    host.state = State::Ready { confirmed: true };
    host.desired = Some(ImageChoice { name: "a:1".into(), manifest: "m".into() });
    host
}

fn asked(host: &Host, kind: CauseKind) -> Host {
    moved(host, &Event::Ask { cause: Cause::new(kind, "r", "ann", NOW) }, NOW)
}

fn moved(host: &Host, event: &Event, now: u64) -> Host {
    let policy = BootPolicy { attempts_max: 3, halt: Halt::Nothing };
    match transition(host, event, policy, now) {
        Outcome::Moved(host, _) => *host,
        other => panic!("{event:?}: {other:?}"),
    }
}

fn ordered(host: &Host, at: u64) -> Host {
    moved(&asked(host, CauseKind::Operator), &Event::Admit, at)
}

fn usage(hosts: &[Host]) -> Usage {
    let mut usage = Usage::default();
    hosts.iter().for_each(|host| usage.count(host));
    usage
}

fn ask(host: &Host, policy: &Policy, hosts: &[Host]) -> Admission {
    admit(host, &Group::new("web"), policy, &Standing::default(), &usage(hosts), &Ok(()), NOW)
}

#[test]
fn a_cap_of_any_scope_holds_back_whoever_asks_and_only_hosts_of_that_scope() {
    let one = Limits { concurrent_max: 1, orders_per_hour_max: 9 };
    let many = Limits { concurrent_max: 9, orders_per_hour_max: 9 };
    let running = ordered(&host(1, &[("rack", "1"), ("feed", "a")]), NOW);
    let same = asked(&host(2, &[("rack", "1"), ("feed", "a")]), CauseKind::Operator);
    let elsewhere = asked(&host(3, &[("rack", "2"), ("feed", "b")]), CauseKind::Operator);
    for (fleet, rack, feed, holds_elsewhere) in
        [(one, many, many, true), (many, one, many, false), (many, many, one, false)]
    {
        let policy = Policy { fleet, rack, feed, ..Policy::default() };
        let hosts = [running.clone(), same.clone(), elsewhere.clone()];
        assert!(matches!(ask(&same, &policy, &hosts), Admission::Wait(Wait::Concurrent { open: 1, max: 1, .. })));
        assert_eq!(ask(&elsewhere, &policy, &hosts) != Admission::Open, holds_elsewhere);
    }
    let mut group = Group::new("web");
    group.limits = one;
    let all = usage(std::slice::from_ref(&running));
    let said = admit(&same, &group, &Policy::default(), &Standing::default(), &all, &Ok(()), NOW);
    assert_eq!(said, Admission::Wait(Wait::Concurrent { scope: Scope::Group("web".into()), open: 1, max: 1 }));
}

#[test]
fn orders_of_the_last_hour_count_although_they_are_over() {
    let limits = Limits { concurrent_max: 9, orders_per_hour_max: 2 };
    let policy = Policy { fleet: limits, ..Policy::default() };
    let over = |number, at| Host { order: None, ..ordered(&host(number, &[]), at) };
    let waiting = asked(&host(9, &[]), CauseKind::Rollout { number: 1 });
    let hour_full = [over(1, NOW - 3599), over(2, NOW)];
    assert!(matches!(ask(&waiting, &policy, &hour_full), Admission::Wait(Wait::Hourly { opened: 2, .. })));
    assert_eq!(ask(&waiting, &policy, &[over(1, NOW - 3600), over(2, NOW)]), Admission::Open);
}

/// faults.md O2, R2: a protected host is refused even to a person, with every cap free.
#[test]
fn the_deny_list_is_above_everything() {
    let labelled = asked(&host(1, &[(PROTECTED, "yes")]), CauseKind::Operator);
    assert_eq!(ask(&labelled, &Policy::default(), &[]), Admission::Deny(Deny::Label));
    let listed = asked(&host(2, &[]), CauseKind::Operator);
    let policy = Policy { denied: BTreeSet::from([listed.macs[0]]), ..Policy::default() };
    assert_eq!(ask(&listed, &policy, &[]), Admission::Deny(Deny::Listed(listed.macs[0])));
    let mut group = Group::new("web");
    group.protected = true;
    let said = admit(&listed, &group, &Policy::default(), &Standing::default(), &Usage::default(), &Ok(()), NOW);
    assert_eq!(said, Admission::Deny(Deny::Group));
}

#[test]
fn stop_and_breaker_hold_everybody_and_windows_only_what_acts_by_itself() {
    let group = Group::new("web");
    let closed: ScheduleVerdict = Err("outside the window".into());
    for kind in [CauseKind::Operator, CauseKind::Rollout { number: 1 }, CauseKind::Schedule, CauseKind::Drift] {
        let host = asked(&host(1, &[]), kind);
        let say = |standing: &Standing, schedule: &ScheduleVerdict| {
            admit(&host, &group, &Policy::default(), standing, &Usage::default(), schedule, NOW)
        };
        let stopped = Standing { stopped: Some("ann: smoke".into()), tripped: None };
        let tripped = Standing { stopped: None, tripped: Some("too many".into()) };
        assert!(matches!(say(&stopped, &Ok(())), Admission::Wait(Wait::Stopped(_))), "{kind:?}");
        assert!(matches!(say(&tripped, &Ok(())), Admission::Wait(Wait::Breaker(_))), "{kind:?}");
        let waits = matches!(say(&Standing::default(), &closed), Admission::Wait(Wait::Schedule(_)));
        assert_eq!(waits, kind.is_automatic(), "{kind:?}");
    }
}

/// faults.md C5: a baseline that makes the whole fleet drift trips the breaker after a few hosts.
#[test]
fn the_breaker_trips_when_too_large_a_share_drifts_or_fails_within_an_hour_and_not_in_a_fleet_of_two() {
    let policy = BreakerPolicy { percent_max: 5, hosts_min: 3 };
    let fleet = |bad: u8, make: &dyn Fn(&Host) -> Host| -> Usage {
        let all: Vec<Host> = (0..100).map(|n| if n < bad { make(&host(n, &[])) } else { host(n, &[]) }).collect();
        usage(&all)
    };
    let drifts = |host: &Host| asked(host, CauseKind::Drift);
    let fails =
        |host: &Host| moved(&ordered(host, NOW), &Event::Expired { step: Step::Netboot, reason: "late".into() }, NOW);
    assert_eq!(trips(&fleet(5, &drifts), policy, 0, NOW), None);
    assert!(trips(&fleet(6, &drifts), policy, 0, NOW).unwrap().reason.contains("6 of 100 hosts ask"));
    // Rebuilt one after the other, or clean by now: they drifted all the same.
    let done = |host: &Host| moved(&drifts(host), &Event::Withdraw { kind: CauseKind::Drift, by: "d".into() }, NOW);
    assert!(trips(&fleet(6, &done), policy, 0, NOW).unwrap().reason.contains("6 of 100 hosts ask"));
    assert_eq!(trips(&fleet(6, &done), policy, 0, NOW + 3600), None);
    assert!(trips(&fleet(6, &fails), policy, 0, NOW).unwrap().reason.contains("failed"));
    assert_eq!(trips(&fleet(6, &fails), policy, 0, NOW + 3600), None);
    assert_eq!(trips(&fleet(6, &fails), policy, NOW, NOW + 5), None, "a person has looked at these");
    assert_eq!(trips(&usage(&[drifts(&host(1, &[])), drifts(&host(2, &[]))]), policy, 0, NOW), None);
}

proptest! {
    /// Counting is undone exactly: usage is always what the records say.
    #[test]
    fn usage_follows_the_records(changes in prop::collection::vec((0..5u8, 0..4u8, 0..3u8), 1..60)) {
        let mut now = NOW;
        let mut hosts: Vec<Host> = (0..5).map(|n| host(n, &[("rack", if n < 2 { "1" } else { "2" })])).collect();
        let mut live = usage(&hosts);
        for (which, what, rack) in changes {
            now += 700;
            let old = hosts[usize::from(which)].clone();
            let mut new = old.clone();
            match what {
                0 if new.order.is_none() => new = ordered(&new, now),
                1 => new.order = None,
                2 => new.labels.set("rack", &rack.to_string()).unwrap(),
                _ if new.order.is_none() && new.asks.is_empty() => new = asked(&new, CauseKind::Drift),
                _ => {}
            }
            live.discount(&old);
            live.count(&new);
            hosts[usize::from(which)] = new;
            prop_assert_eq!(&live, &usage(&hosts));
        }
    }
}

/// A look from outside waits for orders and looks of its scope; an order waits for no look.
#[test]
fn looks_wait_for_orders_and_looks_and_orders_for_no_look() {
    let looked_at = |number| {
        let mut host = host(number, &[("rack", "1")]);
        host.reported = host.desired.clone();
        host.own_disk = Some(crate::decide::host::DiskId { serial: Some("d".into()), wwn: None, size_bytes: 1 });
        moved(&host, &Event::AskVerify { by: "ann".into(), reason: "r".into(), power: true }, NOW)
    };
    let begun = moved(&looked_at(1), &Event::Powered { how: "wol".into() }, NOW);
    let rack = Limits { concurrent_max: 2, orders_per_hour_max: 9 };
    let policy = Policy { rack, ..Policy::default() };
    let waits = |hosts: &[Host], now| {
        let under_way = UnderWay::count(hosts.iter(), now);
        under_way.look_waits(&looked_at(9), &Group::new("web"), &policy, now)
    };
    let ordered = ordered(&host(2, &[("rack", "1")]), NOW);
    assert_eq!(waits(&[begun.clone(), looked_at(3)], NOW), None, "one that is only asked for holds back nobody");
    let full = Wait::UnderWay { scope: Scope::Rack("1".into()), machines: 2, max: 2 };
    assert_eq!(waits(&[begun.clone(), ordered.clone()], NOW), Some(full));
    assert_eq!(waits(&[begun.clone(), ordered], NOW + 3600), None, "a machine that never came holds back nobody");
    let other = moved(&looked_at(4), &Event::Powered { how: "wol".into() }, NOW);
    let asked = asked(&host(5, &[("rack", "1")]), CauseKind::Operator);
    assert_eq!(ask(&asked, &policy, &[begun, other, asked.clone()]), Admission::Open);
}
