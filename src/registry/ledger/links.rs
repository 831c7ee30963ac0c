//! The way back along what one host ran, in long strides where possible: a skip list that is only ever added to.
//!
//! ```text
//! entry of the host   1   2   3   4   5   6   7   8
//! before              0   1   2   3   4   5   6   7     one back
//! skip                0   1   0   3   4   3   0   7     as far as the two strides before it and one step, when those
//!                                                       two are equally long; else one back (Myers 1983)
//! ```
//!
//! Of 240 such entries (120 rebuilds, ten years) any is reached in at most 18 steps. The clock may have stood wrong, so
//! a stride is not taken because of the time at its end, but because of the earliest time of all that it passes over.

use serde::{Deserialize, Serialize};

/// What an entry that says what a host runs knows of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// Number of the one before; 0: there is none.
    pub before: u64,
    /// Number of an earlier one, or 0: before the first.
    pub skip: u64,
    /// How many steps that is.
    pub steps: u64,
    /// The earliest time of those from `skip` to `before`, both inside.
    pub earliest: u64,
}

/// One such entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    pub number: u64,
    pub at: u64,
    pub runs: Runs,
}

/// The links of the next entry after `last`; `skipped` is the one that `last.runs.skip` names, if any.
pub(super) fn next(last: Option<&Node>, skipped: Option<&Node>) -> Runs {
    match (last, skipped) {
        (None, _) => Runs { before: 0, skip: 0, steps: 1, earliest: u64::MAX },
        (Some(last), Some(skipped)) if last.runs.steps == skipped.runs.steps => Runs {
            before: last.number,
            skip: skipped.runs.skip,
            steps: 1 + last.runs.steps + skipped.runs.steps,
            earliest: last.at.min(last.runs.earliest).min(skipped.runs.earliest),
        },
        (Some(last), _) => Runs { before: last.number, skip: last.number, steps: 1, earliest: last.at },
    }
}

/// Where to look next for the newest entry that is not younger than `time`, when this one is; 0: there is none.
pub(super) fn towards(runs: &Runs, time: u64) -> u64 {
    if runs.earliest > time { runs.skip } else { runs.before }
}

/// Those that the last one reaches by strides alone, newest first: all that the next one's links need. For whoever
/// reads a host's entries from the beginning.
#[derive(Debug, Default)]
pub(super) struct Spine(Vec<Node>);

impl Spine {
    pub fn next(&self) -> Runs {
        let mut nodes = self.0.iter().rev();
        next(nodes.next(), nodes.next())
    }

    pub fn push(&mut self, node: Node) {
        while self.0.last().is_some_and(|last| last.number > node.runs.skip) {
            self.0.pop();
        }
        self.0.push(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of entries 1 to n, all links and what a search for each of them costs.
    #[test]
    fn any_of_many_is_reached_in_few_steps() {
        let mut nodes: Vec<Node> = Vec::new();
        let mut spine = Spine::default();
        let find = |nodes: &[Node], number: u64| (number > 0).then(|| nodes[number as usize - 1]);
        for number in 1..=3_000u64 {
            let last = nodes.last().copied();
            let runs = next(last.as_ref(), last.and_then(|last| find(&nodes, last.runs.skip)).as_ref());
            assert_eq!(spine.next(), runs);
            let node = Node { number, at: number * 10, runs };
            spine.push(node);
            nodes.push(node);
        }
        for (count, most) in [(120, 15), (240, 17), (3_000, 27)] {
            let longest = (0..=count).map(|wanted| {
                let (mut at, mut steps) = (count, 0);
                while let Some(node) = find(&nodes, at).filter(|node| node.at > wanted * 10) {
                    at = towards(&node.runs, wanted * 10);
                    steps += 1;
                }
                assert_eq!(at, wanted);
                steps
            });
            assert!(longest.max().unwrap() <= most, "{count} entries took more than {most} steps");
        }
    }
}
