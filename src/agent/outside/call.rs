//! `regild-agent verify-host`: one verification, from the kernel command line to the report.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::MemfdFlags;

use super::disk::ReadOnlyDisk;
use super::look::{self, LookError, Means};
use crate::agent::deploy;
use crate::agent::http_source::HttpSource;
use crate::agent::orders::{OrdersError, VerifyCall};
use crate::agent::session::{Channel, SessionError};
use crate::agent::source::{self, GaveUp, SourceError};
use crate::agent::write::{Job, Observer, WriteError, WriteOptions, fetch_manifest};
use crate::decide::disk::{self, OwnDiskError};
use crate::wire::agent::{DiskId, Inventory, PROTOCOL, Progress, Step};
use crate::wire::baseline::{self, BaselineError};
use crate::wire::drift::{Report, Terms};
use crate::wire::manifest::Manifest;
use crate::wire::verify::{VerifyAnswer, VerifyCheckIn, VerifyJob, VerifyOutcome, VerifyReport};
use crate::{causes, clock};

/// A server that restarts is back long before this.
const PATIENCE: Duration = Duration::from_secs(300);
/// A million files have some 60 MB.
const BASELINE_BYTES_MAX: u64 = 1 << 30;
pub(super) const MOUNTS: &str = "/run/regild-volumes";

