//! The manifest of what the disk holds, by which a deploy copies what has only moved instead of fetching it.
//!
//! A hint and no more: a deploy goes on without it whenever it does not come at once.

use std::time::Duration;

use super::deploy::{as_facts, id_facts};
use super::source::{self, GaveUp, ImageSource};
use super::write::Observer;
use crate::causes;
use crate::clock;
use crate::decide::disk;
use crate::wire::agent::{Disk, Job};
use crate::wire::manifest::Manifest;

/// For one answer. What is fetched instead of copied may take longer, what waits here does nothing.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Asked once more when the first question failed within this: a busy server says so at once. One that took its time is
/// not waited for again, so all this costs at most [`ANSWER_TIMEOUT`] and a second.
const PATIENCE: Duration = Duration::from_millis(500);
/// Before the second question.
const PAUSE: Duration = Duration::from_millis(200);
/// A manifest has 0.03% of its image's data: this is one of some 25 GiB of data. Unpacked it is some times as long.
const ENCODED_BYTES_MAX: usize = 8 << 20;
/// Free memory below which the machine fetches all: 128 MiB for content that is read early, 50 for the places of blocks,
/// 100 for what is under way (`transfer::moved`, `fetch`), and the manifest.
const FREE_BYTES_MIN: u64 = 384 << 20;

/// The seed of this job for the disk that was chosen; none where that is not the host's own disk (the server knows of no
/// other), and none where it cannot be had at once.
pub(super) fn of(source: &dyn ImageSource, job: &Job, target: &Disk, observer: &dyn Observer) -> Option<Manifest> {
    let digest = job.seed.as_ref()?;
    let is_own = job.own_disk.as_ref().is_some_and(|own| disk::is_own(&as_facts(target), &id_facts(own)));
    if !is_own {
        println!("regild-agent: {} is not the disk that the host had, all of the image is fetched", target.name);
        return None;
    }
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match fetch(source, digest, &memory, observer) {
        Ok(manifest) => Some(manifest),
        Err(reason) => {
            println!("regild-agent: going on without the manifest of what is on {}: {reason}", target.name);
            None
        }
    }
}

fn fetch(source: &dyn ImageSource, digest: &str, memory: &str, observer: &dyn Observer) -> Result<Manifest, String> {
    let free_bytes = free_bytes(memory).unwrap_or_default();
    if free_bytes < FREE_BYTES_MIN {
        return Err(format!("{free_bytes} bytes of memory are free, and it may need {FREE_BYTES_MIN}"));
    }
    let once = || source::ask(Duration::ZERO, &|| !observer.may_go_on(), || source.manifest(digest));
    let began = clock::instant();
    let mut asked = once();
    let is_passing = matches!(&asked, Err(GaveUp::Failed(error)) if error.is_passing());
    if is_passing && clock::instant().duration_since(began) < PATIENCE {
        clock::sleep(PAUSE);
        asked = once();
    }
    let encoded = asked.map_err(|gave_up| match gave_up {
        // The write notices it, too.
        GaveUp::Stopped => "the order is over".to_string(),
        GaveUp::Failed(error) => causes::in_one_line(&error),
    })?;
    if encoded.len() > ENCODED_BYTES_MAX {
        return Err(format!(
            "it has {} bytes, and more than {ENCODED_BYTES_MAX} are not worth their memory",
            encoded.len()
        ));
    }
    Manifest::decode(&encoded, Some(digest)).map_err(|error| causes::in_one_line(&error))
}

/// What /proc/meminfo (proc_meminfo(5)) calls available: free, or free for the asking.
fn free_bytes(memory: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests;
