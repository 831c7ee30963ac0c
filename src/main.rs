//! `regild`: the server and the operators' command line.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    regild::cli::run(regild::cli::Cli::parse())
}
