//! Plans: what is in them, in which order, and what is refused.

use super::super::make::{Refusal, plan, rollback};
use super::super::plan::{Candidate, Gate, Goal, Plan, Request, WaveSize};
use crate::decide::host::ImageChoice;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

pub fn image(name: &str) -> ImageChoice {
    ImageChoice { name: name.to_string(), manifest: format!("digest of {name}") }
}

pub fn request(goal: Goal) -> Request {
    Request {
        selector: "group=compute".to_string(),
        goal,
        by: "ann".to_string(),
        reason: "patch".to_string(),
        canary: 1,
        waves: vec![WaveSize::Hosts(2), WaveSize::Percent(50)],
        spread_percent: 25,
        spread: "rack".to_string(),
        failures_max: 0,
        gate: Gate { confirmed: true, check: None, soak_seconds: 600, health_seconds: 1200 },
    }
}

pub fn to(name: &str) -> Request {
    request(Goal::Image(image(name)))
}

/// A host of a rack that runs `debian:12.4`.
pub fn candidate(number: usize, rack: &str) -> Candidate {
    Candidate {
        id: format!("h-5254{number:08x}"),
        name: Some(format!("web-{number}")),
        spread: (!rack.is_empty()).then(|| rack.to_string()),
        reported: Some(image("debian:12.4")),
        whole: true,
        excluded: None,
        fetch_bytes: 40 << 20,
    }
}

/// 4 racks of 5.
fn fleet() -> Vec<Candidate> {
    (0..20).map(|number| candidate(number, &format!("r{}", number % 4))).collect()
}

fn ids(plan: &Plan) -> Vec<Vec<&str>> {
    plan.waves.iter().map(|wave| wave.iter().map(|member| member.id.as_str()).collect()).collect()
}

#[test]
fn the_canary_comes_first_then_waves_by_count_and_percent_until_all_are_in() {
    let plan = plan(7, &to("debian:12.5"), &fleet(), None, 100).unwrap();
    let sizes: Vec<usize> = plan.waves.iter().map(Vec::len).collect();
    // 25% of a rack of 5 is one host, so no wave is larger than the four racks, although 50% are 10 hosts.
    assert_eq!(sizes, [1, 2, 4, 4, 4, 3, 2]);
    assert_eq!((plan.number, plan.made_at), (7, 100));
    assert_eq!(plan.fetch_bytes(), 20 * (40 << 20));
    assert!(plan.members().all(|member| member.image == image("debian:12.5")));
    assert!(plan.members().all(|member| member.former == Some(image("debian:12.4"))));
}

#[test]
fn who_is_left_out_and_who_runs_it_already_is_said() {
    let mut fleet = fleet();
    fleet[3].excluded = Some("held by bob: disk swap".to_string());
    fleet[4].reported = Some(image("debian:12.5"));
    // Failed halfway: what it reports is not what is on its disk.
    fleet[5].reported = Some(image("debian:12.5"));
    fleet[5].whole = false;
    let plan = plan(1, &to("debian:12.5"), &fleet, None, 0).unwrap();
    assert_eq!(plan.excluded, [(fleet[3].id.clone(), "held by bob: disk swap".to_string())]);
    assert_eq!(plan.done_already, [fleet[4].id.clone()]);
    let members: BTreeSet<&str> = plan.members().map(|member| member.id.as_str()).collect();
    assert_eq!(members.len(), 18);
    assert!(members.contains(fleet[5].id.as_str()));
}

#[test]
fn when_all_run_it_already_the_plan_is_empty_and_when_nobody_matches_there_is_none() {
    let empty = plan(2, &to("debian:12.4"), &fleet(), None, 0).unwrap();
    assert!(empty.is_empty());
    assert_eq!(empty.done_already.len(), 20);
    let nobody = Refusal::NobodyMatches { selector: "group=compute".to_string() };
    assert_eq!(plan(2, &to("debian:12.4"), &[], None, 0), Err(nobody));
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_reason() {
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = to("debian:12.5");
        change(&mut request);
        plan(1, &request, &fleet(), None, 0)
    };
    assert_eq!(with(&|request| request.waves.clear()), Err(Refusal::NoWaveSize));
    assert_eq!(with(&|request| request.waves[0] = WaveSize::Hosts(0)), Err(Refusal::WaveOfNobody));
    assert_eq!(with(&|request| request.waves[0] = WaveSize::Percent(0)), Err(Refusal::Percent(0)));
    assert_eq!(with(&|request| request.waves[0] = WaveSize::Percent(101)), Err(Refusal::Percent(101)));
    assert_eq!(with(&|request| request.spread_percent = 0), Err(Refusal::SpreadPercent(0)));
    assert_eq!(with(&|request| request.spread_percent = 101), Err(Refusal::SpreadPercent(101)));
    assert_eq!(with(&|request| request.spread = "a b".into()), Err(Refusal::SpreadLabel("a b".into())));
    assert_eq!(with(&|request| request.goal = Goal::Former { of: 1 }), Err(Refusal::OtherGoal));
    let blocked = plan(1, &to("debian:12.5"), &fleet(), Some("CVE in openssh"), 0).unwrap_err();
    assert_eq!(blocked.to_string(), "debian:12.5 is blocked: CVE in openssh; choose another version");
}

