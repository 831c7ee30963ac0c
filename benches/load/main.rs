//! Load for servers under measurement: DHCP, TFTP and HTTP clients that say on standard output, as one line of JSON,
//! what they got and how fast. The same client drives regild and its peers, so that ratios mean something.
//!
//! Every run is bounded by a number of exchanges, transfers or bytes, and every wait by a number of repetitions.

mod agents;
mod dhcp;
mod drift;
mod http;
mod tftp;

use clap::Parser;
use std::time::Duration;

#[derive(Debug, Parser)]
enum Load {
    /// Agents that say once a second how far they are.
    Agents(agents::Agents),
    /// Installed agents that report what differs from their image.
    Drift(drift::Drift),
    /// DISCOVER, OFFER, REQUEST, ACK, from many machines.
    Dhcp(dhcp::Dhcp),
    /// Whole files, as boot ROMs fetch them.
    Tftp(tftp::Tftp),
    /// Ranges of one file over kept connections, as the agent asks for image data.
    Http(http::Http),
}

fn main() {
    // `cargo bench` adds --bench to what it runs; nothing of it is for us.
    let arguments = std::env::args().filter(|argument| argument != "--bench");
    let outcome = match Load::parse_from(arguments) {
        Load::Agents(load) => load.run(),
        Load::Dhcp(load) => load.run(),
        Load::Drift(load) => load.run(),
        Load::Tftp(load) => load.run(),
        Load::Http(load) => load.run(),
    };
    match outcome {
        Ok(json) => println!("{json}"),
        Err(error) => {
            eprintln!("load: {error}");
            std::process::exit(1);
        }
    }
}

/// Half of them took no longer, one in a hundred took longer, and the worst, in milliseconds.
fn latencies(mut times: Vec<Duration>) -> serde_json::Value {
    times.sort_unstable();
    let at = |share: f64| {
        let place = (times.len() as f64 * share) as usize;
        times.get(place.min(times.len().saturating_sub(1))).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    serde_json::json!({ "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0) })
}
