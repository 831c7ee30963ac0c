//! A policy that wants its hosts looked at from outside every so often, at netboots that come anyway.

use super::*;
use crate::decide::drift::declared::Pace;
use crate::decide::host::{VerifyNumber, VerifyResult};
use crate::decide::netboot::FirmwareArch;

const DAY: u64 = 24 * HOUR;

fn every_day() -> DriftPolicy {
    let pace = Pace { verify_every_seconds: Some(DAY), ..Pace::default() };
    DriftPolicy { pace, ..DriftPolicy::new("test") }
}

impl Story {
    fn dhcp(&mut self, client: NetbootClient) -> BootDecision {
        let now = self.now;
        self.registry.as_mut().unwrap().netboot(mac(0), client, now).unwrap()
    }

    /// All that the host's history says.
    fn lines(&mut self) -> Vec<String> {
        let lines = self.ask(|reply| Command::History { name: id(0), reply }).unwrap();
        lines.into_iter().map(|line| line.cause).collect()
    }

    fn script(&mut self) -> Script {
        self.ask(|reply| Command::Script { mac: mac(0), client: IPXE, token: "v".into(), reply }).unwrap()
    }
}

#[test]
fn a_host_that_netboots_anyway_is_looked_at_when_its_policy_says_that_it_is_time() {
    let firmware = NetbootClient::Firmware { arch: FirmwareArch::UefiX64 };
    let local = BootDecision::BootLocal { reason: LocalReason::NoOpenOrder };
    let mut story = Story::new(1);
    story.pass(30 * DAY);
    assert_eq!(story.dhcp(firmware), local, "no policy asks for it");
    story.rules(every_day());
    assert_eq!(story.dhcp(firmware), BootDecision::Chainload { arch: FirmwareArch::UefiX64 });
    assert_eq!(story.host(0).verify.wish.unwrap().by, "policy");
    let Script::Verify { host, number, token } = story.script() else { panic!("no look") };
    assert_eq!((host, number), (id(0), VerifyNumber(1)));

    let session_digest = "s".to_string();
    let (token_digest, identity) = (digest(&token), Identity::default());
    story.event(0, Event::VerifyCheckedIn { number, token_digest, session_digest: session_digest.clone(), identity });
    let result = VerifyResult::Compared { findings: 0, gaps: 2 };
    story.event(0, Event::VerifyReported { number, session_digest, result });
    assert_eq!(story.dhcp(firmware), local, "it comes back from the look");
    assert!(matches!(story.script(), Script::Local { .. }));
    story.pass(DAY - 1);
    assert_eq!(story.dhcp(firmware), local);
    story.pass(1);
    // By a BIOS with iPXE in it only the script is asked.
    assert!(matches!(story.script(), Script::Verify { number: VerifyNumber(2), .. }));

    // Never beside an order, and a host that was just built was read back.
    let cause = Cause { image: None, ..Cause::new(CauseKind::Operator, "patch", "ann", story.now) };
    story.event(0, Event::Ask { cause });
    assert!(matches!(story.script(), Script::Agent { generation: 2, .. }));
    let told = story.lines();
    assert!(told.iter().any(|line| line == "verified from outside: clean, 2 places were not looked at"), "{told:?}");
}

/// A wish that nobody fetches ends after its day, by the scheduler's tick.
#[test]
fn a_look_that_is_never_fetched_ends_with_its_day() {
    let mut story = Story::new(1);
    story.event(0, Event::AskVerify { by: "ann".into(), reason: "look".into(), power: false });
    let mut scheduler = crate::scheduler::tick::Scheduler::new(jiff::tz::TimeZoneDatabase::bundled(), None);
    for (seconds, waits) in [(0, true), (DAY - 1, true), (1, false)] {
        story.now += seconds;
        let now = crate::decide::schedule::clock::Now { wall: story.now, monotonic: story.now - BEGAN };
        let steps = Box::new(story.registry.as_ref().unwrap().read(|view| scheduler.tick(view, now, |_| None)));
        story.ask(|reply| Command::Tick { steps, reply }).unwrap();
        assert_eq!(story.host(0).verify.wish.is_some(), waits, "{seconds}");
    }
    assert!(story.lines().last().unwrap().contains("did not come to be verified within"));
}

/// A look takes its machine out of service as a rebuild does: no more of both at once than a group's cap, whoever asks;
/// the others wait with a reason, and go when one is back or did not come back for an hour.
#[test]
fn no_more_machines_are_looked_at_at_once_than_may_be_rebuilt() {
    let mut story = Story::new(4);
    let limits = Limits { concurrent_max: 2, ..LIFTED };
    story.apply(vec![Write::Group(Box::new(Group { limits, ..group(None) }))]);
    for number in 0..4 {
        story.event(number, Event::AskVerify { by: "ann".into(), reason: "look".into(), power: false });
    }
    let script = |story: &mut Story, number| {
        story.ask(|reply| Command::Script { mac: mac(number), client: IPXE, token: "v".into(), reply }).unwrap()
    };
    let is_look = |script: &Script| matches!(script, Script::Verify { .. });
    assert!(is_look(&script(&mut story, 0)) && is_look(&script(&mut story, 1)));
    assert_eq!(script(&mut story, 2), Script::Local { reason: LocalReason::LooksFull });
    assert!(is_look(&script(&mut story, 1)), "one that has begun goes on");
    let waits = |story: &mut Story, number| {
        let (host, now) = (story.host(number), story.now);
        story.registry.as_ref().unwrap().read(|view| view.look_waits(&host, now)).map(|wait| wait.to_string())
    };
    let why = "group default has 2 of at most 2 machines under an order or a look from outside";
    assert_eq!((waits(&mut story, 2), waits(&mut story, 1)), (Some(why.to_string()), None));
    // One is back.
    story.event(0, Event::VerifyEnded { number: VerifyNumber(1), reason: "told".into(), is_held_back: false });
    assert!(is_look(&script(&mut story, 2)));
    assert_eq!(script(&mut story, 3), Script::Local { reason: LocalReason::LooksFull });
    assert!(story.host(3).verify.wish.is_some(), "it waits");
    // The others hang.
    story.pass(HOUR);
    assert!(is_look(&script(&mut story, 3)));
}
