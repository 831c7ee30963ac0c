//! The promises of the state machine, as stories and as random lives.

use super::*;
use crate::decide::boot::{BootDecision, BootPolicy, Halt, LocalReason, boot};
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::mac::Mac;
use crate::decide::netboot::{FirmwareArch, NetbootClient};
use proptest::prelude::*;

mod seed;
mod verify;

const POLICY: BootPolicy = BootPolicy { attempts_max: 3, halt: Halt::Nothing };
const IPXE: NetbootClient = NetbootClient::Ipxe { uefi: false };
const FIRMWARE: NetbootClient = NetbootClient::Firmware { arch: FirmwareArch::UefiX64 };

fn image(name: &str) -> ImageChoice {
    ImageChoice { name: name.to_string(), manifest: format!("digest of {name}") }
}

fn disk() -> DiskId {
    DiskId { serial: Some("disk-1".to_string()), wwn: None, size_bytes: 1 << 30 }
}

fn new_host() -> Host {
    Host::discovered(Mac([0x52, 0x54, 0, 0, 0, 1]), "default", 100)
}

fn cause(kind: CauseKind, name: &str) -> Cause {
    Cause { image: Some(image(name)), ..Cause::new(kind, "patch", "ann", 200) }
}

fn approve() -> Event {
    Event::Approve { cause: cause(CauseKind::Operator, "tiny:1") }
}

fn reimage(name: &str) -> Event {
    Event::Ask { cause: cause(CauseKind::Operator, name) }
}

fn ask(kind: CauseKind) -> Event {
    Event::Ask { cause: Cause { image: None, ..cause(kind, "") } }
}

fn script() -> Event {
    Event::ScriptAsked { client: IPXE, token_digest: "token".into() }
}

fn check_in(generation: u64) -> Event {
    let (token_digest, session_digest) = ("token".into(), "session".into());
    Event::CheckedIn { generation, token_digest, session_digest, identity: Identity::default() }
}

fn agent(generation: u64, word: AgentWord) -> Event {
    Event::Agent { generation, session_digest: "session".into(), word }
}

fn after(host: &Host, events: &[Event]) -> Host {
    events.iter().fold(host.clone(), |host, event| match transition(&host, event, POLICY, 200) {
        Outcome::Moved(host, _) => *host,
        Outcome::Unchanged => host,
        Outcome::Refused(refusal) => panic!("{event:?} was refused: {refusal}"),
    })
}

fn refused(host: &Host, event: &Event) -> Refusal {
    match transition(host, event, POLICY, 200) {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{event:?} was not refused: {other:?}"),
    }
}

fn deployed() -> Host {
    let words = [
        AgentWord::Target(disk()),
        AgentWord::Step(Step::WriteBody),
        AgentWord::Step(Step::VerifyBody),
        AgentWord::Step(Step::WriteHead),
        AgentWord::Verified(disk()),
    ];
    let events: Vec<Event> = words.into_iter().map(|word| agent(1, word)).collect();
    after(&after(&new_host(), &[approve(), Event::Admit, script(), check_in(1)]), &events)
}

#[test]
fn a_machine_goes_from_seen_to_ready_and_its_order_is_closed_by_success() {
    let host = deployed();
    assert_eq!((&host.state, &host.order), (&State::Rebooting, &None));
    assert_eq!(host.reported, Some(image("tiny:1")));
    let host = after(&host, &[script()]);
    assert_eq!(host.state, State::Ready { confirmed: false });
    let host = after(&host, &[Event::Installed { image: "tiny:1".into() }]);
    assert_eq!(host.state, State::Ready { confirmed: true });
    assert!(host.runs_desired());
}

#[test]
fn every_machine_without_an_open_order_boots_its_own_disk() {
    let held = after(
        &after(&new_host(), &[approve(), Event::Admit]),
        &[Event::Hold { by: "b".into(), reason: "r".into(), until: None }],
    );
    for (host, why) in [
        (None, LocalReason::UnknownHost),
        (Some(new_host()), LocalReason::NotApproved),
        (Some(deployed()), LocalReason::NoOpenOrder),
        (Some(held), LocalReason::Held),
    ] {
        for client in [IPXE, FIRMWARE] {
            assert_eq!(boot(client, host.as_ref(), POLICY), BootDecision::BootLocal { reason: why });
        }
    }
}

