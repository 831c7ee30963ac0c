//! Scrub: the store reads itself again on a thread that yields to everybody, and the registry hears what is damaged.

use super::{UpkeepError, refresh};
use crate::clock;
use crate::http::Shared;
use crate::image::{ImageRef, ScrubReport, ScrubRequest, StoreError};
use crate::wire::operator_images as wire;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The lowest of the kernel's priorities for the processor.
const NICE: i32 = 19;

/// The turn, known to be a scrub's.
struct Turn<'a> {
    is_scrubbing: &'a AtomicBool,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Turn<'_> {
    async fn begin(shared: &Shared) -> Result<Turn<'_>, UpkeepError> {
        let turn = shared.upkeep.turn().await?;
        shared.upkeep.is_scrubbing.store(true, Ordering::Relaxed);
        Ok(Turn { is_scrubbing: &shared.upkeep.is_scrubbing, _turn: turn })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.is_scrubbing.store(false, Ordering::Relaxed);
    }
}

/// Scrubs one version, or everything.
///
/// # Errors
/// [`UpkeepError`] when it cannot be done; what is damaged is in the report.
pub async fn scrub(
    shared: &Arc<Shared>,
    image: Option<ImageRef>,
    from: Option<PathBuf>,
) -> Result<wire::ScrubReport, UpkeepError> {
    let _turn = Turn::begin(shared).await?;
    let (reply, done) = tokio::sync::oneshot::channel();
    let work = shared.clone();
    // A thread of its own: the priority is the thread's, and must not be inherited by what comes after.
    let thread = std::thread::Builder::new().name("scrub".to_string()).spawn(move || {
        // Nobody may be waiting any more; what was found is written down all the same.
        let _ = reply.send(read_again(&work, image.as_ref(), from.as_deref()));
    });
    thread.map_err(|error| UpkeepError::Ended(error.to_string()))?;
    let report = done.await.map_err(|error| UpkeepError::Ended(error.to_string()))??;
    refresh(shared).await?;
    let refused: Vec<String> = shared.registry.read(|view| view.images().unfit.keys().cloned().collect());
    for bad in &report.bad {
        tracing::error!(bad, "the image store is damaged");
    }
    for mended in &report.mended {
        tracing::warn!(mended, "the image store was mended");
    }
    tracing::info!(read_bytes = report.read_bytes, bad = report.bad.len(), "the image store was scrubbed");
    Ok(wire::ScrubReport {
        records: report.records,
        manifests: report.manifests,
        packs: report.packs,
        frames: report.frames,
        read_bytes: report.read_bytes,
        bad: report.bad,
        mended: report.mended,
        refused,
        is_cut: report.is_cut,
    })
}

fn read_again(
    shared: &Shared,
    image: Option<&ImageRef>,
    from: Option<&std::path::Path>,
) -> Result<ScrubReport, StoreError> {
    yield_to_all();
    let bytes_per_second = shared.config.upkeep.scrub_bytes_per_second;
    let stopping = shared.upkeep.stopping.clone();
    let request = ScrubRequest { image, from, bytes_per_second, now: clock::now() };
    shared.images.scrub(&request, &|| stopping.load(Ordering::Relaxed))
}

/// For this thread: the processor and the disk when nobody else wants them. Where the kernel refuses, the rate limit holds.
fn yield_to_all() {
    let _ = rustix::process::setpriority_process(None, NICE);
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: ioprio_set(2) with three numbers, about this thread (0); it touches no memory.
    unsafe {
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE);
    }
}
