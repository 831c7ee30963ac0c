//! What was listed of a host, by its own agent and from outside, path by path.
//!
//! Each list is judged by what its own looks know: a host whose agent lists a path with a harmless difference cannot take
//! from it what was seen there while the host did not run, nor make that begin anew.

use super::state::{Source, Watched};
use super::stored::{Found, Listed};
use crate::decide::drift::judge::{Judged, Verdict, judge};
use crate::decide::drift::path;
use crate::decide::drift::policy::Rule;
use std::cmp::Ordering;
use std::sync::Arc;

/// What was listed of a host, by its own agent and from outside.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AllListed {
    pub agent: Arc<Listed>,
    pub outside: Arc<Listed>,
}

impl AllListed {
    /// Each path once, in the order of paths.
    pub fn paths(&self) -> impl Iterator<Item = AtPath<'_>> {
        let (mut agent, mut outside) = (self.agent.found.iter().peekable(), self.outside.found.iter().peekable());
        std::iter::from_fn(move || {
            let order = match (agent.peek(), outside.peek()) {
                (Some(own), Some(seen)) => path::order(own.path(), seen.path()),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            let own = if order == Ordering::Greater { None } else { agent.next() };
            let seen = if order == Ordering::Less { None } else { outside.next() };
            match (own, seen) {
                (Some(own), seen) => Some(AtPath { path: own.path(), agent: Some(own), outside: seen }),
                (None, Some(seen)) => Some(AtPath { path: seen.path(), agent: None, outside: Some(seen) }),
                (None, None) => None,
            }
        })
    }
}

/// One path, as each of the two saw it.
#[derive(Debug, Clone, Copy)]
pub struct AtPath<'l> {
    pub path: &'l [u8],
    pub agent: Option<&'l Found>,
    pub outside: Option<&'l Found>,
}

/// One path, judged.
#[derive(Debug)]
pub struct JudgedPath<'l, 'r> {
    /// What weighs more of what the two saw.
    pub found: &'l Found,
    /// What is left of both, and the heavier verdict with its rule.
    pub judged: Judged<'r>,
    /// When the first grace of it ends.
    pub again_at: Option<u64>,
}

impl<'l> AtPath<'l> {
    fn each(&self) -> impl Iterator<Item = (Source, &'l Found)> + use<'l> {
        let agent = self.agent.map(|found| (Source::Agent, found));
        agent.into_iter().chain(self.outside.map(|found| (Source::Outside, found)))
    }

    /// `None` never, since somebody listed it.
    #[must_use]
    pub fn judged<'r>(&self, watched: Option<&Watched>, rules: &'r [Rule], now: u64) -> Option<JudgedPath<'l, 'r>> {
        let judge_one = |(source, found): (Source, &'l Found)| {
            let look = watched.and_then(|watched| watched.heard(source)).map_or(0, |heard| heard.look);
            let judged = judge(rules, self.path, &found.known, look, now);
            let again_at = match judged.verdict {
                Verdict::Later { at, .. } => at,
                _ => None,
            };
            JudgedPath { found, judged, again_at }
        };
        self.each().map(judge_one).reduce(heavier)
    }
}

/// Both in one: where they weigh the same it is the agent's that is shown, the newer word, if it says all that the other
/// does.
fn heavier<'l, 'r>(agent: JudgedPath<'l, 'r>, outside: JudgedPath<'l, 'r>) -> JudgedPath<'l, 'r> {
    let left = agent.judged.left.iter().fold(outside.judged.left, |all, aspect| all.with(aspect));
    let again_at = agent.again_at.into_iter().chain(outside.again_at).min();
    let is_agents = match agent.judged.verdict.cmp(&outside.judged.verdict) {
        Ordering::Greater => true,
        Ordering::Equal => left == agent.judged.left,
        Ordering::Less => false,
    };
    let one = if is_agents { agent } else { outside };
    JudgedPath { judged: Judged { left, ..one.judged }, again_at, ..one }
}
