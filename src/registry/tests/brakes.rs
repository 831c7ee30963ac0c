//! The brakes hold in the real writer: over requests that come together, over restarts, and without the store.

use super::*;
use crate::registry::stop::Stop;

fn mac(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac([0x52, 0x54, 2, 0, high, low])
}

fn id(number: u16) -> String {
    format!("h-{}", mac(number).to_string().replace(':', ""))
}

async fn discover(registry: &Registry, hosts: u16) {
    for number in 0..hosts {
        let _ = registry.script(mac(number), IPXE).await.unwrap();
    }
}

fn opened(registry: &Registry) -> usize {
    registry.read(|view| view.hosts().filter(|host| host.host.order.is_some()).count())
}

fn failed(generation: u64) -> Event {
    Event::Expired { step: Step::Netboot, reason: format!("order {generation} is late") }
}

async fn tick(registry: &Registry) {
    registry.tick(Steps::default()).await.unwrap();
}

#[tokio::test]
async fn a_hundred_requests_at_once_open_no_more_orders_than_the_cap_and_the_rest_wait_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    discover(&registry, 100).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let registry = registry.clone();
        tasks.spawn(async move { registry.host_event(&id(number), approve()).await });
    }
    let views: Vec<_> = tasks.join_all().await.into_iter().map(|done| done.unwrap()).collect();
    assert_eq!(opened(&registry), 20);
    let waiting: Vec<_> = views.iter().filter(|view| view.host.order.is_none()).collect();
    assert_eq!(waiting.len(), 80);
    assert!(waiting.iter().all(|view| view.waits.as_deref().unwrap().contains("20 of at most 20 open orders")));
    // A restart forgets neither those that wait nor those that are open.
    let registry = reopen(dir.path(), registry).await;
    tick(&registry).await;
    assert_eq!(opened(&registry), 20);
    // One is over: one more begins, and not two.
    let running = registry.read(|view| view.hosts().find(|host| host.host.order.is_some()).cloned()).unwrap();
    registry.host_event(&running.host.id, failed(1)).await.unwrap();
    tick(&registry).await;
    tick(&registry).await;
    assert_eq!(opened(&registry), 20);
}

#[tokio::test]
async fn the_breaker_trips_on_failures_holds_over_a_restart_and_is_closed_by_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    discover(&registry, 6).await;
    for number in 0..3 {
        registry.host_event(&id(number), approve()).await.unwrap();
        registry.host_event(&id(number), failed(1)).await.unwrap();
    }
    assert!(registry.read(|view| view.breaker().cloned()).unwrap().reason.contains("3 of 3 hosts failed"));
    let registry = reopen(dir.path(), registry).await;
    let view = registry.host_event(&id(4), approve()).await.unwrap();
    assert_eq!(view.host.order, None);
    assert!(view.waits.as_deref().unwrap().contains("breaker"), "{:?}", view.waits);
    registry.reset_breaker("ann".into(), "one bad switch".into()).await.unwrap();
    assert!(matches!(registry.reset_breaker("ann".into(), "again".into()).await, Err(RegistryError::NotTripped)));
    tick(&registry).await;
    assert_eq!(opened(&registry), 1, "what waited goes on");
}

/// faults.md O3: also with a store that fails.
#[tokio::test]
async fn stop_holds_at_once_needs_no_store_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    discover(&registry, 3).await;
    registry.host_event(&id(0), approve()).await.unwrap();
    registry.host_event(&id(1), approve()).await.unwrap();
    assert!(matches!(registry.script(mac(1), IPXE).await.unwrap(), Script::Agent { .. }));
    let stop = Stop { by: "ann".into(), reason: "smoke".into(), at: 1, running_too: false };
    registry.stop_switch().press(&stop).unwrap();
    assert_eq!(registry.script(mac(0), IPXE).await.unwrap(), Script::Local { reason: LocalReason::Stopped });
    let view = registry.host_event(&id(2), approve()).await.unwrap();
    assert!(view.host.order.is_none() && view.waits.as_deref().unwrap().contains("smoke"), "{view:?}");
    let registry = reopen(dir.path(), registry).await;
    tick(&registry).await;
    assert_eq!(opened(&registry), 2);
    assert!(matches!(registry.script(mac(1), IPXE).await.unwrap(), Script::Agent { .. }), "what began is finished");
    registry.stop_switch().press(&Stop { running_too: true, ..stop }).unwrap();
    assert_eq!(registry.script(mac(1), IPXE).await.unwrap(), Script::Local { reason: LocalReason::Stopped });
    registry.stop_switch().release().unwrap();
    tick(&registry).await;
    assert_eq!(opened(&registry), 3);
}

