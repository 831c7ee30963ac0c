//! Says of each path what is to be read, and then what differs, and keeps what the next scan should know.

use super::content::{self, Parts, Turn};
use super::fitting::{self, Fitting};
use super::rows::{Plan, Row, text_of};
use super::scan::{Found, Scan, Step, Summary};
use super::state::{self, Held, Known, Mark, Remembered, Since};
use super::tree::{Seen, Tree};
use crate::clock::{self, UnixSeconds};
use crate::decide::drift::finding::{Aspect, Aspects, Digest, Finding, Kind, Node, compare, is_privileged};
use crate::decide::drift::policy::{self, Ruling};
use crate::wire::drift::{self as words, CONTENT_BYTES_MAX, CONTENTS_BYTES_MAX, FINDINGS_MAX, PathText};
use std::collections::HashSet;
use std::time::Instant;

/// Of a report's JSON (`words::REPORT_BYTES_MAX`): findings with their contents, and gaps. The rest is a few hundred.
const FINDINGS_BYTES_MAX: usize = 160 << 10;
const GAPS_BYTES_MAX: usize = 24 << 10;
const GAPS_MAX: usize = 200;
const _: () = assert!(FINDINGS_BYTES_MAX + GAPS_BYTES_MAX + 4096 < words::REPORT_BYTES_MAX);
/// A kernel's ctime goes in ticks of up to 10 ms, and clocks are read in whole seconds here.
const TICK_SECONDS: i64 = 2;

pub struct Judge<'s, T> {
    scan: &'s Scan<'s, T>,
    out: &'s mut state::Writer,
    sink: &'s mut dyn FnMut(&Found),
    is_same_baseline: bool,
    /// Mount points that the baseline leaves out with all that is under them.
    pub unlisted: HashSet<Vec<u8>>,
    began: Instant,
    content_since: Option<UnixSeconds>,
    turn: Turn,
    /// Of the contents that were known before, so far.
    before_bytes: u64,
    findings: Fitting,
    gaps_bytes: usize,
    summary: Summary,
}

