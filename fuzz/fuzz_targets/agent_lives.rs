//! Machines, agents and operators at one registry, through restarts of the server. Agents say what they like.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::config::Config;
use regild::decide::boot::BootDecision;
use regild::decide::cause::{Cause, CauseKind};
use regild::decide::host::{Event, Host, ImageChoice};
use regild::decide::mac::Mac;
use regild::decide::netboot::{FirmwareArch, NetbootClient};
use regild::http::fuzzing;
use regild::registry::{HostView, Registry, RegistryError, Script};
use regild_fuzz::agents::{self, SaidEvent, SaidInventory};
use regild_fuzz::is_one_line;
use regild_fuzz::memory_db::MemoryDb;
use tokio::runtime::Runtime;

#[derive(Debug, Arbitrary)]
struct Act {
    machine: u8,
    deed: Deed,
}

#[derive(Debug, Arbitrary)]
enum Deed {
    Netboots { uefi: bool },
    AsksScript { uefi: bool },
    ChecksIn { token: Token, session: u8, generation: Generation, claims: Vec<u8>, inventory: SaidInventory },
    Reports { session: u8, generation: Generation, event: SaidEvent },
    IsInstalled { right: bool },
    Approved,
    Reimaged,
    Held,
    Released,
    Removed,
    ServerRestarts,
}

#[derive(Debug, Arbitrary)]
enum Token {
    Served,
    Empty,
    OfOther(u8),
}

#[derive(Debug, Arbitrary)]
enum Generation {
    Open,
    Other(u64),
}

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = r#"
        state_dir = "/nowhere"
        boot_assets = "/nowhere"
        [[network]]
        interface = "lo"
        address = "10.9.0.1/24"
        pools = ["10.9.0.100-10.9.0.110"]
        [[reservation]]
        mac = "02:00:00:00:00:00"
        address = "10.9.0.10"
        name = "node-0""#;
    Config::parse(text, Path::new("fuzz.toml")).expect("a right configuration")
});

/// What operators did, and what machines were told.
#[derive(Default)]
struct Model {
    tokens: BTreeMap<u8, String>,
    /// Requests that were taken. Each becomes one order at most, at once or when the brakes let it through.
    asked: BTreeMap<String, u64>,
    scripts: BTreeMap<(String, u64), u32>,
}

fuzz_target!(|acts: Vec<Act>| {
    // One thread, and no driver: the registry has a thread of its own, and needs no timer.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let db = MemoryDb::default();
    let mut model = Model::default();
    let (mut registry, mut writer) = Registry::start(Box::new(db.clone()), &CONFIG).expect("an empty store");
    for act in acts.iter().take(64) {
        if let Deed::ServerRestarts = act.deed {
            let before = hosts(&registry);
            drop(registry);
            writer.join().expect("the writer ends in peace");
            (registry, writer) = Registry::start(Box::new(db.clone()), &CONFIG).expect("what was written can be read");
            assert_eq!(hosts(&registry), before, "a restart changes nothing");
        } else {
            do_it(&runtime, &registry, act, &mut model);
        }
        check(&registry, &model);
    }
    drop(registry);
    writer.join().expect("the writer ends in peace");
});

fn hosts(registry: &Registry) -> Vec<Host> {
    registry.read(|view| view.hosts().map(|view| view.host.clone()).collect())
}

fn mac(machine: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, machine % 3])
}

fn id_of(mac: Mac) -> String {
    format!("h-{}", mac.to_string().replace(':', ""))
}