#[test]
fn an_open_order_chains_firmware_to_ipxe_and_ipxe_to_the_agent() {
    let host = after(&new_host(), &[approve(), Event::Admit]);
    assert_eq!(boot(FIRMWARE, Some(&host), POLICY), BootDecision::Chainload { arch: FirmwareArch::UefiX64 });
    assert_eq!(boot(IPXE, Some(&host), POLICY), BootDecision::BootAgent { generation: 1 });
}

/// faults.md O3: stop keeps what has not begun from beginning, and lets what has begun finish.
#[test]
fn under_stop_an_order_that_did_not_begin_boots_locally_and_one_that_did_goes_on() {
    let stopped = BootPolicy { halt: Halt::NotBegun, ..POLICY };
    let waiting = after(&new_host(), &[approve(), Event::Admit]);
    for client in [IPXE, FIRMWARE] {
        assert_eq!(boot(client, Some(&waiting), stopped), BootDecision::BootLocal { reason: LocalReason::Stopped });
    }
    let begun = after(&waiting, &[script()]);
    assert_eq!(boot(IPXE, Some(&begun), stopped), BootDecision::BootAgent { generation: 1 });
    let all = BootPolicy { halt: Halt::Everything, ..POLICY };
    assert_eq!(boot(IPXE, Some(&begun), all), BootDecision::BootLocal { reason: LocalReason::Stopped });
}

#[test]
fn three_attempts_that_end_in_silence_end_in_failed_and_local_boot() {
    let host = after(&new_host(), &[approve(), Event::Admit, script(), script(), script()]);
    assert_eq!(host.order.as_ref().map(|order| order.attempts), Some(3));
    assert_eq!(boot(IPXE, Some(&host), POLICY), BootDecision::BootLocal { reason: LocalReason::AttemptsUsedUp });
    for last in [script(), Event::LocalBootServed] {
        let host = after(&host, &[last]);
        assert!(matches!(host.state, State::Failed { step: Step::Netboot, attempts: 3, .. }), "{:?}", host.state);
        assert_eq!(host.order, None);
    }
}

#[test]
fn a_reported_failure_is_tried_again_while_an_attempt_is_left_but_a_refused_disk_is_not() {
    let started = after(&new_host(), &[approve(), Event::Admit, script(), check_in(1)]);
    let failed = |step| agent(1, AgentWord::Failed { step, reason: "why".into() });
    assert_eq!(after(&started, &[failed(Step::WriteBody)]).state, State::Queued);
    let refused = after(&started, &[failed(Step::ChooseDisk)]);
    assert!(matches!(refused.state, State::Failed { step: Step::ChooseDisk, attempts: 1, .. }));
    assert_eq!(refused.order, None);
    assert_eq!(after(&refused, &[Event::Release { by: "ann".into() }]).state, State::Enrolled);
}

#[test]
fn a_token_serves_one_session_and_a_repeated_check_in_is_the_same_claim() {
    let host = after(&new_host(), &[approve(), Event::Admit, script(), check_in(1)]);
    assert_eq!(transition(&host, &check_in(1), POLICY, 200), Outcome::Unchanged);
    let said = |token: &str, session: &str| Event::CheckedIn {
        generation: 1,
        token_digest: token.into(),
        session_digest: session.into(),
        identity: Identity::default(),
    };
    assert_eq!(refused(&host, &said("token", "other")), Refusal::TokenClaimed);
    assert_eq!(refused(&host, &said("guess", "session")), Refusal::TokenUnknown);
    // faults.md X1: after a new attempt, and after the end, the old token and session are dead.
    let again = after(&host, &[Event::ScriptAsked { client: IPXE, token_digest: "second".into() }]);
    assert_eq!(refused(&again, &check_in(1)), Refusal::TokenUnknown);
    assert_eq!(refused(&again, &agent(1, AgentWord::Verified(disk()))), Refusal::SessionUnknown);
    assert_eq!(refused(&deployed(), &check_in(1)), Refusal::NoOpenOrder);
}

#[test]
fn another_machine_behind_a_known_mac_gets_no_job() {
    let mut host = after(&new_host(), &[approve(), Event::Admit, script()]);
    host.system_uuid = Some("aaaa".into());
    let identity = Identity { system_uuid: Some("bbbb".into()), ..Identity::default() };
    let event = |token_digest: String| Event::CheckedIn {
        generation: 1,
        token_digest,
        session_digest: "session".into(),
        identity: identity.clone(),
    };
    assert!(matches!(refused(&host, &event("token".into())), Refusal::IdentityChanged { .. }));
    assert_eq!(refused(&host, &event("guess".into())), Refusal::TokenUnknown, "a guess learns nothing of the host");
}

