//! Documents: what is taken, and what is refused in which words. Laws and diffs are in files of their own.

mod any;
mod diffs;
mod drift;
mod laws;
mod measured;

use super::read::{FleetError, Source, load, parse};
use super::*;
use std::path::{Path, PathBuf};

fn source(name: &str, text: &str) -> Source {
    Source { path: name.into(), text: text.into() }
}

pub(super) fn fleet(name: &str, text: &str) -> Fleet {
    parse(&[source(name, text)]).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(name: &str, text: &str) -> String {
    parse(&[source(name, text)]).expect_err(text).to_string()
}

/// The documents that we ship say every key that there is, and both forms say the same.
#[test]
fn the_documents_under_config_are_taken_and_leave_no_key_out() {
    let fleet = load(&[PathBuf::from("config/fleet")]).expect("our own examples");
    assert_eq!(fleet.groups.keys().collect::<Vec<_>>(), ["compute", "web"]);
    let web = &fleet.groups["web"];
    assert_eq!(web.schedule.max_age_seconds, Some(30 * 86_400));
    assert_eq!(web.schedule.blackouts[0], ("2026-12-20".to_string(), "2027-01-03".to_string()));
    assert_eq!(fleet.policy.as_ref().expect("a policy").breaker.percent_max, 5);
    assert_eq!(fleet.hosts.len(), 3);
    let text: String = ["policy.toml", "groups.toml", "drift.toml", "rack-12.yaml"]
        .map(|name| std::fs::read_to_string(Path::new("config/fleet").join(name)).unwrap())
        .concat();
    let full = export::document(&fleet);
    for key in keys_of(&serde_json::to_value(full).unwrap()) {
        assert!(text.contains(&key), "{key} is in no example");
    }
}

fn keys_of(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(table) => {
            table.iter().flat_map(|(key, value)| std::iter::once(key.clone()).chain(keys_of(value))).collect()
        }
        serde_json::Value::Array(values) => values.iter().flat_map(keys_of).collect(),
        _ => Vec::new(),
    }
}

/// A typing error must not leave a limit out in silence: file, line and key are named, in both forms.
#[test]
fn an_unknown_key_is_refused_with_file_line_and_key() {
    for (name, text, wanted) in [
        ("fleet/a.toml", "[group.web]\nconfirm = true\nmax_aeg = \"30d\"\n", "fleet/a.toml:3: unknown field `max_aeg`"),
        ("a.toml", "\n[grup.web]\n", "a.toml:2: unknown field `grup`"),
        ("a.toml", "[group.web.limits]\nconcurrent = 3\n", "a.toml:2: unknown field `concurrent`"),
        ("a.toml", "[group.web.disk]\nmin_byte = 3\n", "a.toml:2: unknown field `min_byte`"),
        ("a.toml", "[policy]\nrack.max = 3\n", "a.toml:2: unknown field `max`"),
        ("a.toml", "[[host]]\nname = \"a\"\nadress = \"10.0.0.1\"\n", "a.toml:3: unknown field `adress`"),
        ("a.toml", "[[reservation]]\nmac = \"52:54:00:00:00:01\"\nip = \"10.0.0.1\"\n", "unknown field `ip`"),
        (
            "fleet/b.yaml",
            "group:\n  web:\n    confirm: true\n    max_aeg: 30d\n",
            "fleet/b.yaml:4: unknown field `max_aeg`",
        ),
        ("b.yml", "host:\n- name: a\n  labels: {}\n  image: a:1\n  adress: x\n", "b.yml:5: unknown field `adress`"),
        (
            "b.yaml",
            "group:\n  web:\n    schedule:\n      windows:\n      - cron: '0 2 * * *'\n        opens: 4h\n",
            "b.yaml:6: unknown field `opens`",
        ),
    ] {
        let said = refused(name, text);
        assert!(said.contains(wanted), "{text}\nsaid: {said}");
    }
}

fn each_is_refused(table: &[(&str, &str, &str)]) {
    for (name, text, wanted) in table {
        let said = refused(name, text);
        assert!(said.contains(wanted), "{text}\nsaid: {said}");
        assert!(!said.contains("hunter2"), "a secret is repeated: {said}");
    }
}

