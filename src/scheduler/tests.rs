//! The scheduler's tick on the real registry and the real store; only machines and time are made up.

use super::tick::Scheduler;
use super::turns::Turns;
use crate::clock;
use crate::config::fleet::diff::Write;
use crate::db::sled::SledDb;
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::group::{Group, Health, Window};
use crate::decide::host::{AgentWord, DiskId, Event, Host, Identity, ImageChoice, State, Step};
use crate::decide::mac::Mac;
use crate::decide::netboot::NetbootClient;
use crate::decide::rollout::plan::{Candidate, Gate, Goal, Request, WaveSize};
use crate::decide::rollout::{make, progress::Stage};
use crate::decide::schedule::clock::Now;
use crate::registry::rollouts::RolloutCommand;
use crate::registry::stop::Stop;
use crate::registry::{Registry, Script, Steps, tests::config};
use jiff::tz::TimeZoneDatabase;
use std::path::Path;

const IPXE: NetbootClient = NetbootClient::Ipxe { uefi: false };

struct Fleet {
    registry: Registry,
    scheduler: Scheduler,
    began: u64,
}

fn image(name: &str) -> ImageChoice {
    ImageChoice { name: name.into(), manifest: format!("digest of {name}") }
}

fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 3, 0, 0, number])
}

fn id(number: u8) -> String {
    format!("h-{}", mac(number).to_string().replace(':', ""))
}