/// Why the disk was not looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read /proc/cmdline")]
    CommandLine(#[source] io::Error),
    #[error(transparent)]
    Orders(#[from] OrdersError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the server speaks protocol {theirs}, this agent {PROTOCOL}; rebuild the boot assets (`make assets`)")]
    Protocol { theirs: u32 },
    #[error("{0}")]
    Disk(#[from] OwnDiskError),
    #[error("{name} cannot be opened to be read")]
    Open { name: String, source: io::Error },
    #[error("{name} cannot be made read-only, and so it is not looked at")]
    Forbid { name: String, source: io::Error },
    #[error("the manifest cannot be had")]
    Manifest(#[source] WriteError),
    #[error("the baseline cannot be had")]
    Baseline(#[source] SourceError),
    #[error("the baseline cannot be used")]
    Damaged(#[from] BaselineError),
    #[error("there is no memory for the baseline")]
    Memory(#[source] io::Error),
    #[error("nothing can be said of the disk")]
    Look(#[from] LookError),
}

/// Carries it out. When this is done the machine may reboot: the server has the report, or nobody waits for it.
///
/// # Errors
/// [`VerifyError`]; where a session was open, the server knows the reason.
pub fn run() -> Result<(), VerifyError> {
    let command_line = std::fs::read_to_string("/proc/cmdline").map_err(VerifyError::CommandLine)?;
    let call = VerifyCall::parse(&command_line)?;
    let inventory = deploy::inventory_with_disks();
    println!("regild-agent: verification {}, {} disks, server {}", call.number, inventory.disks.len(), call.server);
    let session = Session { channel: Channel::new(&call.server), secret: clock::random_hex::<32>(), call };
    let job = session.check_in(inventory.clone())?;
    if job.protocol != PROTOCOL {
        return Err(VerifyError::Protocol { theirs: job.protocol });
    }
    let looked = look_at(&session, &job, &inventory);
    let outcome = match &looked {
        Ok(report) => {
            println!("regild-agent: {} findings, {} gaps", report.findings_total, report.gaps.len());
            VerifyOutcome::Looked { report: report.clone() }
        }
        Err(error) => {
            println!("regild-agent: not verified: {}", causes::in_one_line(error));
            let listing = if let VerifyError::Disk(refusal) = error { refusal.lines.clone() } else { Vec::new() };
            VerifyOutcome::Failed { reason: causes::in_one_line(error), listing }
        }
    };
    let answer = session.report(outcome)?;
    if !answer.taken {
        println!("regild-agent: the report was not taken: {}", answer.reason.unwrap_or_default());
    }
    looked.map(drop)
}

/// A claimed verification. It can check in and report, and has no word of an order.
struct Session {
    channel: Channel,
    call: VerifyCall,
    secret: String,
}

impl Session {
    fn check_in(&self, inventory: Inventory) -> Result<VerifyJob, SessionError> {
        let VerifyCall { host, number, token, .. } = self.call.clone();
        let session = self.secret.clone();
        let check_in = VerifyCheckIn { protocol: PROTOCOL, host, number, token, session, inventory };
        self.channel.persist("/agent/v1/verify/checkin", &check_in)
    }

    fn report(&self, outcome: VerifyOutcome) -> Result<VerifyAnswer, SessionError> {
        let (host, number) = (self.call.host.clone(), self.call.number);
        let report = VerifyReport { protocol: PROTOCOL, host, number, session: self.secret.clone(), outcome };
        self.channel.persist("/agent/v1/verify/report", &report)
    }
}

fn look_at(session: &Session, job: &VerifyJob, inventory: &Inventory) -> Result<Report, VerifyError> {
    let disk = own_disk(&job.own_disk, inventory)?;
    println!("regild-agent: looking at {} ({} bytes), read-only", disk.name(), disk.size_bytes());
    let source = HttpSource::new(&session.call.server);
    compare(&source, &job.terms, &disk, Some(Path::new(MOUNTS)))
}

/// The one disk that is this host's, and from now on nobody writes to it.
fn own_disk(own: &DiskId, inventory: &Inventory) -> Result<ReadOnlyDisk, VerifyError> {
    let disks: Vec<disk::Disk> = inventory.disks.iter().map(deploy::as_facts).collect();
    let own = disk::DiskId { serial: own.serial.clone(), wwn: own.wwn.clone(), size_bytes: own.size_bytes };
    let index = disk::find_own(&disks, &own)?;
    // An index of the same list.
    let name = inventory.disks.get(index).map(|disk| disk.name.clone()).unwrap_or_default();
    let path = Path::new("/dev").join(&name);
    let disk = ReadOnlyDisk::open(&path).map_err(|source| VerifyError::Open { name: name.clone(), source })?;
    disk.forbid_writes().map_err(|source| VerifyError::Forbid { name, source })?;
    Ok(disk)
}

/// Compares a disk with what the terms say of it.
pub(super) fn compare(
    source: &HttpSource,
    terms: &Terms,
    disk: &ReadOnlyDisk,
    mounts: Option<&Path>,
) -> Result<Report, VerifyError> {
    let manifest = manifest_of(source, &terms.manifest)?;
    let baseline = terms.baseline.as_ref().map(|digest| fetch_baseline(source, digest)).transpose()?;
    let options = WriteOptions { patience: PATIENCE, ..WriteOptions::default() };
    let job = Job::new(source, &manifest, &options, &Quiet);
    let means = Means { terms, baseline: baseline.as_ref(), mounts };
    Ok(look::look(&job, disk, &means)?)
}

pub(super) fn manifest_of(source: &HttpSource, digest: &str) -> Result<Manifest, VerifyError> {
    fetch_manifest(source, digest, PATIENCE, &Quiet).map_err(VerifyError::Manifest)
}

/// Into memory: there is no other place that is not the disk.
fn fetch_baseline(source: &HttpSource, digest: &str) -> Result<File, VerifyError> {
    let path = format!("/images/baselines/{digest}");
    let question = || {
        let file = rustix::fs::memfd_create("baseline", MemfdFlags::CLOEXEC).map(File::from);
        match file {
            Ok(file) => source.copy(&path, BASELINE_BYTES_MAX, &file).map(|()| Ok(file)),
            Err(error) => Ok(Err(VerifyError::Memory(error.into()))),
        }
    };
    let file = source::ask(PATIENCE, &|| false, question).map_err(|error| match error {
        GaveUp::Failed(error) => VerifyError::Baseline(error),
        // Nobody stops it.
        GaveUp::Stopped => {
            VerifyError::Baseline(SourceError::Answer { url: path.clone(), reason: "stopped".to_owned() })
        }
    })??;
    check(&file, digest)?;
    Ok(file)
}

fn check(mut file: &File, digest: &str) -> Result<(), BaselineError> {
    io::Seek::rewind(&mut file)?;
    baseline::check_digest(file, digest)
}

/// Nobody waits for its progress, and nobody stops it: it writes nothing.
struct Quiet;

impl Observer for Quiet {
    fn step(&self, _: Step) {}

    fn progress(&self, _: Progress) {}

    fn may_go_on(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::agent::Disk;

    /// The right disk or none, to be read as to be written: a report about another disk would clear or blame this host.
    #[test]
    fn a_disk_that_is_not_surely_the_hosts_own_is_not_looked_at_and_all_are_listed() {
        let disk = |name: &str, serial: &str| Disk {
            name: name.to_owned(),
            serial: Some(serial.to_owned()),
            size_bytes: 1 << 30,
            ..Disk::default()
        };
        let own = DiskId { serial: Some("a".to_owned()), wwn: None, size_bytes: 1 << 30 };
        for disks in [vec![], vec![disk("vda", "b")], vec![disk("vda", "a"), disk("vdb", "a")]] {
            let count = disks.len();
            let inventory = Inventory { disks, ..Inventory::default() };
            let Err(VerifyError::Disk(refusal)) = own_disk(&own, &inventory) else { panic!("{inventory:?}") };
            assert_eq!(refusal.lines.len(), count);
        }
    }
}
