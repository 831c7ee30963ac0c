//! The agent's commands for people and scripts: `write` and `verify`.
//!
//! With `--json` standard output has one object a line: `{"step": ...}`, `{"progress": ...}` about once a second,
//! and one `{"done": ...}` at the end. Errors go to standard error, one cause a line. Exit status 0 done, 1
//! failed (for `verify`: different), 2 wrong usage.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use clap::Args;

use super::http_source::HttpSource;
use super::write::{self, Observer, WriteError, WriteOptions, verify_image, write_image};
use crate::clock;
use crate::wire::agent::{Progress, Step};
use crate::wire::reference::ImageRef;

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Write an image to a disk or a file, in place
#[derive(Debug, Args)]
pub struct WriteArgs {
    #[command(flatten)]
    which: Which,
    /// The image that the target holds now: what they share is not fetched
    #[arg(long, value_name = "NAME:VERSION")]
    seed_image: Option<ImageRef>,
}

/// Compare a disk or a file with an image; writes nothing
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// Base URL of the regild server, http://192.0.2.1:8080
    #[arg(long, env = "REGILD_SERVER", value_name = "URL")]
    server: String,
    /// The image
    #[arg(long, value_name = "NAME:VERSION")]
    image: ImageRef,
    /// Block device or file. ITS CONTENT IS LOST when writing
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
    /// How long to wait for a server that does not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience_seconds: u64,
    /// One JSON object a line on standard output
    #[arg(long)]
    json: bool,
}

impl WriteArgs {
    /// Runs the command; true when it succeeded.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn run(&self) -> Result<bool, WriteError> {
        let which = &self.which;
        let source = HttpSource::new(&which.server);
        let observer = Printer::new(which.json);
        let patience = Duration::from_secs(which.patience_seconds);
        let manifest_of = |image: &ImageRef| {
            let digest = write::resolve(&source, image, patience, &observer)?;
            write::fetch_manifest(&source, &digest, patience, &observer)
        };
        let manifest = manifest_of(&which.image)?;
        let options =
            WriteOptions { seed: self.seed_image.as_ref().map(manifest_of).transpose()?, expected: None, patience };
        let outcome = write_image(&source, &manifest, &which.target, &options, &observer)?;
        if which.json {
            println!("{}", serde_json::json!({ "done": outcome }));
        } else if outcome.already_there {
            println!("{} already holds {}: nothing was written", which.target.display(), which.image);
        } else {
            println!(
                "{} holds {}: {} MiB fetched, {} MiB written, {} MiB were there, {:.1} s",
                which.target.display(),
                which.image,
                outcome.fetched_bytes >> 20,
                outcome.written_bytes >> 20,
                outcome.skipped_bytes >> 20,
                outcome.elapsed_ms as f64 / 1000.0
            );
        }
        Ok(true)
    }
}

impl VerifyArgs {
    /// Runs the command; true when the target holds the image.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn run(&self) -> Result<bool, WriteError> {
        let which = &self.which;
        let source = HttpSource::new(&which.server);
        let observer = Printer::new(which.json);
        let options = WriteOptions { patience: Duration::from_secs(which.patience_seconds), ..WriteOptions::default() };
        let digest = write::resolve(&source, &which.image, options.patience, &observer)?;
        let manifest = write::fetch_manifest(&source, &digest, options.patience, &observer)?;
        let verified = verify_image(&source, &manifest, &which.target, &options, &observer)?;
        let (target, image) = (which.target.display(), &which.image);
        if which.json {
            println!("{}", serde_json::json!({ "done": verified }));
        } else if verified.is_right() {
            println!("{target} holds {image}");
        } else {
            println!(
                "{target} differs from {image}: head {}, {} extents ({} bytes) and {} holes of the body differ",
                if verified.head_right { "right" } else { "differs" },
                verified.wrong_extents,
                verified.wrong_bytes,
                verified.wrong_holes
            );
        }
        Ok(verified.is_right())
    }
}

/// Tells a terminal or a script how it goes; nobody stops a command but by a signal.
struct Printer {
    json: bool,
    last: Mutex<Instant>,
}

impl Printer {
    fn new(json: bool) -> Printer {
        Printer { json, last: Mutex::new(clock::instant()) }
    }
}

impl Observer for Printer {
    fn step(&self, step: Step) {
        if self.json {
            println!("{}", serde_json::json!({ "step": step }));
        } else {
            eprintln!("{step:?}");
        }
    }

    fn progress(&self, progress: Progress) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::instant();
        if now.duration_since(*last) < PROGRESS_EVERY {
            return;
        }
        *last = now;
        if self.json {
            println!("{}", serde_json::json!({ "progress": progress }));
        } else {
            let (done, total) = (progress.done_bytes >> 20, progress.total_bytes >> 20);
            eprintln!("  {done} of {total} MiB, {} MiB fetched", progress.fetched_bytes >> 20);
        }
    }

    fn may_go_on(&self) -> bool {
        true
    }
}
