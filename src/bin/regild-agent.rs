//! `regild-agent`: the program in the deploy environment, and the write path by hand.

use clap::Parser;
use regild::agent::cli::{self, Cli};
use regild::{causes, volume};
use std::process::ExitCode;

fn main() -> ExitCode {
    end_with_a_panic();
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

/// A panic is a state that nobody thought of, and the agent writes disks: it ends at once, in whatever thread. Only one in
/// the reader of FAT, which reads what a suspect host left on its disk, ends no more than the look at that file system.
fn end_with_a_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !volume::fat::is_panic_caught() {
            told(panic);
            std::process::abort();
        }
    }));
}
