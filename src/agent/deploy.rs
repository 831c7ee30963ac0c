//! `regild-agent deploy`: one order, from the kernel command line to the report of success.

use super::boot_entry::{self, LoaderPlace};
use super::http_source::HttpSource;
use super::inventory;
use super::orders::{Orders, OrdersError};
use super::outside::baseline::{self, Asked};
use super::seed;
use super::session::{Session, SessionError};
use super::write::{Expected, Observer, WriteError, WriteOptions, fetch_manifest, write_image};
use crate::causes;
use crate::decide::disk::{self, ForeignContent, Needs, Refusal};
use crate::wire::agent::{Disk, DiskId, Event, Inventory, Job, PROTOCOL, Progress, Step};
use crate::wire::manifest::Manifest;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A server that restarts is back long before this.
const PATIENCE: Duration = Duration::from_secs(300);
/// Disks behind slow controllers appear this long after the agent at most.
const DISKS_WAIT: Duration = Duration::from_secs(30);

/// Why the order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error("cannot read /proc/cmdline")]
    CommandLine(#[source] std::io::Error),
    #[error(transparent)]
    Orders(#[from] OrdersError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the server speaks protocol {theirs}, this agent {PROTOCOL}; rebuild the boot assets (`make assets`)")]
    Protocol { theirs: u32 },
    #[error("no disk was chosen: {0}")]
    Disk(#[from] Refusal),
    #[error("the image does not start on this machine: {0}")]
    Firmware(String),
    #[error("the image could not be written")]
    Write(#[from] WriteError),
}

/// Carries out the order. On success the machine may reboot: the server has it on stable storage.
///
/// # Errors
/// [`DeployError`]; where a session was open, the server knows the reason.
pub fn run() -> Result<(), DeployError> {
    let command_line = std::fs::read_to_string("/proc/cmdline").map_err(DeployError::CommandLine)?;
    let orders = Orders::parse(&command_line)?;
    let uefi = inventory::booted_by_uefi();
    let inventory = inventory_with_disks();
    println!("regild-agent: {} disks, server {}", inventory.disks.len(), orders.server);
    let (session, job) = Session::open(orders, uefi, inventory.clone())?;
    if job.protocol != PROTOCOL {
        return Err(DeployError::Protocol { theirs: job.protocol });
    }
    println!("regild-agent: order {} (attempt {}): {}", job.generation, job.attempt, job.image);
    let sender = session.start_progress();
    let reporting = Reporting { session: &session, step: Mutex::new(Step::CheckIn) };
    let done = carry_out(&reporting, &job, &inventory, uefi);
    session.close();
    if let Ok(Some(asked)) = done {
        // The order is closed by now: whatever becomes of this, the machine boots its disk.
        baseline::bring(&session, asked);
        return Ok(());
    }
    if let Err(error) = &done {
        let step = *reporting.step.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = if let DeployError::Disk(refusal) = error { refusal.lines.clone() } else { Vec::new() };
        let reason =
            if let DeployError::Disk(refusal) = error { reason_only(refusal) } else { causes::in_one_line(error) };
        println!("regild-agent: failed at {step:?}: {}", causes::in_one_line(error));
        // A closed order is not news to the server.
        if !session.is_over() {
            let _ = session.say(Event::Failed { step, reason, listing });
        }
    }
    // It sleeps half a second at most; a panic in it cannot change what is on the disk.
    let _ = sender.join();
    done.map(drop)
}

/// Controllers may still be looking for their disks when the agent starts.
pub(super) fn inventory_with_disks() -> Inventory {
    let began = crate::clock::instant();
    loop {
        let inventory = inventory::take();
        if !inventory.disks.is_empty() || began.elapsed() > DISKS_WAIT {
            return inventory;
        }
        crate::clock::sleep(Duration::from_millis(500));
    }
}

fn carry_out(
    reporting: &Reporting,
    job: &Job,
    inventory: &Inventory,
    uefi: bool,
) -> Result<Option<Asked>, DeployError> {
    let session = reporting.session;
    let source = HttpSource::new(session.server());
    // Before the choice begins: a failure to choose is a verdict on the machine and ends the order, and a server
    // that cannot give the manifest now is not the machine's fault.
    let manifest = fetch_manifest(&source, &job.manifest, PATIENCE, reporting)?;
    reporting.begin(Step::ChooseDisk)?;
    check_firmware(&manifest, uefi).map_err(DeployError::Firmware)?;
    let target = choose(job, inventory, &manifest)?;
    println!("regild-agent: target {} ({} bytes)", target.name, target.size_bytes);
    // On stable storage before the first write: after a power cut what is on this disk is ours.
    session.say(Event::Target { disk: target.clone() })?;
    let options = WriteOptions {
        patience: PATIENCE,
        expected: Some(Expected { size_bytes: target.size_bytes, sector_bytes: target.sector_bytes }),
        seed: seed::of(&HttpSource::within(session.server(), Some(seed::ANSWER_TIMEOUT)), job, &target, reporting),
    };
    let path = Path::new("/dev").join(&target.name);
    let outcome = write_image(&source, &manifest, &path, &options, reporting)?;
    let how = if outcome.already_there { "was there already" } else { "written and read back" };
    let (fetched, copied) = (outcome.fetched_bytes, outcome.copied_bytes);
    println!("regild-agent: {} {how}, {fetched} bytes fetched, {copied} copied on the disk", job.image);
    if uefi {
        reporting.begin(Step::BootEntry)?;
        make_boot_entry(&manifest);
    }
    let id = DiskId { serial: target.serial, wwn: target.wwn, size_bytes: target.size_bytes };
    let answer = session.say(Event::Verified { disk: id })?;
    let image = job.manifest.clone();
    Ok(answer.baseline_seconds.map(|seconds| Asked { manifest, image, disk: path, seconds }))
}

fn check_firmware(manifest: &Manifest, uefi: bool) -> Result<(), String> {
    if uefi && !manifest.boot.loaders.iter().any(|loader| loader.arch == "x64") {
        return Err("it was booted by UEFI, and the image has no x64 loader on an EFI system partition".to_string());
    }
    if !uefi && !manifest.boot.bios {
        return Err("it was booted by BIOS, and the image has no boot code in its MBR".to_string());
    }
    Ok(())
}

fn choose(job: &Job, inventory: &Inventory, manifest: &Manifest) -> Result<Disk, Refusal> {
    let disks: Vec<disk::Disk> = inventory.disks.iter().map(as_facts).collect();
    let rule = disk::Rule {
        serial: job.disk_rule.serial.clone(),
        wwn: job.disk_rule.wwn.clone(),
        model: job.disk_rule.model.clone(),
        transport: job.disk_rule.transport.clone(),
        min_bytes: job.disk_rule.min_bytes,
        max_bytes: job.disk_rule.max_bytes,
    };
    let own = job.own_disk.as_ref().map(id_facts);
    let foreign = if job.foreign_released { ForeignContent::Released } else { ForeignContent::Kept };
    let needs = Needs { image_bytes: manifest.image_bytes, sector_bytes: manifest.sector_bytes };
    disk::choose(&disks, &rule, own.as_ref(), foreign, needs).map(|index| inventory.disks[index].clone())
}

pub(super) fn as_facts(disk: &Disk) -> disk::Disk {
    disk::Disk {
        name: disk.name.clone(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        model: disk.model.clone(),
        size_bytes: disk.size_bytes,
        sector_bytes: disk.sector_bytes,
        transport: disk.transport.clone(),
        removable: disk.removable,
        read_only: disk.read_only,
        content: disk.content.clone(),
    }
}

pub(super) fn id_facts(id: &DiskId) -> disk::DiskId {
    disk::DiskId { serial: id.serial.clone(), wwn: id.wwn.clone(), size_bytes: id.size_bytes }
}

/// Without an entry the machine still boots through the server's local boot: so this warns and goes on.
fn make_boot_entry(manifest: &Manifest) {
    let loader = manifest.boot.loaders.iter().find(|loader| loader.arch == "x64");
    let place = loader.and_then(|loader| {
        let esp = manifest.boot.partitions.iter().find(|partition| partition.number == loader.partition)?;
        Some(LoaderPlace {
            partition_number: esp.number,
            first_lba: esp.first_lba,
            blocks: esp.last_lba - esp.first_lba + 1,
            partition_guid: boot_entry::guid_bytes(&esp.unique_guid)?,
            path: loader.path.clone(),
        })
    });
    let Some(place) = place else { return };
    match boot_entry::make_right(Path::new(boot_entry::EFIVARS), &place) {
        Ok(()) => println!("regild-agent: UEFI boot entry for {} is right", place.path),
        Err(error) => println!("regild-agent: no UEFI boot entry could be made ({error}); the server boots the disk"),
    }
}

/// Tells the server each step before it begins, and ends the write when the order is over.
struct Reporting<'a> {
    session: &'a Session,
    step: Mutex<Step>,
}

impl Reporting<'_> {
    fn begin(&self, step: Step) -> Result<(), SessionError> {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
        println!("regild-agent: {step:?}");
        self.session.say(Event::Step { step }).map(drop)
    }
}

impl Observer for Reporting<'_> {
    fn step(&self, step: Step) {
        // A closed order shows in `may_go_on`; a server that stays silent for long ends the attempt there, too.
        if self.begin(step).is_err() {
            self.session.end();
        }
    }

    fn progress(&self, progress: Progress) {
        self.session.progress(progress);
        if std::io::stdout().is_terminal() && progress.total_bytes > 0 {
            let percent = progress.done_bytes * 100 / progress.total_bytes;
            print!("\rregild-agent: {:?} {percent} %   ", progress.step);
        }
    }

    fn may_go_on(&self) -> bool {
        !self.session.is_over()
    }
}

fn reason_only(refusal: &Refusal) -> String {
    Refusal { reason: refusal.reason.clone(), lines: Vec::new() }.to_string()
}
