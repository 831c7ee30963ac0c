//! Field by field. A thing is laid out in the form in which documents write it, flat, so that a field that is added
//! to a document is compared and shown without another word here.

use super::super::drift::Drift;
use super::super::words::LabelTable;
use super::{HostEntry, NowHost, file};
use crate::decide::brakes::Policy;
use crate::decide::drift::declared::DriftPolicy;
use crate::decide::group::Group;
use crate::wire::fleet::Field;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// `limits.concurrent_max` -> 20.
pub(super) type Flat = BTreeMap<String, Value>;

pub(super) fn of_group(group: &Group) -> Flat {
    flat(&file::Group::from(group))
}

pub(super) fn of_policy(policy: &Policy) -> Flat {
    flat(&file::Policy::from(policy))
}

/// Rule by rule: `rule[3]` in one line.
pub(super) fn of_drift(policy: &DriftPolicy) -> Flat {
    let written = Drift::from(policy);
    let rules = written.rules.iter().enumerate().map(|(at, rule)| (format!("rule[{}]", at + 1), json!(rule)));
    let rules: Flat = rules.collect();
    let mut found = flat(&Drift { rules: Vec::new(), ..written });
    found.extend(rules);
    found
}

pub(super) fn of_address(address: Option<&Ipv4Addr>) -> Flat {
    address.map(|address| ("address".to_string(), json!(address.to_string()))).into_iter().collect()
}

pub(super) fn of_entry(entry: &HostEntry) -> Flat {
    let HostEntry { name, group, labels, image, power, drift } = entry;
    flat(&json!({
        "name": name,
        "group": group,
        "labels": labels.clone().map(LabelTable),
        "image": image.as_ref().map(ToString::to_string),
        "power": power,
        "drift": drift,
    }))
}

/// Of a record, what `entry` speaks of.
pub(super) fn of_now(host: &NowHost, entry: &HostEntry) -> Flat {
    of_entry(&HostEntry {
        name: entry.name.as_ref().and(host.name.clone()),
        group: entry.group.as_ref().map(|_| host.group.clone()),
        labels: entry.labels.as_ref().map(|_| host.labels.clone()),
        image: entry.image.as_ref().and(host.image.clone()),
        power: entry.power.as_ref().and(host.power.clone()),
        // An empty text in a document is no policy, as in a record without one.
        drift: entry.drift.as_ref().map(|_| host.drift.clone().unwrap_or_default()),
    })
}

fn flat(thing: &impl Serialize) -> Flat {
    let value = serde_json::to_value(thing).expect("texts, numbers, booleans and tables of them are always JSON");
    let mut found = Flat::new();
    lay_out("", &value, &mut found);
    found
}

fn lay_out(path: &str, value: &Value, found: &mut Flat) {
    match value {
        Value::Null => {}
        // An empty table at the top (no labels) is the same as none.
        Value::Object(table) if !table.is_empty() || !path.contains('.') => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                lay_out(&path, value, found);
            }
        }
        value => {
            found.insert(path.to_string(), value.clone());
        }
    }
}

/// What differs, by field name.
pub(super) fn changed(old: &Flat, new: &Flat) -> Vec<Field> {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let differs = |name: &&String| old.get(*name) != new.get(*name);
    let field = |name: &String| Field {
        field: name.clone(),
        old: old.get(name).cloned(),
        new: new.get(name).cloned(),
        loosens: loosens(name, old, new),
    };
    names.into_iter().filter(differs).map(field).collect()
}

/// Whether a brake holds less after the change. Of the brakes: caps, thresholds, breaker, deny list, protection.
fn loosens(name: &str, old: &Flat, new: &Flat) -> bool {
    let (before, after) = (old.get(name), new.get(name));
    let last = name.rsplit('.').next().unwrap_or(name);
    match last {
        "concurrent_max" | "orders_per_hour_max" | "confirm_above" | "expect_above" | "percent_max" | "hosts_min" => {
            number(before) < number(after)
        }
        "denied" => {
            let lines = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
            let kept = lines(after);
            lines(before).iter().any(|line| !kept.contains(line))
        }
        "confirm" => before == Some(&json!(true)),
        // Of a group a switch, of a host a label: true before, or there before.
        "protected" => before == Some(&json!(true)) || (name == "labels.protected" && after.is_none()),
        _ => false,
    }
}

fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim_end_matches('%').parse().ok(),
        _ => None,
    }
}
