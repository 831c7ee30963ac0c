//! What an agent says as JSON: spoiled, parsed, cleaned, and put into a host record of which every part is as large as
//! it can be.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::db::VALUE_BYTES_MAX;
use regild::decide::boot::{BootPolicy, Halt};
use regild::decide::cause::{Cause, CauseKind};
use regild::decide::host::{AgentWord, Event, Host, ImageChoice, Outcome, transition};
use regild::decide::mac::Mac;
use regild::decide::netboot::NetbootClient;
use regild::http::fuzzing;
use regild::registry::{history, stored};
use regild::wire::agent::{CheckIn, Inventory, Report};
use regild_fuzz::agents::{self, SaidEvent, SaidInventory};
use regild_fuzz::{Patch, is_one_line, spoil};

#[derive(Debug, Arbitrary)]
struct Input {
    inventory: SaidInventory,
    events: Vec<SaidEvent>,
    patches: Vec<Patch>,
    /// The attempt is the last one: then a failure ends in the record, too.
    is_last: bool,
    raw: Vec<u8>,
}

const POLICY: BootPolicy = BootPolicy { attempts_max: 2, halt: Halt::Nothing };
const IPXE: NetbootClient = NetbootClient::Ipxe { uefi: true };

fuzz_target!(|input: Input| {
    let _ = fuzzing::parse::<CheckIn>(&input.raw);
    let _ = fuzzing::parse::<Report>(&input.raw);
    let (mut host, token) = (ordered(), "token");
    for _ in 0..if input.is_last { 2 } else { 1 } {
        let token_digest = blake3::hash(token.as_bytes()).to_hex().to_string();
        host = moved(host, &Event::ScriptAsked { client: IPXE, token_digest }, None);
    }
    let said = agents::check_in(&host.id, 1, token, "session", input.inventory.inventory());
    // Only its inventory may be spoiled: with another token nothing happens.
    let Some(inventory) = spoiled(&said.inventory, &input.patches) else { return };
    let (event, inventory) = fuzzing::check_in(CheckIn { inventory, ..said });
    check_inventory(&inventory);
    host = moved(host, &event, Some(&inventory));
    for event in &input.events {
        let said = agents::report(&host.id, 1, "session", event.event());
        let Some(event) = spoiled(&said.event, &input.patches) else { continue };
        let Some(event) = fuzzing::report(Report { event, ..said }) else { continue };
        check_word(&event);
        host = moved(host, &event, Some(&inventory));
    }
});

/// A host with an open order, named and ordered as lengthily as operators can (`http::operator::one_line`), by every kind
/// of cause that has words of theirs.
fn ordered() -> Host {
    let longest = "\u{1d11e}".repeat(200);
    let mut host = Host::discovered(Mac([2, 0, 0, 0, 0, 1]), "default", 1);
    host.name = Some("n".repeat(63));
    let image = ImageChoice { name: format!("{}:{}", "i".repeat(64), "v".repeat(64)), manifest: "a".repeat(64) };
    let cause = |kind| Cause {
        image: Some(image.clone()),
        releases_disk: true,
        key: Some(longest.clone()),
        ..Cause::new(kind, &longest, &longest, 1)
    };
    host = moved(host, &Event::Approve { cause: cause(CauseKind::Operator) }, None);
    for kind in [CauseKind::Rollout { number: u64::MAX }, CauseKind::ImageDeprecated, CauseKind::ImageBlocked] {
        host = moved(host, &Event::Ask { cause: Cause { key: None, ..cause(kind) } }, None);
    }
    host = moved(host, &Event::Admit, None);
    let order = host.order.as_mut().expect("just opened");
    assert_eq!(order.causes.len(), 4);
    order.blocked = Some(longest.clone());
    host.request_keys = (0..16).map(|key| u64::MAX - key).collect();
    host.reported = Some(image);
    host
}

fn spoiled<T: serde::Serialize + serde::de::DeserializeOwned>(said: &T, patches: &[Patch]) -> Option<T> {
    let mut json = serde_json::to_vec(said).expect("plain data");
    spoil(&mut json, patches);
    fuzzing::parse(&json)
}

/// The laws of the store: whatever was cleaned fits, and comes back as it went in.
fn moved(host: Host, event: &Event, inventory: Option<&Inventory>) -> Host {
    let Outcome::Moved(host, entries) = transition(&host, event, POLICY, 7) else { return host };
    let raw = stored::encode(&host, inventory).expect("plain data");
    assert!(raw.len() <= VALUE_BYTES_MAX, "a record of {} bytes after {event:?}", raw.len());
    let (again, inventory_again) = stored::decode(&raw).expect("what was written can be read");
    assert_eq!(again, *host);
    assert_eq!(serde_json::to_value(inventory_again).ok(), serde_json::to_value(inventory).ok());
    for entry in &entries {
        let line = serde_json::to_vec(&history::line(entry, 0, 1, 7)).expect("plain data");
        assert!(line.len() <= VALUE_BYTES_MAX, "a line of history of {} bytes after {event:?}", line.len());
        assert!(is_one_line(&entry.cause), "{:?}", entry.cause);
    }
    *host
}

fn check_inventory(inventory: &Inventory) {
    let own = [&inventory.system_uuid, &inventory.serial, &inventory.product];
    let disks = inventory.disks.iter().flat_map(|disk| [&disk.serial, &disk.wwn, &disk.model, &disk.content]);
    let texts = own.into_iter().chain(disks).flatten();
    let names = inventory.disks.iter().flat_map(|disk| [&disk.name, &disk.transport]);
    for text in texts.chain(names).chain(&inventory.macs) {
        assert!(is_one_line(text) && text.chars().count() <= 200, "{text:?}");
    }
}

fn check_word(event: &Event) {
    let Event::Agent { word, .. } = event else { panic!("a report became {event:?}") };
    match word {
        AgentWord::Target(disk) | AgentWord::Verified(disk) => {
            for text in [&disk.serial, &disk.wwn].into_iter().flatten() {
                assert!(is_one_line(text) && text.chars().count() <= 200, "{text:?}");
            }
        }
        AgentWord::Failed { reason, .. } => assert!(is_one_line(reason), "{reason:?}"),
        AgentWord::Step(_) => {}
    }
}
