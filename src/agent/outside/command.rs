//! `regild-agent verify-files`: by hand and for tests, what the deploy environment does. Of a disk that is in use it tells
//! nothing reliable.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::call;
use super::disk::ReadOnlyDisk;
use super::record::{self, Subject};
use crate::agent::http_source::HttpSource;
use crate::agent::source::ImageSource;
use crate::decide::drift::path;
use crate::wire::drift::{Report, Rule, Terms};
use crate::wire::manifest;
use crate::wire::reference::ImageRef;

#[derive(Debug, Args)]
pub struct Options {
    /// http://IP:PORT of the server.
    #[arg(long, env = "REGILD_SERVER", value_name = "URL")]
    server: String,
    /// NAME:VERSION that should be on it.
    #[arg(long, value_name = "REF")]
    image: ImageRef,
    /// A block device that nobody uses, or a file.
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
    /// Digest of its baseline. Without it only what lies outside of file systems is compared.
    #[arg(long, value_name = "DIGEST")]
    baseline: Option<String>,
    /// Rules of the policy, as a JSON list. Without it, everything that differs is a finding.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Where file systems may be mounted read-only that only the kernel reads. Without it, they are not looked into.
    #[arg(long, value_name = "DIR")]
    mounts: Option<PathBuf>,
    /// The report, as the server would get it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct RecordOptions {
    /// http://IP:PORT of the server.
    #[arg(long, env = "REGILD_SERVER", value_name = "URL")]
    server: String,
    /// NAME:VERSION that is on it, as it was written.
    #[arg(long, value_name = "REF")]
    image: ImageRef,
    /// A block device that nobody uses; for an image of ext4 and FAT alone, a file too.
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
    /// Where file systems may be mounted read-only that only the kernel reads.
    #[arg(long, value_name = "DIR")]
    mounts: PathBuf,
    /// Which host the baseline is to name.
    #[arg(long, value_name = "ID", default_value = "by-hand")]
    host: String,
    /// Replaced.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the baseline of a disk that was just written, as the deploy environment does where the server cannot.
///
/// # Errors
/// There is none.
pub fn record(options: &RecordOptions) -> Result<bool, Box<dyn std::error::Error>> {
    let source = HttpSource::new(&options.server);
    let image = source.resolve(&options.image)?;
    let manifest = call::manifest_of(&source, &image)?;
    let disk = ReadOnlyDisk::open(&options.target)?;
    let (host, mounts) = (options.host.as_str(), options.mounts.as_path());
    let subject = Subject { manifest: &manifest, image: &image, host, disk: &disk, mounts };
    let made = record::make(subject, File::create(&options.out)?)?;
    made.list.sync_all()?;
    println!("{} {} entries", manifest::to_hex(&made.digest), made.entries);
    Ok(true)
}

/// Prints what differs; false when something does.
///
/// # Errors
/// Nothing can be said of it.
pub fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let source = HttpSource::new(&options.server);
    let rules: Vec<Rule> = match &options.rules {
        Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
        None => Vec::new(),
    };
    let terms = Terms {
        host: String::new(),
        generation: 0,
        image: options.image.to_string(),
        manifest: source.resolve(&options.image)?,
        baseline: options.baseline.clone(),
        reason: "no baseline was named".to_owned(),
        key: None,
        sequence: 0,
        policy: String::new(),
        rules,
        scan_seconds: 0,
        cycle_seconds: 0,
        report_seconds: 0,
    };
    let disk = ReadOnlyDisk::open(&options.target)?;
    let report = call::compare(&source, &terms, &disk, options.mounts.as_deref())?;
    print(&report, options.json)?;
    Ok(report.findings_total == 0)
}

fn print(report: &Report, json: bool) -> std::io::Result<()> {
    let mut to = std::io::stdout().lock();
    if json {
        let line = serde_json::to_string(report)?;
        return writeln!(to, "{line}");
    }
    for finding in &report.findings {
        let sides = match (&finding.expected, &finding.seen) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "differs",
        };
        writeln!(to, "{sides:<10} {}", path::to_text(&finding.path.0))?;
    }
    for gap in &report.gaps {
        writeln!(to, "not looked at {}: {}", path::to_text(&gap.path.0), gap.reason)?;
    }
    writeln!(to, "{} paths, {} bytes read, {} differ", report.scan.paths, report.scan.read_bytes, report.findings_total)
}
