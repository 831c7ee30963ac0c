//! `regild rollout`: the change of many hosts by waves.

use super::Failure;
use super::client::Client;
use super::output::{self, Output};
use crate::wire::operator::{ByAndWhy, Rollout, RolloutStarted, StartRollout};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Plan a rollout and begin it: the canary first, then wave after wave, each behind a health gate.
    Start(Start),
    /// All rollouts.
    List {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// One rollout: its plan, where it stands, what it waits for.
    Show {
        number: u64,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Ask no further host; what runs goes on.
    Pause(Word),
    /// Go on after a pause, or after a halt whose reason was looked into.
    Resume(Word),
    /// End it where it is.
    Abort(Word),
    /// Plan the way back: each host that it rewrote gets what it ran before, by waves of its own.
    Undo {
        number: u64,
        #[command(flatten)]
        waves: Waves,
    },
}

#[derive(Debug, Args)]
pub struct Start {
    /// Hosts of this group; short for --select group=G.
    #[arg(long, conflicts_with = "select", required_unless_present = "select")]
    group: Option<String>,
    /// Hosts by what they are: `group=web,rack=12`, or `all`.
    #[arg(long)]
    select: Option<String>,
    /// NAME:VERSION
    #[arg(long)]
    image: String,
    #[command(flatten)]
    waves: Waves,
}

#[derive(Debug, Args)]
pub struct Waves {
    #[arg(long)]
    reason: String,
    /// Hosts of the first wave.
    #[arg(long, default_value_t = 1)]
    canary: u32,
    /// Sizes of the waves after it, counts or percents, the last one repeated.
    #[arg(long, value_delimiter = ',', default_value = "10%,25%")]
    waves: Vec<String>,
    /// The label over which waves are spread.
    #[arg(long, default_value = "rack")]
    spread: String,
    /// At most this share of the hosts of one rack in one wave.
    #[arg(long, default_value_t = 50)]
    spread_percent: u32,
    /// Hosts that may fail; one more halts it.
    #[arg(long, default_value_t = 0)]
    failures_max: u32,
    /// How long a wave must stay healthy; without it as the groups say.
    #[arg(long)]
    soak_seconds: Option<u64>,
    /// A health check: GET of this URL answers 2xx; {address} and {name} are the host's.
    #[arg(long)]
    check_url: Option<String>,
    /// How many hosts the selector must match; needed above the fleet's threshold.
    #[arg(long)]
    expect_count: Option<usize>,
    /// Show which host would be rewritten when, in which order, with how many bytes; start nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Word {
    number: u64,
    #[arg(long)]
    reason: String,
}

pub fn run(command: RolloutCommand, server: &str) -> Result<(), Failure> {
    let client = Client::new(server)?;
    let word = |verb: &str, word: Word| {
        let body = ByAndWhy { by: super::operator(), reason: word.reason };
        client.order(&format!("/v1/rollouts/{}/{verb}", word.number), &body)
    };
    match command {
        RolloutCommand::Start(Start { group, select, image, waves }) => {
            let select = select.or_else(|| group.map(|group| format!("group={group}"))).unwrap_or_default();
            start(&client, ask(waves, select, Some(image), None))
        }
        RolloutCommand::Undo { number, waves } => {
            let undone: Rollout = client.get(&format!("/v1/rollouts/{number}"))?;
            start(&client, ask(waves, undone.selector, None, Some(number)))
        }
        RolloutCommand::List { output } => list(output, &client.get("/v1/rollouts")?),
        RolloutCommand::Show { number, output } => show(output, &client.get(&format!("/v1/rollouts/{number}"))?),
        RolloutCommand::Pause(said) => word("pause", said),
        RolloutCommand::Resume(said) => word("resume", said),
        RolloutCommand::Abort(said) => word("abort", said),
    }
}

fn ask(waves: Waves, select: String, image: Option<String>, undo: Option<u64>) -> StartRollout {
    StartRollout {
        select,
        image,
        undo,
        by: super::operator(),
        reason: waves.reason,
        canary: waves.canary,
        waves: waves.waves,
        spread: waves.spread,
        spread_percent: waves.spread_percent,
        failures_max: waves.failures_max,
        soak_seconds: waves.soak_seconds,
        check_url: waves.check_url,
        expect_count: waves.expect_count,
        dry_run: waves.dry_run,
    }
}

fn start(client: &Client, asked: StartRollout) -> Result<(), Failure> {
    let done: RolloutStarted = client.post("/v1/rollouts", &asked)?;
    started(&done, asked.dry_run);
    Ok(())
}

/// What became of a plan.
pub(super) fn started(done: &RolloutStarted, dry_run: bool) {
    print!("{}", done.text);
    match (done.number, done.proposal) {
        (Some(number), _) => println!("rollout {number} has begun; `regild rollout show {number}` follows it"),
        (None, Some(number)) => {
            println!("a second person must confirm this within a day: regild proposal confirm {number}");
        }
        (None, None) if dry_run => println!("this was a dry run; nothing was started"),
        (None, None) => println!("there is nothing to do"),
    }
}

fn list(output: Output, all: &Vec<Rollout>) -> Result<(), Failure> {
    let row = |one: &Rollout| {
        let wave = format!("{}/{}", one.wave, one.waves);
        let hosts = format!("{} of {}, {} failed", one.healthy, one.hosts, one.failed);
        let stage = if one.detail.is_empty() { one.stage.clone() } else { format!("{} ({})", one.stage, one.detail) };
        vec![one.number.to_string(), one.goal.clone(), one.selector.clone(), stage, wave, hosts, one.by.clone()]
    };
    let head = ["NUMBER", "GOAL", "HOSTS", "STAGE", "WAVE", "HEALTHY", "BY"];
    output::print(output, all, &head, all.iter().map(row).collect())
}

fn show(output: Output, one: &Rollout) -> Result<(), Failure> {
    if matches!(output, Output::Json) {
        return output::print(output, one, &[], Vec::new());
    }
    print!("{}", one.plan.as_deref().unwrap_or_default());
    println!("{}, wave {} of {}: {} healthy, {} failed", one.stage, one.wave, one.waves, one.healthy, one.failed);
    if !one.detail.is_empty() {
        println!("{}", one.detail);
    }
    one.waits.iter().for_each(|line| println!("waits: {line}"));
    Ok(())
}
