//! Makes the store of a large fleet: a registry of ours, and machines that really go through their first rebuild.
//!
//! Each host is declared by a document, asked for, gets a lease, a boot script and its one-time token, checks in with the
//! inventory of a usual server, writes, verifies, boots its disk and says so. Only the pace is not real: the caps are
//! lifted while it goes on and put back in the end, and so all of them were rebuilt within minutes of each other. Their ids
//! and addresses are printed, one host a line.

use clap::Parser;
use regild::config::Config;
use regild::config::fleet::HostEntry;
use regild::config::fleet::diff::Write;
use regild::db::sled::SledDb;
use regild::decide::brakes::Policy;
use regild::decide::cause::{Cause, CauseKind};
use regild::decide::disk::DiskId;
use regild::decide::group::{Group, Limits};
use regild::decide::host::{AgentWord, Event, Identity, ImageChoice, Step};
use regild::decide::labels::Labels;
use regild::decide::lease::{LeaseAnswer, LeaseRequest, MessageKind};
use regild::decide::mac::Mac;
use regild::decide::netboot::{FirmwareArch, NetbootClient};
use regild::registry::{Registry, Script};
use regild::wire::agent::{Disk, Inventory};
use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tokio::task::JoinSet;

/// Machines that are rebuilt at once: what one group of the writer takes.
const AT_ONCE: u32 = 512;
const RACK_HOSTS: u32 = 40;
const DISKS: u32 = 4;

#[derive(Debug, Parser)]
struct Fleet {
    /// The server's configuration; its store must be empty.
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    hosts: u32,
    /// The first group, `due`, has so many hosts.
    #[arg(long)]
    due: u32,
    /// Groups beside it, of equal size.
    #[arg(long, default_value_t = 49)]
    groups: u32,
    /// They stay where the image is written, each agent's session being its host's id.
    #[arg(long)]
    writing: bool,
    /// NAME:VERSION, in the image store already.
    #[arg(long)]
    image: String,
    /// Hex digest of its manifest.
    #[arg(long)]
    manifest: String,
}

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    // `cargo bench` adds --bench to what it runs; nothing of it is for us.
    let fleet = Fleet::parse_from(std::env::args().filter(|argument| argument != "--bench"));
    let config = Config::load(&fleet.config)?;
    let (registry, writer) = Registry::start(Box::new(SledDb::open(&config.state_dir)?), &config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fleet.make(&registry))?;
    drop((runtime, registry));
    writer.join().map_err(|_| "the writer panicked")?;
    Ok(())
}

impl Fleet {
    async fn make(&self, registry: &Registry) -> Result<(), Failure> {
        let lifted = Limits { concurrent_max: self.hosts.max(AT_ONCE), orders_per_hour_max: u32::MAX };
        let policy = Policy { fleet: lifted, rack: lifted, feed: lifted, ..Policy::default() };
        self.apply(registry, self.settings(policy, lifted)).await?;
        let mut first = 0;
        while first < self.hosts {
            let numbers = first..self.hosts.min(first + AT_ONCE);
            self.apply(registry, numbers.clone().map(|number| self.declared(number)).collect()).await?;
            let mut lives = JoinSet::new();
            for number in numbers {
                lives.spawn(machine(number, registry.clone(), self.choice(), self.writing));
            }
            while let Some(life) = lives.join_next().await {
                let (id, address) = life??;
                println!("{id} {address}");
            }
            first += AT_ONCE;
        }
        self.apply(registry, self.settings(Policy::default(), Limits::default())).await
    }

    async fn apply(&self, registry: &Registry, writes: Vec<Write>) -> Result<(), Failure> {
        let images = BTreeMap::from([(self.image.clone(), self.choice())]);
        Ok(registry.apply(writes, images, "bench".to_string()).await?)
    }

    fn choice(&self) -> ImageChoice {
        ImageChoice { name: self.image.clone(), manifest: self.manifest.clone() }
    }

    fn settings(&self, policy: Policy, limits: Limits) -> Vec<Write> {
        let group = |number| Write::Group(Box::new(Group { limits, ..Group::new(&self.group_name(number)) }));
        std::iter::once(Write::Policy(policy)).chain((0..=self.groups).map(group)).collect()
    }

    fn group_name(&self, number: u32) -> String {
        if number == 0 { "due".to_string() } else { format!("compute-{number}") }
    }

    fn declared(&self, number: u32) -> Write {
        let mut labels = Labels::default();
        let rack = number / RACK_HOSTS;
        let words = [
            ("rack", format!("r{rack}")),
            ("row", format!("row{}", rack / 20)),
            ("feed", if number.is_multiple_of(2) { format!("f{}a", rack / 20) } else { format!("f{}b", rack / 20) }),
            ("role", if number.is_multiple_of(10) { "storage".to_string() } else { "compute".to_string() }),
        ];
        for (key, value) in words {
            labels.set(key, &value).expect("these are plain words");
        }
        let group = if number < self.due { 0 } else { 1 + number % self.groups };
        let entry = HostEntry {
            name: Some(format!("node-{number:06}.dc1")),
            group: Some(self.group_name(group)),
            labels: Some(labels),
            image: Some(self.image.parse().expect("the server has an image of that name")),
            power: None,
            drift: None,
        };
        Write::Host { id: id(number), new: Some(mac(number, 0)), entry }
    }
}