#[test]
fn a_success_report_whose_answer_was_lost_may_be_said_again() {
    let host = deployed();
    assert_eq!(transition(&host, &agent(1, AgentWord::Verified(disk())), POLICY, 200), Outcome::Unchanged);
    assert_eq!(refused(&host, &agent(1, AgentWord::Step(Step::WriteBody))), Refusal::NoOpenOrder);
}

#[test]
fn a_reimage_opens_the_next_generation_and_only_one_at_a_time() {
    let host = after(&deployed(), &[script(), reimage("tiny:2"), Event::Admit]);
    assert_eq!((host.generation, host.reported_generation), (2, 1));
    assert_eq!(host.desired, Some(image("tiny:2")));
    assert_eq!(refused(&host, &reimage("tiny:3")), Refusal::OrderOpen { generation: 2 });
    assert_eq!(refused(&host, &approve()), Refusal::AlreadyApproved);
    assert_eq!(refused(&new_host(), &reimage("tiny:2")), Refusal::NotApproved);
}

/// faults.md C4: schedule, drift and rollout ask the same host together: one order, which names them all.
#[test]
fn all_that_asks_for_a_host_becomes_one_order_and_what_asks_later_joins_it() {
    let ready = after(&deployed(), &[script()]);
    let asked = after(&ready, &[ask(CauseKind::Schedule), ask(CauseKind::Drift), ask(CauseKind::Drift)]);
    assert_eq!((asked.generation, asked.asks.len(), &asked.order), (1, 2, &None));
    let ordered = after(&asked, &[Event::Admit, ask(CauseKind::MaxAge), ask(CauseKind::Schedule)]);
    let kinds: Vec<_> = ordered.order.as_ref().unwrap().causes.iter().map(|cause| cause.kind).collect();
    assert_eq!(kinds, [CauseKind::Schedule, CauseKind::Drift, CauseKind::MaxAge]);
    assert_eq!((ordered.generation, ordered.asks.len()), (2, 0));
    assert_eq!(refused(&ordered, &Event::Admit), Refusal::OrderOpen { generation: 2 });
    let other = Event::Ask { cause: cause(CauseKind::Rollout { number: 1 }, "tiny:9") };
    assert_eq!(refused(&ordered, &other), Refusal::OrderOpen { generation: 2 });
}

/// faults.md H7: an answer that was lost is asked for again, even after the order is done; another request is refused.
#[test]
fn the_same_request_twice_is_one_order_and_another_one_is_refused() {
    let keyed = |key: &str| {
        let cause = Cause { key: Some(key.into()), ..cause(CauseKind::Operator, "tiny:2") };
        Event::Ask { cause }
    };
    let ordered = after(&after(&deployed(), &[script()]), &[keyed("k1"), keyed("k1"), Event::Admit]);
    assert_eq!(transition(&ordered, &keyed("k1"), POLICY, 200), Outcome::Unchanged);
    assert_eq!(refused(&ordered, &keyed("k2")), Refusal::OrderOpen { generation: 2 });
    let done = after(&ordered, &[script(), check_in(2), agent(2, AgentWord::Verified(disk()))]);
    assert_eq!(transition(&done, &keyed("k1"), POLICY, 200), Outcome::Unchanged);
    let again = after(&done, &[keyed("k2"), Event::Admit]);
    assert_eq!(again.generation, 3);
    // Found by tests/sim (seed 32): one that comes much later, when another request was an order meanwhile.
    let done = after(&again, &[script(), check_in(3), agent(3, AgentWord::Verified(disk()))]);
    assert_eq!(transition(&done, &keyed("k1"), POLICY, 300), Outcome::Unchanged);
}

/// A request that finds the same one waiting has been taken with it: said once more it opens no second order.
#[test]
fn a_request_that_joined_another_one_is_remembered_with_it() {
    let keyed = |key: &str| {
        let cause = Cause { key: Some(key.into()), ..cause(CauseKind::Operator, "tiny:2") };
        Event::Ask { cause }
    };
    let ordered = after(&after(&deployed(), &[script()]), &[keyed("k1"), keyed("k2"), Event::Admit]);
    let done = after(&ordered, &[script(), check_in(2), agent(2, AgentWord::Verified(disk()))]);
    assert_eq!(transition(&done, &keyed("k2"), POLICY, 300), Outcome::Unchanged);
    // Bounded: a script that asks a thousand times does not fill the record.
    let many: Vec<Event> = (0..1000).map(|number| keyed(&number.to_string())).collect();
    assert_eq!(after(&done, &many).request_keys.len(), 16);
}