fn digest(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

impl Fleet {
    async fn new(dir: &Path, group: Group) -> Fleet {
        let (registry, _) = Registry::start(Box::new(SledDb::open(dir).unwrap()), &config(dir)).unwrap();
        let scheduler = Scheduler::new(TimeZoneDatabase::bundled(), registry.stored_clock());
        let fleet = Fleet { registry, scheduler, began: clock::now() };
        fleet.registry.apply(vec![Write::Group(Box::new(group))], Default::default(), "ann".into()).await.unwrap();
        fleet
    }

    /// The tick at so many seconds after the beginning.
    async fn tick_at(&mut self, seconds: u64) -> Steps {
        let now = Now { wall: self.began + seconds, monotonic: seconds };
        let steps = self.registry.read(|view| self.scheduler.tick(view, now, |_| None));
        self.registry.tick(steps.clone()).await.unwrap();
        steps
    }

    fn host(&self, number: u8) -> Host {
        self.registry.find(&id(number)).unwrap().host.clone()
    }

    async fn event(&self, number: u8, event: Event) {
        self.registry.host_event(&id(number), event).await.unwrap();
    }

    /// A machine that netboots, writes what it is told, and comes up.
    async fn rebuild(&self, number: u8) {
        let Script::Agent { generation, token, .. } = self.registry.script(mac(number), IPXE).await.unwrap() else {
            panic!("no order is open for machine {number}")
        };
        let (token_digest, session_digest) = (digest(&token), "session".to_string());
        let identity = Identity::default();
        self.event(number, Event::CheckedIn { generation, token_digest, session_digest, identity }).await;
        let disk = DiskId { serial: Some("d".into()), wwn: None, size_bytes: 9 };
        let word = AgentWord::Verified(disk);
        self.event(number, Event::Agent { generation, session_digest: "session".into(), word }).await;
        let _ = self.registry.script(mac(number), IPXE).await.unwrap();
        let image = self.host(number).reported.unwrap().name;
        self.event(number, Event::Installed { image }).await;
    }

    /// So many hosts, Ready on `a:1`.
    async fn of(dir: &Path, hosts: u8, group: Group) -> Fleet {
        let fleet = Fleet::new(dir, group).await;
        for number in 0..hosts {
            let _ = fleet.registry.script(mac(number), IPXE).await.unwrap();
            let first = Cause::new(CauseKind::Operator, "first image", "ann", clock::now());
            fleet.event(number, Event::Approve { cause: Cause { image: Some(image("a:1")), ..first } }).await;
            fleet.rebuild(number).await;
        }
        fleet
    }

    async fn start(&self, hosts: u8, to: &str, failures_max: u32) -> u64 {
        let gate = Gate { confirmed: true, check: None, soak_seconds: 0, health_seconds: 600 };
        let request = Request {
            selector: "all".into(),
            goal: Goal::Image(image(to)),
            by: "ann".into(),
            reason: "new version".into(),
            canary: 1,
            waves: vec![WaveSize::Hosts(2)],
            spread_percent: 100,
            spread: "rack".into(),
            failures_max,
            gate,
        };
        let candidate = |number| {
            let host = self.host(number);
            let whole = host.reported_generation == host.generation;
            Candidate {
                id: host.id,
                name: None,
                spread: None,
                reported: host.reported,
                whole,
                excluded: None,
                fetch_bytes: 0,
            }
        };
        let candidates: Vec<Candidate> = (0..hosts).map(candidate).collect();
        let plan = make::plan(0, &request, &candidates, None, clock::now()).unwrap();
        self.registry.start_rollout(plan).await.unwrap()
    }

    fn queued(&self, hosts: u8) -> Vec<u8> {
        (0..hosts).filter(|number| self.host(*number).order.is_some()).collect()
    }

    fn stage(&self, rollout: u64) -> Stage {
        self.registry.read(|view| view.rollouts()[&rollout].progress.stage.clone())
    }
}

/// The whole of a rollout: one canary, then waves of two, each only when the one before is healthy; nobody twice.
#[tokio::test]
async fn a_rollout_goes_by_waves_and_a_restart_in_the_middle_forgets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::of(dir.path(), 5, Group::new("default")).await;
    let rollout = fleet.start(5, "a:2", 0).await;
    let mut sizes = Vec::new();
    for second in 1..20 {
        fleet.tick_at(second).await;
        let queued = fleet.queued(5);
        if queued.is_empty() && fleet.stage(rollout) != Stage::Running {
            break;
        }
        if !queued.is_empty() {
            sizes.push(queued.len());
        }
        for number in queued {
            fleet.rebuild(number).await;
        }
        if second == 3 {
            let began = fleet.began;
            drop(fleet);
            let db = loop {
                match SledDb::open(dir.path()) {
                    Ok(db) => break db,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                }
            };
            let (registry, _) = Registry::start(Box::new(db), &config(dir.path())).unwrap();
            let scheduler = Scheduler::new(TimeZoneDatabase::bundled(), registry.stored_clock());
            fleet = Fleet { registry, scheduler, began };
        }
    }
    assert_eq!(sizes, [1, 2, 2]);
    assert!(matches!(fleet.stage(rollout), Stage::Done { .. }), "{:?}", fleet.stage(rollout));
    for number in 0..5 {
        let host = fleet.host(number);
        assert_eq!((host.reported.unwrap().name.as_str(), host.generation), ("a:2", 2), "rebuilt once");
    }
}

#[tokio::test]
async fn a_canary_that_fails_halts_its_rollout_and_nobody_else_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::of(dir.path(), 4, Group::new("default")).await;
    let rollout = fleet.start(4, "a:2", 0).await;
    fleet.tick_at(1).await;
    let canary = fleet.queued(4);
    assert_eq!(canary.len(), 1);
    fleet.event(canary[0], Event::Expired { step: Step::WriteBody, reason: "it hangs".into() }).await;
    for second in 2..8 {
        fleet.tick_at(second).await;
    }
    assert!(matches!(fleet.stage(rollout), Stage::Halted { .. }), "{:?}", fleet.stage(rollout));
    assert!(fleet.queued(4).is_empty());
    let others = (0..4).filter(|number| *number != canary[0]);
    assert!(others.map(|number| fleet.host(number)).all(|host| host.generation == 1));
    // Aborted, it is over; the same hosts may be in another one then.
    let abort = RolloutCommand::Abort { by: "ann".into(), reason: "bad image".into() };
    fleet.registry.command_rollout(rollout, abort).await.unwrap();
    assert!(fleet.registry.command_rollout(rollout, RolloutCommand::Resume).await.is_err());
}