/// A dry run has no number yet; and the same host must not be the canary of every version.
#[test]
fn the_order_follows_from_the_image_and_the_hosts_and_from_nothing_else() {
    let mut backwards = fleet();
    backwards.reverse();
    backwards.push(backwards[0].clone());
    let (dry, started) = (
        plan(0, &to("debian:12.5"), &fleet(), None, 1).unwrap(),
        plan(9, &to("debian:12.5"), &backwards, None, 2).unwrap(),
    );
    assert_eq!(ids(&dry), ids(&started));
    let canaries: BTreeSet<String> = (5..15)
        .map(|version| plan(1, &to(&format!("debian:12.{version}")), &fleet(), None, 0).unwrap().waves[0][0].id.clone())
        .collect();
    assert!(canaries.len() > 3, "{canaries:?}");
}

#[test]
fn a_rack_of_few_hosts_still_loses_one_at_a_time() {
    let mut small: Vec<Candidate> = (0..3).map(|number| candidate(number, "r1")).collect();
    small.push(candidate(3, ""));
    let request = Request { canary: 0, waves: vec![WaveSize::Percent(100)], ..to("debian:12.5") };
    let plan = plan(1, &request, &small, None, 0).unwrap();
    assert_eq!(plan.waves.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1]);
}

/// A host that is held or failed may be down: it does not make its rack larger.
#[test]
fn hosts_that_are_left_out_do_not_raise_the_share_of_their_rack() {
    let mut fleet: Vec<Candidate> = (0..8).map(|number| candidate(number, "r1")).collect();
    for host in &mut fleet[4..] {
        host.excluded = Some("held".to_string());
    }
    let request = Request { canary: 0, waves: vec![WaveSize::Percent(100)], ..to("debian:12.5") };
    let sizes = |fleet: &[Candidate]| -> Vec<usize> {
        plan(1, &request, fleet, None, 0).unwrap().waves.iter().map(Vec::len).collect()
    };
    assert_eq!(sizes(&fleet), [1, 1, 1, 1]);
    for host in &mut fleet[4..] {
        host.excluded = None;
    }
    assert_eq!(sizes(&fleet), [2, 2, 2, 2]);
}

#[test]
fn a_rollback_gives_each_host_back_what_it_ran_and_touches_nobody_else() {
    let mut before = fleet();
    before[1].reported = Some(image("debian:11"));
    before[2].reported = None;
    before[2].whole = false;
    let rolled = plan(7, &to("debian:12.5"), &before, None, 0).unwrap();
    let mut after = before.clone();
    for number in [0, 1, 2, 4] {
        after[number].reported = Some(image("debian:12.5"));
        after[number].whole = true;
    }
    after[3].whole = false; // failed halfway
    after[4].reported = Some(image("fedora:40")); // an operator's own doing since
    after[5].excluded = Some("held".to_string());
    after.push(candidate(99, "r1"));
    let back = rollback(8, &request(Goal::Former { of: 7 }), &rolled, &after, |_| None, 50).unwrap();
    let goes_to: BTreeMap<&str, &str> =
        back.members().map(|member| (member.id.as_str(), member.image.name.as_str())).collect();
    let expected = [(0, "debian:12.4"), (1, "debian:11"), (3, "debian:12.4")];
    assert_eq!(goes_to, expected.map(|(number, image)| (after[number].id.as_str(), image)).into());
    let left_out: BTreeMap<&str, &str> = back.excluded.iter().map(|(id, why)| (id.as_str(), why.as_str())).collect();
    for (number, why) in [
        (2, "nothing is known that it ran before rollout 7"),
        (4, "runs fedora:40, which rollout 7 did not put there"),
        (5, "held"),
        (20, "not part of rollout 7"),
    ] {
        assert_eq!(left_out.get(after[number].id.as_str()), Some(&why), "{number}");
    }
    assert_eq!(back.done_already.len(), 14);
    assert_eq!(rollback(8, &to("debian:12.4"), &rolled, &after, |_| None, 50), Err(Refusal::OtherGoal));
}

