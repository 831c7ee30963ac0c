//! What machines say, cleaned: hostile text in, events of bounded size out (rule 10). Pure.

use crate::decide::host::{AgentWord, DiskId, Event, Identity};
use crate::decide::mac::Mac;
use crate::wire::agent::{self as wire, CheckIn, Inventory, Progress};
use serde::Serialize;

/// Longest text that is kept of anything a machine says.
const TEXT_BYTES_MAX: usize = 200;
const DISKS_MAX: usize = 64;
const MACS_MAX: usize = 32;
const LISTING_LINES_MAX: usize = 32;
/// What an inventory and a reason of failure may take in the store, as JSON. Together with everything else that a
/// host record can hold they stay below `db::VALUE_BYTES_MAX`, so that no machine can say what cannot be written down.
const INVENTORY_JSON_BYTES_MAX: usize = 15 << 10;
const REASON_JSON_BYTES_MAX: usize = 4 << 10;
const FAILURE_JSON_BYTES_MAX: usize = 1 << 10;

/// A report, cleaned.
#[derive(Debug)]
pub(super) enum Said {
    /// For the progress board only.
    Progress(Progress),
    /// For the host record.
    Word(AgentWord),
}

pub(super) fn check_in(said: CheckIn) -> (Event, Inventory) {
    let macs = macs(&said.inventory.macs);
    let inventory = inventory(said.inventory, &macs);
    let identity = Identity { macs, system_uuid: inventory.system_uuid.clone(), serial: inventory.serial.clone() };
    let event = Event::CheckedIn {
        generation: said.generation,
        token_digest: digest(&said.token),
        session_digest: digest(&said.session),
        identity,
    };
    (event, inventory)
}

pub(super) fn report(event: wire::Event) -> Said {
    Said::Word(match event {
        wire::Event::Progress { progress } => return Said::Progress(progress),
        wire::Event::Step { step } => AgentWord::Step(step.into()),
        wire::Event::Target { disk } => AgentWord::Target(disk_id(disk.serial, disk.wwn, disk.size_bytes)),
        wire::Event::Verified { disk } => AgentWord::Verified(disk_id(disk.serial, disk.wwn, disk.size_bytes)),
        wire::Event::Failed { step, reason, listing } => {
            let mut room = REASON_JSON_BYTES_MAX;
            let lines = std::iter::once(&reason).chain(listing.iter().take(LISTING_LINES_MAX)).map(|line| text(line));
            let lines: Vec<String> = lines.take_while(|line| takes(&mut room, line)).collect();
            AgentWord::Failed { step: step.into(), reason: lines.join("; ") }
        }
    })
}

pub(super) fn identity(said: Inventory) -> Identity {
    let macs = macs(&said.macs);
    let inventory = inventory(said, &macs);
    Identity { macs, system_uuid: inventory.system_uuid, serial: inventory.serial }
}

/// Why a verification failed, in a length that fits beside everything else in a record.
pub(super) fn failure(reason: &str, listing: &[String]) -> String {
    let mut room = FAILURE_JSON_BYTES_MAX;
    let lines = std::iter::once(reason).chain(listing.iter().take(LISTING_LINES_MAX).map(String::as_str)).map(text);
    lines.take_while(|line| takes(&mut room, line)).collect::<Vec<_>>().join("; ")
}

/// Tokens and session secrets are kept and compared as digests only.
pub(super) fn digest(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

/// One line of printable text, cut to a length that fits records and logs.
pub(super) fn text(said: &str) -> String {
    let mut kept = String::new();
    for c in said.chars().filter(|c| is_printable(*c)) {
        if kept.len() + c.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        kept.push(c);
    }
    kept
}

/// Neither a control character nor one of those that part lines or turn the direction of writing (Unicode Standard
/// Annex #9): with these a serial number can look like another one, or like the next column.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn option(said: Option<String>) -> Option<String> {
    said.map(|said| text(said.trim())).filter(|said| !said.is_empty())
}

fn disk_id(serial: Option<String>, wwn: Option<String>, size_bytes: u64) -> DiskId {
    DiskId { serial: option(serial), wwn: option(wwn), size_bytes }
}

fn disk(said: wire::Disk) -> wire::Disk {
    wire::Disk {
        name: text(&said.name),
        serial: option(said.serial),
        wwn: option(said.wwn),
        model: option(said.model),
        transport: text(&said.transport),
        content: option(said.content),
        ..said
    }
}