#[test]
fn a_wrong_word_in_a_group_is_refused_where_it_stands() {
    each_is_refused(&[
        ("a.toml", "[group.web.schedule]\nmax_age = \"3 moons\"\n", "a.toml:2: \"3 moons\" is no length of time"),
        ("a.toml", "[group.web.schedule]\npause = \"5s\"\n", "a.toml:2: \"5s\" must be 10m to 366d"),
        ("a.toml", "[group.web.schedule]\nmax_age = 30\n", "a.toml:2: invalid type: integer `30`, expected text"),
        ("a.toml", "[group.web.schedule]\nmax_age = \"1mo\"\n", "a.toml:2: \"1mo\" has no fixed length"),
        ("a.toml", "[group.web.schedule]\nmax_age = \"-1d\"\n", "must be at least one second"),
        ("a.toml", "[group.web.schedule]\nblackouts = [\"2026-02-30\"]\n", "no day"),
        ("a.toml", "[group.web.schedule]\nblackouts = [\"2026-03-02..2026-03-01\"]\n", "ends before it begins"),
        (
            "a.toml",
            "[group.web.schedule]\nrebuild = [\"0 3 * *\"]\n",
            "schedule.rebuild[0]: \"0 3 * *\": it has 4 fields",
        ),
        // faults.md C6.
        (
            "a.toml",
            "[group.web.schedule]\nrebuild = [\"* * * * *\"]\n",
            "schedule.rebuild[0]: \"* * * * *\": it starts every 1m",
        ),
        ("a.toml", "[group.web.schedule]\nrebuild = [\"0 0 31 2 *\"]\n", "no such day ever comes"),
        (
            "a.toml",
            "[group.web.schedule]\ntime_zone = \"Europe/Belrin\"\n",
            "schedule.time_zone: \"Europe/Belrin\": there is no such",
        ),
        (
            "a.toml",
            "[group.web.schedule]\nwindows = [{ cron = \"* * * * ;\", open = \"1h\" }]\n",
            "schedule.windows[0].cron",
        ),
        ("a.toml", "[group.web.schedule]\ntime_zone = \"../etc/passwd\"\n", "schedule.time_zone"),
        (
            "a.toml",
            "[group.web.schedule]\npause = \"5d\"\nmax_age = \"2d\"\n",
            "2d is shorter than the pause between rebuilds, 5d",
        ),
        ("a.toml", "[group.\"a b\"]\n", "a.toml:1: \"a b\" is no name"),
        ("a.toml", "[group.web]\nchannel = \"debian:12\"\n", "a.toml:2: \"debian:12\" is no channel"),
        ("a.toml", "[group.web]\nfollow_channel = true\n", "a.toml: group web: follow_channel: there is no channel"),
        ("a.toml", "[group.web]\npower = \"idrac\"\n", "power: \"idrac\" is no power driver; there are redfish"),
        ("a.toml", "[group.web.disk]\ntransport = \"sata\"\n", "disk.transport: \"sata\" is none of"),
        ("a.toml", "[group.web.disk]\nserial = \"\"\n", "disk.serial: must be one line that is not empty"),
        ("a.toml", "[group.web.disk]\nmin_bytes = 5\nmax_bytes = 4\n", "no disk could be the target"),
        ("a.toml", "[group.web.health.check]\nhttp = \"ftp://x\"\n", "health.check.http"),
        ("a.toml", "[group.web.health.check]\nhttp = \"http://u:hunter2@x/\"\n", "documents hold no secrets"),
        ("a.toml", "[group.web.health.check]\ncommand = \"check.sh\"\n", "no absolute path"),
        ("a.toml", "[group.web.health.check]\nhttp = \"http://x\"\ncommand = \"/x\"\n", "either http or command"),
        ("a.toml", "[group.web.health.check]\n", "either http or command"),
    ]);
}

#[test]
fn a_wrong_word_anywhere_else_is_refused_where_it_stands() {
    each_is_refused(&[
        ("a.toml", "[[host]]\ngroup = \"web\"\n", "a.toml: host 1: mac: is missing"),
        (
            "a.toml",
            "[[host]]\nmac = \"ff:ff:ff:ff:ff:ff\"\n",
            "a.toml:2: ff:ff:ff:ff:ff:ff is the address of no single",
        ),
        ("a.toml", "[[host]]\nid = \"h-52540000000G\"\n", "a.toml:2: \"h-52540000000G\" is no host id"),
        ("a.toml", "[[host]]\nmac = \"52:54:00:00:00:01\"\nid = \"h-525400000001\"\n", "keep one of them"),
        ("a.toml", "[[host]]\nname = \"h-1\"\n", "looks like a host id"),
        ("a.toml", "[[host]]\nname = \"a\"\nimage = \"debian\"\n", "a.toml:3: \"debian\" has no version"),
        (
            "a.toml",
            "[[host]]\nname = \"a\"\nlabels = { rack = 12 }\n",
            "a.toml:3: invalid type: integer `12`, expected text in quotes",
        ),
        (
            "a.toml",
            "[[host]]\nname = \"a\"\nlabels = { group = \"x\" }\n",
            "a.toml:3: \"group\" is a word of the host record",
        ),
        ("a.yaml", "host:\n- name: a\n  power:\n    password: hunter2\n", "a.yaml:4: \"password\" would be a secret"),
        ("a.yaml", "group:\n  web:\n    protected: yes\n", "a.yaml:3: invalid boolean (true or false expected)"),
        ("a.toml", "[group.w.health.check]\nhttp = \"x://u:hunter2@x/\"\n", "documents hold no secrets"),
        ("a.yaml", "group: [\n", "a.yaml:1: "),
        ("a.yaml", "host: []\n---\nhost: []\n", "only single YAML document expected"),
        ("a.toml", "[[reservation]]\nmac = \"52:54:00:00:00:01\"\naddress = \"127.0.0.1\"\n", "reservation 1: address"),
        ("a.toml", "[[reservation]]\nmac = \"52:54:00:00:00:01\"\naddress = \"10.0.0.300\"\n", "a.toml:3: "),
        ("a.toml", "[policy]\ndenied = [\"web-1\"]\n", "policy.denied: \"web-1\" is no MAC"),
        ("a.toml", "[policy]\nbreaker.percent_max = \"0%\"\n", "a.toml:2: \"0%\" must be a whole share from 1% to 50%"),
        ("a.txt", "", "a.txt ends neither in .toml"),
    ]);
}