/// 20,000 hosts one by one over 500 racks: laying waves costs what is taken, not what waits. (Otherwise
/// this test takes minutes, and people notice.)
#[test]
fn a_large_fleet_is_planned_host_by_host() {
    let fleet: Vec<Candidate> = (0..20_000).map(|number| candidate(number, &format!("r{}", number % 500))).collect();
    let request = Request { waves: vec![WaveSize::Hosts(1)], ..to("debian:12.5") };
    assert_eq!(plan(1, &request, &fleet, None, 0).unwrap().waves.len(), 20_000);
}

pub fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0usize..6, 0u8..10, any::<bool>());
    prop::collection::vec(one, 1..60).prop_map(|hosts| {
        let host = |(number, (rack, kind, whole)): (usize, (usize, u8, bool))| {
            let rack = if rack == 0 { String::new() } else { format!("r{rack}") };
            let mut host = candidate(number, &rack);
            host.whole = whole || kind > 2;
            match kind {
                0 => host.excluded = Some("held".to_string()),
                1 => host.reported = Some(image("debian:12.5")),
                2 => host.reported = None,
                _ => {}
            }
            host
        };
        hosts.into_iter().enumerate().map(host).collect()
    })
}

fn any_size() -> impl Strategy<Value = WaveSize> {
    prop_oneof![(1u32..8).prop_map(WaveSize::Hosts), (1u32..=100).prop_map(WaveSize::Percent)]
}

/// How many hosts wave `number` may have.
fn size_of(number: usize, request: &Request, hosts: usize) -> usize {
    let number = if request.canary == 0 { number + 1 } else { number };
    if number == 0 {
        return request.canary as usize;
    }
    match request.waves[(number - 1).min(request.waves.len() - 1)] {
        WaveSize::Hosts(count) => count as usize,
        WaveSize::Percent(percent) => (hosts * percent as usize).div_ceil(100),
    }
}

proptest! {
    /// The laws of a plan.
    #[test]
    fn every_host_is_in_exactly_one_place_and_no_wave_takes_more_than_its_size_and_share(
        candidates in any_candidates(),
        canary in 0u32..4,
        sizes in prop::collection::vec(any_size(), 1..4),
        spread_percent in 1u32..=100,
    ) {
        let request = Request { canary, waves: sizes, spread_percent, ..to("debian:12.5") };
        let plan = plan(1, &request, &candidates, None, 0).unwrap();

        let mut places: Vec<&str> = plan.members().map(|member| member.id.as_str()).collect();
        places.extend(plan.excluded.iter().map(|(id, _)| id.as_str()));
        places.extend(plan.done_already.iter().map(String::as_str));
        places.sort_unstable();
        let mut all: Vec<&str> = candidates.iter().map(|host| host.id.as_str()).collect();
        all.sort_unstable();
        prop_assert_eq!(places, all);

        let members = plan.members().count();
        let mut in_rack: BTreeMap<Option<String>, usize> = BTreeMap::new();
        for host in candidates.iter().filter(|host| host.excluded.is_none()) {
            *in_rack.entry(host.spread.clone()).or_default() += 1;
        }
        for (number, wave) in plan.waves.iter().enumerate() {
            let most = size_of(number, &request, members);
            prop_assert!((1..=most).contains(&wave.len()), "wave {} has {} of {}", number, wave.len(), most);
            let lost = |rack: &Option<String>| wave.iter().filter(|member| member.spread == *rack).count();
            let share = |hosts: usize| (hosts * spread_percent as usize / 100).max(1);
            for (rack, hosts) in &in_rack {
                prop_assert!(lost(rack) <= share(*hosts), "{:?} loses {}", rack, lost(rack));
            }
            // A wave that is not full is so because every rack that still waits has used up its share.
            for member in plan.waves[number + 1..].iter().flatten().filter(|_| wave.len() < most) {
                let used_up = lost(&member.spread) == share(in_rack[&member.spread]);
                prop_assert!(used_up, "{} could have been in wave {}", member.id, number);
            }
        }
    }
}
