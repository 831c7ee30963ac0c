//! The command line: clap structs, a file for each noun; nothing here decides anything.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage (clap's own). Errors go to standard error, one cause a line.

mod client;
mod host;
mod image;
mod output;
mod sparse;
mod store;

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

/// What went wrong, outermost first.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs one command and says how it ended.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Serve { config } => crate::serve::run(&config).map_err(Failure::from),
        Command::Host(command) => host::run(command, &cli.server),
        Command::Image(command) => image::run(command, &cli.server),
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
