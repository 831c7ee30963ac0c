//! Promises: the manifest of another disk is never asked for, and whatever is wrong with a seed, the deploy goes on.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::agent::source::SourceError;
use crate::wire::agent::{DiskId, DiskRule, PROTOCOL, Progress, Step};
use crate::wire::manifest::{self, BootFacts};
use crate::wire::reference::ImageRef;

/// A server that gives one answer and counts the questions.
struct Server {
    answer: Result<Vec<u8>, u16>,
    /// Before each answer.
    delay: Duration,
    asked: AtomicU64,
}

impl ImageSource for Server {
    fn resolve(&self, _: &ImageRef) -> Result<String, SourceError> {
        unreachable!("a seed is named by its digest")
    }

    fn manifest(&self, _: &str) -> Result<Vec<u8>, SourceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        clock::sleep(self.delay);
        self.answer.clone().map_err(|status| SourceError::Status { url: "http://server".to_owned(), status })
    }

    fn range(&self, _: &str, _: Range<u64>) -> Result<Vec<u8>, SourceError> {
        unreachable!("a seed is a manifest")
    }
}

struct Nobody;

impl Observer for Nobody {
    fn step(&self, _: Step) {}
    fn progress(&self, _: Progress) {}
    fn may_go_on(&self) -> bool {
        true
    }
}

fn encoded() -> Vec<u8> {
    let manifest = Manifest {
        image_bytes: 1 << 20,
        sector_bytes: 512,
        content_digest: [0; 32],
        boot: BootFacts::default(),
        packs: Vec::new(),
        frames: Vec::new(),
        extents: Vec::new(),
    };
    manifest.encode().unwrap()
}

fn job(seed: Option<&[u8]>) -> Job {
    Job {
        protocol: PROTOCOL,
        host: "h-1".to_owned(),
        generation: 2,
        attempt: 1,
        image: "tiny:v2".to_owned(),
        manifest: "00".repeat(32),
        disk_rule: DiskRule::default(),
        own_disk: Some(DiskId { serial: Some("disk-1".to_owned()), wwn: None, size_bytes: 1 << 30 }),
        foreign_released: false,
        seed: seed.map(manifest::digest_hex),
    }
}

fn disk(serial: &str) -> Disk {
    Disk { serial: Some(serial.to_owned()), size_bytes: 1 << 30, ..Disk::default() }
}

/// Whether there is a seed, and how often the server was asked for it.
fn seed(answer: Result<Vec<u8>, u16>, job: &Job, target: &Disk) -> (bool, u64) {
    let server = Server { answer, delay: Duration::ZERO, asked: AtomicU64::new(0) };
    let seed = of(&server, job, target, &Nobody);
    (seed.is_some(), server.asked.into_inner())
}

#[test]
fn only_the_hosts_own_disk_is_said_to_hold_what_the_host_had() {
    let seeded = job(Some(&encoded()));
    assert_eq!(seed(Ok(encoded()), &seeded, &disk("disk-1")), (true, 1));
    assert_eq!(seed(Ok(encoded()), &seeded, &disk("disk-2")), (false, 0), "another disk");
    let longer = Disk { size_bytes: 2 << 30, ..disk("disk-1") };
    assert_eq!(seed(Ok(encoded()), &seeded, &longer), (false, 0), "another disk with the same serial number");
    assert_eq!(seed(Ok(encoded()), &Job { own_disk: None, ..seeded }, &disk("disk-1")), (false, 0));
    assert_eq!(seed(Ok(encoded()), &job(None), &disk("disk-1")), (false, 0), "no seed in the job");
}

#[test]
fn a_seed_that_is_gone_refused_damaged_or_of_something_else_is_none() {
    let seeded = job(Some(&encoded()));
    for status in [403, 404] {
        assert_eq!(seed(Err(status), &seeded, &disk("disk-1")), (false, 1), "{status}");
    }
    let (found, asked) = seed(Err(503), &seeded, &disk("disk-1"));
    assert!(!found && (1..=2).contains(&asked), "asked {asked} times");
    let mut damaged = encoded();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(seed(Ok(damaged), &seeded, &disk("disk-1")), (false, 1));
    let nonsense = b"no manifest".to_vec();
    assert_eq!(seed(Ok(nonsense.clone()), &job(Some(&nonsense)), &disk("disk-1")), (false, 1));
    let long = vec![0; ENCODED_BYTES_MAX + 1];
    assert_eq!(seed(Ok(long.clone()), &job(Some(&long)), &disk("disk-1")), (false, 1), "too long to keep");
}

/// A question that ran into its end is not asked again: the machine would wait twice for what it can do without.
#[test]
fn a_server_that_takes_its_time_is_asked_once() {
    let server = Server { answer: Err(503), delay: PATIENCE, asked: AtomicU64::new(0) };
    let seed = of(&server, &job(Some(&encoded())), &disk("disk-1"), &Nobody);
    assert_eq!((seed, server.asked.into_inner()), (None, 1));
}

#[test]
fn a_machine_with_little_memory_fetches_all() {
    let little = "MemTotal:        1000000 kB\nMemFree:  99 kB\nMemAvailable:     100000 kB\n";
    assert_eq!(free_bytes(little), Some(102_400_000));
    let server = Server { answer: Ok(encoded()), delay: Duration::ZERO, asked: AtomicU64::new(0) };
    let digest = manifest::digest_hex(&encoded());
    for memory in [little, "", "MemAvailable: much kB"] {
        let reason = fetch(&server, &digest, memory, &Nobody).unwrap_err();
        assert!(reason.contains("of memory are free"), "{reason}");
    }
    assert_eq!(server.asked.into_inner(), 0);
}

/// An agent reads the job of a server of before, and a server's new word is no error to an agent of before: this one
/// reads past what it does not know.
#[test]
fn a_job_without_a_seed_is_what_it_was() {
    let json = serde_json::to_value(job(None)).unwrap();
    assert!(json.get("seed").is_none(), "{json}");
    assert_eq!(serde_json::from_value::<Job>(json.clone()).unwrap().seed, None);
    let mut of_later = json;
    of_later["something"] = serde_json::json!({ "new": 1 });
    assert_eq!(serde_json::from_value::<Job>(of_later).unwrap().seed, None);
}
