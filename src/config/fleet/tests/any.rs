//! Any fleet that could be checked, for the laws.

use crate::config::fleet::settings::PowerSettings;
use crate::config::fleet::{Fleet, HostEntry, HostKey};
use crate::decide::brakes::{BreakerPolicy, Policy};
use crate::decide::disk::Rule;
use crate::decide::drift::classes::CLASSES;
use crate::decide::drift::declared::{Declared, DriftPolicy, Pace, What};
use crate::decide::drift::defaults::Family;
use crate::decide::drift::finding::Aspect;
use crate::decide::drift::policy::{Action, Pattern};
use crate::decide::group::{Check, Deadlines, Group, Health, Limits, Schedule, Window};
use crate::decide::labels::{Labels, RESERVED};
use crate::decide::mac::Mac;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Words that YAML or TOML could take for something else.
fn odd_word() -> impl Strategy<Value = String> {
    let odd = [
        "null", "true", "no", "012", "1e3", "0x1f", "1_000", "-", "--", "...", ".5", "12.4", "inf", "nan", "-.inf", "y",
    ];
    prop_oneof![proptest::sample::select(odd.map(String::from).to_vec()), "[A-Za-z0-9._-]{1,12}"]
}

fn key_word() -> impl Strategy<Value = String> {
    odd_word().prop_map(|word| word.to_lowercase()).prop_filter("reserved", |word| !RESERVED.contains(&word.as_str()))
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(key_word(), odd_word(), 0..5).prop_map(|pairs| {
        let mut labels = Labels::default();
        pairs.iter().for_each(|(key, value)| labels.set(key, value).unwrap());
        labels
    })
}

/// One line of anything printable, and the texts on which quoting fails.
fn line() -> impl Strategy<Value = String> {
    let odd = [
        "",
        " ",
        "null",
        "~",
        "yes",
        "012",
        "1_0",
        "a: b",
        "- a",
        "#x",
        "'",
        "\"",
        "\\",
        "{a}",
        "!x",
        "&a",
        "*a",
        "@",
        "%",
        "é✓",
        "a # b",
        " a ",
        "|",
        ">",
        "<<",
        "2026-01-01",
        "12:30:45",
        "0o7",
        "1.5",
        "+1",
        "=",
    ];
    prop_oneof![proptest::sample::select(odd.map(String::from).to_vec()), "\\PC{0,20}"]
        .prop_filter("control", |text: &String| !text.chars().any(char::is_control))
}

