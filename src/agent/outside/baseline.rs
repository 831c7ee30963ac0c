//! The list of an image's files, for a server that cannot read its file systems: made after the deploy is over, and
//! brought there or told why not. Nothing here fails a deploy.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::call::MOUNTS;
use super::disk::ReadOnlyDisk;
use super::record::{self, Made, MakeError, Subject};
use crate::agent::session::Session;
use crate::causes;
use crate::clock;
use crate::wire::manifest::{self, Manifest};

/// For handing it over, where making it took all of its time; that is the rest.
const BRING_SECONDS: u64 = 60;

/// What the server asked for.
pub struct Asked {
    pub manifest: Manifest,
    /// Hex digest of the manifest.
    pub image: String,
    /// As it was just written and read back.
    pub disk: PathBuf,
    pub seconds: u64,
}

/// Makes it and brings it, within the time that the server gave. The kernel may never come back out of a file system
/// that is damaged: then the machine is reset from here, since neither this process nor `sync` would come to an end.
pub fn bring(session: &Arc<Session>, asked: Asked) {
    println!("regild-agent: the server cannot read this image's file systems: making the list of its files");
    let whole = Duration::from_secs(asked.seconds);
    let seconds = asked.seconds.saturating_sub(BRING_SECONDS).max(1);
    let (to, from) = mpsc::channel();
    let own = session.clone();
    let began = clock::instant();
    let mut is_late = false;
    // Left alone when it is late; the reset ends it.
    let started = std::thread::Builder::new().name("baseline".to_owned()).spawn(move || to.send(make(&own, &asked)));
    let made = match started {
        Err(error) => Err(format!("no thread could be started: {error}")),
        Ok(_) => match from.recv_timeout(Duration::from_secs(seconds)) {
            Ok(made) => made.map_err(|error| causes::in_one_line(&error)),
            Err(RecvTimeoutError::Timeout) => {
                is_late = true;
                Err(format!("it was not done within {seconds} s"))
            }
            Err(RecvTimeoutError::Disconnected) => Err("the reader broke off".to_owned()),
        },
    };
    match &made {
        Ok(made) => println!(
            "regild-agent: baseline {}, {} files, {} ms",
            manifest::to_hex(&made.digest),
            made.entries,
            began.elapsed().as_millis()
        ),
        Err(reason) => println!("regild-agent: no baseline: {reason}"),
    }
    let os_release = made.as_ref().ok().and_then(|made| made.os_release.clone());
    let list = made.as_ref().map(|made| &made.list).map_err(Clone::clone);
    match session.bring_baseline(os_release, list, whole.saturating_sub(began.elapsed())) {
        Ok(answer) if answer.taken => println!("regild-agent: the server has the baseline"),
        Ok(answer) => {
            println!("regild-agent: the server has no baseline of us: {}", answer.reason.unwrap_or_default());
        }
        Err(error) => println!("regild-agent: the baseline was not brought: {}", causes::in_one_line(&error)),
    }
    if is_late {
        reset();
    }
}

/// A thread that hangs in the kernel (a mount, a read) takes no signal: this process could not end, init would wait for it
/// for ever, and a deploy that was good would be Failed at its deadline. Nothing is lost by not going through init: the
/// disk was written past the page cache, and its own cache was flushed before the head was called written
/// (`Target::write_boot_area`); since then nobody may write to it. init's `sync` would hang as the thread does.
fn reset() {
    println!("regild-agent: the kernel hangs in one of the image's file systems: resetting the machine");
    if let Err(error) = std::fs::write("/proc/sysrq-trigger", "b") {
        println!("regild-agent: the machine cannot be reset: {error}");
    }
}

fn make(session: &Session, asked: &Asked) -> Result<Made<std::fs::File>, MakeError> {
    let disk = ReadOnlyDisk::open(&asked.disk).map_err(MakeError::Open)?;
    // From here on nobody writes to the disk, also no file system that is mounted "read-only".
    disk.forbid_writes().map_err(MakeError::Forbid)?;
    if let Err(error) = disk.find_partitions() {
        // Those that were there before may be the same; where not, the mount says which is missing.
        eprintln!("regild-agent: the kernel does not look for partitions on {}: {error}", disk.name());
    }
    let (host, mounts) = (session.host(), std::path::Path::new(MOUNTS));
    record::make_in_memory(Subject { manifest: &asked.manifest, image: &asked.image, host, disk: &disk, mounts })
}