#[test]
fn a_persons_image_wins_over_a_rollouts_and_a_withdrawn_cause_opens_nothing() {
    let ready = after(&deployed(), &[script()]);
    let rollout = CauseKind::Rollout { number: 3 };
    let both = [Event::Ask { cause: cause(rollout, "tiny:2") }, reimage("tiny:3"), Event::Admit];
    assert_eq!(after(&ready, &both).desired, Some(image("tiny:3")));
    let withdrawn = Event::Withdraw { kind: rollout, by: "ann".into() };
    let gone = after(&ready, &[both[0].clone(), withdrawn]);
    assert_eq!(refused(&gone, &Event::Admit), Refusal::NothingAsked);
    assert_eq!(gone.desired, Some(image("tiny:1")));
}

/// faults.md O7: a document that is applied in the middle changes what is desired, and not what is being written.
#[test]
fn a_document_opens_no_order_and_does_not_change_one_that_is_open() {
    let wish = |name: &str| Event::Declared {
        declared: Declared { group: Some("web".into()), image: Some(image(name)), ..Declared::default() },
        by: "ann".into(),
    };
    let declared = after(&new_host(), &[wish("tiny:7")]);
    assert_eq!((&declared.state, &declared.order, declared.generation), (&State::Enrolled, &None, 0));
    assert_eq!(boot(IPXE, Some(&declared), POLICY), BootDecision::BootLocal { reason: LocalReason::NoOpenOrder });
    let running = after(&new_host(), &[approve(), Event::Admit, script(), check_in(1), wish("tiny:7")]);
    let done = after(&running, &[agent(1, AgentWord::Verified(disk()))]);
    assert_eq!((done.reported, done.desired), (Some(image("tiny:1")), Some(image("tiny:7"))));
}

#[test]
fn nothing_but_a_person_asks_for_a_failed_host_and_nobody_for_a_held_one() {
    let failed =
        after(&new_host(), &[approve(), Event::Admit, Event::Expired { step: Step::Netboot, reason: "late".into() }]);
    assert!(matches!(failed.state, State::Failed { .. }));
    assert_eq!(refused(&failed, &ask(CauseKind::Drift)), Refusal::FailedBefore);
    assert_eq!(after(&failed, &[reimage("tiny:1"), Event::Admit]).generation, 2);
    let hold = Event::Hold { by: "bob".into(), reason: "r".into(), until: None };
    let held = after(&after(&deployed(), &[script(), ask(CauseKind::Drift)]), &[hold]);
    assert!(held.asks.is_empty(), "what asked before the hold would open an order at its end");
    assert!(matches!(refused(&held, &reimage("tiny:2")), Refusal::HeldBy { .. }));
}

#[test]
fn a_late_machine_is_power_cycled_under_its_order_and_then_failed() {
    let running = after(&new_host(), &[approve(), Event::Admit, script()]);
    let cycled = after(&running, &[Event::PowerCycled { why: "no word".into() }]);
    assert_eq!((cycled.since, cycled.order.as_ref().unwrap().power_cycles), (200, 1));
    let failed = after(&cycled, &[Event::Expired { step: Step::WriteBody, reason: "late at 3 of 9 bytes".into() }]);
    assert!(matches!(&failed.state, State::Failed { reason, .. } if reason.contains("3 of 9")));
    assert_eq!(failed.order, None);
    assert_eq!(refused(&failed, &Event::PowerCycled { why: "w".into() }), Refusal::NoOpenOrder);
}

#[test]
fn a_hold_closes_the_order_stops_the_agent_and_ends_by_itself() {
    let running = after(&new_host(), &[approve(), Event::Admit, script(), check_in(1)]);
    let hold = |until| Event::Hold { by: "bob".into(), reason: "debugging".into(), until };
    let held = after(&running, &[hold(Some(300))]);
    assert_eq!(refused(&held, &agent(1, AgentWord::Step(Step::WriteBody))), Refusal::NoOpenOrder);
    assert!(matches!(refused(&held, &reimage("tiny:2")), Refusal::HeldBy { .. }));
    assert_eq!(transition(&held, &Event::HoldEnded, POLICY, 299), Outcome::Unchanged);
    let Outcome::Moved(ended, _) = transition(&held, &Event::HoldEnded, POLICY, 300) else { panic!() };
    assert_eq!(ended.state, State::Enrolled);
    let ready = after(&deployed(), &[script(), hold(None), Event::Release { by: "bob".into() }]);
    assert_eq!(ready.state, State::Ready { confirmed: false });
}

