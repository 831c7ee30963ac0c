//! Whether an order may be opened, judged by what the documents and the operators said, not by what the brakes counted.

use super::{Before, HOUR, Laws, STALE_SECONDS};
use crate::server::Server;
use crate::world::midnight;
use regild::decide::cause::{Cause, CauseKind};
use regild::decide::group::{Group, Window};
use regild::decide::host::{Host, State};
use regild::decide::labels::{FEED, PROTECTED, RACK};
use regild::registry::rollouts::Rollouts;
use regild::registry::{HostView, View};
use std::sync::Arc;

impl Laws {
    /// An order was opened: was there a cause, and did every brake allow it?
    pub(super) fn may_open(&mut self, view: &View, before: &Before, now: &Arc<HostView>, wall: u64, held: bool) {
        let host = &now.host;
        let id = &host.id;
        let order = host.order.as_ref().expect("it was opened");
        let group = view.group(&host.group);
        assert!(!before.stopped, "{id}: an order was opened while everything is stopped");
        assert!(!before.tripped, "{id}: an order was opened while the breaker is tripped");
        assert!(host.labels.get(PROTECTED).is_none() && !group.protected, "{id}: it is protected");
        assert!(!host.macs.iter().any(|mac| view.policy().denied.contains(mac)), "{id}: it is on the deny list");
        let blocked = view.images().blocked(&order.image.name);
        assert!(blocked.is_none(), "{id}: an order for an image that is blocked: {blocked:?}");
        let automatic = order.causes.iter().all(|cause| cause.kind.is_automatic());
        if automatic {
            assert!(!held && !self.jumped, "{id}: {:?} acted while the clock is held", order.causes);
            in_time(&group, host, wall);
        }
        let stands = |cause: &Cause| match cause.kind {
            CauseKind::Rollout { number } => {
                let runs = |rollouts: &Rollouts| rollouts.get(&number).is_some_and(|known| known.progress.admits());
                !runs(&before.rollouts) && !runs(view.rollouts())
            }
            _ => false,
        };
        assert!(!order.causes.iter().all(stands), "{id}: its rollout stands still: {:?}", order.causes);
        in_turn(view, host);
        self.caps(view, host, &group, wall);
        self.once(host);
    }

    /// The image is one that somebody asked for: a person before all others; where nobody named one, what was desired.
    pub(super) fn wanted(&self, host: &Host) {
        let order = host.order.as_ref().expect("it was opened");
        let named = |kinds: fn(CauseKind) -> bool| {
            let causes = order.causes.iter().filter(move |cause| kinds(cause.kind));
            causes.filter_map(|cause| cause.image.as_ref()).collect::<Vec<_>>()
        };
        let (person, anybody) = (named(|kind| kind == CauseKind::Operator), named(|_| true));
        let wanted = if person.is_empty() { anybody } else { person };
        let desired = self.seen.get(&host.id).and_then(|seen| seen.host.desired.as_ref());
        let right = if wanted.is_empty() { desired == Some(&order.image) } else { wanted.contains(&&order.image) };
        // A host that was declared and ordered in one commit was not seen in between.
        assert!(right || wanted.is_empty() && desired.is_none(), "{}: {:?} was not asked for", host.id, order.image);
    }

    /// One order for one cause.
    pub(super) fn once(&mut self, host: &Host) {
        let order = host.order.as_ref().expect("it was opened");
        assert!(!order.causes.is_empty(), "{}: an order without a cause", host.id);
        let log = self.logs.entry(host.id.clone()).or_default();
        for cause in &order.causes {
            // A rollout asks a host once, whenever that is; all others are known by their time and words.
            let known = match cause.kind {
                CauseKind::Rollout { .. } => (cause.kind, 0, String::new()),
                _ => (cause.kind, cause.at, cause.reason.clone()),
            };
            assert!(log.used.insert(known), "{}: rebuilt twice for one cause: {cause:?}", host.id);
            if let Some(key) = &cause.key {
                let orders = log.keys.entry(key.clone()).or_default();
                *orders += 1;
                assert_eq!(*orders, 1, "{}: two orders for one request, {key}", host.id);
            }
        }
    }