/// Found by tests/sim: what was good when it was asked for may be blocked when its turn comes.
#[tokio::test]
async fn an_image_that_is_blocked_while_a_host_waits_is_not_ordered() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    discover(&registry, 1).await;
    let stop = Stop { by: "ann".into(), reason: "smoke".into(), at: 1, running_too: false };
    registry.stop_switch().press(&stop).unwrap();
    let view = registry.host_event(&id(0), approve()).await.unwrap();
    let image = view.host.asked_image().unwrap().name;
    let kind = crate::registry::images::MarkKind::Blocked;
    let mark = Mark { image: image.clone(), kind, by: "ann".into(), reason: "CVE".into(), at: 1 };
    registry.mark_image(image.clone(), Some(mark), "ann".into()).await.unwrap();
    registry.stop_switch().release().unwrap();
    tick(&registry).await;
    assert_eq!(opened(&registry), 0);
    let last = registry.history(&id(0)).await.unwrap().pop().unwrap();
    assert!(last.cause.contains("no longer asks for a rebuild: tiny:1 is blocked: CVE"), "{last:?}");
    // Who still wants it when it is good again says so.
    registry.mark_image(image, None, "ann".into()).await.unwrap();
    tick(&registry).await;
    assert_eq!(opened(&registry), 0);
}