fn block(name: &str) -> Event {
    Event::ImageBlocked { image: name.into(), reason: "eats disks".into(), by: "bob".into() }
}

/// A blocked version goes on no disk that it is not on its way to already: what waits is withdrawn, and an order under
/// which nothing was written is closed, after which the host is what it was.
#[test]
fn of_a_blocked_version_nothing_begins() {
    let ready = after(&deployed(), &[script()]);
    let asked = after(&ready, &[reimage("tiny:2"), ask(CauseKind::Drift)]);
    let withdrawn = after(&asked, &[block("tiny:2")]);
    assert_eq!(withdrawn.asks.iter().map(|cause| cause.kind).collect::<Vec<_>>(), [CauseKind::Drift]);
    // A cause that names no version wants the desired one.
    assert!(after(&asked, &[block("tiny:1"), block("tiny:2")]).asks.is_empty());
    assert_eq!(transition(&asked, &block("tiny:3"), POLICY, 200), Outcome::Unchanged);

    let queued = after(&ready, &[reimage("tiny:2"), Event::Admit]);
    let netbooting = after(&queued, &[script()]);
    for waiting in [&queued, &netbooting] {
        let Outcome::Moved(closed, lines) = transition(waiting, &block("tiny:2"), POLICY, 200) else { panic!() };
        assert_eq!((&closed.state, &closed.order), (&State::Ready { confirmed: false }, &None));
        assert_eq!((&closed.desired, &closed.reported), (&Some(image("tiny:1")), &Some(image("tiny:1"))));
        assert_eq!(lines[0].cause, "order 2 closed: tiny:2 is blocked: eats disks");
        assert_eq!(lines[0].actor, "operator bob");
        // The script that was served is worth nothing, and no other is.
        assert_eq!(refused(&closed, &check_in(2)), Refusal::NoOpenOrder);
        assert_eq!(boot(IPXE, Some(&closed), POLICY), BootDecision::BootLocal { reason: LocalReason::NoOpenOrder });
    }
    // Also when one blocked version after the other was to go there.
    let twice = after(&queued, &[block("tiny:2"), reimage("tiny:3"), Event::Admit, block("tiny:3")]);
    assert_eq!((&twice.state, twice.generation), (&State::Ready { confirmed: false }, 3));
    // A machine that never ran anything is not said to run something.
    let first = after(&new_host(), &[approve(), Event::Admit, script(), block("tiny:1")]);
    assert_eq!((&first.state, &first.desired), (&State::Enrolled, &None));
}

/// An attempt that is under way may finish: half a disk helps nobody. But it is the last one, however it ends.
#[test]
fn of_a_blocked_version_no_further_attempt_is_given() {
    let running = after(&deployed(), &[script(), reimage("tiny:2"), Event::Admit, script(), check_in(2)]);
    let running = after(&running, &[agent(2, AgentWord::Step(Step::WriteBody)), block("tiny:2")]);
    assert_eq!(running.state, State::Deploying(Step::WriteBody));
    assert_eq!(transition(&running, &block("tiny:2"), POLICY, 200), Outcome::Unchanged, "said twice");
    assert_eq!(boot(IPXE, Some(&running), POLICY), BootDecision::BootLocal { reason: LocalReason::ImageBlocked });
    let ends = [
        (agent(2, AgentWord::Failed { step: Step::WriteBody, reason: "EIO".into() }), "EIO; no further attempt"),
        (script(), "the machine netboots again"),
        (Event::LocalBootServed, "the machine netboots again"),
    ];
    for (event, words) in ends {
        let failed = after(&running, &[event]);
        let State::Failed { reason, .. } = &failed.state else { panic!("{failed:?}") };
        assert!(reason.contains(words) && reason.contains("tiny:2 is blocked: eats disks"), "{reason}");
        assert_eq!(failed.order, None);
    }
    assert_eq!(after(&running, &[agent(2, AgentWord::Verified(disk()))]).state, State::Rebooting);
    // Between two attempts the disk may be half: a person chooses what goes there.
    let failed_once = [agent(2, AgentWord::Failed { step: Step::WriteBody, reason: "EIO".into() }), script()];
    let again = after(&deployed(), &[script(), reimage("tiny:2"), Event::Admit, script(), check_in(2)]);
    for events in [&failed_once[..1], &failed_once] {
        let failed = after(&after(&again, events), &[block("tiny:2")]);
        assert!(matches!(&failed.state, State::Failed { reason, .. } if reason.contains("gets no further attempt")));
    }
    // Good again, the order is one as any other.
    let good = after(&running, &[Event::ImageUnblocked { image: "tiny:2".into(), by: "bob".into() }]);
    assert!(matches!(boot(IPXE, Some(&good), POLICY), BootDecision::BootAgent { generation: 2 }));
}

