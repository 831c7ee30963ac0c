//! `regild proposal`: requests that wait for a second person.

use super::Failure;
use super::client::Client;
use super::host::asked;
use super::output::{self, Output};
use crate::wire::operator::{Asked, Proposal, Release};
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
}

pub fn run(command: ProposalCommand, server: &str) -> Result<(), Failure> {
    let client = Client::new(server)?;
    match command {
        ProposalCommand::List { output } => {
            let all: Vec<Proposal> = client.get("/v1/proposals")?;
            let row = |one: &Proposal| {
                let number = one.number.to_string();
                vec![number, output::time(one.at), one.by.clone(), one.hosts.to_string(), one.summary.clone()]
            };
            output::print(output, &all, &["NUMBER", "TIME", "BY", "HOSTS", "REQUEST"], all.iter().map(row).collect())
        }
        ProposalCommand::Confirm { number } => {
            let body = Release { by: super::operator() };
            let done: Asked = client.post(&format!("/v1/proposals/{number}/confirm"), &body)?;
            asked(&done)
        }
    }
}