/// Found by tests/sim: to remove a host and approve it again was a way round the hourly caps.
#[tokio::test]
async fn the_orders_of_a_removed_host_count_on_until_their_hour_is_over() {
    use crate::config::fleet::diff::Write;
    use crate::decide::brakes::Policy;
    use crate::decide::group::Limits;
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let fleet = Limits { concurrent_max: 9, orders_per_hour_max: 1 };
    let write = Write::Policy(Policy { fleet, ..Policy::default() });
    registry.apply(vec![write], Default::default(), "ann".into()).await.unwrap();
    discover(&registry, 1).await;
    registry.host_event(&id(0), approve()).await.unwrap();
    registry.host_event(&id(0), failed(1)).await.unwrap();
    registry.remove(&id(0), "bob").await.unwrap();
    let registry = reopen(dir.path(), registry).await;
    discover(&registry, 1).await;
    let view = registry.host_event(&id(0), approve()).await.unwrap();
    assert!(view.waits.as_deref().unwrap().contains("1 of at most 1 orders in an hour"), "{:?}", view.waits);
    drop(registry);
    let db = loop {
        match SledDb::open(dir.path()) {
            Ok(db) => break Box::new(db),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    let later = clock::now() + 3600;
    let mut registry = direct::Direct::load(db, &config(dir.path()), StopSwitch::in_memory(), later).unwrap();
    registry.ask(later, |reply| Command::Tick { steps: Box::default(), reply }).unwrap();
    assert!(registry.read(|view| view.find(&id(0)).unwrap().host.order.is_some()), "the hour is over");
}

/// Found by tests/sim: what the scheduler said of the documents before them does not count after an apply.
#[tokio::test]
async fn after_an_apply_automatic_causes_wait_until_the_schedule_was_looked_at_again() {
    use crate::config::fleet::diff::Write;
    use crate::decide::group::Group;
    use crate::decide::host::Declared;
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    discover(&registry, 1).await;
    let image = Some(ImageChoice { name: "tiny:1".into(), manifest: "m".into() });
    let declared = Declared { image, ..Declared::default() };
    registry.host_event(&id(0), Event::Declared { declared, by: "ann".into() }).await.unwrap();
    let stop = Stop { by: "ann".into(), reason: "smoke".into(), at: 1, running_too: false };
    registry.stop_switch().press(&stop).unwrap();
    let ask = Event::Ask { cause: Cause::new(CauseKind::Schedule, "scheduled rebuild", "schedule", 1) };
    registry.host_event(&id(0), ask).await.unwrap();
    let may_act = || Steps { schedule: [(id(0), Ok(()))].into(), ..Steps::default() };
    registry.tick(may_act()).await.unwrap();
    let write = Write::Group(Box::new(Group::new("default")));
    registry.apply(vec![write], Default::default(), "ann".into()).await.unwrap();
    registry.stop_switch().release().unwrap();
    let withdraw = Event::Withdraw { kind: CauseKind::Drift, by: "ann".into() };
    let view = registry.host_event(&id(0), withdraw).await.unwrap();
    assert!(view.host.order.is_none(), "by what was so before the apply");
    registry.tick(may_act()).await.unwrap();
    assert_eq!(opened(&registry), 1);
}

/// Protection that comes after the order was opened is stronger than the order; so is the block of its version, also for
/// hosts that the commit of the block did not get to.
#[tokio::test]
async fn an_order_that_has_not_begun_does_not_begin_once_its_host_is_protected() {
    use crate::config::fleet::diff::Write;
    use crate::decide::group::Group;
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    discover(&registry, 1).await;
    registry.host_event(&id(0), approve()).await.unwrap();
    let group = |protected| vec![Write::Group(Box::new(Group { protected, ..Group::new("default") }))];
    registry.apply(group(true), Default::default(), "ann".into()).await.unwrap();
    let firmware = NetbootClient::Firmware { arch: crate::decide::netboot::FirmwareArch::UefiX64 };
    let barred = LocalReason::Barred;
    assert_eq!(registry.script(mac(0), IPXE).await.unwrap(), Script::Local { reason: barred });
    assert_eq!(registry.netboot(mac(0), firmware).await.unwrap(), BootDecision::BootLocal { reason: barred });
    registry.apply(group(false), Default::default(), "ann".into()).await.unwrap();
    assert!(matches!(registry.script(mac(0), IPXE).await.unwrap(), Script::Agent { .. }));
    // What has begun is finished: half a disk helps nobody.
    registry.apply(group(true), Default::default(), "ann".into()).await.unwrap();
    assert!(matches!(registry.script(mac(0), IPXE).await.unwrap(), Script::Agent { .. }));
}

/// To remove a host and approve it again must not be a way round the second person.
#[tokio::test]
async fn a_host_whose_orders_need_two_is_not_removed_by_one() {
    use crate::config::fleet::diff::Write;
    use crate::decide::group::Group;
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    discover(&registry, 1).await;
    let group = Group { confirm: true, ..Group::new("default") };
    registry.apply(vec![Write::Group(Box::new(group))], Default::default(), "ann".into()).await.unwrap();
    let refused = registry.remove(&id(0), "ann").await;
    assert!(matches!(refused, Err(RegistryError::NeedsSecond { .. })), "{refused:?}");
}

/// One person moves a channel; a group that wants two for a rebuild is not rebuilt by that.
#[tokio::test]
async fn what_one_person_says_of_an_image_rebuilds_no_group_that_wants_two() {
    use crate::config::fleet::diff::Write;
    use crate::decide::group::Group;
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    discover(&registry, 1).await;
    registry.host_event(&id(0), approve()).await.unwrap();
    registry.host_event(&id(0), failed(1)).await.unwrap();
    registry.host_event(&id(0), Event::Release { by: "ann".into() }).await.unwrap();
    let group = |confirm| vec![Write::Group(Box::new(Group { confirm, ..Group::new("default") }))];
    registry.apply(group(true), Default::default(), "ann".into()).await.unwrap();
    let schedule = std::collections::BTreeMap::from([(id(0), Ok(()))]);
    let cause = Cause::new(CauseKind::Channel, "a@stable points to a:2", "images", clock::now());
    registry.tick(Steps { asks: vec![(id(0), cause)], ..Steps::default() }).await.unwrap();
    registry.tick(Steps { schedule: schedule.clone(), ..Steps::default() }).await.unwrap();
    let view = registry.find(&id(0)).unwrap();
    assert!(view.host.order.is_none() && view.waits.as_deref().unwrap().contains("two persons"), "{:?}", view.waits);
    registry.apply(group(false), Default::default(), "ann".into()).await.unwrap();
    registry.tick(Steps { schedule, ..Steps::default() }).await.unwrap();
    assert!(registry.find(&id(0)).unwrap().host.order.is_some());
}