/// R3: caps that cannot be switched off. Every number that brakes is tried with all that people write for "no limit".
#[test]
fn no_document_can_say_no_limit() {
    let caps = ["group.web.limits", "policy.fleet", "policy.rack", "policy.feed"];
    let mut numbers: Vec<(String, &str)> = Vec::new();
    for table in caps {
        numbers.push((table.to_string(), "concurrent_max"));
        numbers.push((table.to_string(), "orders_per_hour_max"));
    }
    numbers.push(("policy".to_string(), "confirm_above"));
    numbers.push(("policy".to_string(), "expect_above"));
    numbers.push(("policy.breaker".to_string(), "hosts_min"));
    let toml = [
        "0",
        "-1",
        "4294967295",
        "9223372036854775807",
        "inf",
        "1e9",
        "\"none\"",
        "\"unlimited\"",
        "\"\"",
        "false",
        "[]",
    ];
    let yaml =
        ["0", "-1", "4294967295", "18446744073709551615", ".inf", "~", "null", "none", "unlimited", "''", "off", "{}"];
    for (table, key) in numbers {
        for value in toml {
            let said = refused("a.toml", &format!("[{table}]\n{key} = {value}\n"));
            assert!(said.starts_with("a.toml:2: "), "{table}.{key} = {value}: {said}");
        }
        for value in yaml {
            let nested: String = table.split('.').map(|part| format!("{{ {part}: ")).collect();
            let text = format!("{}{nested}{{ {key}: {value} }}{}\n", "", " }".repeat(table.split('.').count()));
            refused("a.yaml", &text);
        }
        fleet("a.toml", &format!("[{table}]\n{key} = 7\n"));
    }
    for value in ["100%", "51%", "0%", "-1%", "inf", "5"] {
        refused("a.toml", &format!("[policy]\nbreaker.percent_max = \"{value}\"\n"));
    }
    // What is not said is not "no limit" either.
    let silent = fleet("a.toml", "[group.web]\n[policy]\n");
    assert_eq!(silent.groups["web"], Group::new("web"));
    assert_eq!(silent.policy, Some(Policy::default()));
}

#[test]
fn a_group_that_says_nothing_is_what_decide_says_a_group_is() {
    for (name, text) in [("a.toml", "[group.web]\n"), ("a.yaml", "group:\n  web: {}\n")] {
        assert_eq!(fleet(name, text).groups["web"], Group::new("web"));
    }
}

/// Half a table is no way to widen the other half: a rack's defaults are narrower than the fleet's.
#[test]
fn what_a_policy_leaves_out_has_the_default_of_its_own_scope() {
    let careful = crate::decide::brakes::Policy::default();
    let policy = fleet("a.toml", "[policy.rack]\nconcurrent_max = 3\n[policy.feed]\nconcurrent_max = 7\n").policy;
    let policy = policy.expect("a policy");
    assert_eq!((policy.rack.concurrent_max, policy.feed.concurrent_max), (3, 7));
    assert_eq!(policy.rack.orders_per_hour_max, careful.rack.orders_per_hour_max);
    assert_eq!(policy.feed.orders_per_hour_max, careful.feed.orders_per_hour_max);
    let policy = fleet("a.yaml", "policy:\n  rack: { orders_per_hour_max: 9 }\n").policy.expect("a policy");
    assert_eq!((policy.rack.concurrent_max, policy.feed), (careful.rack.concurrent_max, careful.feed));
    assert_eq!(fleet("a.toml", "[policy]\n").policy, Some(careful));
}