    fn caps(&mut self, view: &View, host: &Host, group: &Group, wall: u64) {
        let policy = view.policy();
        self.opened.retain(|(at, _)| at + HOUR > wall);
        let all = [
            ("the fleet", None, Some(""), policy.fleet),
            ("its group", Some("group"), Some(host.group.as_str()), group.limits),
            ("its rack", Some(RACK), host.labels.get(RACK), policy.rack),
            ("its feed", Some(FEED), host.labels.get(FEED), policy.feed),
        ];
        for (what, label, value, limits) in all {
            let Some(value) = value else { continue };
            let inside = |of: &Host| match label {
                None => true,
                Some("group") => of.group == value,
                Some(label) => of.labels.get(label) == Some(value),
            };
            let open = view.hosts().filter(|one| one.host.order.is_some() && inside(&one.host)).count();
            assert!(open <= limits.concurrent_max as usize, "{}: {open} open orders in {what} {value}", host.id);
            let of = |id: &String| self.seen.get(id).map(|view| &view.host).or_else(|| self.removed.get(id));
            let within = self.opened.iter().filter(|(_, id)| of(id).is_some_and(inside)).count();
            assert!(within <= limits.orders_per_hour_max as usize, "{}: {within} orders an hour in {what}", host.id);
        }
    }

    /// After a tick: more failures, or more drift, than allowed within the hour, and it did not trip?
    pub fn breaker(&self, server: &Server, wall: u64) {
        server.read(|view| {
            let policy = view.policy().breaker;
            let recent = |at: u64| at + HOUR > wall && at > self.reset_at;
            let failed =
                view.hosts().filter(|view| matches!(view.host.state, State::Failed { .. }) && recent(view.host.since));
            let drifts = |cause: &Cause| cause.kind == CauseKind::Drift && recent(cause.at);
            let drifted = view.hosts().filter(|view| {
                let order = view.host.order.iter().flat_map(|order| &order.causes);
                view.host.asks.iter().chain(order).any(drifts)
            });
            let approved = view.hosts().filter(|view| view.host.state != State::Discovered).count();
            for (count, what) in [(failed.count(), "failed"), (drifted.count(), "drifted")] {
                let too_many =
                    count >= policy.hosts_min as usize && count * 100 > approved * policy.percent_max as usize;
                assert!(
                    !too_many || view.breaker().is_some(),
                    "{count} of {approved} hosts {what}, and no breaker tripped"
                );
            }
        });
    }
}

/// What a document says of an automatic cause at this moment, reckoned by hand: the simulation writes all its cron lines
/// as `0 H * * *`, in UTC.
fn in_time(group: &Group, host: &Host, wall: u64) {
    let schedule = &group.schedule;
    let inside = |window: &Window| {
        let hour: u64 = window.cron.split(' ').nth(1).and_then(|hour| hour.parse().ok()).expect("0 H * * *");
        (wall + 86_400 - hour * HOUR) % 86_400 < window.open_seconds + STALE_SECONDS
    };
    let open = schedule.windows.is_empty() || schedule.windows.iter().any(inside);
    assert!(open, "{}: an order of an automatic cause outside of its windows", host.id);
    let dark = schedule
        .blackouts
        .iter()
        .any(|(first, last)| (midnight(first) + STALE_SECONDS..midnight(last) + 86_400).contains(&wall));
    assert!(!dark, "{}: an order of an automatic cause on a blackout day", host.id);
    let over = host.built_at == 0 || host.built_at + schedule.pause_seconds <= wall + STALE_SECONDS;
    assert!(over, "{}: rebuilt at {}, again at {wall}: within the pause", host.id, host.built_at);
}

/// A rollout goes by waves: no host of an earlier one asks, or is being rebuilt, when a later one's turn has come.
fn in_turn(view: &View, host: &Host) {
    let order = host.order.as_ref().expect("it was opened");
    for cause in &order.causes {
        let CauseKind::Rollout { number } = cause.kind else { continue };
        let plan = &view.rollouts()[&number].plan;
        let waves = plan.waves.iter().take_while(|wave| wave.iter().all(|member| member.id != host.id));
        for member in waves.flatten() {
            let Some(other) = view.find(&member.id) else { continue };
            let causes = other.host.order.iter().flat_map(|order| &order.causes).chain(&other.host.asks);
            let moves = causes.into_iter().any(|other| other.kind == cause.kind);
            assert!(!moves, "{}: its wave of rollout {number} is ordered while {} moves", host.id, member.id);
        }
    }
}
