//! What the registry promises: nothing is said before it is on stable storage, and nothing that was said is lost.

mod blocked;
mod brakes;
mod drift;
mod ledger;
mod requests;

use super::*;
use crate::db::sled::SledDb;
use crate::db::{Committed, DbRead, Item, Txn};
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::host::{AgentWord, DiskId, Identity, ImageChoice, Step};
use crate::decide::lease::MessageKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const IPXE: NetbootClient = NetbootClient::Ipxe { uefi: false };

pub(crate) fn config(dir: &Path) -> Config {
    let text = format!(
        r#"state_dir = "{0}"
           boot_assets = "{0}/assets"
           [[network]]
           interface = "lo"
           address = "10.9.0.1/24"
           pools = ["10.9.0.100-10.9.0.110"]
           [[reservation]]
           mac = "{MAC}"
           address = "10.9.0.10"
           name = "node-1""#,
        dir.display()
    );
    Config::parse(&text, Path::new("test.toml")).unwrap()
}

fn open(dir: &Path) -> Registry {
    Registry::start(Box::new(SledDb::open(dir).unwrap()), &config(dir)).unwrap().0
}

/// Waits until the writer let go of the store, as a process that ends does.
async fn reopen(dir: &Path, registry: Registry) -> Registry {
    drop(registry);
    for _ in 0..200 {
        if let Ok(db) = SledDb::open(dir) {
            return Registry::start(Box::new(db), &config(dir)).unwrap().0;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the writer keeps the store");
}

fn approve() -> Event {
    let image = ImageChoice { name: "tiny:1".into(), manifest: "m".into() };
    let cause = Cause { image: Some(image), ..Cause::new(CauseKind::Operator, "first image", "ann", clock::now()) };
    Event::Approve { cause }
}

fn digest(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

#[tokio::test]
async fn an_attempt_is_counted_on_stable_storage_before_its_script_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    assert!(matches!(
        registry.script(MAC, IPXE).await.unwrap(),
        Script::Local { reason: LocalReason::UnknownHost | LocalReason::NotApproved }
    ));
    registry.host_event("node-1", approve()).await.unwrap();
    // A server that dies right after each script has been served forgets none of them: three, and no more.
    for attempt in 1..=3 {
        let script = registry.script(MAC, IPXE).await.unwrap();
        assert!(matches!(script, Script::Agent { generation: 1, .. }), "attempt {attempt}: {script:?}");
        registry = reopen(dir.path(), registry).await;
        let order = registry.find("node-1").unwrap().host.order.clone().unwrap();
        assert_eq!(order.attempts, attempt);
    }
    assert_eq!(registry.script(MAC, IPXE).await.unwrap(), Script::Local { reason: LocalReason::AttemptsUsedUp });
    assert!(matches!(registry.find("node-1").unwrap().host.state, State::Failed { attempts: 3, .. }));
}

#[tokio::test]
async fn a_deploy_survives_a_restart_of_the_server_between_any_two_reports() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = open(dir.path());
    let id = "h-525400000001";
    registry.netboot(MAC, NetbootClient::Firmware { arch: crate::decide::netboot::FirmwareArch::Bios }).await.unwrap();
    registry.host_event(id, approve()).await.unwrap();
    let Script::Agent { token, .. } = registry.script(MAC, IPXE).await.unwrap() else { panic!() };
    let disk = DiskId { serial: Some("s".into()), wwn: None, size_bytes: 5 };
    let word = |word| Event::Agent { generation: 1, session_digest: "session".into(), word };
    let (token_digest, session_digest) = (digest(&token), "session".to_string());
    let check_in = Event::CheckedIn { generation: 1, token_digest, session_digest, identity: Identity::default() };
    let road = [
        check_in,
        word(AgentWord::Target(disk.clone())),
        word(AgentWord::Step(Step::WriteBody)),
        word(AgentWord::Step(Step::VerifyBody)),
        word(AgentWord::Verified(disk.clone())),
    ];
    for event in road {
        registry = reopen(dir.path(), registry).await;
        registry.host_event(id, event).await.unwrap();
    }
    registry = reopen(dir.path(), registry).await;
    let host = registry.find(id).unwrap().host.clone();
    assert_eq!((host.state, host.order, host.own_disk), (State::Rebooting, None, Some(disk)));
    let history = registry.history(id).await.unwrap();
    let numbers: Vec<u64> = history.iter().map(|line| line.number).collect();
    assert_eq!(numbers, (0..history.len() as u64).collect::<Vec<_>>());
    assert_eq!(history.last().unwrap().to, "rebooting");
}

/// Found by fuzz/agent_lives: such a host had no name until the server was started anew.
#[tokio::test]
async fn a_host_has_the_name_of_its_reservation_whichever_of_its_nics_booted_first() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let other_nic = Mac([0x52, 0x54, 0, 0, 0, 8]);
    let _ = registry.script(other_nic, IPXE).await.unwrap();
    let id = "h-525400000008";
    registry.host_event(id, approve()).await.unwrap();
    let Script::Agent { token, .. } = registry.script(other_nic, IPXE).await.unwrap() else { panic!() };
    let (token_digest, session_digest) = (digest(&token), "session".to_string());
    let identity = Identity { macs: vec![other_nic, MAC], system_uuid: Some("u".into()), ..Identity::default() };
    let check_in = Event::CheckedIn { generation: 1, token_digest, session_digest, identity };
    registry.host_event(id, check_in).await.unwrap();
    let before = registry.find("node-1").unwrap().host.clone();
    assert_eq!(before.id, id);
    let registry = reopen(dir.path(), registry).await;
    assert_eq!(registry.find("node-1").unwrap().host, before, "a restart changes nothing");
}

