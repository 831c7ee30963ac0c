//! The command line: clap structs, a file for each noun; nothing here decides anything.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage (clap's own). Errors go to standard error, one cause a line.

mod baseline;
mod brakes;
mod client;
mod drift;
mod fleet;
mod host;
mod image;
mod image_diff;
mod image_import;
mod image_keep;
mod image_show;
mod ledger;
mod output;
mod proposal;
mod remote;
mod rollout;
mod sparse;
mod store;
mod verify;

use crate::causes;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Bare-metal PXE boot and reimaging: golden images onto physical machines.
#[derive(Debug, Parser)]
#[command(name = "regild", version, propagate_version = true)]
pub struct Cli {
    /// The server's operator socket, as a path or unix:PATH.
    #[arg(long, global = true, env = "REGILD_SERVER", default_value = "/var/lib/regild/regild.sock")]
    server: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: DHCP, TFTP and HTTP for machines, the operator API on a Unix socket.
    Serve {
        /// Configuration file (TOML); see config/regild.toml.
        #[arg(long)]
        config: PathBuf,
    },
    /// Machines: which image each runs, and orders to rebuild.
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Golden images: immutable versions.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// The change of many hosts by waves, with a canary and a failure budget.
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// What of running systems no longer is their golden image, and what may be so.
    #[command(subcommand)]
    Drift(drift::DriftCommand),
    /// Which machine was ordered what and ran what, since when, why, by whom: kept for ever, chained.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// The clock of the server, after a jump.
    #[command(subcommand)]
    Clock(brakes::ClockCommand),
    /// Make groups, hosts, reservations and limits what the documents say. Opens no order.
    Apply {
        #[command(flatten)]
        documents: fleet::Documents,
        /// The documents make a brake hold less, and that is meant.
        #[arg(long)]
        loosen: bool,
        /// Be the second person: these are the documents that somebody else proposed under this number.
        #[arg(long, value_name = "PROPOSAL", requires = "loosen")]
        confirm: Option<u64>,
    },
    /// What `apply` would change.
    Diff {
        #[command(flatten)]
        documents: fleet::Documents,
        #[arg(short, long, value_enum, default_value = "table")]
        output: output::Output,
    },
    /// The fleet as a document, as `apply` takes it.
    Export {
        #[arg(long, value_enum, default_value = "toml")]
        form: fleet::Form,
    },
    /// The fleet as a dynamic inventory.
    Inventory {
        /// For Ansible, the one form that there is.
        #[arg(long, required = true)]
        ansible: bool,
    },
    /// Requests that wait for a second person.
    #[command(subcommand)]
    Proposal(proposal::ProposalCommand),
    /// Open no order and begin none, at once, until `resume`. Works when the store does not.
    Stop(brakes::StopArgs),
    /// End `stop`.
    Resume {
        #[arg(long)]
        reason: String,
    },
    /// What holds orders back now.
    Brakes {
        #[arg(short, long, value_enum, default_value = "table")]
        output: output::Output,
    },
    /// The fleet breaker.
    #[command(subcommand)]
    Breaker(brakes::BreakerCommand),
    /// The server's own records (with the server stopped).
    #[command(subcommand)]
    Store(store::StoreCommand),
}

/// Logs of the server go to standard error: journald, a file or a terminal take them from there.
/// `RUST_LOG` chooses how much.
pub fn log_to_stderr() {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Failing means that a test or an embedding program set its own logger first; then that one is right.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// On whose behalf this is asked: the person behind sudo. Who asks the server knows from the socket.
fn operator() -> String {
    std::env::var("SUDO_USER").unwrap_or_default()
}

/// What went wrong, outermost first.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs one command and says how it ended.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Serve { config } => crate::serve::run(&config).map_err(Failure::from),
        Command::Host(command) => host::run(command, &cli.server),
        Command::Image(command) => image::run(command, &cli.server),
        Command::Rollout(command) => rollout::run(command, &cli.server),
        Command::Drift(command) => drift::run(command, &cli.server),
        Command::Ledger(command) => ledger::run(command, &cli.server),
        Command::Clock(command) => brakes::clock(command, &cli.server),
        Command::Apply { documents, loosen, confirm } => fleet::apply(&documents, loosen, confirm, &cli.server),
        Command::Diff { documents, output } => fleet::diff(&documents, output, &cli.server),
        Command::Export { form } => fleet::export(form, &cli.server),
        Command::Inventory { ansible: _ } => fleet::inventory(&cli.server),
        Command::Proposal(command) => proposal::run(command, &cli.server),
        Command::Stop(args) => brakes::stop(args, &cli.server),
        Command::Resume { reason } => brakes::resume(reason, &cli.server),
        Command::Brakes { output } => brakes::show(output, &cli.server),
        Command::Breaker(command) => brakes::breaker(command, &cli.server),
        Command::Store(command) => store::run(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", causes::in_lines("regild", &*failure));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// clap looks at a command only when it is used: two arguments of one name would be found by an operator.
    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }
}
