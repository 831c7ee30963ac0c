//! `regild ledger`: which machine was ordered what and ran what, since when, why, by whom, and what before.

use super::Failure;
use super::client::{Client, segment};
use super::output::{self, Output};
use crate::wire::ledger::{HostAt, Line, Tip};
use clap::{Args, Subcommand, ValueEnum};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// The newest entries: orders that were opened, and what disks held from then on.
    List {
        #[command(flatten)]
        which: Which,
        /// How many, the newest; still oldest first.
        #[arg(long, default_value_t = 50)]
        newest: usize,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// All entries, for other programs, as they are read.
    Export {
        #[command(flatten)]
        which: Which,
        #[arg(long, value_enum, default_value = "jsonl")]
        form: Form,
        /// Into this file, which must not be there yet; without it to standard output.
        file: Option<PathBuf>,
    },
    /// The line to note elsewhere, daily: with it `verify` also shows a ledger that was rewritten as a whole.
    Tip,
    /// Read all of it: no entry was changed, cut out or put in.
    Verify {
        /// A line of `ledger tip` that was noted elsewhere.
        #[arg(long)]
        tip: Option<String>,
    },
}

/// Which entries; all that is given must hold.
#[derive(Debug, Args)]
pub struct Which {
    /// A MAC, a host name or the host id; also of a host that was removed.
    #[arg(long)]
    host: Option<String>,
    /// NAME:VERSION (or the digest of its manifest) that was ordered or ran.
    #[arg(long)]
    image: Option<String>,
    /// operator, rollout, `rollout 7`, schedule, max_age, drift, channel, image_deprecated, image_blocked
    #[arg(long)]
    cause: Option<String>,
    /// ordered or runs
    #[arg(long)]
    kind: Option<String>,
    /// From this time on, like 2026-03-01 or 2026-03-01T12:00:00Z.
    #[arg(long)]
    from: Option<String>,
    /// Up to this time.
    #[arg(long)]
    to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// One JSON object a line.
    Jsonl,
    /// With a header, for spreadsheets.
    Csv,
}

pub fn run(command: LedgerCommand, server: &str) -> Result<(), Failure> {
    let client = Client::new(server)?;
    match command {
        LedgerCommand::List { which, newest, output } => {
            let mut lines = Vec::new();
            let path = format!("{}&newest={newest}", path(&which, Form::Jsonl));
            client.stream(&path, |piece| {
                lines.extend_from_slice(piece);
                Ok(())
            })?;
            let lines: Vec<Line> =
                serde_json::Deserializer::from_slice(&lines).into_iter().collect::<Result<_, _>>()?;
            list(output, &lines)
        }
        LedgerCommand::Export { which, form, file } => export(&client, &path(&which, form), file),
        LedgerCommand::Tip => {
            let tip: Tip = client.get("/v1/ledger/tip")?;
            println!("{}", tip.tip);
            Ok(())
        }
        LedgerCommand::Verify { tip } => {
            let tip = tip.map(|tip| format!("?tip={}", segment(tip.trim()))).unwrap_or_default();
            let verified: Tip = client.post(&format!("/v1/ledger/verify{tip}"), &())?;
            println!("the ledger is what was written, up to {}", verified.tip);
            Ok(())
        }
    }
}

fn path(which: &Which, form: Form) -> String {
    let form = if form == Form::Csv { "csv" } else { "jsonl" };
    let Which { host, image, cause, kind, from, to } = which;
    let filters = [("host", host), ("image", image), ("cause", cause), ("kind", kind), ("from", from), ("to", to)];
    let given =
        filters.iter().filter_map(|(key, value)| value.as_ref().map(|value| format!("&{key}={}", segment(value))));
    format!("/v1/ledger?form={form}{}", given.collect::<String>())
}

/// Into a new file: an export that was cut must not stand in the place of a whole one.
fn export(client: &Client, path: &str, file: Option<PathBuf>) -> Result<(), Failure> {
    let Some(file) = file else {
        let mut out = io::stdout().lock();
        client.stream(path, |piece| Ok(out.write_all(piece)?))?;
        return Ok(out.flush()?);
    };
    let mut out = File::create_new(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let done = client.stream(path, |piece| Ok(out.write_all(piece)?)).and_then(|()| Ok(out.sync_all()?));
    done.inspect_err(|_| {
        // Ours, and half of what was asked for; what went wrong is said by the error.
        let _ = std::fs::remove_file(&file);
    })
}

fn list(output: Output, lines: &Vec<Line>) -> Result<(), Failure> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_string());
    let row = |line: &Line| {
        let (number, causes) = (line.number.to_string(), line.causes.join(", "));
        let (image, former) = (text(&line.image), text(&line.former));
        let (host, kind) = (line.host.clone(), line.kind.clone());
        vec![number, line.time.clone(), host, kind, image, former, causes, line.by.clone(), line.reason.clone()]
    };
    let head = ["NUMBER", "TIME", "HOST", "KIND", "IMAGE", "BEFORE", "CAUSES", "BY", "REASON"];
    output::print(output, lines, &head, lines.iter().map(row).collect())
}

/// `regild host list --at`.
pub fn at(client: &Client, time: &str, output: Output) -> Result<(), Failure> {
    let hosts: Vec<HostAt> = client.get(&format!("/v1/ledger/at?time={}", segment(time)))?;
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_string());
    let row = |host: &HostAt| {
        let (causes, generation) = (host.causes.join(", "), host.generation.to_string());
        let (reported, since) = (host.reported.clone(), output::time(host.since));
        let (by, former) = (host.by.clone(), text(&host.former));
        vec![host.id.clone(), text(&host.name), host.macs.join(","), reported, since, generation, causes, by, former]
    };
    let head = ["ID", "NAME", "MACS", "REPORTED", "SINCE", "GENERATION", "CAUSES", "BY", "BEFORE"];
    output::print(output, &hosts, &head, hosts.iter().map(row).collect())
}