/// H7: a request that is told again late, behind newer ones, is no new order.
#[test]
fn the_last_requests_are_known_when_they_come_again() {
    let keyed = |key: &str, name: &str| {
        let cause = Cause { key: Some(key.into()), ..cause(CauseKind::Operator, name) };
        Event::Ask { cause }
    };
    let done = |generation| agent(generation, AgentWord::Verified(disk()));
    let mut host = after(&deployed(), &[script()]);
    for number in 2..=9u64 {
        let key = format!("k{number}");
        host = after(&host, &[keyed(&key, "tiny:1"), Event::Admit, script(), check_in(number), done(number), script()]);
    }
    for number in 2..=9 {
        assert_eq!(transition(&host, &keyed(&format!("k{number}"), "tiny:1"), POLICY, 200), Outcome::Unchanged);
    }
    // One that joined a request that waited, and one whose place a newer one took, are over with it.
    let waiting = after(&host, &[keyed("a", "tiny:2"), keyed("b", "tiny:2"), keyed("c", "tiny:3")]);
    let over = after(&waiting, &[keyed("a", "tiny:2"), Event::Admit, script(), check_in(10), done(10), script()]);
    assert_eq!(over.reported, Some(image("tiny:3")));
    for key in ["a", "b", "c"] {
        assert_eq!(transition(&over, &keyed(key, "tiny:2"), POLICY, 200), Outcome::Unchanged, "{key}");
    }
}

#[test]
fn a_system_that_says_another_version_is_not_confirmed() {
    let host = after(&deployed(), &[script()]);
    assert!(matches!(refused(&host, &Event::Installed { image: "tiny:0".into() }), Refusal::OtherImage { .. }));
}

fn wish(power: bool) -> Event {
    Event::AskVerify { by: "ann".into(), reason: "odd logins".into(), power }
}

fn verify_check_in(number: u64, session: &str) -> Event {
    let (token_digest, session_digest) = ("token".into(), session.into());
    let number = VerifyNumber(number);
    Event::VerifyCheckedIn { number, token_digest, session_digest, identity: Identity::default() }
}

fn looked(number: u64, findings: u64) -> Event {
    let result = VerifyResult::Compared { findings, gaps: 0 };
    Event::VerifyReported { number: VerifyNumber(number), session_digest: "session".into(), result }
}