#[test]
fn the_drivers_that_a_group_may_name_are_those_that_there_are() {
    use crate::power::Driver::{Agent, Command, Ipmi, Manual, Redfish, Wol};
    assert_eq!(check::POWER_DRIVERS, [Redfish, Ipmi, Wol, Agent, Command, Manual].map(|driver| driver.to_string()));
}

#[test]
fn what_is_said_twice_is_refused_with_both_files() {
    let mac = "52:54:00:00:00:01";
    let host = |rest: &str| format!("[[host]]\nmac = \"{mac}\"\n{rest}\n");
    for (first, second, what) in [
        ("[group.web]\n".to_string(), "group:\n  web: {}\n".to_string(), "group web"),
        (host(""), format!("host:\n- mac: {mac}\n"), "host 52:54:00:00:00:01"),
        (host(""), "host:\n- id: h-525400000001\n".to_string(), "host 52:54:00:00:00:01"),
        (host("name = \"web-1\""), "host:\n- name: web-1\n".to_string(), "host web-1"),
        (host("name = \"web-1\""), "host:\n- mac: 52-54-00-00-00-02\n  name: web-1\n".to_string(), "host web-1"),
        ("[policy]\n".to_string(), "policy: {}\n".to_string(), "policy"),
        (
            format!("[[reservation]]\nmac = \"{mac}\"\naddress = \"10.0.0.1\"\n"),
            format!("reservation:\n- mac: {mac}\n  address: 10.0.0.2\n"),
            "a reservation for 52:54:00:00:00:01",
        ),
        (
            format!("[[reservation]]\nmac = \"{mac}\"\naddress = \"10.0.0.1\"\n"),
            "reservation:\n- mac: 52:54:00:00:00:02\n  address: 10.0.0.1\n".to_string(),
            "a reservation of 10.0.0.1",
        ),
    ] {
        let error = parse(&[source("fleet/a.toml", &first), source("fleet/b.yaml", &second)]).expect_err(&second);
        assert_eq!(error.to_string(), format!("{what} is in fleet/a.toml and in fleet/b.yaml; keep one of them"));
    }
    assert!(refused("a.toml", "[group.web]\n[group.web]\n").starts_with("a.toml:2: "));
    assert!(refused("a.yaml", "group:\n  web: {}\n  web: {}\n").starts_with("a.yaml:3: "));
}

#[test]
fn a_directory_is_all_its_documents_and_nothing_is_passed_over_that_could_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let load = || load(&[dir.path().to_path_buf()]);
    assert!(matches!(load(), Err(FleetError::Nothing { .. })), "an empty directory is no fleet");
    write("b.yml", "group:\n  b: {}\n");
    write("a.toml", "[group.a]\n");
    write("c.yaml", "\u{feff}group:\n  c: {}\n");
    write("README.md", "not ours");
    write(".a.toml.swp", "an editor's");
    std::fs::create_dir(dir.path().join(".git")).unwrap();
    assert_eq!(load().unwrap().groups.len(), 3);
    std::fs::create_dir(dir.path().join("more")).unwrap();
    assert!(load().expect_err("a directory inside").to_string().contains("more is neither a file"));
    std::fs::remove_dir(dir.path().join("more")).unwrap();
    // Sorted: of two mistakes the first file's is told.
    write("b.yml", "grop: {}\n");
    write("a.toml", "[grup.a]\n");
    assert!(load().expect_err("two mistakes").to_string().contains("a.toml:1"));
    write("a.toml", "[group.a]\n");
    std::fs::write(dir.path().join("b.yml"), b"group: \xff\n").unwrap();
    assert!(load().expect_err("no text").to_string().starts_with("cannot read "));
    let missing = super::read::load(&[PathBuf::from("/no/such/fleet.toml")]).expect_err("missing");
    assert_eq!(missing.to_string(), "cannot read /no/such/fleet.toml");
    let device = super::read::load(&[PathBuf::from("/dev/zero")]).expect_err("endless");
    assert!(device.to_string().contains("/dev/zero is neither a file nor"), "{device}");
}

/// Bounded: neither nesting nor aliases make a small file large.
#[test]
fn a_yaml_bomb_ends_at_a_limit() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_string();
    for level in 1..12 {
        let one = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![one; 9].join(", "));
    }
    let indented: String = bomb.lines().map(|line| format!("    {line}\n")).collect();
    let said = refused("a.yaml", &format!("host:\n- name: a\n  power:\n{indented}"));
    assert!(said.contains("too large or too complex"), "{said}");
    refused("a.yaml", &format!("host: {}{}\n", "[".repeat(5_000), "]".repeat(5_000)));
    refused("a.toml", &format!("host = {}{}\n", "[".repeat(5_000), "]".repeat(5_000)));
}