impl<'s, T: Tree> Judge<'s, T> {
    pub fn new(
        scan: &'s Scan<'s, T>,
        out: &'s mut state::Writer,
        sink: &'s mut dyn FnMut(&Found),
        former: (&state::Header, u64),
    ) -> Judge<'s, T> {
        let (former, total_bytes) = former;
        let summary = Summary { clock_set_back: former.began > scan.now, ..Summary::default() };
        Judge {
            scan,
            out,
            sink,
            is_same_baseline: !scan.baseline.is_empty() && former.baseline == scan.baseline,
            unlisted: HashSet::new(),
            began: clock::instant(),
            content_since: None,
            turn: Turn { now: scan.now, every: scan.every(), total_bytes },
            before_bytes: 0,
            findings: Fitting::new(FINDINGS_MAX, FINDINGS_BYTES_MAX),
            gaps_bytes: 0,
            summary,
        }
    }

    /// Whether its content is read, and what of it.
    pub fn row(&mut self, step: Step<T::Directory>) -> Row<T::Directory> {
        let Step { path, expected, former, visit } = step;
        let mut row = Row { expected, former, ..Row::new(path, None) };
        let Some(visit) = visit else { return row };
        self.summary.scan.paths += 1;
        row.gap = visit.gap;
        match visit.seen {
            Err(_) => row.is_unknown = true,
            Ok(seen) => {
                if let Kind::File { bytes, .. } = seen.node.kind {
                    row.directory = visit.directory;
                    self.plan(&mut row, &seen, bytes);
                }
                row.seen = Some(seen);
            }
        }
        row
    }

    fn plan(&mut self, row: &mut Row<T::Directory>, seen: &Seen, bytes: u64) {
        let expected = expected_digest(row.expected.as_ref(), bytes);
        let limit = if expected.is_some() { content::READ_BYTES_MAX } else { content::FOREIGN_BYTES_MAX };
        if bytes > limit {
            if expected.is_some() {
                row.gap = Some(format!("its content is longer than {limit} bytes"));
            }
            return;
        }
        let mark = Mark::of(&seen.identity);
        let known = row.former.content.as_ref().filter(|known| known.mark == mark && known.bytes == bytes);
        let known = known.and_then(|known| known.parts(expected.filter(|_| self.is_same_baseline)));
        let due = known.as_ref().map(|known| known.due(bytes, self.before_bytes, self.turn));
        let former_bytes = row.former.content.as_ref().map_or(0, |known| known.bytes);
        self.before_bytes = self.before_bytes.saturating_add(former_bytes);
        match (known, due) {
            (Some(known), Some(due)) if due.is_empty() => row.parts = Some(known),
            // Allowed to be different: not worth reading.
            _ if !self.cares(row, seen) => {}
            (Some(known), Some(due)) => row.plan = Some(Plan::Due(known, due)),
            _ => row.plan = Some(Plan::Whole),
        }
    }

    /// Whether the policy has anything against a difference of this content.
    fn cares(&self, row: &Row<T::Directory>, seen: &Seen) -> bool {
        let differs = compare(row.expected.as_ref(), Some(&seen.node));
        let whole = Aspects::NONE.with(Aspect::Added).with(Aspect::Kind);
        let aspects = match is_privileged(&seen.node) {
            _ if !differs.and(whole).is_empty() => differs,
            true => Aspects::NONE.with(Aspect::Content).with(Aspect::Privilege),
            false => Aspects::NONE.with(Aspect::Content),
        };
        !self.ruling(&row.path, aspects).left().is_empty()
    }

    fn ruling(&self, path: &[u8], aspects: Aspects) -> Ruling<'s> {
        policy::rule(self.scan.rules, path, aspects, self.scan.now)
    }

    /// A row of which everything is known.
    pub fn judge(&mut self, mut row: Row<T::Directory>) {
        let mut remembered = Remembered::default();
        if row.is_changing {
            self.summary.changing += 1;
            row.gap = Some("its content changes while it is read".to_owned());
        }
        if let Some(reason) = row.gap.take() {
            let since = row.former.gap_since.unwrap_or(self.scan.now).min(self.scan.now);
            self.gap(&row.path, &reason, since);
            remembered.gap_since = Some(since);
        }
        if !row.is_unknown {
            self.fit(&mut row);
            if let Some((parts, seen)) = row.parts.as_ref().zip(row.seen.as_ref()) {
                remembered.content = Some(self.known(&row, seen, parts));
                self.note_read(&row, seen, parts);
            }
            remembered.finding = self.find(&mut row);
        }
        if remembered != Remembered::default() {
            self.out.add(&row.path, remembered);
        }
    }

    /// What was read goes into what was seen; of a covered directory only its being there counts.
    fn fit(&self, row: &mut Row<T::Directory>) {
        let Some(seen) = &mut row.seen else { return };
        match (&mut seen.node.kind, &row.expected) {
            (Kind::File { digest, .. }, _) => *digest = row.parts.as_ref().map(Parts::digest),
            (Kind::Directory, Some(expected)) if seen.closed.is_some() => {
                seen.node = Node { kind: Kind::Directory, ..expected.clone() };
            }
            _ => {}
        }
    }

    fn note_read(&mut self, row: &Row<T::Directory>, seen: &Seen, parts: &Parts) {
        self.summary.files_read += u64::from(row.is_read);
        if expected_digest(row.expected.as_ref(), seen.identity.bytes).is_some() {
            let oldest = self.content_since.map_or(parts.oldest(), |since| since.min(parts.oldest()));
            self.content_since = Some(oldest);
        }
    }

    fn known(&self, row: &Row<T::Directory>, seen: &Seen, parts: &Parts) -> Known {
        let bytes = seen.identity.bytes;
        let held = match parts.as_slice() {
            [only]
                if !self.scan.baseline.is_empty()
                    && expected_digest(row.expected.as_ref(), bytes) == Some(&only.value) =>
            {
                Held::AsExpected { read_at: only.read_at }
            }
            all => Held::Parts(all.to_vec()),
        };
        // What is read with the same mark as before was not touched since.
        let is_fresh = row.is_read && self.is_fresh(seen.identity.ctime_ns);
        Known { mark: if is_fresh { Mark::NONE } else { Mark::of(&seen.identity) }, bytes, held }
    }

    /// Whether it was touched about when it was read: another change within the same tick would not be seen.
    fn is_fresh(&self, ctime_ns: i64) -> bool {
        let now = i64::try_from(self.scan.now + self.began.elapsed().as_secs()).unwrap_or(i64::MAX);
        let began = i64::try_from(self.scan.now).unwrap_or(i64::MAX);
        (began - TICK_SECONDS..=now.saturating_add(TICK_SECONDS)).contains(&(ctime_ns / 1_000_000_000))
    }

    /// What differs and is not allowed; since when.
    fn find(&mut self, row: &mut Row<T::Directory>) -> Option<Since> {
        let seen = row.seen.as_ref().map(|seen| &seen.node);
        let aspects = compare(row.expected.as_ref(), seen);
        if aspects.is_empty() || (row.expected.is_none() && self.unlisted.contains(&row.path)) {
            return None;
        }
        let ruling = self.ruling(&row.path, aspects);
        let left = ruling.left();
        if left.is_empty() {
            return None;
        }
        let now = self.scan.now;
        let former = row.former.finding;
        let since = Since {
            first_seen: former.map_or(now, |former| former.first_seen.min(now)),
            scans: former.map_or(0, |former| former.scans).saturating_add(u32::from(self.scan.is_whole())),
        };
        let content = if ruling.content() { self.text(row, aspects) } else { None };
        let finding = Finding {
            path: std::mem::take(&mut row.path),
            expected: row.expected.take(),
            seen: row.seen.take().map(|seen| seen.node),
        };
        let Since { first_seen, scans } = since;
        let found = Found { finding, left, first_seen, scans, content };
        (self.sink)(&found);
        self.summary.findings_total += 1;
        self.findings.push(found.to_words(), fitting::asks(&ruling));
        // The state is told the path after this.
        row.path = found.finding.path;
        Some(since)
    }

    /// Text of a small file, as long as there is room for it in a report.
    fn text(&self, row: &Row<T::Directory>, aspects: Aspects) -> Option<String> {
        let of_content = [Aspect::Added, Aspect::Content, Aspect::Kind].into_iter().any(|aspect| aspects.has(aspect));
        let (directory, parts) = row.directory.as_ref().zip(row.parts.as_ref())?;
        let bytes = usize::try_from(row.seen.as_ref()?.identity.bytes).ok()?;
        let fits = bytes <= CONTENT_BYTES_MAX && self.findings.contents_bytes() + bytes <= CONTENTS_BYTES_MAX;
        if !of_content || !fits || self.findings.count() >= FINDINGS_MAX {
            return None;
        }
        text_of(self.scan.tree, directory, &row.path, parts, bytes)
    }

    pub fn gap(&mut self, path: &[u8], reason: &str, since: UnixSeconds) {
        self.summary.gaps_total += 1;
        let reason = reason.chars().take(200).collect();
        let gap = words::Gap { path: PathText(path.to_vec()), reason, since };
        let bytes = json_bytes(&gap);
        if self.summary.gaps.len() < GAPS_MAX && self.gaps_bytes + bytes <= GAPS_BYTES_MAX {
            self.gaps_bytes += bytes;
            self.summary.gaps.push(gap);
        }
    }

    pub fn finish(mut self, read_bytes: u64) -> Summary {
        let scan = &mut self.summary.scan;
        scan.kind = self.scan.kind().to_owned();
        scan.began = self.scan.now;
        scan.ended = self.scan.now + self.began.elapsed().as_secs();
        scan.read_bytes = read_bytes;
        if self.scan.is_whole() {
            scan.content_since = self.content_since.unwrap_or(self.scan.now);
        }
        self.summary.state_lost = self.out.finish();
        self.summary.findings = self.findings.into_findings();
        self.summary
    }
}

impl Found {
    #[must_use]
    pub fn to_words(&self) -> words::Finding {
        words::Finding {
            path: PathText(self.finding.path.clone()),
            expected: self.finding.expected.as_ref().map(words::Node::from),
            seen: self.finding.seen.as_ref().map(words::Node::from),
            first_seen: self.first_seen,
            scans: self.scans,
            content: self.content.clone(),
        }
    }
}

fn json_bytes(words: &impl serde::Serialize) -> usize {
    // With the comma. All of it has a JSON form.
    serde_json::to_vec(words).map_or(usize::MAX / 2, |json| json.len() + 1)
}

/// The digest that a file of this length should have.
fn expected_digest(expected: Option<&Node>, bytes: u64) -> Option<&Digest> {
    match expected.map(|node| &node.kind) {
        Some(Kind::File { bytes: own, digest }) if *own == bytes => digest.as_ref(),
        _ => None,
    }
}
