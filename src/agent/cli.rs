//! The agent's commands: `deploy`, in the installed system `standby` and `watch`, and by hand on a file or a block
//! device `write` and `verify`, on a tree of files `scan` and `baseline`.
//!
//! With `--json` standard output has one object a line: progress about once a second (as in the reports to the
//! server), and at the end what was done: for `write` `{"done": true, ...}`, for `verify` `{"right": ..., ...}`.
//! Errors go to standard error, one cause a line. Exit status 0 done, 1 failed (`verify`: different), 2 wrong usage.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use super::drift::command;
use super::http_source::HttpSource;
use super::outside;
use super::standby;
use super::watch;
use super::write::{self, Observer, Outcome, Verified, WriteError, WriteOptions, verify_image, write_image};
use crate::clock;
use crate::wire::agent::{Progress, Step};
use crate::wire::manifest::Manifest;
use crate::wire::reference::ImageRef;

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Puts golden images onto disks.
#[derive(Debug, Parser)]
#[command(name = "regild-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// In the deploy environment: carry out the order on the kernel command line.
    Deploy,
    /// In the deploy environment: look at the host's disk from outside, as the kernel command line says. Writes nothing.
    VerifyHost,
    /// Look at a disk or a file that is not in use as `verify-host` does. Writes nothing.
    VerifyFiles(outside::command::Options),
    /// Write the baseline of a disk that was just written with an image. Writes nothing to the disk.
    RecordFiles(outside::command::RecordOptions),
    /// In the installed system, as a service: say that it runs, and reboot into the network when an order is open.
    Standby(standby::Options),
    /// In the installed system, as a service: compare it with its golden image, and report what differs.
    Watch(watch::Options),
    /// Write an image onto a disk or into a file, in place. WHAT IS ON IT IS LOST.
    Write {
        #[command(flatten)]
        image: Image,
        /// NAME:VERSION that is on it now: what of it the new image has, too, is not fetched.
        #[arg(long, value_name = "REF")]
        seed_image: Option<ImageRef>,
    },
    /// Compare the files of a running system with the baseline of its image. Changes nothing.
    Scan(command::ScanOptions),
    /// Write the baseline of a tree of files.
    Baseline(command::BaselineOptions),
    /// Compare a disk or a file with an image. Writes nothing.
    Verify {
        #[command(flatten)]
        image: Image,
    },
}

#[derive(Debug, Args)]
pub struct Image {
    /// http://IP:PORT of the server.
    #[arg(long, env = "REGILD_SERVER", value_name = "URL")]
    server: String,
    /// NAME:VERSION
    #[arg(long = "image", value_name = "REF")]
    name: ImageRef,
    /// A block device, or a file that is at least as long as the image.
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
    /// How long a server that does not answer is asked again.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience_seconds: u64,
    /// Progress and summary as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// Runs a command; false when a comparison found differences.
///
/// # Errors
/// Anything that kept the image from the disk, outermost cause first.
pub fn run(command: &Command) -> Result<bool, Box<dyn std::error::Error>> {
    match command {
        Command::Deploy => Ok(super::deploy::run().map(|()| true)?),
        Command::VerifyHost => Ok(outside::run().map(|()| true)?),
        Command::VerifyFiles(options) => outside::command::run(options),
        Command::RecordFiles(options) => outside::command::record(options),
        Command::Standby(options) => standby::run(options),
        Command::Watch(options) => Ok(watch::run(options).map(|()| true)?),
        Command::Scan(options) => command::scan(options),
        Command::Baseline(options) => command::baseline(options),
        Command::Write { image, seed_image } => Ok(write(image, seed_image.as_ref())?),
        Command::Verify { image } => Ok(verify(image)?),
    }
}

fn write(image: &Image, seed: Option<&ImageRef>) -> Result<bool, WriteError> {
    #[derive(Serialize)]
    struct Done {
        done: bool,
        #[serde(flatten)]
        outcome: Outcome,
        seconds: f64,
    }
    let source = HttpSource::new(&image.server);
    let lines = Lines::new(image.json);
    let began = clock::instant();
    let manifest = manifest_of(&source, &image.name, image, &lines)?;
    let seed = seed.map(|seed| manifest_of(&source, seed, image, &lines)).transpose()?;
    let options = WriteOptions { seed, expected: None, patience: image.patience() };
    let outcome = write_image(&source, &manifest, &image.target, &options, &lines)?;
    let seconds = began.elapsed().as_secs_f64();
    let (name, target) = (&image.name, image.target.display());
    if image.json {
        print_json(&Done { done: true, outcome, seconds });
    } else if outcome.already_there {
        println!("{name} is on {target} already");
    } else {
        println!(
            "{name} is on {target}: {} bytes written, {} kept, {} fetched, {seconds:.1} s",
            outcome.written_bytes, outcome.kept_bytes, outcome.fetched_bytes,
        );
    }
    Ok(true)
}

fn verify(image: &Image) -> Result<bool, WriteError> {
    #[derive(Serialize)]
    struct Found {
        right: bool,
        #[serde(flatten)]
        verified: Verified,
        seconds: f64,
    }
    let source = HttpSource::new(&image.server);
    let lines = Lines::new(image.json);
    let began = clock::instant();
    let manifest = manifest_of(&source, &image.name, image, &lines)?;
    let options = WriteOptions { patience: image.patience(), ..WriteOptions::default() };
    let verified = verify_image(&source, &manifest, &image.target, &options, &lines)?;
    let (right, seconds) = (verified.is_right(), began.elapsed().as_secs_f64());
    let (name, target) = (&image.name, image.target.display());
    if image.json {
        print_json(&Found { right, verified, seconds });
    } else if right {
        println!("{target} holds {name}");
    } else {
        println!(
            "{target} differs from {name}: boot area {}, {} extents ({} bytes) and {} holes wrong",
            if verified.boot_area_right { "right" } else { "wrong" },
            verified.wrong_extents,
            verified.wrong_bytes,
            verified.wrong_holes
        );
    }
    Ok(right)
}

impl Image {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_seconds)
    }
}

fn manifest_of(source: &HttpSource, name: &ImageRef, image: &Image, lines: &Lines) -> Result<Manifest, WriteError> {
    let digest = write::resolve(source, name, image.patience(), lines)?;
    write::fetch_manifest(source, &digest, image.patience(), lines)
}

fn print_json(line: &impl Serialize) {
    // Numbers and booleans always have a JSON form.
    if let Ok(line) = serde_json::to_string(line) {
        println!("{line}");
    }
}

/// Progress on standard error for people, on standard output as JSON for programs.
struct Lines {
    json: bool,
    last: Mutex<Instant>,
}

impl Lines {
    fn new(json: bool) -> Lines {
        Lines { json, last: Mutex::new(clock::instant()) }
    }
}

impl Observer for Lines {
    fn step(&self, step: Step) {
        if !self.json {
            eprintln!("{step:?}");
        }
    }

    fn progress(&self, progress: Progress) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < PROGRESS_EVERY {
            return;
        }
        *last = clock::instant();
        if self.json {
            print_json(&progress);
        } else {
            let (done, total) = (progress.done_bytes >> 20, progress.total_bytes >> 20);
            eprintln!("  {done} of {total} MiB, {} MiB fetched", progress.fetched_bytes >> 20);
        }
    }

    /// Nobody stops a command but by ending it.
    fn may_go_on(&self) -> bool {
        true
    }
}
