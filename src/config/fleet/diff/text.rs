//! A diff for people.

use crate::wire::fleet::{Change, Diff, Field, Kind, Verb};
use serde_json::Value;
use std::fmt::Write;

/// The lines, each ending in a newline.
pub fn of(diff: &Diff) -> String {
    let mut text = String::new();
    for change in &diff.changes {
        text += &of_change(change);
    }
    text += &counted(&diff.changes);
    for refusal in &diff.refusals {
        text += &format!("refused: {refusal}\n");
    }
    text
}

fn of_change(change: &Change) -> String {
    let sign = match change.verb {
        Verb::Added => '+',
        Verb::Changed => '~',
        Verb::Removed => '-',
    };
    let what = match (change.kind, &change.name) {
        (Kind::Policy, _) => "policy".to_string(),
        (Kind::Host, Some(name)) => format!("host {name} ({})", change.id),
        (Kind::Host, None) => format!("host {}", change.id),
        (Kind::Group, _) => format!("group {}", change.id),
        (Kind::Drift, _) => format!("drift policy {}", change.id),
        (Kind::Reservation, _) => format!("reservation {}", change.id),
    };
    let mut text = format!("{sign} {what}\n");
    for field in &change.fields {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {}", of_field(field, change.kind));
    }
    text
}

fn of_field(field: &Field, kind: Kind) -> String {
    let note = match (field.loosens, kind) {
        (false, _) => "",
        (true, Kind::Drift) => "  (a second person must see this)",
        (true, _) => "  (a brake holds less)",
    };
    let change = match (&field.old, &field.new) {
        (None, Some(new)) => shown(new),
        (Some(old), Some(new)) => format!("{} -> {}", shown(old), shown(new)),
        (Some(old), None) => format!("{} -> nothing", shown(old)),
        (None, None) => "nothing".to_string(),
    };
    format!("{}: {change}{note}", field.field)
}

/// Plain text as it is; all else as JSON, which also escapes what a terminal would obey.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => text.clone(),
        value => value.to_string(),
    }
}

fn counted(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no change\n".to_string();
    }
    let mut parts = Vec::new();
    for (kind, one, many) in [
        (Kind::Drift, "drift policy", "drift policies"),
        (Kind::Group, "group", "groups"),
        (Kind::Policy, "policy", "policies"),
        (Kind::Host, "host", "hosts"),
        (Kind::Reservation, "reservation", "reservations"),
    ] {
        for (verb, word) in [(Verb::Added, "added"), (Verb::Changed, "changed"), (Verb::Removed, "removed")] {
            let count = changes.iter().filter(|change| (change.kind, change.verb) == (kind, verb)).count();
            if count > 0 {
                parts.push(format!("{count} {} {word}", if count == 1 { one } else { many }));
            }
        }
    }
    format!("\n{}. No order is opened by this.\n", parts.join(", "))
}