fn settings() -> impl Strategy<Value = PowerSettings> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        line().prop_map(Value::from)
    ];
    let deep = leaf.prop_recursive(2, 12, 4, |inner| {
        let table = btree_map("[a-z0-9_-]{1,8}", inner.clone(), 0..4)
            .prop_map(|table| Value::Object(table.into_iter().collect()));
        prop_oneof![vec(inner, 0..4).prop_map(Value::Array), table]
    });
    let table = btree_map("[a-zA-Z0-9_-]{1,8}", deep, 0..5);
    table.prop_filter_map("a secret by chance", |table| {
        PowerSettings::new(table.into_iter().collect::<Map<_, _>>()).ok()
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    (1..=500u32, 1..=2_000u32)
        .prop_map(|(concurrent_max, orders_per_hour_max)| Limits { concurrent_max, orders_per_hour_max })
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let cron = proptest::sample::select(vec!["0 3 * * 0", "15 0-6/2 1,15 * MON-FRI", "30 2 L * *"]);
    let days = proptest::sample::select(vec![("2026-12-20", "2027-01-03"), ("2027-05-01", "2027-05-01")]);
    let window =
        (cron.clone(), 60..=604_800u64).prop_map(|(cron, open_seconds)| Window { cron: cron.into(), open_seconds });
    let zone = proptest::sample::select(vec!["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+5"]);
    (
        vec(cron, 0..3),
        vec(window, 0..3),
        zone,
        vec(days, 0..3),
        600..=31_622_400u64,
        option::of(0..200_000_000u64),
        any::<bool>(),
    )
        .prop_map(|(rebuild, windows, zone, blackouts, pause_seconds, more, catch_up)| Schedule {
            rebuild: rebuild.into_iter().map(String::from).collect(),
            windows,
            time_zone: zone.into(),
            blackouts: blackouts.into_iter().map(|(first, last)| (first.into(), last.into())).collect(),
            max_age_seconds: more.map(|more| pause_seconds.max(3_600) + more),
            pause_seconds,
            catch_up,
        })
}

fn health() -> impl Strategy<Value = Health> {
    let check = prop_oneof![
        Just(Check::Http { url: "http://{address}:80/{name}?a='b'#c".into() }),
        Just(Check::Command { program: "/usr/local/bin/ch eck \"x\"".into() }),
    ];
    (any::<bool>(), option::of(check), 0..=604_800u64).prop_map(|(confirmed, check, soak_seconds)| Health {
        confirmed,
        check,
        soak_seconds,
    })
}

fn disk() -> impl Strategy<Value = Rule> {
    let text = || option::of(line().prop_filter("empty", |text| !text.trim().is_empty()));
    let transport = proptest::sample::select(vec!["nvme", "usb"]).prop_map(String::from);
    let bytes = || option::of(0..1u64 << 62);
    (text(), text(), text(), option::of(transport), bytes(), bytes()).prop_map(
        |(serial, wwn, model, transport, a, b)| {
            let (min_bytes, max_bytes) = match (a, b) {
                (Some(a), Some(b)) => (Some(a.min(b)), Some(a.max(b))),
                other => other,
            };
            Rule { serial, wwn, model, transport, min_bytes, max_bytes }
        },
    )
}

fn bandwidth() -> impl Strategy<Value = Option<u64>> {
    option::of(1_000_000..1u64 << 39)
}

fn group() -> impl Strategy<Value = Group> {
    let deadline = || 60..=604_800u64;
    let deadlines = (deadline(), deadline(), deadline(), deadline(), 0..=10u32);
    let channel = option::of("[a-z0-9][a-z0-9._-]{0,6}@[A-Za-z0-9][A-Za-z0-9._+-]{0,6}");
    let power = proptest::sample::select(crate::config::fleet::check::POWER_DRIVERS.to_vec());
    (channel, any::<[bool; 3]>(), disk(), schedule(), limits(), deadlines, health(), (power, drift_name(), bandwidth()))
        .prop_map(
            |(channel, [follow, protected, confirm], disk, schedule, limits, d, health, (power, drift, bandwidth))| {
                Group {
                    drift,
                    bandwidth,
                    name: String::new(),
                    follow_channel: follow && channel.is_some(),
                    channel,
                    disk,
                    schedule,
                    limits,
                    deadlines: Deadlines {
                        queued_seconds: d.0,
                        netbooting_seconds: d.1,
                        deploying_seconds: d.2,
                        rebooting_seconds: d.3,
                        power_cycles_max: d.4,
                    },
                    health,
                    protected,
                    confirm,
                    power: power.into(),
                }
            },
        )
}

fn policy() -> impl Strategy<Value = Policy> {
    let denied = any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| Mac([0x52, a, b, c, d, e]));
    let breaker = (1..=50u32, 1..=20u32).prop_map(|(percent_max, hosts_min)| BreakerPolicy { percent_max, hosts_min });
    (limits(), limits(), limits(), breaker, 1..=1_000u32, 1..=100u32, btree_set(denied, 0..4)).prop_map(
        |(fleet, rack, feed, breaker, confirm_above, expect_above, denied)| Policy {
            fleet,
            rack,
            feed,
            breaker,
            confirm_above,
            expect_above,
            denied,
        },
    )
}

/// One of those that are always there.
fn drift_name() -> impl Strategy<Value = Option<String>> {
    option::of(proptest::sample::select(vec!["web", "012"]).prop_map(String::from))
}

