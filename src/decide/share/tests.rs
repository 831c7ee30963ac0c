//! Promise of issue 5, Serving: a fair share for each, and limits that hold.

use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

const SECOND: Nanos = 1_000_000_000;
const MB: u64 = 1_000_000;

/// A host that always has more to send.
#[derive(Debug, Clone)]
struct Machine {
    group: usize,
    connections: usize,
    slice: u32,
}

fn source(number: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap()).into()
}

/// What each of these hosts, all of them greedy, got of a server in so many nanoseconds; and at every grant the sums are
/// held against the limits.
fn simulate(global: Option<u64>, groups: &[Option<u64>], machines: &[Machine], length: Nanos) -> Vec<u64> {
    let names: Vec<String> = (0..groups.len()).map(|group| format!("g{group}")).collect();
    let mut shares = Shares::new(global, 0);
    let mut whose = BTreeMap::new();
    let mut got = vec![0u64; machines.len()];
    let ask = |shares: &mut Shares, whose: &mut BTreeMap<Ticket, (usize, u32)>, number: usize, now: Nanos| {
        let machine: &Machine = &machines[number];
        let asker = Asker { source: source(number), group: &names[machine.group], limit: groups[machine.group] };
        let (ticket, bytes) = shares.ask(asker, machine.slice, now);
        whose.insert(ticket, (number, bytes));
    };
    for (number, machine) in machines.iter().enumerate() {
        (0..machine.connections).for_each(|_| ask(&mut shares, &mut whose, number, 0));
    }
    let mut now = 0;
    while now < length {
        loop {
            let granted = shares.grant(now);
            for ticket in &granted {
                let (number, bytes) = whose.remove(ticket).expect("a ticket is granted once");
                got[number] += u64::from(bytes);
                ask(&mut shares, &mut whose, number, now);
            }
            if granted.is_empty() {
                break;
            }
        }
        let may = |rate: u64| u128::from(rate) * u128::from(now) / u128::from(SECOND) + u128::from(burst_bytes(rate));
        let sum = |of: &dyn Fn(&Machine) -> bool| -> u128 {
            machines.iter().zip(&got).filter(|(machine, _)| of(machine)).map(|(_, got)| u128::from(*got)).sum()
        };
        assert!(global.is_none_or(|rate| sum(&|_| true) <= may(rate)), "the whole server's limit");
        for (group, limit) in groups.iter().enumerate() {
            assert!(limit.is_none_or(|rate| sum(&|machine| machine.group == group) <= may(rate)), "group {group}");
        }
        now = shares.wakes_at(now).expect("everybody waits for more").max(now + 1);
    }
    got
}

/// Max-min fairness by its definition: all rise together until the server's or their group's limit is reached.
fn fair(global: Option<u64>, groups: &[Option<u64>], machines: &[Machine]) -> Vec<f64> {
    let members = |group: usize| machines.iter().filter(|machine| machine.group == group).count() as f64;
    let at = |level: f64, group: usize| groups[group].map_or(level, |limit| level.min(limit as f64 / members(group)));
    let total = |level: f64| machines.iter().map(|machine| at(level, machine.group)).sum::<f64>();
    let (mut low, mut high) = (0.0, 1e12);
    for _ in 0..200 {
        let level = (low + high) / 2.0;
        if global.is_none_or(|global| total(level) <= global as f64) { low = level } else { high = level }
    }
    machines.iter().map(|machine| at(low, machine.group)).collect()
}

