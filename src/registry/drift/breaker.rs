//! What the hosts that drift have in common, for the message of the breaker: a baseline that is wrong makes many drift
//! at once, at the same paths.

use super::state::{Mark, Watched, path_mark};
use crate::decide::cause::CauseKind;
use crate::decide::drift::judge::{common, common_sentence};
use crate::decide::host::Host;
use crate::registry::writer::Writer;
use std::sync::Arc;

/// Hosts that are looked at, and findings of each: more would not change what is common to them.
const HOSTS_MAX: usize = 1000;
const MARKS_MAX: usize = 500;

impl Writer {
    pub(in crate::registry) fn drift_in_common(&self) -> String {
        let asks = |host: &Host| host.causes().any(|cause| cause.kind == CauseKind::Drift);
        let of = |(id, watched): (&String, &Arc<Watched>)| {
            let host = &self.hosts.get(id)?.host;
            (asks(host) && watched.asking > 0).then(|| (id.clone(), watched.clone()))
        };
        let hosts: Vec<(String, Arc<Watched>)> = self.drift.hosts.iter().filter_map(of).take(HOSTS_MAX).collect();
        let asking = |mark: &&Mark| mark.asks;
        let marks =
            hosts.iter().map(|(_, host)| host.marks.iter().filter(asking).take(MARKS_MAX).map(|mark| mark.path));
        let shared = common(marks);
        let named = shared.into_iter().filter_map(|(mark, count)| Some((self.path_of(mark, &hosts)?, count)));
        common_sentence(&named.collect::<Vec<_>>(), hosts.len() as u64)
    }

    fn path_of(&self, mark: u64, hosts: &[(String, Arc<Watched>)]) -> Option<Vec<u8>> {
        let has = |host: &Watched| host.marks.iter().any(|known| known.path == mark);
        let (id, _) = hosts.iter().find(|(_, host)| has(host))?;
        let listed = self.all_listed(id).ok()?;
        let found = listed.paths().map(|at| at.path).find(|path| path_mark(path) == mark);
        found.map(<[u8]>::to_vec)
    }
}
