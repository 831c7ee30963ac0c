//! Looks at a disk from outside: beside the state, and never an order.

use super::*;

/// Every line of history that these events make.
fn lines(host: &Host, events: &[Event]) -> Vec<String> {
    let mut host = host.clone();
    let mut said = Vec::new();
    for event in events {
        let Outcome::Moved(moved, entries) = transition(&host, event, POLICY, 200) else { panic!("{event:?}") };
        said.extend(entries.into_iter().map(|entry| entry.cause));
        host = *moved;
    }
    said
}

#[test]
fn a_verification_reads_the_disk_beside_the_state_and_ends_by_its_report() {
    let ready = after(&deployed(), &[script()]);
    let asked = after(&ready, &[wish(false)]);
    assert_eq!(boot(IPXE, Some(&asked), POLICY), BootDecision::BootVerify { number: VerifyNumber(1) });
    assert_eq!(boot(FIRMWARE, Some(&asked), POLICY), BootDecision::Chainload { arch: FirmwareArch::UefiX64 });
    let events = [wish(false), script(), verify_check_in(1, "session"), looked(1, 3)];
    let done = after(&ready, &events);
    assert_eq!((&done.state, &done.order, done.generation), (&ready.state, &None, 1));
    assert_eq!((&done.reported, done.built_at), (&ready.reported, ready.built_at));
    assert_eq!(boot(IPXE, Some(&done), POLICY), BootDecision::BootLocal { reason: LocalReason::NoOpenOrder });
    assert_eq!(
        lines(&ready, &events),
        [
            "verify asked by ann: odd logins",
            "attempt 1 of verification 1: boot script served",
            "verification 1: the deploy environment looks at the disk",
            "verified from outside: 3 findings",
        ]
    );
    // The answer was lost: the same report again is no news, another session's is refused.
    assert_eq!(transition(&done, &looked(1, 3), POLICY, 300), Outcome::Unchanged);
    let other = VerifyResult::Compared { findings: 0, gaps: 0 };
    let other = Event::VerifyReported { number: VerifyNumber(1), session_digest: "other".into(), result: other };
    assert_eq!(refused(&done, &other), Refusal::NoVerification);
    assert_eq!(refused(&done, &looked(2, 0)), Refusal::NoVerification);
}

#[test]
fn the_token_of_a_verification_serves_one_session_and_never_an_order() {
    let asked = after(&deployed(), &[script(), wish(false), script()]);
    assert_eq!(refused(&asked, &check_in(1)), Refusal::NoOpenOrder);
    let claimed = after(&asked, &[verify_check_in(1, "session")]);
    assert_eq!(transition(&claimed, &verify_check_in(1, "session"), POLICY, 200), Outcome::Unchanged);
    assert_eq!(refused(&claimed, &verify_check_in(1, "other")), Refusal::TokenClaimed);
    assert_eq!(refused(&claimed, &agent(1, AgentWord::Target(disk()))), Refusal::NoOpenOrder);
    // An order opened meanwhile: the same token and the same session, and nothing of them is worth anything to it.
    let ordered = after(&claimed, &[reimage("tiny:2"), Event::Admit]);
    assert_eq!(ordered.verify.wish, None);
    assert_eq!(refused(&ordered, &looked(1, 0)), Refusal::NoVerification);
    assert_eq!(refused(&ordered, &check_in(2)), Refusal::TokenUnknown);
    assert_eq!(refused(&ordered, &agent(2, AgentWord::Target(disk()))), Refusal::SessionUnknown);
    assert_eq!(boot(IPXE, Some(&ordered), POLICY), BootDecision::BootAgent { generation: 2 });
    assert_eq!(ordered.order.as_ref().map(|order| order.attempts), Some(0), "its boots were no attempts of the order");
    // And the other way round: an order's token opens no verification.
    let deploying = after(&ordered, &[script()]);
    assert_eq!(refused(&deploying, &verify_check_in(1, "session")), Refusal::NoVerification);
}

