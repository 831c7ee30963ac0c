//! How lists are shown: tables for people, JSON for scripts.

use super::Failure;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

/// `-o`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Table,
    /// One array of objects (one object for `show`).
    Json,
}

/// Prints rows under a head, or the same values as JSON.
pub fn print<T: Serialize>(output: Output, values: &T, head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(values)?),
        Output::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(head.to_vec());
            for row in rows {
                table.add_row(row);
            }
            println!("{}", table.trim_fmt());
        }
    }
    Ok(())
}

/// `2026-03-01T12:00:00Z` of Unix seconds.
#[must_use]
pub fn time(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| unix_seconds.to_string(), |time| time.to_string())
}

/// `1.2 GiB` of bytes.
#[must_use]
pub fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}
