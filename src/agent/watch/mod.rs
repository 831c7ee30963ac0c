//! In the installed system, as a service: compares what runs with the golden image, and tells the server what differs.
//!
//! | module | what |
//! | --- | --- |
//! | `service` | the loop: agree with the server, look, tell |
//! | `terms` | what the server wants compared, by which rules, how often |
//! | `looks`, `view` | looks at all of the tree and at what changed; what differs by now |
//! | `events`, `fanotify`, `dirty` | which paths changed between two looks |
//! | `reporter`, `queue`, `key` | what is told; what the server has not taken yet; who speaks, and numbers used once |
//! | `server` | its routes (`wire::drift`) |
//! | `state_dir`, `status` | one process for each host, files that are whole or not there; a word for a person there |
//!
//! It writes nowhere but into its state directory, and changes nothing of what it finds: healing is the server's.

mod dirty;
mod events;
mod fanotify;
mod key;
mod looks;
mod queue;
mod reporter;
mod server;
mod service;
mod state_dir;
mod status;
mod terms;
mod view;

pub use service::WatchError;

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Options {
    /// http://HOST:PORT of the server.
    #[arg(long, env = "REGILD_SERVER", value_name = "URL", required_unless_present = "status")]
    server: Option<String>,
    /// Where it keeps its key and what it knows; on the host's own disk, never part of a golden image.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/regild-agent")]
    state_dir: PathBuf,
    /// What is compared with the image's root directory.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// How long changes must be quiet before they are looked at (a minute after the first at the latest).
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    settle_seconds: u64,
    /// One look, one report, and an exit status that says whether the server took it.
    #[arg(long)]
    once: bool,
    /// Print what was found last, and end.
    #[arg(long, conflicts_with = "once")]
    status: bool,
}

/// Runs the service, or prints what it found last.
///
/// # Errors
/// [`WatchError`].
pub fn run(options: &Options) -> Result<(), WatchError> {
    if options.status {
        let path = options.state_dir.join(status::FILE);
        let status = status::read(&path).map_err(|error| WatchError::Status(path, error))?;
        print!("{}", status::text(&status));
        return Ok(());
    }
    service::run(options)
}
