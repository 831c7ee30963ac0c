//! `regild host`: machines and their orders.

use super::Failure;
use super::client::{Client, segment};
use super::output::{self, Output};
use crate::decide::span::span;
use crate::power::Written;
use crate::wire::operator::{Approve, Asked, HistoryLine, Hold, Host, Problem, ReimageMany, Release, WatchLine};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

/// ID is a MAC, a host name or the host id.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// All machines that were ever seen, and which image each runs; of several filters all must hold.
    #[command(disable_version_flag = true)]
    List {
        #[command(flatten)]
        filter: Filter,
        /// What each ran then instead, by the ledger: 2026-03-01 (the start of that day, UTC) or 2026-03-01T12:00:00Z.
        #[arg(long)]
        at: Option<String>,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// One machine: disks, open order, progress.
    Show {
        id: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Make a machine ours and order its first image: its disk is rewritten at the next netboot.
    Approve {
        id: String,
        /// NAME:VERSION
        #[arg(long)]
        image: String,
        #[command(flatten)]
        disk: ReleaseDisk,
    },
    /// Order a rebuild: the disk is rewritten at the next netboot.
    Reimage {
        #[arg(required_unless_present = "select")]
        ids: Vec<String>,
        /// Hosts by what they are instead: `group=compute,rack=12`, or `all`.
        #[arg(long, conflicts_with = "ids")]
        select: Option<String>,
        /// How many hosts that must be; needed above the fleet's threshold.
        #[arg(long)]
        expect_count: Option<usize>,
        /// NAME:VERSION; without it the image that is desired already.
        #[arg(long)]
        image: Option<String>,
        /// Why; kept in the history.
        #[arg(long)]
        reason: String,
        /// Names this one request: given twice (a script that tries again), it is done once.
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        disk: ReleaseDisk,
    },
    /// Have a disk compared with its image from outside, while its own system does not run. Nothing is written.
    Verify(super::verify::Verify),
    /// Exempt a machine: it boots its own disk, an open order is closed.
    Hold {
        id: String,
        #[arg(long)]
        reason: String,
        /// End of the hold, like 2026-03-01T12:00:00Z; without it: until released.
        #[arg(long)]
        until: Option<String>,
    },
    /// End a hold, or put a failed machine back to where an order can be opened.
    Release { id: String },
    /// How its power is reached: a TOML file with the keys of [host.power]; the password is sealed at once.
    Power {
        id: String,
        #[arg(short, long = "file")]
        file: PathBuf,
    },
    /// Forget a machine. Its history stays.
    Remove { id: String },
    /// What happens to a machine, or to all, as it happens (json: one object a line).
    Watch {
        id: Option<String>,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Everything that happened to a machine: when, why, by whom.
    History {
        id: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub struct Filter {
    /// Hosts by what they are: `group=compute,rack=12`, or `all`.
    #[arg(long)]
    select: Option<String>,
    /// Only hosts that do not get further: later than the deadline of their state, or with causes that wait.
    #[arg(long)]
    stuck: bool,
    /// NAME:VERSION that the host reported.
    #[arg(long, value_name = "NAME:VERSION")]
    version: Option<String>,
    /// Kind of a cause of the open order, or of one that waits: operator, rollout, schedule, max_age, ...
    #[arg(long, value_name = "KIND")]
    cause: Option<String>,
    /// ready, failed, held, queued, ...
    #[arg(long)]
    state: Option<String>,
}

impl Filter {
    /// The query string; an empty value goes along, so that the server refuses it.
    fn path(&self) -> String {
        let texts =
            [("select", &self.select), ("version", &self.version), ("cause", &self.cause), ("state", &self.state)];
        let text = |(key, value): (&str, &Option<String>)| Some(format!("{key}={}", segment(value.as_ref()?)));
        let mut parts: Vec<String> = texts.into_iter().filter_map(text).collect();
        parts.extend(self.stuck.then(|| "stuck=true".to_string()));
        if parts.is_empty() { "/v1/hosts".to_string() } else { format!("/v1/hosts?{}", parts.join("&")) }
    }
}

#[derive(Debug, Args)]
pub struct ReleaseDisk {
    /// The target disk holds something that regild did not write, and it may be overwritten.
    #[arg(long)]
    release_disk: bool,
}

pub fn run(command: HostCommand, server: &str) -> Result<(), Failure> {
    let client = Client::new(server)?;
    let path = |id: &str, verb: &str| format!("/v1/hosts/{}{verb}", segment(id));
    match command {
        HostCommand::List { at: Some(time), output, .. } => super::ledger::at(&client, &time, output),
        HostCommand::List { at: None, filter, output } => {
            // As it comes: that of a large fleet has hundreds of megabytes.
            if matches!(output, Output::Json) {
                return client.copy(&filter.path(), &mut std::io::stdout().lock());
            }
            let hosts = client.get(&filter.path())?;
            if filter.stuck { list_stuck(output, &hosts) } else { list(output, &hosts) }
        }
        HostCommand::Show { id, output } => show(output, &client.get(&path(&id, ""))?),
        HostCommand::Approve { id, image, disk } => {
            let body = Approve { image, by: super::operator(), release_disk: disk.release_disk };
            ordered(&client.post(&path(&id, "/approve"), &body)?);
            Ok(())
        }
        HostCommand::Reimage { ids, select, expect_count, image, reason, key, disk } => {
            let by = super::operator();
            let release_disk = disk.release_disk;
            let body = ReimageMany { select, ids, image, by, reason, release_disk, expect_count, key };
            asked(&client.post("/v1/reimage", &body)?)
        }
        HostCommand::Verify(verify) => super::verify::run(&client, verify),
        HostCommand::Hold { id, reason, until } => {
            let until = until.as_deref().map(end_of_hold).transpose()?;
            let host: Host = client.post(&path(&id, "/hold"), &Hold { by: super::operator(), reason, until })?;
            println!("{} is held", called(&host));
            Ok(())
        }
        HostCommand::Release { id } => {
            let host: Host = client.post(&path(&id, "/release"), &Release { by: super::operator() })?;
            println!("{} is {} again", called(&host), host.state);
            Ok(())
        }
        HostCommand::Power { id, file } => {
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let mut written: Written = toml::from_str(&text)?;
            let directory = file.parent().unwrap_or(Path::new("."));
            written.gather_password(|name| std::env::var(name).ok(), directory)?;
            let shown: Written = client.put_json(&path(&id, "/power"), &written.for_socket())?;
            print!("{}", toml::to_string(&shown)?);
            Ok(())
        }
        HostCommand::Remove { id } => client.delete(&path(&id, "")),
        HostCommand::Watch { id, output } => {
            let host = id.map(|id| format!("?host={}", segment(&id))).unwrap_or_default();
            client.follow(&format!("/v1/watch{host}"), |line| watched(output, line))
        }
        HostCommand::History { id, output } => history(output, &client.get(&path(&id, "/history"))?),
    }
}

fn ordered(host: &Host) {
    let image = host.desired.as_deref().unwrap_or("?");
    match (&host.order, &host.waits) {
        (None, Some(waits)) => println!("{}: asked for, and waits: {waits}", called(host)),
        _ => {
            let order = host.generation;
            println!("{}: order {order} is open for {image}; {}", called(host), how_it_comes(&host.power));
        }
    }
}

/// Who makes a machine boot over the network, for a host whose order waits for that.
fn how_it_comes(power: &str) -> String {
    match power {
        "agent" => "its installed agent reboots it when it next asks".to_string(),
        "manual" | "" => "it has no power driver: it is rebuilt when it next netboots".to_string(),
        driver => format!("it is made to netboot through {driver}"),
    }
}

/// What became of a request for many hosts. Fails when a host was refused.
pub(super) fn asked(done: &Asked) -> Result<(), Failure> {
    if let Some(number) = done.proposal {
        println!("a second person must confirm this within a day: regild proposal confirm {number}");
        return Ok(());
    }
    let mut refused = 0;
    for host in &done.hosts {
        let called = host.name.as_deref().unwrap_or(&host.id);
        match (host.order, &host.waits, &host.refused) {
            (_, _, Some(why)) => {
                refused += 1;
                eprintln!("regild: {called}: {why}");
            }
            (None, Some(waits), _) => println!("{called}: asked for, and waits: {waits}"),
            (None, None, _) => {
                println!("{called}: the request of this key was carried out before; no new order is open")
            }
            (Some(order), _, _) => {
                let image = host.image.as_deref().unwrap_or("?");
                println!("{called}: order {order} is open for {image}; {}", how_it_comes(&host.power));
            }
        }
    }
    if refused == 0 { Ok(()) } else { Err(format!("{refused} of {} hosts were refused", done.hosts.len()).into()) }
}

fn called(host: &Host) -> &str {
    host.name.as_deref().unwrap_or(&host.id)
}

fn end_of_hold(text: &str) -> Result<u64, Failure> {
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    let time = parsed.map_err(|_| format!("--until {text:?} is not a time like 2026-03-01T12:00:00Z"))?;
    u64::try_from(time.as_second()).map_err(|_| format!("--until {text:?} has passed").into())
}

fn list(output: Output, hosts: &Vec<Host>) -> Result<(), Failure> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_string());
    let row = |host: &Host| {
        let state =
            if host.detail.is_empty() { host.state.clone() } else { format!("{} ({})", host.state, host.detail) };
        let generation = format!("{}/{}", host.reported_generation, host.generation);
        let macs = host.macs.join(",");
        let (desired, reported) = (text(&host.desired), text(&host.reported));
        vec![host.id.clone(), text(&host.name), macs, state, desired, reported, generation, output::time(host.since)]
    };
    let head = ["ID", "NAME", "MACS", "STATE", "DESIRED", "REPORTED", "GENERATION", "SINCE"];
    output::print(output, hosts, &head, hosts.iter().map(row).collect())
}

/// What is missing stands last: it is as long as it is.
fn list_stuck(output: Output, hosts: &Vec<Host>) -> Result<(), Failure> {
    let row = |host: &Host| {
        let stuck = host.stuck.as_ref()?;
        let late = stuck.late_seconds.map_or_else(|| "-".to_string(), span);
        let name = host.name.clone().unwrap_or_else(|| "-".to_string());
        let (state, since) = (host.state.clone(), output::time(stuck.since));
        Some(vec![host.id.clone(), name, state, since, late, stuck.missing.clone()])
    };
    let head = ["ID", "NAME", "STATE", "SINCE", "LATE", "MISSING"];
    output::print(output, hosts, &head, hosts.iter().filter_map(row).collect())
}

fn show(output: Output, host: &Host) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![key.to_string(), value]);
        }
    };
    line("id", host.id.clone());
    line("name", host.name.clone().unwrap_or_default());
    line("macs", host.macs.join(" "));
    line("system uuid", host.system_uuid.clone().unwrap_or_default());
    line("serial", host.serial.clone().unwrap_or_default());
    line("group", host.group.clone());
    line("state", format!("{} {}", host.state, host.detail));
    line("since", output::time(host.since));
    line("desired", format!("{} (generation {})", host.desired.as_deref().unwrap_or("-"), host.generation));
    line("reported", format!("{} (generation {})", host.reported.as_deref().unwrap_or("-"), host.reported_generation));
    if let Some(order) = &host.order {
        let by = format!("by {}, {}", order.by, output::time(order.opened_at));
        line("order", format!("{}: {} ({by}), {} attempts", order.generation, order.reason, order.attempts));
    }
    line("blocked", host.order.as_ref().and_then(|order| order.blocked.clone()).unwrap_or_default());
    for cause in &host.asks {
        let image = cause.image.as_deref().unwrap_or("the desired image");
        line(
            "asked",
            format!("{} for {image}: {} (by {}, {})", cause.kind, cause.reason, cause.by, output::time(cause.at)),
        );
    }
    if let Some(verify) = &host.verify {
        super::verify::lines(verify, &mut line);
    }
    line("waits", host.waits.clone().unwrap_or_default());
    line("power", host.power.clone());
    line("agent heard", host.agent_heard_at.map(output::time).unwrap_or_default());
    if let Some(late) = host.stuck.as_ref().and_then(|stuck| stuck.late_seconds) {
        let missing = host.stuck.as_ref().map(|stuck| stuck.missing.as_str()).unwrap_or_default();
        line("late", format!("by {}: {missing}", span(late)));
    }
    line("labels", host.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","));
    if let Some(seen) = &host.progress {
        let (done, total) = (output::bytes(seen.progress.done_bytes), output::bytes(seen.progress.total_bytes));
        line("progress", format!("{done} of {total}, {}/s", output::bytes(seen.rate_bytes)));
    }
    for disk in &host.disks {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_string());
        let size = output::bytes(disk.size_bytes);
        let ids = format!("serial {} wwn {} model {}", text(&disk.serial), text(&disk.wwn), text(&disk.model));
        line(
            "disk",
            format!("{} {size} {} {ids}: {}", disk.name, disk.transport, disk.content.as_deref().unwrap_or("blank")),
        );
    }
    output::print(output, host, &[], rows)
}

/// One line of a watch. The last one of a watch that fell behind has nothing but `error`.
fn watched(output: Output, line: &[u8]) -> Result<(), Failure> {
    let Ok(seen) = serde_json::from_slice::<WatchLine>(line) else {
        return Err(serde_json::from_slice::<Problem>(line)?.error.into());
    };
    match output {
        Output::Json => print!("{}", String::from_utf8_lossy(line)),
        Output::Table => {
            let WatchLine { host, line } = seen;
            println!("{}  {host}  {} -> {}  {}  {}", output::time(line.at), line.from, line.to, line.actor, line.cause);
        }
    }
    Ok(())
}

fn history(output: Output, lines: &Vec<HistoryLine>) -> Result<(), Failure> {
    let row = |line: &HistoryLine| {
        let change = format!("{} -> {}", line.from, line.to);
        vec![output::time(line.at), line.generation.to_string(), change, line.actor.clone(), line.cause.clone()]
    };
    output::print(output, lines, &["TIME", "GENERATION", "CHANGE", "ACTOR", "CAUSE"], lines.iter().map(row).collect())
}
