//! The agent's binary: static, in the deploy environment's initramfs.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use regild::agent::cli::{VerifyArgs, WriteArgs};

/// regild-agent writes golden images to disks
#[derive(Debug, Parser)]
#[command(name = "regild-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Write(WriteArgs),
    Verify(VerifyArgs),
}

fn main() -> ExitCode {
    let level = tracing_subscriber::EnvFilter::try_from_env("REGILD_LOG");
    let level = level.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    let done = match Cli::parse().command {
        Command::Write(write) => write.run(),
        Command::Verify(verify) => verify.run(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("regild-agent: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