#[test]
fn only_a_ready_host_is_verified_and_held_or_stopped_it_boots_its_disk() {
    let ready = after(&deployed(), &[script()]);
    let hold = Event::Hold { by: "bob".into(), reason: "look".into(), until: None };
    assert_eq!(refused(&new_host(), &wish(false)), Refusal::NotApproved);
    assert_eq!(
        refused(&after(&ready, std::slice::from_ref(&hold)), &wish(false)),
        Refusal::HeldBy { by: "bob".into() }
    );
    let ordered = after(&ready, &[reimage("tiny:2"), Event::Admit]);
    assert_eq!(refused(&ordered, &wish(false)), Refusal::OrderOpen { generation: 2 });
    let refusing = AgentWord::Failed { step: Step::ChooseDisk, reason: "no disk".into() };
    let failed = after(&ordered, &[script(), check_in(2), agent(2, refusing)]);
    assert_eq!(refused(&failed, &wish(false)), Refusal::NothingToVerify);

    let asked = after(&ready, &[wish(false)]);
    for halt in [Halt::NotBegun, Halt::Everything] {
        let stopped = BootPolicy { halt, ..POLICY };
        assert_eq!(boot(IPXE, Some(&asked), stopped), BootDecision::BootLocal { reason: LocalReason::Stopped });
        assert_eq!(transition(&asked, &script(), stopped, 200), Outcome::Unchanged, "it waits until the stop is over");
    }
    let held = after(&asked, &[hold]);
    assert_eq!(held.verify.wish, None);
    assert_eq!(boot(IPXE, Some(&held), POLICY), BootDecision::BootLocal { reason: LocalReason::Held });
}

#[test]
fn a_verification_that_never_reports_ends_by_its_boots_or_by_its_day() {
    let ready = after(&deployed(), &[script()]);
    let tried = after(&ready, &[wish(false), script(), script(), script()]);
    assert_eq!(boot(IPXE, Some(&tried), POLICY), BootDecision::BootLocal { reason: LocalReason::AttemptsUsedUp });
    for event in [script(), Event::LocalBootServed] {
        let over = after(&tried, &[event]);
        assert_eq!((&over.verify.wish, &over.state), (&None, &ready.state));
        let last = over.verify.last.unwrap();
        assert!(last.result.to_string().starts_with("failed: 3 boots"), "{}", last.result);
    }
    let late = Event::VerifyEnded { number: VerifyNumber(1), reason: "late".into(), is_held_back: false };
    assert_eq!(after(&ready, &[wish(false), late.clone()]).verify.wish, None);
    assert_eq!(transition(&ready, &late, POLICY, 200), Outcome::Unchanged);
    // The next one has a number of its own: what is said late of the first says nothing of the second.
    let over = late.clone();
    let second = after(&ready, &[wish(false), script(), verify_check_in(1, "session"), over, wish(false)]);
    assert_eq!(refused(&second, &looked(1, 0)), Refusal::NoVerification);
    assert_eq!(transition(&second, &late, POLICY, 200), Outcome::Unchanged, "the first one's end is not the second's");
}

/// A look that never got its turn says nothing of the host: it does not stand as its newest result, and the host stays due.
#[test]
fn a_verification_that_the_caps_held_back_leaves_the_host_due() {
    let ready = after(&deployed(), &[script()]);
    let held_back = Event::VerifyEnded { number: VerifyNumber(1), reason: "full".into(), is_held_back: true };
    let over = after(&ready, &[wish(false), held_back.clone()]);
    assert_eq!((&over.verify.wish, &over.verify.last), (&None, &None));
    assert!(over.is_verify_due(Some(100), 300));
    let begun = after(&ready, &[wish(false), script()]);
    assert_eq!(transition(&begun, &held_back, POLICY, 200), Outcome::Unchanged, "it began meanwhile");
}

#[test]
fn a_host_is_due_when_it_was_not_looked_at_for_so_long_and_never_at_every_boot() {
    let ready = after(&deployed(), &[script()]);
    assert!(!ready.is_verify_due(None, 1 << 40), "off unless a policy says so");
    assert!(!ready.is_verify_due(Some(100), 299) && ready.is_verify_due(Some(100), 300), "built at 200");
    assert!(!after(&ready, &[wish(false)]).is_verify_due(Some(100), 300));
    let tried = after(&ready, &[wish(false), script(), script(), script(), script()]);
    assert!(!tried.is_verify_due(Some(100), 299) && tried.is_verify_due(Some(100), 300), "a failure counts, too");
    assert!(!after(&ready, &[reimage("tiny:2"), Event::Admit]).is_verify_due(Some(100), 300));
    assert!(!new_host().is_verify_due(Some(1), 1 << 40));
}