fn any_event() -> impl Strategy<Value = Event> {
    let generation = 1..4u64;
    let word = prop_oneof![
        prop::sample::select(&Step::ALL[..]).prop_map(AgentWord::Step),
        Just(AgentWord::Target(disk())),
        Just(AgentWord::Verified(disk())),
        prop::sample::select(&Step::ALL[..]).prop_map(|step| AgentWord::Failed { step, reason: "x".into() }),
    ];
    let name = prop::sample::select(vec!["token", "other"]);
    prop_oneof![
        1 => Just(approve()),
        1 => Just(reimage("tiny:2")),
        1 => prop::sample::select(vec![CauseKind::Schedule, CauseKind::Drift, CauseKind::Rollout { number: 1 }]).prop_map(ask),
        2 => Just(Event::Admit),
        1 => Just(Event::Withdraw { kind: CauseKind::Drift, by: "b".into() }),
        1 => Just(Event::Powered { how: "reset".into() }),
        1 => Just(Event::Declared { declared: Declared { image: Some(image("tiny:3")), ..Declared::default() }, by: "b".into() }),
        1 => prop::sample::select(vec!["tiny:1", "tiny:2", "tiny:3"]).prop_map(block),
        1 => Just(Event::ImageUnblocked { image: "tiny:2".into(), by: "b".into() }),
        1 => Just(Event::PowerCycled { why: "late".into() }),
        1 => Just(Event::Expired { step: Step::WriteBody, reason: "late".into() }),
        1 => Just(Event::Hold { by: "b".into(), reason: "r".into(), until: Some(150) }),
        1 => Just(Event::Release { by: "b".into() }),
        1 => Just(Event::HoldEnded),
        4 => name.prop_map(|token| Event::ScriptAsked { client: IPXE, token_digest: token.into() }),
        1 => Just(Event::LocalBootServed),
        4 => generation.clone().prop_map(check_in),
        6 => (generation, word).prop_map(|(generation, word)| agent(generation, word)),
        1 => Just(Event::Installed { image: "tiny:1".into() }),
        2 => any::<bool>().prop_map(wish),
        3 => (1..4u64).prop_map(|number| verify_check_in(number, "session")),
        3 => (1..4u64, 0..3u64).prop_map(|(number, findings)| looked(number, findings)),
        1 => (1..4u64).prop_map(|number| Event::VerifyEnded { number: VerifyNumber(number), reason: "late".into(), is_held_back: number == 2 }),
    ]
}

/// What belongs to a verification: its own events, and every boot script that is served where no order is open.
fn is_of_verification(before: &Host, event: &Event) -> bool {
    match event {
        Event::AskVerify { .. }
        | Event::VerifyCheckedIn { .. }
        | Event::VerifyReported { .. }
        | Event::VerifyEnded { .. } => true,
        Event::ScriptAsked { .. } => before.order.is_none() && before.verify.wish.is_some(),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Rules 1 and 2 over random lives: an agent that writes is booted only under an open order with an attempt left, one
    /// that reads only where no order is open; nothing of a verification (its token and session are those of the orders
    /// here) moves an order, an attempt, a state or a disk; orders are opened only by the brakes and only when something asked, attempts are bounded, and history says every
    /// change of state.
    #[test]
    fn no_life_of_a_host_breaks_the_rules(events in prop::collection::vec(any_event(), 1..60)) {
        let mut host = new_host();
        for event in events {
            let before = host.clone();
            let outcome = transition(&before, &event, POLICY, 200);
            if let Outcome::Moved(after, entries) = outcome {
                if after.state != before.state {
                    prop_assert_eq!(&entries[0].from, &before.state);
                    prop_assert_eq!(&entries[entries.len() - 1].to, &after.state);
                }
                let admitted = event == Event::Admit && !before.asks.is_empty();
                if after.generation != before.generation {
                    prop_assert!(admitted && after.generation == before.generation + 1);
                }
                if before.order.is_none() && after.order.is_some() {
                    prop_assert!(admitted, "an order was opened by {:?}", event);
                }
                prop_assert!(after.order.is_none() || after.asks.is_empty(), "a cause waits beside an open order");
                if is_of_verification(&before, &event) {
                    let beside = |host: &Host| Host { verify: Verification::default(), ..host.clone() };
                    prop_assert_eq!(beside(&after), beside(&before), "a verification changed more than itself");
                }
                host = *after;
            }
            if let Some(wish) = &host.verify.wish {
                prop_assert!(host.order.is_none() && matches!(host.state, State::Ready { .. }), "{:?}", host);
                prop_assert!(wish.attempts <= POLICY.attempts_max && wish.number.0 == host.verify.count);
            }
            if let Some(order) = &host.order {
                prop_assert!(order.attempts <= POLICY.attempts_max);
                prop_assert_eq!(order.generation, host.generation);
                let at_rest = matches!(host.state, State::Discovered | State::Held { .. } | State::Ready { .. });
                prop_assert!(!at_rest, "an order is open in {:?}", host.state);
            }
            let agent_boots = matches!(boot(IPXE, Some(&host), POLICY), BootDecision::BootAgent { .. });
            let may = |order: &Order| order.attempts < POLICY.attempts_max && order.blocked.is_none();
            let may = host.order.as_ref().is_some_and(may);
            prop_assert_eq!(agent_boots, may);
            let reads = matches!(boot(IPXE, Some(&host), POLICY), BootDecision::BootVerify { .. });
            prop_assert_eq!(reads, host.verify.wish.as_ref().is_some_and(|wish| wish.attempts < POLICY.attempts_max));
        }
    }
}
