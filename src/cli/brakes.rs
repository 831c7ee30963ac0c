//! `regild stop`, `resume`, `brakes` and `breaker reset`.

use super::Failure;
use super::client::Client;
use super::output::{self, Output};
use crate::clock;
use crate::http::peer::Operator;
use crate::registry::stop::{Stop, StopSwitch};
use crate::wire::operator::{Brakes, ByAndWhy, StopAsked};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct StopArgs {
    /// Why; everybody who waits is told.
    #[arg(long)]
    reason: String,
    /// Also stop agents that are at work, at their next report. Their disks do not boot until the order is done.
    #[arg(long)]
    running_too: bool,
    /// When the server does not answer: its state directory, in which the stop file is made directly.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum BreakerCommand {
    /// Close the fleet breaker, after looking at what made it trip.
    Reset {
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum ClockCommand {
    /// The time is right now: schedules go on from here, and nothing before is due.
    Accept {
        #[arg(long)]
        reason: String,
    },
}

pub fn clock(command: ClockCommand, server: &str) -> Result<(), Failure> {
    let ClockCommand::Accept { reason } = command;
    Client::new(server)?.order("/v1/clock/accept", &ByAndWhy { by: super::operator(), reason })?;
    println!("schedules go on from now");
    Ok(())
}

pub fn stop(args: StopArgs, server: &str) -> Result<(), Failure> {
    let by = super::operator();
    if let Some(dir) = args.state_dir {
        // Without the server nobody else says who this is.
        let by = Operator::of_uid(rustix::process::getuid().as_raw()).called(&by).map_err(|problem| problem.error)?;
        let stop = Stop { by, reason: args.reason, at: clock::now(), running_too: args.running_too };
        StopSwitch::new(&dir).press(&stop)?;
    } else {
        let body = StopAsked { by, reason: args.reason, running_too: args.running_too };
        Client::new(server)?.order("/v1/stop", &body)?;
    }
    println!("stopped: no order is opened and none that waits begins until `regild resume`");
    Ok(())
}

pub fn resume(reason: String, server: &str) -> Result<(), Failure> {
    Client::new(server)?.order("/v1/resume", &ByAndWhy { by: super::operator(), reason })?;
    println!("resumed");
    Ok(())
}

pub fn breaker(command: BreakerCommand, server: &str) -> Result<(), Failure> {
    let BreakerCommand::Reset { reason } = command;
    Client::new(server)?.order("/v1/breaker/reset", &ByAndWhy { by: super::operator(), reason })?;
    println!("the fleet breaker is closed again");
    Ok(())
}

pub fn show(output: Output, server: &str) -> Result<(), Failure> {
    let brakes: Brakes = Client::new(server)?.get("/v1/brakes")?;
    let stopped = brakes.stopped.as_ref().map(|stop| {
        let running = if stop.running_too { ", agents too" } else { "" };
        format!("since {} by {}: {}{running}", output::time(stop.at), stop.by, stop.reason)
    });
    let tripped = brakes.tripped.as_ref().map(|trip| format!("since {}: {}", output::time(trip.at), trip.reason));
    let clock = brakes.clock_held.map(|by| format!("jumped by {by} s; schedules are held until `regild clock accept`"));
    let rows = vec![
        vec!["stopped".to_string(), stopped.unwrap_or_else(|| "no".to_string())],
        vec!["breaker".to_string(), tripped.unwrap_or_else(|| "closed".to_string())],
        vec!["clock".to_string(), clock.unwrap_or_else(|| "steady".to_string())],
        vec!["open orders".to_string(), brakes.open.to_string()],
        vec!["hosts that wait".to_string(), brakes.waiting.to_string()],
    ];
    output::print(output, &brakes, &[], rows)
}
