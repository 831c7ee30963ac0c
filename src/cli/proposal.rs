//! `regild proposal`: requests that wait for a second person.

use super::Failure;
use super::client::Client;
use super::host::asked;
use super::output::{self, Output};
use super::rollout::started;
use crate::wire::operator::{Confirmed, Proposal, Release};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum ProposalCommand {
    /// What waits.
    List {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Be the second person: carry out a request that somebody else made.
    Confirm { number: u64 },
    /// Take away what nobody is to confirm any more.
    Withdraw { number: u64 },
}

pub fn run(command: ProposalCommand, server: &str) -> Result<(), Failure> {
    let client = Client::new(server)?;
    match command {
        ProposalCommand::List { output } => {
            let all: Vec<Proposal> = client.get("/v1/proposals")?;
            let row = |one: &Proposal| {
                let number = one.number.to_string();
                let (kind, by) = (one.kind.clone(), one.by.clone());
                vec![number, kind, output::time(one.at), by, one.hosts.to_string(), one.summary.clone()]
            };
            output::print(
                output,
                &all,
                &["NUMBER", "KIND", "TIME", "BY", "HOSTS", "REQUEST"],
                all.iter().map(row).collect(),
            )
        }
        ProposalCommand::Confirm { number } => {
            let body = Release { by: super::operator() };
            let done: Confirmed = client.post(&format!("/v1/proposals/{number}/confirm"), &body)?;
            if let Some(rollout) = &done.rollout {
                started(rollout, false);
            }
            done.asked.as_ref().map_or(Ok(()), asked)
        }
        ProposalCommand::Withdraw { number } => {
            client.delete(&format!("/v1/proposals/{number}"))?;
            println!("proposal {number} is gone");
            Ok(())
        }
    }
}
