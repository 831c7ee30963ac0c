//! The real `regild serve` in a network namespace, spoken to packet by packet and byte by byte: what no well-behaved
//! machine or operator would say, and what the server may not answer. Rows of the fault catalogue are named by number.
//!
//! No machine boots here (`boot_path` does that), so the boot assets are five small files. Needs root (namespaces,
//! ports 67 and 69) and the packages `iproute2` and `strace`; what is missing fails, it is never skipped in silence.

#[path = "net/cable.rs"]
mod cable;
#[path = "net/dhcp_client.rs"]
mod dhcp_client;
mod disks;
#[path = "lab/process.rs"]
#[allow(dead_code)]
mod process;

#[path = "http/baseline.rs"]
mod baseline;
#[path = "http/bodies.rs"]
mod bodies;
#[path = "http/credentials.rs"]
mod credentials;
#[path = "http/deploy.rs"]
mod deploy;
#[path = "http/drift.rs"]
mod drift;
#[path = "http/drift_cli.rs"]
mod drift_cli;
#[path = "http/facts.rs"]
mod facts;
#[path = "http/fleet.rs"]
mod fleet;
#[path = "http/host_baseline.rs"]
mod host_baseline;
#[path = "http/image_diff.rs"]
mod image_diff;
#[path = "http/keep.rs"]
mod keep;
#[path = "http/lab.rs"]
mod lab;
#[path = "http/ledger.rs"]
mod ledger;
#[path = "http/list.rs"]
mod list;
#[path = "http/memory.rs"]
mod memory;
#[path = "http/netboot.rs"]
mod netboot;
#[path = "http/oci.rs"]
mod oci;
#[path = "http/push.rs"]
mod push;
#[path = "http/ranges.rs"]
mod ranges;
#[path = "http/raw.rs"]
mod raw;
#[path = "http/requests.rs"]
mod requests;
#[path = "http/routes.rs"]
mod routes;
#[path = "http/second_person.rs"]
mod second_person;
#[path = "http/seed.rs"]
mod seed;
#[path = "http/serving.rs"]
mod serving;
#[path = "http/sources.rs"]
mod sources;
#[path = "http/standby.rs"]
mod standby;
#[path = "http/stop.rs"]
mod stop;
#[path = "http/upload.rs"]
mod upload;
#[path = "http/verify.rs"]
mod verify;
