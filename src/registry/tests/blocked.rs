//! A version is blocked while hosts wait for it and are written with it: in one commit with the mark nothing of it begins
//! any more, and whoever asks is told why.

use super::*;
use crate::decide::rollout::make;
use crate::decide::rollout::plan::{Candidate, Gate, Goal, Request, WaveSize};
use crate::registry::images::MarkKind;

fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 3, 0, 0, number])
}

fn id(number: u8) -> String {
    format!("h-{}", mac(number).to_string().replace(':', ""))
}

fn tiny() -> ImageChoice {
    ImageChoice { name: "tiny:1".into(), manifest: "m".into() }
}

fn mark(kind: MarkKind) -> Option<Mark> {
    Some(Mark { image: "tiny:1".into(), kind, by: "bob".into(), reason: "eats disks".into(), at: clock::now() })
}

async fn block(registry: &Registry) {
    registry.mark_image("tiny:1".into(), mark(MarkKind::Blocked), "bob".into()).await.unwrap();
}

fn host(registry: &Registry, number: u8) -> crate::decide::host::Host {
    registry.find(&id(number)).unwrap().host.clone()
}

/// A rollout of tiny:1 to one host.
async fn roll(registry: &Registry, number: u8) -> u64 {
    let gate = Gate { confirmed: false, check: None, soak_seconds: 0, health_seconds: Gate::HEALTH_SECONDS };
    let request = Request {
        selector: "all".into(),
        goal: Goal::Image(tiny()),
        by: "ann".into(),
        reason: "patch".into(),
        canary: 1,
        waves: vec![WaveSize::Hosts(5)],
        spread_percent: 100,
        spread: "rack".into(),
        failures_max: 0,
        gate,
    };
    let candidate = Candidate {
        id: id(number),
        name: None,
        spread: None,
        reported: None,
        whole: false,
        excluded: None,
        fetch_bytes: 0,
    };
    registry.start_rollout(make::plan(0, &request, &[candidate], None, clock::now()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_version_that_is_blocked_goes_on_no_further_disk() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    for number in 0..4 {
        let _ = registry.script(mac(number), IPXE).await.unwrap();
    }
    // 0 waits for its machine, 1 is being written, 2 waits for a brake, 3 is in a rollout.
    registry.host_event(&id(0), approve()).await.unwrap();
    registry.host_event(&id(1), approve()).await.unwrap();
    let Script::Agent { token, .. } = registry.script(mac(1), IPXE).await.unwrap() else { panic!() };
    let (token_digest, session_digest) = (digest(&token), "session".to_string());
    let check_in = Event::CheckedIn { generation: 1, token_digest, session_digest, identity: Identity::default() };
    registry.host_event(&id(1), check_in).await.unwrap();
    let declared = crate::decide::host::Declared::default();
    registry.host_event(&id(3), Event::Declared { declared, by: "ann".into() }).await.unwrap();
    let rollout = roll(&registry, 3).await;
    registry
        .stop_switch()
        .press(&stop::Stop { by: "a".into(), reason: "r".into(), at: 1, running_too: false })
        .unwrap();
    registry.host_event(&id(2), approve()).await.unwrap();
    registry.tick(Steps::default()).await.unwrap();
    assert_eq!(host(&registry, 3).asks.len(), 1, "the rollout asks");

    block(&registry).await;
    let registry = reopen(dir.path(), registry).await;
    registry.stop_switch().release().unwrap();
    for number in [0, 2, 3] {
        let host = host(&registry, number);
        assert_eq!((&host.order, host.asks.len(), &host.state), (&None, 0, &State::Enrolled), "{number}");
        assert!(matches!(registry.script(mac(number), IPXE).await.unwrap(), Script::Local { .. }));
        let last = registry.history(&id(number)).await.unwrap().pop().unwrap();
        assert!(last.cause.contains("tiny:1 is blocked: eats disks") || number == 3, "{last:?}");
    }
    let stage = registry.read(|view| view.rollouts()[&rollout].progress.stage.clone());
    let aborted = format!("{stage:?}");
    assert!(aborted.contains("Aborted") && aborted.contains("tiny:1 is blocked: eats disks"), "{aborted}");
    // The one that is under way goes on, for the last time.
    assert_eq!(host(&registry, 1).state, State::Deploying(Step::CheckIn));
    assert_eq!(registry.script(mac(1), IPXE).await.unwrap(), Script::Local { reason: LocalReason::ImageBlocked });
    assert!(matches!(host(&registry, 1).state, State::Failed { ref reason, .. } if reason.contains("eats disks")));
    // Whoever asks is told.
    let cause = Cause { image: Some(tiny()), ..Cause::new(CauseKind::Operator, "again", "ann", clock::now()) };
    let asked = registry.host_event(&id(0), Event::Ask { cause }).await;
    assert!(asked.unwrap_err().to_string().contains("tiny:1 is blocked: eats disks"));
}

/// An attempt that was the last one is one of several again when the version is good after all.
#[tokio::test]
async fn a_version_that_is_good_again_gives_its_running_orders_their_attempts_back() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let _ = registry.script(mac(1), IPXE).await.unwrap();
    registry.host_event(&id(1), approve()).await.unwrap();
    let Script::Agent { token, .. } = registry.script(mac(1), IPXE).await.unwrap() else { panic!() };
    let (token_digest, session_digest) = (digest(&token), "session".to_string());
    let check_in = Event::CheckedIn { generation: 1, token_digest, session_digest, identity: Identity::default() };
    registry.host_event(&id(1), check_in).await.unwrap();
    block(&registry).await;
    assert!(host(&registry, 1).order.unwrap().blocked.is_some());
    registry.mark_image("tiny:1".into(), mark(MarkKind::Deprecated), "bob".into()).await.unwrap();
    assert_eq!(host(&registry, 1).order.unwrap().blocked, None);
    assert!(matches!(registry.script(mac(1), IPXE).await.unwrap(), Script::Agent { generation: 1, .. }));
}