fn drift_rule() -> impl Strategy<Value = Declared> {
    let path = vec("[a-z*?. \\\\\"'#]{1,6}", 1..4)
        .prop_map(|parts| format!("/{}", parts.join("/")))
        .prop_filter_map("no path", |text| Pattern::new(text.as_bytes()).ok());
    let bytes = vec(any::<u8>(), 1..6).prop_filter_map("no path", |name| Pattern::new(&[b"/", &*name].concat()).ok());
    let class = proptest::sample::select(CLASSES.iter().collect::<Vec<_>>()).prop_map(What::Class);
    let what = prop_oneof![path.prop_map(What::Path), bytes.prop_map(What::Path), class];
    let aspects = proptest::sample::subsequence(Aspect::ALL.to_vec(), 1..=Aspect::ALL.len());
    let rebuild = (0..=2_592_000u64, 1..=35_000u32)
        .prop_map(|(grace_seconds, scans_min)| Action::Rebuild { grace_seconds, scans_min });
    let action = prop_oneof![Just(Action::Allow), Just(Action::Report), rebuild];
    let until = option::of(prop_oneof![1..=40_000u64, 1..=4_000_000_000u64]);
    (what, aspects, action, any::<bool>(), line(), until, any::<bool>()).prop_map(
        |(what, aspects, action, content, why, until, by_days)| Declared {
            what,
            aspects: aspects.into_iter().collect(),
            action,
            content,
            // An allowed path needs a reason.
            why: if why.trim().is_empty() { "w".to_string() } else { why },
            until: until.map(|until| if by_days { until / 86_400 * 86_400 } else { until }),
        },
    )
}

fn drift_policy() -> impl Strategy<Value = DriftPolicy> {
    let image = "[a-z0-9][a-z0-9._-]{0,6}(:[A-Za-z0-9][A-Za-z0-9._+-]{0,6})?";
    let families: Vec<_> = [None].into_iter().chain(Family::ALL.map(Some)).collect();
    let place = "/[a-z]{1,5}(/[a-z .]{1,5}[a-z])?".prop_map(|text| Pattern::new(text.as_bytes()).unwrap());
    let pace = (60..=3_600u64, 3_600..=2_592_000u64, 60..=604_800u64, option::of(86_400..=315_360_000u64));
    (vec(image, 0..3), proptest::sample::select(families), vec(place, 0..3), pace, vec(drift_rule(), 0..4)).prop_map(
        |(images, defaults, read_only, (scan_seconds, cycle_seconds, report_seconds, verify), rules)| DriftPolicy {
            name: String::new(),
            images,
            defaults,
            pace: Pace { scan_seconds, cycle_seconds, report_seconds, verify_every_seconds: verify },
            read_only,
            rules,
        },
    )
}

fn entry() -> impl Strategy<Value = HostEntry> {
    let image = "[a-z0-9][a-z0-9._-]{0,6}:[A-Za-z0-9][A-Za-z0-9._+-]{0,6}".prop_map(|text| text.parse().unwrap());
    let group = proptest::sample::select(vec!["default", "web", "012"]).prop_map(String::from);
    let drift = prop_oneof![3 => drift_name(), 1 => Just(Some(String::new()))];
    (any::<bool>(), option::of(group), option::of(labels()), option::of(image), option::of(settings()), drift).prop_map(
        |(named, group, labels, image, power, drift)| {
            // Which name, `fleet` says: it must be the only one.
            HostEntry { name: named.then(String::new), group, labels, image, power, drift }
        },
    )
}

fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, number])
}

/// Hosts are named by their position, so that names stay unique. `by_name`: some hosts are known by name alone.
pub fn fleet(by_name: bool) -> impl Strategy<Value = Fleet> {
    let hosts = btree_map(0..24u8, entry(), 0..8);
    let reservations = btree_map(0..24u8, any::<bool>(), 0..8);
    let drift = btree_map(odd_word(), drift_policy(), 0..4);
    (btree_map(odd_word(), group(), 0..4), hosts, reservations, option::of(policy()), drift).prop_map(
        move |(groups, hosts, reservations, policy, drift)| Fleet {
            drift: drift.into_iter().map(|(name, policy)| (name.clone(), DriftPolicy { name, ..policy })).collect(),
            groups: groups.into_iter().map(|(name, group)| (name.clone(), Group { name, ..group })).collect(),
            hosts: hosts.into_iter().map(|(number, entry)| host(number, entry, by_name)).collect(),
            reservations: reservations
                .into_iter()
                .map(|(number, high)| (mac(number), Ipv4Addr::new(10, 0, u8::from(high), number)))
                .collect::<BTreeMap<_, _>>(),
            policy,
        },
    )
}

fn host(number: u8, entry: HostEntry, by_name: bool) -> (HostKey, HostEntry) {
    let name = entry.name.as_ref().map(|_| format!("n{number}"));
    let key = match &name {
        Some(name) if by_name && number.is_multiple_of(2) => HostKey::Name(name.clone()),
        _ => HostKey::Mac(mac(number)),
    };
    (key, HostEntry { name, ..entry })
}