/// Addresses that NICs can have, each once.
fn macs(said: &[String]) -> Vec<Mac> {
    let mut macs: Vec<Mac> = Vec::new();
    for mac in said.iter().filter_map(|text| text.parse::<Mac>().ok()).filter(|mac| mac.is_unicast()) {
        if macs.len() < MACS_MAX && !macs.contains(&mac) {
            macs.push(mac);
        }
    }
    macs
}

/// The last disks are left out where there is no room for them; the agent has chosen among all.
fn inventory(said: Inventory, macs: &[Mac]) -> Inventory {
    let mut inventory = Inventory {
        system_uuid: option(said.system_uuid.map(|uuid| uuid.to_lowercase())),
        serial: option(said.serial),
        product: option(said.product),
        macs: macs.iter().map(ToString::to_string).collect(),
        disks: Vec::new(),
    };
    let mut room = INVENTORY_JSON_BYTES_MAX.saturating_sub(json_bytes(&inventory));
    let disks = said.disks.into_iter().take(DISKS_MAX).map(disk);
    inventory.disks = disks.take_while(|disk| takes(&mut room, disk)).collect();
    inventory
}

/// Takes the room that a value needs as JSON, and what parts it from the next; false when it is not there.
fn takes(room: &mut usize, value: &impl Serialize) -> bool {
    let left = room.checked_sub(json_bytes(value) + 2);
    *room = left.unwrap_or(0);
    left.is_some()
}

