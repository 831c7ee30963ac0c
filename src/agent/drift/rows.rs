//! What a scan knows of each path, in order, while content is being read. Small files are read by the scan's own
//! thread (to hand one over costs more than to read it), larger ones by a second thread where there is one.

use super::content::{Hashing, Parts};
use super::state::Remembered;
use super::tree::{Content, Identity, Seen, Tree};
use super::walk::{is_gone, name_of};
use crate::clock::UnixSeconds;
use crate::decide::drift::finding::{Kind, Node};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::Scope;

/// Each may keep a directory open.
const ROWS_MAX: usize = 200;
const HANDED_OVER_BYTES_MIN: u64 = 64 << 10;
/// Hard links lie near each other in practice: of so many files the digest is kept for the next name.
const LINKED_MAX: usize = 64;
/// What waits for the second thread; beyond it the first one reads by itself.
const BACKLOG_BYTES_MAX: u64 = 16 << 20;

pub struct Row<D> {
    pub path: Vec<u8>,
    pub directory: Option<Arc<D>>,
    pub expected: Option<Node>,
    pub former: Remembered,
    pub seen: Option<Seen>,
    pub gap: Option<String>,
    /// It is there, but nothing can be said of it.
    pub is_unknown: bool,
    /// Content that is known without reading.
    pub parts: Option<Parts>,
    /// What is to be read.
    pub plan: Option<Plan>,
    /// It did not hold still.
    pub is_changing: bool,
    pub is_read: bool,
}

#[derive(Debug, Clone)]
pub enum Plan {
    Whole,
    /// These slices of what was known.
    Due(Parts, Vec<usize>),
}

impl<D> Row<D> {
    pub fn new(path: Vec<u8>, seen: Option<Seen>) -> Row<D> {
        Row {
            path,
            directory: None,
            expected: None,
            former: Remembered::default(),
            seen,
            gap: None,
            is_unknown: false,
            parts: None,
            plan: None,
            is_changing: false,
            is_read: false,
        }
    }

    fn bytes(&self) -> u64 {
        match (&self.plan, &self.seen) {
            (Some(Plan::Due(_, due)), _) => (due.len() as u64) << 20,
            (Some(Plan::Whole), Some(seen)) => seen.identity.bytes,
            _ => 0,
        }
    }

    fn take(&mut self, answer: Answer) {
        self.plan = None;
        match answer {
            Answer::Read(seen, parts) => {
                self.seen = Some(seen);
                self.parts = Some(parts);
                self.is_read = true;
            }
            Answer::Changing(seen) => {
                self.is_changing = matches!(seen.node.kind, Kind::File { .. });
                self.seen = Some(seen);
            }
            Answer::Gone => self.seen = None,
            Answer::Failed(reason) => self.gap = Some(reason),
        }
    }
}

struct Request<D> {
    number: u64,
    directory: Arc<D>,
    path: Vec<u8>,
    seen: Seen,
    plan: Plan,
}

enum Answer {
    Read(Seen, Parts),
    /// It changed while it was read, twice; as it is now.
    Changing(Seen),
    Gone,
    Failed(String),
}

pub struct Rows<'scope, T: Tree> {
    tree: &'scope T,
    waiting: VecDeque<(Row<T::Directory>, bool)>,
    /// Number of the first one that waits.
    first: u64,
    hashing: Hashing,
    now: UnixSeconds,
    second: Option<Second<T::Directory>>,
    linked: VecDeque<(Identity, Parts)>,
    pub read_bytes: u64,
}

struct Second<D> {
    requests: SyncSender<Request<D>>,
    answers: Receiver<(u64, u64, Answer)>,
    backlog_bytes: u64,
}