#[tokio::test]
async fn an_acknowledged_lease_is_there_after_a_restart_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let ip = Ipv4Addr::new(10, 9, 0, 10);
    let request = LeaseRequest {
        kind: MessageKind::Request,
        mac: MAC,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        requested: Some(ip),
        server_id: Some(Ipv4Addr::new(10, 9, 0, 1)),
        giaddr: Ipv4Addr::UNSPECIFIED,
        hostname: None,
    };
    let answer = registry.lease(0, request).await.unwrap();
    assert!(matches!(answer, LeaseAnswer::Ack { .. }), "{answer:?}");
    let registry = reopen(dir.path(), registry).await;
    assert_eq!(registry.read(|view| view.lease_holder(ip)), Some(MAC));
}

const OTHER_NIC: Mac = Mac([0x52, 0x54, 0, 0, 0, 2]);

/// A check-in of `MAC`'s host whose inventory names a second NIC, too.
async fn check_in_with_two_nics(registry: &Registry, system_uuid: Option<String>) -> Arc<HostView> {
    registry.host_event("node-1", approve()).await.unwrap();
    let Script::Agent { token, .. } = registry.script(MAC, IPXE).await.unwrap() else { panic!() };
    let identity = Identity { macs: vec![MAC, OTHER_NIC], system_uuid, serial: None };
    let (token_digest, session_digest) = (digest(&token), "session".to_string());
    let check_in = Event::CheckedIn { generation: 1, token_digest, session_digest, identity };
    registry.host_event("node-1", check_in).await.unwrap()
}

#[tokio::test]
async fn a_machine_that_was_seen_by_two_nics_becomes_one_host_when_it_checks_in() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    for mac in [MAC, OTHER_NIC] {
        let _ = registry.script(mac, IPXE).await.unwrap();
    }
    assert_eq!(registry.read(|view| view.hosts().count()), 2);
    let host = check_in_with_two_nics(&registry, Some("uuid-1".into())).await.host.clone();
    assert_eq!(host.macs, [MAC, OTHER_NIC]);
    let lines = registry.history("node-1").await.unwrap();
    assert!(lines.iter().any(|line| line.cause.contains("h-525400000002 is a NIC of this machine")), "{lines:?}");
    let registry = reopen(dir.path(), registry).await;
    assert_eq!(registry.read(|view| view.hosts().count()), 1);
    // By whichever NIC it netboots, it is this host, and its order is open.
    assert!(matches!(registry.script(OTHER_NIC, IPXE).await.unwrap(), Script::Agent { generation: 1, .. }));
}