fn json_bytes(value: &impl Serialize) -> usize {
    // Strings and numbers: serde_json has no way to refuse them.
    serde_json::to_vec(value).map_or(usize::MAX - 2, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::VALUE_BYTES_MAX;
    use crate::decide::boot::{BootPolicy, Halt};
    use crate::decide::cause::{Cause, CauseKind};
    use crate::decide::host::{
        Host, ImageChoice, LastVerify, Outcome, Verification, VerifyClaim, VerifyNumber, VerifyResult, VerifyWish,
        transition,
    };
    use crate::decide::netboot::NetbootClient;
    use crate::registry::{history, stored};

    fn word(event: wire::Event) -> AgentWord {
        match report(event) {
            Said::Word(word) => word,
            Said::Progress(_) => panic!("mere progress"),
        }
    }

    /// Found by fuzz/agent_json: the disk in the report of success went into the record as it came, escape sequences
    /// and all, and every other text was cleaned.
    #[test]
    fn the_disk_of_a_success_is_cleaned_like_the_disk_that_was_chosen() {
        let serial = Some(" S1\u{1b}[2J\n\u{202e}gnp.exe".to_owned());
        let target = wire::Disk { serial: serial.clone(), size_bytes: 5, ..wire::Disk::default() };
        let verified = wire::DiskId { serial, wwn: None, size_bytes: 5 };
        let cleaned = DiskId { serial: Some("S1[2Jgnp.exe".to_owned()), wwn: None, size_bytes: 5 };
        assert_eq!(word(wire::Event::Target { disk: target }), AgentWord::Target(cleaned.clone()));
        assert_eq!(word(wire::Event::Verified { disk: verified }), AgentWord::Verified(cleaned));
    }

    #[test]
    fn nothing_that_parts_lines_or_turns_them_around_is_kept_and_letters_are() {
        assert_eq!(text("a\u{2028}b\u{2029}c\r\nd\u{0}e\u{7f}\u{9b}f\u{200f}g\u{2067}"), "abcdefg");
        assert_eq!(text("Büro 3, 机架 \"A\""), "Büro 3, 机架 \"A\"");
        assert_eq!(text(&"\u{1d11e}".repeat(100)), "\u{1d11e}".repeat(50));
    }

    #[test]
    fn addresses_are_kept_once_and_only_those_that_a_nic_can_have() {
        let said = ["52:54:00:00:00:01", "52-54-00-00-00-01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "eth0"];
        assert_eq!(macs(&said.map(str::to_owned)), [Mac([0x52, 0x54, 0, 0, 0, 1])]);
        let many: Vec<String> = (0..=255).map(|last| Mac([2, 0, 0, 0, 0, last]).to_string()).collect();
        assert_eq!(macs(&many).len(), MACS_MAX);
    }

    /// With everything as long as it may be.
    fn verified(by: String, letter: &str) -> Verification {
        let reason = failure(&letter.repeat(1000), &vec![letter.repeat(1000); 99]);
        let (number, result) = (VerifyNumber(u64::MAX), VerifyResult::Failed { reason });
        let last = LastVerify { number, at: u64::MAX, session_digest: Some(digest("s")), result };
        let claim = VerifyClaim { token_digest: digest("t"), session_digest: Some(digest("s")) };
        let (attempts, powered_at, begun_at) = (u32::MAX, Some(u64::MAX), Some(u64::MAX));
        let (asked_at, power, claim, reason) = (u64::MAX, true, Some(claim), by.clone());
        let wish = VerifyWish { number, by, reason, asked_at, power, powered_at, begun_at, attempts, claim };
        Verification { count: u64::MAX, wish: Some(Box::new(wish)), last: Some(Box::new(last)) }
    }

    /// The law of fuzz/agent_json. An honest machine with 64 disks whose agent refused them all could not have its
    /// reason written down, and a check-in with long texts was turned away.
    #[test]
    fn whatever_an_agent_says_fits_into_the_store() {
        let policy = BootPolicy { attempts_max: 1, halt: Halt::Nothing };
        // The first doubles as JSON, the second is cut in the middle of nothing.
        for letter in ["\"", "\u{1d11e}"] {
            let long = || Some(letter.repeat(1000));
            let disk = wire::Disk {
                name: letter.repeat(1000),
                serial: long(),
                wwn: long(),
                model: long(),
                transport: letter.repeat(1000),
                content: long(),
                ..wire::Disk::default()
            };
            let disks = vec![disk.clone(); 200];
            let macs = (0..=255).map(|last| Mac([2, 0, 0, 0, 0, last]).to_string()).collect();
            let inventory = Inventory { system_uuid: long(), serial: long(), product: long(), macs, disks };
            let (token, session) = ("t".to_owned(), "s".to_owned());
            let host = Host::discovered(Mac([2, 0, 0, 0, 0, 0]), "default", 1);
            let said =
                CheckIn { protocol: 1, host: host.id.clone(), generation: 1, token, session, uefi: true, inventory };
            let (check_in, inventory) = check_in(said);
            let image = ImageChoice { name: format!("{0}:{0}", "i".repeat(64)), manifest: "m".repeat(64) };
            let by = || "\u{1d11e}".repeat(200);
            let first = Cause::new(CauseKind::Operator, &by(), &by(), 1);
            let cause = Cause { image: Some(image), releases_disk: true, ..first };
            let agent = |event| Event::Agent { generation: 1, session_digest: digest("s"), word: word(event) };
            let reason = letter.repeat(1000);
            let failed =
                wire::Event::Failed { step: wire::Step::WriteBody, reason, listing: vec![letter.repeat(1000); 99] };
            let road = [
                Event::Approve { cause },
                Event::Admit,
                Event::ScriptAsked { client: NetbootClient::Ipxe { uefi: true }, token_digest: digest("t") },
                check_in,
                agent(wire::Event::Target { disk }),
                agent(failed),
                Event::Hold { by: by(), reason: by(), until: Some(u64::MAX) },
            ];
            let mut host = Host { verify: verified(by(), letter), ..host };
            for event in &road {
                let Outcome::Moved(moved, entries) = transition(&host, event, policy, 1) else { panic!("{event:?}") };
                host = *moved;
                let record = stored::encode(&host, Some(&inventory)).unwrap();
                assert!(record.len() <= VALUE_BYTES_MAX, "{} bytes after {event:?}", record.len());
                for entry in entries {
                    assert!(json_bytes(&history::line(&entry, 0, 1, 1)) <= VALUE_BYTES_MAX);
                }
            }
        }
    }

    #[test]
    fn an_inventory_of_64_ordinary_disks_is_kept_whole() {
        let disk = |number: usize| wire::Disk {
            name: format!("sd{number}"),
            serial: Some(format!("S4EVNX0M{number:06}")),
            wwn: Some(format!("naa.5002538e40a1{number:04x}")),
            model: Some("SAMSUNG MZ7LH480".to_owned()),
            size_bytes: 480_103_981_056,
            sector_bytes: 512,
            transport: "scsi".to_owned(),
            content: Some("gpt".to_owned()),
            ..wire::Disk::default()
        };
        let said = Inventory { disks: (0..64).map(disk).collect(), ..Inventory::default() };
        assert_eq!(inventory(said.clone(), &[]).disks, said.disks);
    }
}
