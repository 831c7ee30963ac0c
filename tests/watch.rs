//! The installed agent's service (`regild-agent watch`), as a process, on a real file system, against a strict server:
//! what changed is said, whatever is lost, killed, full or away meanwhile. Needs root, for mounts and fanotify.

#[path = "watch/host.rs"]
mod host;
#[path = "watch/server.rs"]
mod server;

#[path = "watch/changes.rs"]
mod changes;
#[path = "watch/faults.rs"]
mod faults;
#[path = "watch/package.rs"]
mod package;