#[tokio::test]
async fn a_paused_rollout_opens_no_order_for_what_it_asked_already() {
    let dir = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::of(dir.path(), 3, Group::new("default")).await;
    let rollout = fleet.start(3, "a:2", 0).await;
    // Its canary is asked, and waits.
    let stop = Stop { by: "ann".into(), reason: "look first".into(), at: 1, running_too: false };
    fleet.registry.stop_switch().press(&stop).unwrap();
    fleet.tick_at(1).await;
    assert_eq!((0..3).filter(|number| !fleet.host(*number).asks.is_empty()).count(), 1);
    let pause = RolloutCommand::Pause { by: "ann".into(), reason: "lunch".into() };
    fleet.registry.command_rollout(rollout, pause).await.unwrap();
    fleet.registry.stop_switch().release().unwrap();
    for second in 2..5 {
        fleet.tick_at(second).await;
    }
    assert!(fleet.queued(3).is_empty());
    fleet.registry.command_rollout(rollout, RolloutCommand::Resume).await.unwrap();
    fleet.tick_at(5).await;
    assert_eq!(fleet.queued(3).len(), 1);
}

/// Schedules: age asks, the window holds back, its opening lets through; faults.md C1: a jump of the clock fires nothing.
#[tokio::test]
async fn age_asks_a_window_holds_back_and_a_clock_that_jumps_stops_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new("default");
    group.schedule.max_age_seconds = Some(10 * 86_400);
    group.schedule.pause_seconds = 0;
    let mut fleet = Fleet::of(dir.path(), 2, group.clone()).await;
    assert!(fleet.tick_at(1).await.asks.is_empty());
    // Time passes as it does, an hour a tick.
    let mut asked = None;
    for hour in 1..=11 * 24 {
        let steps = fleet.tick_at(hour * 3600).await;
        if !steps.asks.is_empty() && asked.is_none() {
            asked = Some(hour);
        }
        if asked.is_some() && !fleet.queued(2).is_empty() {
            break;
        }
    }
    let asked = asked.expect("the disks are too old");
    assert!((9 * 24..=10 * 24).contains(&asked), "spread over the last tenth of max_age: {asked} h");
    assert!(!fleet.queued(2).is_empty(), "what is due and may act becomes an order");

    let dir = tempfile::tempdir().unwrap();
    group.schedule.windows = vec![Window { cron: "0 3 1 1 *".into(), open_seconds: 3600 }];
    let mut fleet = Fleet::of(dir.path(), 2, group.clone()).await;
    fleet.tick_at(1).await;
    // The clock jumps by eleven days: nothing is asked, and nothing opens.
    let now = Now { wall: fleet.began + 11 * 86_400, monotonic: 2 };
    let steps = fleet.registry.read(|view| fleet.scheduler.tick(view, now, |_| None));
    assert!(steps.asks.is_empty() && fleet.scheduler.held().is_some(), "{steps:?}");
    fleet.registry.tick(steps).await.unwrap();
    let stored = fleet.scheduler.accept_clock(now);
    fleet.registry.accept_clock(stored).await.unwrap();
    // Accepted: age asks now, but the window of New Year's night is closed, whenever this test runs but then.
    let now = Now { wall: now.wall + 1, monotonic: 3 };
    let steps = fleet.registry.read(|view| fleet.scheduler.tick(view, now, |_| None));
    assert_eq!(steps.asks.len(), 2);
    fleet.registry.tick(steps).await.unwrap();
    let now = Now { wall: now.wall + 1, monotonic: 4 };
    let steps = fleet.registry.read(|view| fleet.scheduler.tick(view, now, |_| None));
    fleet.registry.tick(steps).await.unwrap();
    assert!(fleet.queued(2).is_empty());
    let waits = fleet.registry.find(&id(0)).unwrap().waits.clone().unwrap();
    assert!(waits.contains("window"), "{waits}");
}