impl<'scope, T: Tree> Rows<'scope, T> {
    pub fn new<'env>(scope: &'scope Scope<'scope, 'env>, tree: &'scope T, threads: usize, now: UnixSeconds) -> Self {
        let second = (threads > 1).then(|| {
            let (requests, to_read) = mpsc::sync_channel::<Request<T::Directory>>(ROWS_MAX);
            let (answered, answers) = mpsc::sync_channel(ROWS_MAX);
            scope.spawn(move || {
                let mut hashing = Hashing::default();
                for request in to_read {
                    let before = hashing.read_bytes;
                    let answer = read(tree, &mut hashing, &request, now);
                    // The scan ended early: nobody asks any more.
                    if answered.send((request.number, hashing.read_bytes - before, answer)).is_err() {
                        return;
                    }
                }
            });
            Second { requests, answers, backlog_bytes: 0 }
        });
        let (waiting, hashing) = (VecDeque::new(), Hashing::default());
        Rows { tree, waiting, first: 0, hashing, now, second, linked: VecDeque::new(), read_bytes: 0 }
    }

    /// Takes the next row, and gives on those before it that are complete.
    pub fn push(&mut self, mut row: Row<T::Directory>, mut done: impl FnMut(Row<T::Directory>)) {
        let number = self.first + self.waiting.len() as u64;
        let mut is_waiting = false;
        let (bytes, request) = (row.bytes(), request_of(&mut row, number));
        if let Some(request) = request {
            // Other names of a file come soon, and ask what it holds.
            let is_linked = request.seen.links > 1;
            let second = self.second.as_mut().filter(|second| {
                let has_room = second.backlog_bytes == 0 || second.backlog_bytes + bytes < BACKLOG_BYTES_MAX;
                bytes >= HANDED_OVER_BYTES_MIN && has_room && !is_linked
            });
            if let Some(second) = second {
                second.backlog_bytes += bytes;
                is_waiting = second.requests.send(request).is_ok();
            } else {
                row.take(self.read(request));
            }
        }
        self.waiting.push_back((row, is_waiting));
        self.take_answers(self.waiting.len() >= ROWS_MAX);
        self.give(&mut done);
    }

    fn read(&mut self, request: Request<T::Directory>) -> Answer {
        let is_linked = request.seen.links > 1;
        if let Some((_, parts)) = self.linked.iter().find(|(own, _)| is_linked && *own == request.seen.identity) {
            return Answer::Read(request.seen, parts.clone());
        }
        let before = self.hashing.read_bytes;
        let answer = read(self.tree, &mut self.hashing, &request, self.now);
        self.read_bytes += self.hashing.read_bytes - before;
        if let (true, Answer::Read(seen, parts)) = (is_linked, &answer) {
            self.linked.truncate(LINKED_MAX - 1);
            self.linked.push_front((seen.identity, parts.clone()));
        }
        answer
    }

    pub fn finish(&mut self, mut done: impl FnMut(Row<T::Directory>)) {
        while !self.waiting.is_empty() {
            self.take_answers(true);
            self.give(&mut done);
        }
    }

    fn give(&mut self, done: &mut impl FnMut(Row<T::Directory>)) {
        while self.waiting.front().is_some_and(|(_, is_waiting)| !is_waiting) {
            if let Some((row, _)) = self.waiting.pop_front() {
                self.first += 1;
                done(row);
            }
        }
    }

    /// Waits for one where the first row is not complete and `must_wait`.
    fn take_answers(&mut self, must_wait: bool) {
        let Some(second) = &mut self.second else { return };
        let mut is_stuck = must_wait && self.waiting.front().is_some_and(|(_, is_waiting)| *is_waiting);
        loop {
            let answer = if is_stuck { second.answers.recv().ok() } else { second.answers.try_recv().ok() };
            let Some((number, read_bytes, answer)) = answer else { return };
            is_stuck = is_stuck && number != self.first;
            let at = usize::try_from(number - self.first).unwrap_or(usize::MAX);
            self.read_bytes += read_bytes;
            if let Some((row, is_waiting)) = self.waiting.get_mut(at) {
                *is_waiting = false;
                second.backlog_bytes = second.backlog_bytes.saturating_sub(row.bytes());
                row.take(answer);
            }
        }
    }
}

fn request_of<D>(row: &mut Row<D>, number: u64) -> Option<Request<D>> {
    let (plan, seen, directory) = (row.plan.clone()?, row.seen.clone()?, row.directory.clone()?);
    Some(Request { number, directory, path: row.path.clone(), seen, plan })
}

/// Reads a file between two looks at it. One that is not the same after as before is read once more, whole, as far as
/// it was long when it was opened; a file that grows without end costs no more than that.
fn read<T: Tree>(tree: &T, hashing: &mut Hashing, request: &Request<T::Directory>, now: UnixSeconds) -> Answer {
    let (directory, name) = (&*request.directory, name_of(&request.path));
    let mut seen = request.seen.clone();
    let mut plan = &request.plan;
    for _ in 0..2 {
        let mut failed = None;
        let read = tree.open(directory, name, &request.path).and_then(|mut file| {
            if file.identity()? != seen.identity {
                return Ok(None);
            }
            let parts = match plan {
                Plan::Whole => hashing.whole(&mut file, seen.identity.bytes, now)?,
                Plan::Due(known, due) => hashing.due(&mut file, &seen.identity, known.clone(), due, now)?,
            };
            Ok(parts.filter(|_| file.identity().is_ok_and(|after| after == seen.identity)))
        });
        match read {
            Ok(Some(parts)) => return Answer::Read(seen, parts),
            // The reason only if it is still the same file: else it was replaced before it was opened.
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
        plan = &Plan::Whole;
        let again = match tree.look(directory, name, &request.path) {
            Ok(again) => again,
            Err(error) if is_gone(&error) => return Answer::Gone,
            Err(error) => return Answer::Failed(error.to_string()),
        };
        match failed {
            Some(error) if again == seen => return Answer::Failed(format!("its content cannot be read: {error}")),
            _ => seen = again,
        }
        if !matches!(seen.node.kind, Kind::File { .. }) {
            break;
        }
    }
    Answer::Changing(seen)
}

/// The text of a small file that has this digest; `None` where it is none, or no longer so.
pub fn text_of<T: Tree>(
    tree: &T,
    directory: &T::Directory,
    path: &[u8],
    parts: &Parts,
    bytes: usize,
) -> Option<String> {
    let mut content = vec![0; bytes];
    let mut read = || -> io::Result<bool> {
        let mut file = tree.open(directory, name_of(path), path)?;
        let mut at = 0;
        while at < bytes {
            match file.read_at(at as u64, &mut content[at..])? {
                0 => return Ok(false),
                count => at += count,
            }
        }
        Ok(true)
    };
    if !read().unwrap_or(false) || *blake3::hash(&content).as_bytes() != parts.digest() {
        return None;
    }
    String::from_utf8(content).ok()
}
