//! `drift top`: the paths that drift most across the fleet, counted from the marks in memory when somebody asks.
//!
//! No index is kept: it would have to be bounded, and then be wrong just when a fleet drifts apart. Counting goes through
//! the marks once for each part of their range, so that it needs the memory of one part only.

use super::report::list_key;
use super::state::{Mark, Source, Watched, path_mark};
use super::stored::Listed;
use crate::db::DbRead;
use crate::decide::drift::finding::Aspects;
use crate::registry::{Registry, RegistryError, View};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Marks that are sorted at once: 24 bytes each.
const PART_MARKS: usize = 500_000;
/// Hosts that are asked for the name of a path, one after another: the first may have reported anew meanwhile.
const SAMPLES: usize = 3;
const GROUPS_MAX: usize = 20;

/// A path that differs on some hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub path: Vec<u8>,
    /// That are not allowed, on any of them.
    pub aspects: Aspects,
    pub hosts: u64,
    /// The most hosts that have the very same thing there.
    pub same_content: u64,
    /// Of these hosts, the first twenty.
    pub groups: Vec<String>,
}

/// A host as it is counted.
struct Member {
    id: String,
    group: String,
    watched: Arc<Watched>,
}

#[derive(Clone, Copy)]
struct Row {
    mark: Mark,
    host: u32,
}

/// One path, before it has its name.
struct Run {
    aspects: Aspects,
    hosts: u64,
    same_content: u64,
    groups: BTreeSet<u32>,
    samples: Vec<u32>,
    path: u64,
}

impl Registry {
    /// The `limit` paths that differ on most hosts, of one group or of all. Takes a second where five million findings are
    /// kept, so not where others wait.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn drift_top(&self, group: Option<&str>, limit: usize) -> Result<Vec<Counted>, RegistryError> {
        let members = self.read(|view| members(view, group));
        let runs = counted(&members, limit);
        let name = |run: Run| {
            let groups: BTreeSet<&str> = run.groups.iter().map(|host| members[*host as usize].group.as_str()).collect();
            let groups = groups.into_iter().take(GROUPS_MAX).map(str::to_string).collect();
            let Run { aspects, hosts, same_content, .. } = run;
            let path = run.samples.iter().find_map(|host| self.path_of(&members[*host as usize], run.path))?;
            Some(Counted { path, aspects, hosts, same_content, groups })
        };
        Ok(runs.into_iter().filter_map(name).collect())
    }

    /// The name of a path, from what a host listed. It may be read while the writer writes it anew: what does not fit is
    /// not it.
    fn path_of(&self, member: &Member, mark: u64) -> Option<Vec<u8>> {
        let of = |source| {
            let chunks = member.watched.heard(source)?.chunks;
            let listed = read_listed(&*self.reader, &member.id, source, chunks).ok()?;
            let found = listed.found.iter().find(|found| path_mark(found.path()) == mark)?;
            Some(found.path().to_vec())
        };
        Source::ALL.into_iter().find_map(of)
    }
}

fn members(view: &View, group: Option<&str>) -> Vec<Member> {
    let member = |(id, watched): (&String, &Arc<Watched>)| {
        if watched.marks.is_empty() {
            return None;
        }
        let host = &view.find(id)?.host;
        let is_meant = group.is_none_or(|group| host.group == group);
        is_meant.then(|| Member { id: id.clone(), group: host.group.clone(), watched: watched.clone() })
    };
    view.drift().hosts.iter().filter_map(member).collect()
}

fn counted(members: &[Member], limit: usize) -> Vec<Run> {
    let marks: usize = members.iter().map(|member| member.watched.marks.len()).sum();
    // By the highest bits, so that parts are of about one size.
    let bits = (marks / PART_MARKS).checked_ilog2().map_or(0, |log| log + 1);
    let part_of = |mark: &Mark| mark.path.checked_shr(64 - bits).unwrap_or(0);
    let mut best: Vec<Run> = Vec::new();
    for part in 0..1u64 << bits {
        let mut rows: Vec<Row> = Vec::new();
        for (host, member) in (0u32..).zip(members) {
            let its = member.watched.marks.iter().filter(|mark| part_of(mark) == part);
            rows.extend(its.map(|mark| Row { mark: *mark, host }));
        }
        rows.sort_unstable_by_key(|row| row.mark.path);
        for run in rows.chunk_by_mut(|a, b| a.mark.path == b.mark.path) {
            // Most paths of a fleet that drifted apart are on one host, and there is no room for them.
            let last = best.last().filter(|_| best.len() >= limit).map(|last| (last.hosts, last.same_content));
            let hosts = run.len() as u64;
            if last.is_some_and(|last| last >= (hosts, hosts)) {
                continue;
            }
            run.sort_unstable_by_key(|row| (row.mark.content, row.host));
            let same_content = same_content(run);
            if last.is_none_or(|last| last < (hosts, same_content)) {
                best.push(run_of(run, same_content, members));
                best.sort_by_key(|run| std::cmp::Reverse((run.hosts, run.same_content)));
                best.truncate(limit);
            }
        }
    }
    best
}