/// With nothing that tells two machines apart, another machine's NIC would be written under this host's order.
#[tokio::test]
async fn a_machine_without_a_system_uuid_takes_no_other_nic_for_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    for mac in [MAC, OTHER_NIC] {
        let _ = registry.script(mac, IPXE).await.unwrap();
    }
    assert_eq!(check_in_with_two_nics(&registry, None).await.host.macs, [MAC]);
    assert!(matches!(registry.script(OTHER_NIC, IPXE).await.unwrap(), Script::Local { .. }));
    assert_eq!(registry.read(|view| view.hosts().count()), 2);
}

#[tokio::test]
async fn an_agent_that_names_the_nic_of_another_approved_host_does_not_take_that_host_over() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    for mac in [MAC, OTHER_NIC] {
        let _ = registry.script(mac, IPXE).await.unwrap();
    }
    let victim = "h-525400000002";
    registry.host_event(victim, approve()).await.unwrap();
    registry.host_event(victim, Event::Hold { by: "ann".into(), reason: "r".into(), until: None }).await.unwrap();
    assert_eq!(check_in_with_two_nics(&registry, Some("uuid-1".into())).await.host.macs, [MAC]);
    let registry = reopen(dir.path(), registry).await;
    assert_eq!(registry.read(|view| view.by_mac(OTHER_NIC)).unwrap().host.id, victim);
    assert_eq!(registry.script(OTHER_NIC, IPXE).await.unwrap(), Script::Local { reason: LocalReason::Held });
}

#[tokio::test]
async fn a_machine_that_was_removed_and_is_seen_again_keeps_its_history() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let _ = registry.script(MAC, IPXE).await.unwrap();
    registry.host_event("node-1", approve()).await.unwrap();
    assert!(matches!(registry.remove("node-1", "bob").await, Err(RegistryError::Refused(_))), "its order is open");
    let hold = Event::Hold { by: "ann".into(), reason: "r".into(), until: None };
    registry.host_event("node-1", hold).await.unwrap();
    let before = registry.history("node-1").await.unwrap();
    registry.remove("node-1", "bob").await.unwrap();
    let _ = registry.script(MAC, IPXE).await.unwrap();
    let after = registry.history("node-1").await.unwrap();
    assert_eq!(after[..before.len()], before);
    assert_eq!((after.len(), after.last().unwrap().to.as_str()), (before.len() + 1, "discovered"));
}

#[tokio::test]
async fn a_watch_tells_each_line_of_history_of_its_host_as_it_becomes_durable() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    for mac in [MAC, OTHER_NIC] {
        let _ = registry.script(mac, IPXE).await.unwrap();
    }
    assert!(matches!(registry.watch(Some("nobody")).await, Err(RegistryError::UnknownHost(_))));
    let mut watch = registry.watch(Some("node-1")).await.unwrap();
    registry.host_event("h-525400000002", approve()).await.unwrap();
    registry.host_event("node-1", approve()).await.unwrap();
    // Approved; asked for; ordered.
    for wanted in ["enrolled", "enrolled", "queued"] {
        let change = watch.next().await.unwrap();
        let line: history::Line = serde_json::from_slice(&change.value.unwrap()).unwrap();
        assert_eq!((change.key, line.to.as_str()), (history::key("h-525400000001", line.number), wanted));
    }
}

#[tokio::test]
async fn a_hold_ends_when_its_time_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let _ = registry.script(MAC, IPXE).await.unwrap();
    registry.host_event("node-1", approve()).await.unwrap();
    let hold = Event::Hold { by: "ann".into(), reason: "r".into(), until: Some(clock::now()) };
    registry.host_event("node-1", hold).await.unwrap();
    registry.tick(Steps::default()).await.unwrap();
    assert_eq!(registry.find("node-1").unwrap().host.state, State::Enrolled);
}

/// A store whose disk starts to fail: the fake at the edge. Power cuts and EIO on the real one are elsewhere.
struct Failing {
    inner: SledDb,
    broken: Arc<AtomicBool>,
}

impl DbRead for Failing {
    fn get(&self, key: &str) -> Result<Option<Item>, DbError> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &str) -> Result<Vec<Item>, DbError> {
        self.inner.scan(prefix)
    }
}

impl Db for Failing {
    fn reader(&self) -> Arc<dyn DbRead + Send + Sync> {
        self.inner.reader()
    }

