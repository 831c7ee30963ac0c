//! Figures, not promises: a million entries on a real store. Run by hand, alone on the machine:
//!
//! ```text
//! cargo test --release --lib ledger::tests::measured -- --ignored --nocapture
//! LEDGER_HOSTS=1000 cargo test ...        # fewer hosts with longer stories: 500 rebuilds each
//! ```

use super::*;
use crate::clock;
use std::path::Path;

const ENTRIES: u64 = 1_000_000;
/// What the writer commits at once under load.
const COMMIT: usize = 512;
const START: u64 = 1_735_689_600;

struct Sink(u64);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Wall time, and what this thread had of a processor: on a machine that does other things only the second compares.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (begin, cpu) = (clock::instant(), cpu_seconds());
    let done = work();
    let wall = clock::instant().duration_since(begin).as_secs_f64();
    println!("{what}: {wall:.3} s ({:.3} s of a core)", cpu_seconds() - cpu);
    done
}

fn cpu_seconds() -> f64 {
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    nanoseconds.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn megabytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    files
        .map(
            |entry| {
                if entry.path().is_dir() { megabytes(&entry.path()) } else { entry.metadata().unwrap().len() >> 20 }
            },
        )
        .sum()
}

fn resident_most() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A year of rebuilds: every host is ordered and rebuilt, again and again, by five kinds of cause.
fn fill(kept: &mut Kept, hosts: u32) {
    let causes = [
        CauseKind::Schedule,
        CauseKind::MaxAge,
        CauseKind::Rollout { number: 41 },
        CauseKind::Drift,
        CauseKind::Operator,
    ];
    let mut added = 0;
    for generation in 1.. {
        for host in 0..hosts {
            let version = format!("debian-server:12.{generation}");
            let cause = causes[(u64::from(host) + generation) as usize % causes.len()];
            let former = (generation > 1).then(|| image(&format!("debian-server:12.{}", generation - 1))).flatten();
            let reason = format!("0 3 * * 0 Europe/Berlin of group compute-{}", host % 20);
            let order = Fact { former, reason, ..ordered(host, &version, generation, cause) };
            let done = Fact { kind: Kind::Runs, ..order.clone() };
            for fact in [order, done] {
                kept.ledger.append(&kept.db, &fact, START + added * 31).unwrap();
                added += 1;
                if kept.ledger.entries.len() >= COMMIT {
                    kept.commit();
                }
                if added == ENTRIES {
                    return kept.commit();
                }
            }
        }
    }
}

#[test]
#[ignore = "takes minutes; prints figures"]
fn a_million_entries() {
    let hosts: u32 = std::env::var("LEDGER_HOSTS").map_or(100_000, |text| text.parse().unwrap());
    let mut kept = Kept::new();
    println!("{ENTRIES} entries of {hosts} hosts, {COMMIT} a commit");
    timed("append and commit, each commit on stable storage", || fill(&mut kept, hosts));
    let dir = kept._dir.path().to_path_buf();
    println!("store on disk: {} MiB", megabytes(&dir));
    let (db, tip) = (&kept.db, kept.ledger.tip());
    timed("verify", || verify(db, None).unwrap());
    let (mut bytes, mut found) = (0u64, 0u64);
    timed("find by cause (reads all)", || {
        find(db, tip, &Filter { cause: Some("drift".into()), ..Filter::default() }, |_, _| found += 1).unwrap();
    });
    let mut json = Sink(0);
    timed("export as JSON lines", || to_json_lines(db, tip, &Filter::default(), &mut json).unwrap());
    let mut csv = Sink(0);
    timed("export as CSV", || to_csv(db, tip, &Filter::default(), &mut csv).unwrap());
    find(db, tip, &Filter::default(), |_, raw| bytes += raw.len() as u64).unwrap();
    println!(
        "found {found}; bytes an entry: stored {}, JSON line {}, CSV {}",
        bytes / ENTRIES,
        json.0 / ENTRIES,
        csv.0 / ENTRIES
    );
    let end = START + ENTRIES * 31;
    for (what, time) in [
        ("now", end),
        ("at half time", START + ENTRIES * 31 / 2),
        ("at a tenth of the time", START + ENTRIES * 31 / 10),
    ] {
        let seen =
            timed(&format!("what every host ran {what}"), || at(db, tip, time).unwrap().map(Result::unwrap).count());
        println!("  {seen} hosts");
        timed(&format!("what each of 1,000 hosts ran {what}, one by one"), || {
            (0..1_000).for_each(|n| drop(host_at(db, tip, &id(n * (hosts / 1_000).max(1)), time).unwrap()));
        });
    }
    timed("all entries of one host", || {
        find(db, tip, &Filter { host: Some(id(7)), ..Filter::default() }, |_, _| ()).unwrap()
    });
    println!("most memory resident: {}", resident_most());
}
