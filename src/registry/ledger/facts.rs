//! From a record before and after an event to what the ledger says of it. Pure. The writer calls this wherever it
//! replaces or removes a record, so that no way of changing one can pass the ledger by.

use super::{Fact, Kind};
use crate::decide::cause::Cause;
use crate::decide::host::{Host, Order, State, Step};

/// What changed in what the host is ordered or runs. `after` is `None` when the record was removed.
#[must_use]
pub fn facts(before: Option<&Host>, after: Option<&Host>) -> Vec<Fact> {
    let mut found = Vec::new();
    let Some(host) = after.or(before) else { return found };
    let former = before.and_then(|before| before.reported.clone());
    let open = |host: Option<&Host>| host.and_then(|host| host.order.clone());
    let fact = |kind, order: Option<&Order>| Fact {
        kind,
        host: host.id.clone(),
        macs: host.macs.clone(),
        image: None,
        former: former.clone(),
        generation: host.generation,
        causes: order.map_or_else(Vec::new, |order| order.causes.iter().map(|cause| cause.kind).collect()),
        reason: order.map_or_else(String::new, reasons),
        by: order.map_or("", Order::by).to_string(),
    };
    let Some(after) = after else {
        let reason = "the host record was removed".to_string();
        return vec![Fact { reason, by: "operator".to_string(), ..fact(Kind::Runs, None) }];
    };
    let (was_open, is_open) = (open(before), open(Some(after)));
    if let Some(order) = &is_open
        && was_open.as_ref().is_none_or(|was| was.generation != order.generation)
    {
        found.push(Fact { image: after.desired.clone(), ..fact(Kind::Ordered, Some(order)) });
    }
    if is_being_written(after) && !before.is_some_and(is_being_written) {
        let order = is_open.as_ref();
        let reason = format!("the disk is being rewritten: {}", order.map_or_else(String::new, reasons));
        found.push(Fact { reason, ..fact(Kind::Runs, order) });
    }
    let ran = before.map(|before| (&before.reported, before.reported_generation));
    if after.reported.is_some() && ran != Some((&after.reported, after.reported_generation)) {
        // The order that wrote it was closed by the same event.
        let order = was_open.or(is_open);
        let mut runs = fact(Kind::Runs, order.as_ref());
        if order.is_none() {
            runs.reason = "it ran this when the ledger first heard of it".to_string();
        }
        found.push(Fact { image: after.reported.clone(), generation: after.reported_generation, ..runs });
    }
    found
}

/// From the clearing of the head on, the disk does not hold the former image any more.
fn is_being_written(host: &Host) -> bool {
    match host.state {
        State::Deploying(step) => step >= Step::ClearHead,
        State::Verifying => true,
        _ => false,
    }
}

/// One cause speaks for itself; of several each is named.
fn reasons(order: &Order) -> String {
    let named = |cause: &Cause| format!("{}: {}", cause.kind.word(), cause.reason);
    match &order.causes[..] {
        [only] => only.reason.clone(),
        several => several.iter().map(named).collect::<Vec<_>>().join("; "),
    }
}
