//! `regild-agent write` and `verify`: the write path by hand, on a file or a block device.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::http_source::HttpSource;
use super::source::{self, GaveUp, ImageSource};
use super::write::{Observer, WriteOptions, verify_image, write_image};
use crate::clock;
use crate::wire::agent::{Progress, Step};
use crate::wire::manifest::Manifest;
use crate::wire::reference::ImageRef;

/// How long a server that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

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
    /// Write an image onto a disk or into a file, in place.
    Write {
        #[command(flatten)]
        image: Image,
        /// NAME:VERSION that was on it before: what of it is still in its place is not fetched.
        #[arg(long, value_name = "REF")]
        seed_image: Option<ImageRef>,
    },
    /// Compare a disk or a file with an image.
    Verify {
        #[command(flatten)]
        image: Image,
    },
}

#[derive(Debug, Args)]
pub struct Image {
    /// http://IP:PORT of the server.
    #[arg(long)]
    server: String,
    /// NAME:VERSION
    #[arg(long = "image", value_name = "REF")]
    name: ImageRef,
    /// A block device, or a file that is at least as long as the image.
    #[arg(long)]
    target: PathBuf,
    /// Progress and summary as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// Runs `write` or `verify`; false when a comparison found differences.
///
/// # Errors
/// Anything that kept the image from the disk, outermost cause first.
pub fn run(command: &Command) -> Result<bool, Box<dyn std::error::Error>> {
    match command {
        Command::Deploy => super::deploy::run().map(|()| true).map_err(Into::into),
        Command::Write { image, seed_image } => write(image, seed_image.as_ref()),
        Command::Verify { image } => verify(image),
    }
}

fn write(image: &Image, seed: Option<&ImageRef>) -> Result<bool, Box<dyn std::error::Error>> {
    let source = HttpSource::new(&image.server);
    let manifest = manifest_of(&source, &image.name)?;
    let seed = seed.map(|seed| manifest_of(&source, seed)).transpose()?;
    let options = WriteOptions { patience: PATIENCE, expected: None, seed };
    let began = clock::instant();
    let outcome = write_image(&source, &manifest, &image.target, &options, &Lines { json: image.json })?;
    let seconds = began.elapsed().as_secs_f64();
    if image.json {
        println!(
            "{{\"done\":true,\"already_there\":{},\"written_bytes\":{},\"kept_bytes\":{},\"fetched_bytes\":{},\
             \"direct\":{},\"seconds\":{seconds:.3}}}",
            outcome.already_there, outcome.written_bytes, outcome.kept_bytes, outcome.fetched_bytes, outcome.direct
        );
    } else if outcome.already_there {
        println!("{} is on {} already", image.name, image.target.display());
    } else {
        println!(
            "{} is on {}: {} bytes written, {} kept, {} fetched, {seconds:.1} s",
            image.name,
            image.target.display(),
            outcome.written_bytes,
            outcome.kept_bytes,
            outcome.fetched_bytes
        );
    }
    Ok(true)
}

fn verify(image: &Image) -> Result<bool, Box<dyn std::error::Error>> {
    let source = HttpSource::new(&image.server);
    let manifest = manifest_of(&source, &image.name)?;
    let options = WriteOptions { patience: PATIENCE, expected: None, seed: None };
    let found = verify_image(&source, &manifest, &image.target, &options, &Lines { json: image.json })?;
    if image.json {
        println!(
            "{{\"right\":{},\"boot_area_right\":{},\"wrong_extents\":{},\"wrong_holes\":{},\"direct\":{}}}",
            found.is_right(),
            found.boot_area_right,
            found.wrong_extents,
            found.wrong_holes,
            found.direct
        );
    } else if found.is_right() {
        println!("{} holds {}", image.target.display(), image.name);
    } else {
        println!(
            "{} differs from {}: boot area {}, {} extents and {} holes wrong",
            image.target.display(),
            image.name,
            if found.boot_area_right { "right" } else { "wrong" },
            found.wrong_extents,
            found.wrong_holes
        );
    }
    Ok(found.is_right())
}

fn manifest_of(source: &HttpSource, image: &ImageRef) -> Result<Manifest, Box<dyn std::error::Error>> {
    let digest = patiently(|| source.resolve(image))?;
    let encoded = patiently(|| source.manifest(&digest))?;
    Ok(Manifest::decode(&encoded, Some(&digest))?)
}

fn patiently<T>(question: impl Fn() -> Result<T, super::SourceError>) -> Result<T, super::SourceError> {
    match source::ask(PATIENCE, &|| false, question) {
        Ok(answer) => Ok(answer),
        Err(GaveUp::Failed(error)) => Err(error),
        // Nobody stops a command but by ending it.
        Err(GaveUp::Stopped) => Err(super::SourceError::Status { url: String::new(), status: 499 }),
    }
}

/// Progress on standard error for people, on standard output as JSON for programs.
struct Lines {
    json: bool,
}

impl Observer for Lines {
    fn step(&self, step: Step) {
        if !self.json {
            eprintln!("{step:?}");
        }
    }

    fn progress(&self, progress: Progress) {
        if self.json
            && let Ok(line) = serde_json::to_string(&progress)
        {
            println!("{line}");
        }
    }

    fn may_go_on(&self) -> bool {
        true
    }
}