    fn commit(&mut self, group: &[Txn]) -> Result<Vec<Committed>, DbError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(DbError::Io { what: "fdatasync of the log", source: std::io::Error::other("EIO") });
        }
        self.inner.commit(group)
    }

    fn watch(&self, prefix: &str) -> crate::db::watch::Watch {
        self.inner.watch(prefix)
    }

    fn lease(&self) -> Result<(), DbError> {
        self.inner.lease()
    }
}

/// faults.md S3: a failed flush is never retried as if it had succeeded, and no machine is written after it.
#[tokio::test]
async fn a_store_that_fails_ends_all_writing_and_every_machine_boots_its_disk() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let db = Failing { inner: SledDb::open(dir.path()).unwrap(), broken: broken.clone() };
    let (registry, _) = Registry::start(Box::new(db), &config(dir.path())).unwrap();
    let _ = registry.script(MAC, IPXE).await.unwrap();
    registry.host_event("node-1", approve()).await.unwrap();
    broken.store(true, Ordering::Relaxed);
    assert!(matches!(registry.script(MAC, IPXE).await, Err(RegistryError::Store(_))));
    broken.store(false, Ordering::Relaxed);
    assert!(matches!(registry.script(MAC, IPXE).await, Err(RegistryError::Store(_))), "it went on after a failure");
    assert!(registry.find("node-1").is_none(), "records that may not be on disk are still shown");
    let firmware = NetbootClient::Firmware { arch: crate::decide::netboot::FirmwareArch::UefiX64 };
    assert!(registry.netboot(MAC, firmware).await.is_err());
}

#[tokio::test]
async fn many_askers_share_commits_and_each_gets_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let firmware = NetbootClient::Firmware { arch: crate::decide::netboot::FirmwareArch::Bios };
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..500u16 {
        let registry = registry.clone();
        let [high, low] = number.to_be_bytes();
        tasks.spawn(async move { registry.netboot(Mac([0x52, 0x54, 1, 0, high, low]), firmware).await });
    }
    for done in tasks.join_all().await {
        assert_eq!(done.unwrap(), BootDecision::BootLocal { reason: LocalReason::UnknownHost });
    }
    let registry = reopen(dir.path(), registry).await;
    assert_eq!(registry.read(|view| view.hosts().count()), 500);
}

/// faults.md O7: the record of a machine that is being rebuilt stays until its order is over.
#[tokio::test]
async fn a_host_is_not_forgotten_while_its_order_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(dir.path());
    let _ = registry.script(MAC, IPXE).await.unwrap();
    registry.host_event("node-1", approve()).await.unwrap();
    let open = Refusal::OrderOpen { generation: 1 };
    assert!(matches!(registry.remove("node-1", "bob").await, Err(RegistryError::Refused(refusal)) if refusal == open));
    let hold = Event::Hold { by: "ann".into(), reason: "r".into(), until: None };
    registry.host_event("node-1", hold).await.unwrap();
    registry.remove("node-1", "bob").await.unwrap();
    assert!(registry.find("node-1").is_none());
}

/// faults.md N5: ten thousand machines come back at once, most of them nobody's. Each is answered, none is written, and
/// what is remembered of strangers has an end.
#[tokio::test]
async fn n5_an_avalanche_of_strangers_boots_its_disks_and_is_remembered_up_to_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let db = Box::new(SledDb::open(dir.path()).unwrap());
    let stop = StopSwitch::new(dir.path());
    let mut registry = direct::Direct::load(db, &config(dir.path()), stop, 1_000).unwrap();
    let firmware = NetbootClient::Firmware { arch: crate::decide::netboot::FirmwareArch::Bios };
    let macs: Vec<Mac> = (0..10_200u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            Mac([0x52, 0x54, 1, 1, high, low])
        })
        .collect();
    for some in macs.chunks(500) {
        let mut group = registry.group(1_000);
        let asked: Vec<_> = some
            .iter()
            .map(|mac| {
                let booted = group.take(|reply| Command::Netbooted { mac: *mac, client: firmware, reply });
                let token = "t".to_string();
                let script = group.take(|reply| Command::Script { mac: *mac, client: IPXE, token, reply });
                (booted, script)
            })
            .collect();
        group.commit();
        for (booted, script) in asked {
            booted.get().unwrap();
            let script = script.get().unwrap();
            assert!(matches!(script, Script::Local { .. }), "{script:?}");
        }
    }
    assert_eq!(registry.read(|view| view.hosts().count()), 10_000);
}
