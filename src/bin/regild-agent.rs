//! `regild-agent`: the program in the deploy environment, and the write path by hand.

use clap::Parser;
use regild::agent::cli::{self, Cli};
use regild::causes;
use std::process::ExitCode;

fn main() -> ExitCode {
    let logs = tracing_subscriber::fmt().with_writer(std::io::stderr).without_time();
    logs.with_max_level(tracing::Level::WARN).init();
    match cli::run(&Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", causes::in_lines("regild-agent", &*error));
            ExitCode::FAILURE
        }
    }
}
