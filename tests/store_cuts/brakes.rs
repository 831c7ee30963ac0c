//! The brakes under which the load runs: as wide as a fleet document may set them, never off.
//!
//! Two dozen hosts cannot reach them. At once at most 24 orders are open, of 500; in an hour at most 2,000 may be
//! opened, and the counts remember 64 of one host. The breaker trips when 20 hosts are Failed at once, and more than
//! half; a host that failed is released by its client soon after.

use regild::config::fleet::diff::Write;
use regild::config::fleet::file::{
    BREAKER_HOSTS_CEILING, BREAKER_PERCENT_CEILING, CONCURRENT_CEILING, CONFIRM_CEILING, Document, EXPECT_CEILING,
    ORDERS_PER_HOUR_CEILING,
};
use regild::config::fleet::{Fleet, read};
use regild::decide::brakes::Policy;
use serde_json::{Value, json};
use std::path::Path;

/// As it goes over the operators' socket.
pub fn document() -> Value {
    let limits = json!({ "concurrent_max": CONCURRENT_CEILING, "orders_per_hour_max": ORDERS_PER_HOUR_CEILING });
    let breaker = json!({ "percent_max": format!("{BREAKER_PERCENT_CEILING}%"), "hosts_min": BREAKER_HOSTS_CEILING });
    json!({
        "group": { "default": { "limits": limits } },
        "policy": {
            "confirm_above": CONFIRM_CEILING,
            "expect_above": EXPECT_CEILING,
            "breaker": breaker,
            "fleet": limits,
            "rack": limits,
            "feed": limits,
        },
    })
}

fn fleet() -> Fleet {
    let document: Document = serde_json::from_value(document()).expect("a document");
    read::of_document(Path::new("the load's brakes"), document).expect("a document within the ceilings")
}

fn policy() -> Policy {
    fleet().policy.expect("the document has a policy")
}

/// As the registry's writer takes it.
pub fn writes() -> Vec<Write> {
    let groups = fleet().groups.into_values().map(|group| Write::Group(Box::new(group)));
    groups.chain([Write::Policy(policy())]).collect()
}

/// What a store that acknowledged them must still have; the server adds its own MACs to the deny list.
///
/// # Errors
/// What it has instead.
pub fn kept(found: &Policy, default_group: &regild::decide::group::Group) -> Result<(), String> {
    let found = Policy { denied: policy().denied, ..found.clone() };
    if found != policy() || fleet().groups.get(&default_group.name) != Some(default_group) {
        return Err(format!("the brakes that were applied are {found:?}, {default_group:?}"));
    }
    Ok(())
}