fn do_it(runtime: &Runtime, registry: &Registry, act: &Act, model: &mut Model) {
    let mac = mac(act.machine);
    let id = id_of(mac);
    let before = registry.find(&id);
    let open = before.as_ref().map_or(0, |view| view.host.generation);
    let generation = |said: &Generation| match said {
        Generation::Open => open,
        Generation::Other(other) => *other,
    };
    let session = |number: u8| format!("session {}", number % 3);
    let event = |event: Event| runtime.block_on(registry.host_event(&id, event));
    let image = |name: &str| ImageChoice { name: name.to_owned(), manifest: "m".to_owned() };
    let by = || "ann".to_owned();
    let cause = |releases_disk| Cause {
        image: Some(image("tiny:1")),
        releases_disk,
        ..Cause::new(CauseKind::Operator, "r", "ann", 1)
    };
    match &act.deed {
        Deed::ServerRestarts => {}
        Deed::Netboots { uefi } => netboots(runtime, registry, mac, *uefi),
        Deed::AsksScript { uefi } => asks_script(runtime, registry, mac, *uefi, model),
        Deed::ChecksIn { token, session: number, generation: said, claims, inventory } => {
            let token = match token {
                Token::Served => model.tokens.get(&(act.machine % 3)),
                Token::OfOther(other) => model.tokens.get(&(other % 3)),
                Token::Empty => None,
            };
            let token = token.cloned().unwrap_or_default();
            let mut inventory = inventory.inventory();
            inventory.macs.extend(claims.iter().map(|claim| self::mac(*claim).to_string()));
            let said = agents::check_in(&id, generation(said), &token, &session(*number), inventory);
            let (event, inventory) = fuzzing::check_in(said);
            no_harm(runtime.block_on(registry.check_in(&id, event, inventory)));
        }
        Deed::Reports { session: number, generation: said, event: word } => {
            let said = agents::report(&id, generation(said), &session(*number), word.event());
            if let Some(word) = fuzzing::report(said) {
                no_harm(event(word));
            }
        }
        Deed::IsInstalled { right } => {
            no_harm(event(fuzzing::installed(if *right { "tiny:1" } else { "tiny:2\u{1b}[2J" })))
        }
        Deed::Approved => {
            let asked = event(Event::Approve { cause: cause(false) });
            *model.asked.entry(id.clone()).or_default() += u64::from(asked.is_ok());
        }
        Deed::Reimaged => {
            let asked = event(Event::Ask { cause: cause(true) });
            *model.asked.entry(id.clone()).or_default() += u64::from(asked.is_ok());
        }
        Deed::Held => no_harm(event(Event::Hold { by: by(), reason: "r".to_owned(), until: None })),
        Deed::Released => no_harm(event(Event::Release { by: by() })),
        Deed::Removed => {
            if runtime.block_on(registry.remove(&id, "fuzz")).is_ok() {
                model.asked.remove(&id);
                model.scripts.retain(|(host, _), _| *host != id);
            }
        }
    }
}

/// An event is taken or refused with a reason; none may be too large for the store, and none may end it.
fn no_harm(answer: Result<Arc<HostView>, RegistryError>) {
    match answer {
        Ok(_) | Err(RegistryError::Refused(_) | RegistryError::UnknownHost(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

fn netboots(runtime: &Runtime, registry: &Registry, mac: Mac, uefi: bool) {
    let client = NetbootClient::Firmware { arch: if uefi { FirmwareArch::UefiX64 } else { FirmwareArch::Bios } };
    // A machine that was never seen before may be the second NIC of one that was; `check` looks after the others.
    let own = registry.find(&mac.to_string());
    let decision = runtime.block_on(registry.netboot(mac, client)).expect("the store never fails here");
    let may = own.is_some_and(|view| view.host.order.as_ref().is_some_and(|order| order.attempts < 3));
    assert_eq!(matches!(decision, BootDecision::Chainload { .. }), may, "decided on another host's record");
}

fn asks_script(runtime: &Runtime, registry: &Registry, mac: Mac, uefi: bool, model: &mut Model) {
    let before = registry.find(&mac.to_string());
    let script =
        runtime.block_on(registry.script(mac, NetbootClient::Ipxe { uefi })).expect("the store never fails here");
    let Script::Agent { host, generation, token } = script else { return };
    let before = before.expect("no record, no agent");
    let order = before.host.order.as_ref().expect("no order, no agent");
    assert_eq!((&host, generation), (&before.host.id, order.generation));
    assert_eq!(token.len(), 64);
    let served = model.scripts.entry((host, generation)).or_default();
    *served += 1;
    assert!(*served <= 3, "attempt {served} of one order");
    model.tokens.insert(before.host.macs[0].0[5], token);
}

fn check(registry: &Registry, model: &Model) {
    for host in hosts(registry) {
        assert_eq!(host.id, id_of(host.macs[0]));
        // Nobody takes a machine over by naming its address in an inventory of his own: who has it is found by it.
        for mac in &host.macs {
            assert_eq!(registry.find(&mac.to_string()).map(|view| view.host.id.clone()), Some(host.id.clone()));
        }
        assert!(host.generation <= model.asked.get(&host.id).copied().unwrap_or(0), "an order that nobody asked for");
        assert!(host.reported_generation <= host.generation);
        if let Some(order) = &host.order {
            assert_eq!(order.generation, host.generation);
            let served = model.scripts.get(&(host.id.clone(), order.generation)).copied().unwrap_or(0);
            assert!(order.attempts == served && served <= 3, "{} attempts, {served} scripts", order.attempts);
        }
        let disk = host.own_disk.iter().flat_map(|disk| [&disk.serial, &disk.wwn]).flatten();
        let own = [&host.system_uuid, &host.serial].into_iter().flatten();
        assert!(disk.chain(own).all(|text| is_one_line(text)), "{host:?}");
    }
}