fn mac(number: u32, nic: u8) -> Mac {
    let [_, a, b, c] = number.to_be_bytes();
    Mac([0x02, 0x10, nic, a, b, c])
}

fn id(number: u32) -> String {
    format!("h-{}", mac(number, 0).to_string().replace(':', ""))
}

/// What the agent sees of a usual server, as the server keeps it: two NICs in every second one, four disks.
fn inventory(number: u32) -> Inventory {
    let disk = |at: u32| Disk {
        name: format!("nvme{at}n1"),
        serial: Some(format!("S64GNE0R{number:06}{at:02}")),
        wwn: Some(format!("eui.00253858{number:06x}{at:02x}")),
        model: Some("SAMSUNG MZQL21T9HCJR-00A07".to_string()),
        size_bytes: 1_920_383_410_176,
        sector_bytes: 512,
        transport: "nvme".to_string(),
        removable: false,
        read_only: false,
        content: (at > 0).then(|| "gpt, ext4".to_string()),
    };
    let nics = 1 + (number % 2) as u8;
    Inventory {
        system_uuid: Some(format!("4c4c4544-0037-4a10-8054-{number:012x}")),
        serial: Some(format!("7JT{number:06}")),
        product: Some("PowerEdge R650".to_string()),
        macs: (0..nics).map(|nic| mac(number, nic).to_string()).collect(),
        disks: (0..DISKS).map(disk).collect(),
    }
}

/// One machine, from its first order to the word of its installed system, or only until it writes; its id and address.
async fn machine(
    number: u32,
    registry: Registry,
    image: ImageChoice,
    writing: bool,
) -> Result<(String, Ipv4Addr), Failure> {
    let (id, mac) = (id(number), mac(number, 0));
    let cause = Cause { image: Some(image.clone()), ..Cause::new(CauseKind::Operator, "first image", "bench", 1) };
    registry.host_event(&id, Event::Ask { cause }).await?;
    let address = lease(&registry, mac).await?;
    let Script::Agent { generation, token, .. } = registry.script(mac, NetbootClient::Ipxe { uefi: true }).await?
    else {
        return Err(format!("{id}: no order is open").into());
    };
    let digest = |secret: &str| blake3::hash(secret.as_bytes()).to_hex().to_string();
    let (token_digest, session_digest) = (digest(&token), digest(&id));
    let inventory = inventory(number);
    let macs = inventory.macs.iter().map(|mac| mac.parse()).collect::<Result<_, _>>()?;
    let identity = Identity { macs, system_uuid: inventory.system_uuid.clone(), serial: inventory.serial.clone() };
    let target = &inventory.disks[0];
    let target = DiskId { serial: target.serial.clone(), wwn: target.wwn.clone(), size_bytes: target.size_bytes };
    let claim = Event::CheckedIn { generation, token_digest, session_digest: session_digest.clone(), identity };
    registry.check_in(&id, claim, inventory).await?;
    let words = [
        AgentWord::Step(Step::ChooseDisk),
        AgentWord::Target(target.clone()),
        AgentWord::Step(Step::WriteBody),
        AgentWord::Step(Step::VerifyBody),
        AgentWord::Verified(target),
    ];
    let words_said = if writing { 3 } else { words.len() };
    for word in words.into_iter().take(words_said) {
        registry.host_event(&id, Event::Agent { generation, session_digest: session_digest.clone(), word }).await?;
    }
    if writing {
        return Ok((id, address));
    }
    registry.netboot(mac, NetbootClient::Firmware { arch: FirmwareArch::UefiX64 }).await?;
    registry.host_event(&id, Event::Installed { image: image.name }).await?;
    Ok((id, address))
}

async fn lease(registry: &Registry, mac: Mac) -> Result<Ipv4Addr, Failure> {
    let nowhere = Ipv4Addr::UNSPECIFIED;
    let discover = LeaseRequest {
        kind: MessageKind::Discover,
        mac,
        ciaddr: nowhere,
        requested: None,
        server_id: None,
        giaddr: nowhere,
        hostname: None,
    };
    let LeaseAnswer::Offer { ip, .. } = registry.lease(0, discover.clone()).await? else {
        return Err(format!("{mac} was offered no address").into());
    };
    let request = LeaseRequest { kind: MessageKind::Request, requested: Some(ip), ..discover };
    match registry.lease(0, request).await? {
        LeaseAnswer::Ack { .. } => Ok(ip),
        other => Err(format!("{mac} got no lease: {other:?}").into()),
    }
}