fn machine(group: usize, connections: usize) -> Machine {
    Machine { group, connections, slice: 32 << 10 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Limits hold at every instant (asserted in the simulation), every host gets its max-min share whatever the others
    /// do and however many connections they have, and nothing of what is left over is lost.
    #[test]
    fn every_host_gets_its_share_and_no_limit_is_passed(
        global in 5 * MB..100 * MB,
        groups in proptest::collection::vec(proptest::option::of(2 * MB..50 * MB), 1..4),
        hosts in proptest::collection::vec((0usize..4, 1usize..17, 1u32..SLICE_BYTES_MAX), 1..12),
    ) {
        let machines: Vec<Machine> = hosts
            .iter()
            .map(|(group, connections, slice)| {
                Machine { group: group % groups.len(), connections: *connections, slice: (*slice).max(32 << 10) }
            })
            .collect();
        let got = simulate(Some(global), &groups, &machines, 4 * SECOND);
        for ((got, fair), machine) in got.iter().zip(fair(Some(global), &groups, &machines)).zip(&machines) {
            // A burst and some slices are the grain of it.
            let grain = f64::from(4 * SLICE_BYTES_MAX) + burst_bytes(global) as f64;
            let wanted = fair * 4.0;
            prop_assert!((*got as f64 - wanted).abs() <= grain + wanted / 50.0, "{got} of {wanted}: {machine:?}");
        }
    }
}

#[test]
fn a_host_with_sixteen_connections_gets_no_more_than_one_with_one() {
    let got = simulate(Some(50 * MB), &[None], &[machine(0, 16), machine(0, 1)], 2 * SECOND);
    // But for the first burst, which goes to whoever has asked by then.
    assert!(got[0].abs_diff(got[1]) <= burst_bytes(50 * MB), "{got:?}");
}

#[test]
fn what_one_group_may_not_have_goes_to_the_others() {
    let machines = [machine(0, 4), machine(0, 1), machine(1, 1)];
    let got = simulate(Some(100 * MB), &[Some(10 * MB), None], &machines, 4 * SECOND);
    assert!(got[0] + got[1] <= 44 * MB && got[2] >= 350 * MB, "{got:?}");
}

#[test]
fn only_a_groups_limit_holds_where_the_server_has_none() {
    let got = simulate(None, &[Some(8 * MB)], &[machine(0, 2), machine(0, 9)], 2 * SECOND);
    assert!(got.iter().sum::<u64>() <= 17 * MB && got[0].abs_diff(got[1]) <= MB, "{got:?}");
}

/// A limit is changed by applying a document while hosts wait; a host moves to another group.
#[test]
fn limits_and_groups_change_while_hosts_wait() {
    let mut shares = Shares::new(None, 0);
    let slow = Asker { source: source(1), group: "slow", limit: Some(MB) };
    let slice = SLICE_BYTES_MAX;
    let (first, _) = shares.ask(slow, slice, 0);
    let (second, _) = shares.ask(slow, slice, 0);
    assert_eq!(shares.grant(0), [first]);
    let alone = shares.wakes_at(0).unwrap();
    assert_eq!(alone, u64::from(slice) * 1000, "the second waits for its bytes at 1 MB/s");
    // Ten times as fast from here on.
    let (third, _) = shares.ask(Asker { limit: Some(10 * MB), ..slow }, slice, 0);
    assert_eq!(shares.wakes_at(0).unwrap(), u64::from(slice) * 100);
    // And then without any limit, in another group: everything that waits goes with it.
    let (fourth, _) = shares.ask(Asker { group: "free", limit: None, ..slow }, slice, 0);
    assert_eq!(shares.grant(0), [second, third, fourth]);
    assert_eq!(shares.wakes_at(0), None);
}

#[test]
fn who_went_away_takes_nothing_from_the_others_and_is_forgotten() {
    let mut shares = Shares::new(Some(MB), 0);
    let asker = |number| Asker { source: source(number), group: "", limit: None };
    let (used_up, _) = shares.ask(asker(0), SLICE_BYTES_MAX, 0);
    assert_eq!(shares.grant(0), [used_up]);
    let (gone, _) = shares.ask(asker(1), SLICE_BYTES_MAX, 0);
    let (stays, _) = shares.ask(asker(2), SLICE_BYTES_MAX, 0);
    shares.withdraw(source(1), gone);
    let at = shares.wakes_at(0).unwrap();
    assert_eq!(shares.grant(at), [stays]);
    assert_eq!(shares.wakes_at(at), None);
    for number in 0..10_000 {
        let (ticket, _) = shares.ask(asker(number), 1, at);
        shares.withdraw(source(number), ticket);
    }
    assert!(shares.hosts.len() <= 3, "{}", shares.hosts.len());
}

/// A host that waits for its turn longer than the agent waits for a byte (20 s) begins anew, and again.
#[test]
fn a_round_of_all_is_short_however_slow_the_line() {
    for rate in [MB, 5 * MB, 100 * MB, 10_000 * MB] {
        for streams in [1, 100, 700, 4096] {
            let slice = u64::from(slice_bytes(rate, streams));
            let round_millis = slice * streams as u64 * 1000 / rate;
            assert!(round_millis <= 3000 || slice == 4096, "{streams} at {rate}: {slice} bytes, {round_millis} ms");
            assert!(round_millis < 20_000 && slice >= 4096);
        }
    }
    assert_eq!(slice_bytes(100 * MB, 10), 256 << 10, "few on a fast line have large ones");
    assert_eq!(slice_bytes(64_000, 1), 16 << 10);
    assert!(slice_bytes(0, 0) > 0);
}