/// The most hosts that have the same thing at a path; `rows` are by content.
fn same_content(rows: &[Row]) -> u64 {
    let same = rows.chunk_by(|a, b| a.mark.content == b.mark.content);
    let known = same.filter(|same| same.first().is_some_and(|row| row.mark.content != 0));
    known.map(<[Row]>::len).max().unwrap_or(0) as u64
}

fn run_of(rows: &[Row], same_content: u64, members: &[Member]) -> Run {
    let mut names = BTreeSet::new();
    let one_of_each = |host: &u32| names.len() < GROUPS_MAX && names.insert(members[*host as usize].group.as_str());
    Run {
        aspects: rows.iter().fold(Aspects::NONE, |all, row| row.mark.aspects.iter().fold(all, Aspects::with)),
        hosts: rows.len() as u64,
        same_content,
        groups: rows.iter().map(|row| row.host).filter(one_of_each).collect(),
        samples: rows.iter().take(SAMPLES).map(|row| row.host).collect(),
        path: rows.first().map_or(0, |row| row.mark.path),
    }
}

/// What a source listed of a host, from the store.
pub(super) fn read_listed(
    db: &(impl DbRead + ?Sized),
    id: &str,
    source: Source,
    chunks: u16,
) -> Result<Listed, RegistryError> {
    let wrong = |error: &dyn std::fmt::Display| RegistryError::Store(format!("the findings of {id}: {error}"));
    let chunk = |number| {
        let item = db.get(&list_key(id, source, number)).map_err(|error| wrong(&error))?;
        item.map(|item| item.value).ok_or_else(|| wrong(&"a part of them is missing"))
    };
    let chunks: Vec<Vec<u8>> = (0..chunks).map(chunk).collect::<Result<_, _>>()?;
    Listed::unpacked(&chunks).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::finding::Aspect;

    fn member(host: u64, marks: impl Iterator<Item = (u64, u32)>) -> Member {
        let aspects = Aspects::NONE.with(Aspect::Content);
        let mark = |(path, content)| Mark { path, content, aspects, asks: false };
        let watched = Arc::new(Watched { marks: marks.map(mark).collect(), ..Watched::default() });
        Member { id: format!("h{host}"), group: format!("g{}", host % 3), watched }
    }

    #[test]
    fn paths_are_counted_by_hosts_and_by_what_is_there() {
        // All have path 1, half of them the same there; each has a path of its own; nobody read what is at path 0.
        let members: Vec<Member> = (0..10u64)
            .map(|host| member(host, [(1, 7 + (host % 2) as u32), (0, 0), (100 + host, 9)].into_iter()))
            .collect();
        let best = counted(&members, 3);
        assert_eq!(counted(&members, 1)[0].path, 1, "of paths on as many hosts the one with the same content on most");
        let seen: Vec<(u64, u64, u64)> = best.iter().map(|run| (run.path, run.hosts, run.same_content)).collect();
        assert_eq!(seen[..2], [(1, 10, 5), (0, 10, 0)]);
        assert_eq!((seen[2].1, seen.len()), (1, 3));
        assert_eq!(best[0].groups.len(), 3);
    }

    /// `cargo test --lib five_million -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn five_million_findings_of_ten_thousand_hosts_are_counted() {
        for share in ["own paths", "common paths"] {
            let path = |host: u64, at: u64| if share == "own paths" { host * 500 + at } else { at };
            let marks = |host| (0..500).map(move |at| (path_mark(&path(host, at).to_be_bytes()), at as u32));
            let members: Vec<Member> = (0..10_000).map(|host| member(host, marks(host))).collect();
            let began = std::time::Instant::now();
            let best = counted(&members, 50);
            eprintln!("{share}: {:?}, the first on {} hosts", began.elapsed(), best[0].hosts);
        }
    }
}
