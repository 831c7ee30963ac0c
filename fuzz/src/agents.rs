//! What a hostile agent may say: the wire types with any text in any amount.

use arbitrary::Arbitrary;
use regild::wire::agent::{CheckIn, Disk, DiskId, Event, Inventory, PROTOCOL, Progress, Report, Step};

/// A short text many times over: long texts, without a long input.
#[derive(Debug, Clone, Arbitrary)]
pub struct Text {
    pub part: String,
    pub times: u8,
}

impl Text {
    #[must_use]
    pub fn text(&self) -> String {
        self.part.repeat(usize::from(self.times))
    }
}

#[derive(Debug, Clone, Arbitrary)]
pub struct SaidDisk {
    pub name: Text,
    pub serial: Option<Text>,
    pub wwn: Option<Text>,
    pub model: Option<Text>,
    pub transport: Text,
    pub content: Option<Text>,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    pub flags: [bool; 2],
}

impl SaidDisk {
    #[must_use]
    pub fn disk(&self) -> Disk {
        let option = |text: &Option<Text>| text.as_ref().map(Text::text);
        Disk {
            name: self.name.text(),
            serial: option(&self.serial),
            wwn: option(&self.wwn),
            model: option(&self.model),
            size_bytes: self.size_bytes,
            sector_bytes: self.sector_bytes,
            transport: self.transport.text(),
            removable: self.flags[0],
            read_only: self.flags[1],
            content: option(&self.content),
        }
    }
}

#[derive(Debug, Clone, Arbitrary)]
pub struct SaidInventory {
    pub system_uuid: Option<Text>,
    pub serial: Option<Text>,
    pub product: Option<Text>,
    /// Texts, and addresses of real machines.
    pub macs: Vec<Result<[u8; 6], Text>>,
    pub disk: Option<SaidDisk>,
    pub disks: u8,
}

impl SaidInventory {
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let option = |text: &Option<Text>| text.as_ref().map(Text::text);
        let mac = |mac: &Result<[u8; 6], Text>| match mac {
            Ok(bytes) => regild::decide::mac::Mac(*bytes).to_string(),
            Err(text) => text.text(),
        };
        let disks = self.disk.iter().flat_map(|disk| vec![disk.disk(); usize::from(self.disks)]);
        Inventory {
            system_uuid: option(&self.system_uuid),
            serial: option(&self.serial),
            product: option(&self.product),
            macs: self.macs.iter().map(mac).collect(),
            disks: disks.collect(),
        }
    }
}

#[derive(Debug, Clone, Arbitrary)]
pub enum SaidEvent {
    Step(u8),
    Target(SaidDisk),
    Progress { step: u8, done_bytes: u64, total_bytes: u64, fetched_bytes: u64 },
    Verified { serial: Option<Text>, wwn: Option<Text>, size_bytes: u64 },
    Failed { step: u8, reason: Text, line: Text, lines: u8 },
}

impl SaidEvent {
    #[must_use]
    pub fn event(&self) -> Event {
        let option = |text: &Option<Text>| text.as_ref().map(Text::text);
        match self {
            SaidEvent::Step(number) => Event::Step { step: step(*number) },
            SaidEvent::Target(disk) => Event::Target { disk: disk.disk() },
            SaidEvent::Progress { step: number, done_bytes, total_bytes, fetched_bytes } => {
                let (done_bytes, total_bytes, fetched_bytes) = (*done_bytes, *total_bytes, *fetched_bytes);
                Event::Progress { progress: Progress { step: step(*number), done_bytes, total_bytes, fetched_bytes } }
            }
            SaidEvent::Verified { serial, wwn, size_bytes } => {
                let disk = DiskId { serial: option(serial), wwn: option(wwn), size_bytes: *size_bytes };
                Event::Verified { disk }
            }
            SaidEvent::Failed { step: number, reason, line, lines } => Event::Failed {
                step: step(*number),
                reason: reason.text(),
                listing: vec![line.text(); usize::from(*lines)],
            },
        }
    }
}

fn step(number: u8) -> Step {
    let all = [
        Step::CheckIn,
        Step::ChooseDisk,
        Step::Survey,
        Step::ClearHead,
        Step::WriteBody,
        Step::VerifyBody,
        Step::WriteHead,
        Step::BootEntry,
        Step::Reboot,
    ];
    all[usize::from(number) % all.len()]
}

#[must_use]
pub fn check_in(host: &str, generation: u64, token: &str, session: &str, inventory: Inventory) -> CheckIn {
    let (host, token, session) = (host.to_owned(), token.to_owned(), session.to_owned());
    CheckIn { protocol: PROTOCOL, host, generation, token, session, uefi: true, inventory }
}

#[must_use]
pub fn report(host: &str, generation: u64, session: &str, event: Event) -> Report {
    let (host, session) = (host.to_owned(), session.to_owned());
    Report { protocol: PROTOCOL, host, generation, session, event }
}
