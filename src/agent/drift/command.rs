//! `regild-agent scan` and `regild-agent baseline`: by hand, and for tests.

use super::live::LiveTree;
use super::scan::{Found, Look, Scan, Summary};
use super::{priority, record, state};
use crate::clock;
use crate::decide::drift::path;
use crate::decide::drift::policy::Rule;
use crate::wire::baseline::{self, Header, Known, Origin, Volume};
use crate::wire::manifest;
use clap::Args;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

type Failed = Box<dyn std::error::Error>;

#[derive(Debug, Args)]
pub struct ScanOptions {
    /// The tree, as it lies under the running system's / (or under a place where it is mounted).
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// What it is compared with.
    #[arg(long, value_name = "FILE")]
    baseline: PathBuf,
    /// What the last scan found; it is replaced. Without it, all content is read.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Rules of the policy, as a JSON list. Without it, everything that differs is a finding.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Read all content, whether or not it is due.
    #[arg(long)]
    full: bool,
    /// Within which all content is read once.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    cycle_seconds: u64,
    /// Threads that read: 1 or 2.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    threads: u8,
    /// Behind everything else on the host.
    #[arg(long)]
    idle: bool,
    /// As if the clock stood there: what has its turn is measured, not waited for.
    #[arg(long, value_name = "UNIX_SECONDS", hide = true)]
    now: Option<u64>,
    /// Findings and summary as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct BaselineOptions {
    /// The tree.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A further volume of the image that is mounted in it, as /boot/efi. Can be given several times.
    #[arg(long = "mount", value_name = "PATH")]
    mounts: Vec<PathBuf>,
}

/// Prints what differs; false when something does.
///
/// # Errors
/// Nothing can be said of the tree: no baseline, no root, rules that mean nothing.
pub fn scan(options: &ScanOptions) -> Result<bool, Failed> {
    if options.idle {
        priority::idle()?;
    }
    let name = name_of(&options.baseline)?;
    let reader = baseline::Reader::new(open(&options.baseline)?)?;
    let rules = options.rules.as_deref().map(rules_of).transpose()?.unwrap_or_default();
    let declared = declared(&reader.header);
    let tree = LiveTree::new(&options.root, declared.iter().map(String::as_bytes))
        .map_err(|error| at(&options.root, error))?;
    let former = options.state.as_deref().and_then(state::Reader::open);
    let mut out = options.state.as_deref().map_or_else(state::Writer::none, state::Writer::create);
    let look = if options.full { Look::Full } else { Look::Due { cycle_seconds: options.cycle_seconds } };
    let threads = usize::from(options.threads);
    let now = options.now.unwrap_or_else(clock::now);
    let scan = Scan { tree: &tree, rules: &rules, look, now, baseline: &name, threads };
    let mut to = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let summary = scan.run(reader, former, &mut out, &mut |found| {
        if written.is_ok() {
            written = print(&mut to, found, options.json);
        }
    })?;
    written?;
    print_summary(&mut to, &summary, options.json)?;
    to.flush()?;
    Ok(summary.findings_total == 0)
}

/// Writes the baseline of a tree, and prints its digest.
///
/// # Errors
/// [`record::RecordError`], or the file cannot be written.
pub fn baseline(options: &BaselineOptions) -> Result<bool, Failed> {
    let mounts: Vec<&[u8]> = options.mounts.iter().map(|path| path.as_os_str().as_bytes()).collect();
    let tree = LiveTree::new(&options.root, mounts.iter().copied()).map_err(|error| at(&options.root, error))?;
    let volumes = [&b"/"[..]].into_iter().chain(mounts.iter().copied()).map(|path| Volume {
        partition: 0,
        format: "unknown".to_owned(),
        mounted_at: Some(String::from_utf8_lossy(path).into_owned()),
        known: Known::Files,
    });
    let now = clock::now();
    let origin = Origin::Host { id: String::new(), at: now };
    let header = Header { image: String::new(), origin, volumes: volumes.collect() };
    let file = File::create(&options.out).map_err(|error| at(&options.out, error))?;
    let (to, recorded) = record::record(&tree, &header, BufWriter::new(file), 2, now)?;
    to.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    println!(
        "{} {} entries, {} bytes read, {} mounts left out",
        manifest::to_hex(&recorded.digest),
        recorded.entries,
        recorded.read_bytes,
        recorded.closed
    );
    Ok(true)
}

/// Where the volumes are mounted whose files a baseline knows.
#[must_use]
pub fn declared(header: &Header) -> Vec<String> {
    let known = header.volumes.iter().filter(|volume| volume.known == Known::Files);
    known.filter_map(|volume| volume.mounted_at.clone()).collect()
}

fn name_of(path: &Path) -> Result<String, Failed> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut open(path)?, &mut hasher)?;
    Ok(manifest::to_hex(hasher.finalize().as_bytes()))
}

fn rules_of(path: &Path) -> Result<Vec<Rule>, Failed> {
    let words: Vec<crate::wire::drift::Rule> = serde_json::from_reader(open(path)?)?;
    Ok(words.iter().map(Rule::try_from).collect::<Result<_, _>>()?)
}

fn open(path: &Path) -> io::Result<BufReader<File>> {
    Ok(BufReader::new(File::open(path).map_err(|error| at(path, error))?))
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The most memory that this process had.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

fn print(to: &mut impl Write, found: &Found, json: bool) -> io::Result<()> {
    if json {
        let line = serde_json::json!({ "finding": found.to_words(), "left": found.left.to_string() });
        return writeln!(to, "{line}");
    }
    writeln!(to, "{:<16} {}", found.left.to_string(), path::to_text(&found.finding.path))
}

fn print_summary(to: &mut impl Write, summary: &Summary, json: bool) -> io::Result<()> {
    if json {
        let line = serde_json::json!({
            "scan": summary.scan,
            "findings_total": summary.findings_total,
            "gaps": summary.gaps,
            "gaps_total": summary.gaps_total,
            "files_read": summary.files_read,
            "changing": summary.changing,
            "clock_set_back": summary.clock_set_back,
            "state_lost": summary.state_lost,
            "peak_bytes": peak_bytes(),
        });
        return writeln!(to, "{line}");
    }
    for gap in &summary.gaps {
        writeln!(to, "not looked at    {}: {}", path::to_text(&gap.path.0), gap.reason)?;
    }
    let listed = summary.gaps.len() as u64;
    if summary.gaps_total > listed {
        writeln!(to, "not looked at    {} more places", summary.gaps_total - listed)?;
    }
    if summary.clock_set_back {
        writeln!(to, "the clock stands before the last scan: content with times after it was read again")?;
    }
    if let Some(lost) = &summary.state_lost {
        writeln!(to, "the state could not be kept: {lost}")?;
    }
    let scan = &summary.scan;
    writeln!(
        to,
        "{} paths, {} files read ({} bytes), {} differ",
        scan.paths, summary.files_read, scan.read_bytes, summary.findings_total
    )
}
