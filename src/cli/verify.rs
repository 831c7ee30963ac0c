//! `regild host verify`: looks at disks from outside.

use super::Failure;
use super::client::Client;
use super::output;
use crate::wire::operator::{Verification, VerifyAsked, VerifyMany};
use clap::Args;

#[derive(Debug, Args)]
pub struct Verify {
    #[arg(required = true)]
    ids: Vec<String>,
    /// Why; kept in the history.
    #[arg(long)]
    reason: String,
    /// Make the machines netboot for it now, which stops what runs there; without it they are looked at when they next
    /// netboot.
    #[arg(long)]
    power: bool,
    /// How many machines that must be; needed with --power above the fleet's threshold.
    #[arg(long, requires = "power")]
    expect_count: Option<usize>,
}

pub(super) fn run(client: &Client, asked: Verify) -> Result<(), Failure> {
    let Verify { ids, reason, power, expect_count } = asked;
    let body = VerifyMany { ids, by: super::operator(), reason, power, expect_count };
    let done: Vec<VerifyAsked> = client.post("/v1/verify", &body)?;
    let mut refused = 0;
    for host in &done {
        let called = host.name.as_deref().unwrap_or(&host.id);
        match (&host.refused, host.number) {
            (Some(why), _) => {
                refused += 1;
                eprintln!("regild: {called}: {why}");
            }
            (None, Some(number)) => {
                println!("{called}: verification {number} waits for its machine; {}", how_it_comes(&host.power, power));
            }
            (None, None) => println!("{called}: it is verified already"),
        }
    }
    if refused == 0 { Ok(()) } else { Err(format!("{refused} of {} hosts were refused", done.len()).into()) }
}

fn how_it_comes(driver: &str, power: bool) -> String {
    match driver {
        _ if !power => "it is looked at when it next netboots".to_string(),
        "agent" => "its installed agent reboots it when it next asks".to_string(),
        "manual" | "" => "it has no power driver: it is looked at when it next netboots".to_string(),
        driver => format!("it is made to netboot through {driver}"),
    }
}

/// The lines of `host show`.
pub(super) fn lines(verify: &Verification, line: &mut impl FnMut(&str, String)) {
    if let Some(asked) = &verify.asked {
        let by = format!("by {}, {}", asked.by, output::time(asked.asked_at));
        line("verify", format!("{}: {} ({by}), {} attempts", asked.number, asked.reason, asked.attempts));
        if let Some(waits) = &asked.waits {
            line("verify waits", waits.clone());
        }
    }
    if let Some(last) = &verify.last {
        line("verified", format!("from outside: {} ({})", last.result, output::time(last.at)));
    }
}