/// A machine that does not come back is Failed at its deadline, not waited for for ever.
#[tokio::test]
async fn a_machine_that_never_netboots_is_failed_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new("default");
    group.deadlines.queued_seconds = 600;
    group.health = Health { soak_seconds: 0, ..Health::default() };
    let mut fleet = Fleet::of(dir.path(), 1, group).await;
    fleet.event(0, Event::Ask { cause: Cause::new(CauseKind::Operator, "r", "ann", clock::now()) }).await;
    fleet.tick_at(300).await;
    assert_eq!(fleet.host(0).state, State::Queued);
    fleet.tick_at(700).await;
    let host = fleet.host(0);
    assert!(matches!(&host.state, State::Failed { reason, .. } if reason.contains("10m")), "{:?}", host.state);
    assert_eq!(host.order, None);
}

/// A power cycle that the clock ordered is carried out once; while everything is stopped it waits for the resume.
#[tokio::test]
async fn a_power_cycle_is_carried_out_once_and_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::of(dir.path(), 1, Group::new("default")).await;
    let broadcast = std::net::Ipv4Addr::BROADCAST;
    let wol = crate::power::settings::Wol { mac: mac(0), interface: None, broadcast, port: 9 };
    fleet.registry.set_power(&id(0), crate::power::Settings::Wol(wol)).await.unwrap();
    let mut turns = Turns::default();
    let mut due = |stopped| fleet.registry.read(|view| turns.due(view, stopped, clock::now()).len());
    assert_eq!(due(false), 0, "nothing is ordered");
    fleet.event(0, Event::Ask { cause: Cause::new(CauseKind::Operator, "r", "ann", clock::now()) }).await;
    assert_eq!((due(true), due(false)), (0, 1));
    fleet.event(0, Event::Powered { how: "wol".into() }).await;
    assert_eq!(due(false), 0, "it was switched");
    fleet.event(0, Event::PowerCycled { why: "late".into() }).await;
    assert_eq!((due(true), due(false), due(false)), (0, 1, 0));
}

/// A look for which the caps never had room in its day ends, and says that: not that the machine did not come.
#[tokio::test]
async fn a_look_that_never_had_its_turn_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new("default");
    group.limits.concurrent_max = 1;
    let mut fleet = Fleet::of(dir.path(), 2, group).await;
    fleet.event(0, Event::AskVerify { by: "ann".into(), reason: "look".into(), power: false }).await;
    let day = 86_400;
    // The other one's order is open all the time, and there is no room beside it.
    fleet.event(1, Event::Ask { cause: Cause::new(CauseKind::Operator, "r", "ann", clock::now()) }).await;
    let now = Now { wall: fleet.began + day + 60, monotonic: day + 60 };
    let steps = fleet.registry.read(|view| fleet.scheduler.tick(view, now, |_| None));
    let (_, ended) = steps.late.iter().find(|(host, _)| *host == id(0)).unwrap();
    let Event::VerifyEnded { reason, is_held_back: true, .. } = ended else { panic!("{ended:?}") };
    assert!(reason.contains("had no turn") && reason.contains("at most 1"), "{reason}");
    // With room it is the machine that did not come.
    fleet.registry.host_event(&id(1), Event::Expired { step: Step::CheckIn, reason: "late".into() }).await.unwrap();
    let steps = fleet.registry.read(|view| fleet.scheduler.tick(view, now, |_| None));
    let (_, ended) = steps.late.iter().find(|(host, _)| *host == id(0)).unwrap();
    assert!(matches!(ended, Event::VerifyEnded { is_held_back: false, .. }), "{ended:?}");
}
