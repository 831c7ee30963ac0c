//! Reports and keys in the writer, and what a host's findings come to.

use super::listed::JudgedPath;
use super::state::{Heard, Mark, Noted, Source, Watched, path_mark};
use super::stored::{Found, Listed};
use super::{AllListed, DriftRefusal, Said};
use crate::db::DbError;
use crate::decide::cause::{Cause, CauseKind};
use crate::decide::drift::finding::Aspects;
use crate::decide::drift::judge::{self, Verdict, known};
use crate::decide::drift::path;
use crate::decide::drift::policy::Rule;
use crate::decide::host::{Entry, Event, Host, State};
use crate::registry::fleet::parse;
use crate::registry::writer::{Batch, Writer, fitting};
use crate::registry::{HostView, RegistryError};
use crate::wire::drift::{Finding, Node};
use std::cmp::Ordering;
use std::sync::Arc;

const HOSTS: &str = "drift/host/";
/// Who asks, in history and orders.
const ACTOR: &str = "drift";
/// When the store could not be read the host is looked at again.
const AGAIN_SECONDS: u64 = 60;
/// Between two lines of a host's history about its standing, and between two asks of one generation.
const PAUSE_SECONDS: u64 = 600;
/// Between two reports of one agent: what it has to say takes it a look, and each is a commit of ours.
const REPORTS_APART_SECONDS: u64 = 2;

/// What the findings of a host come to now.
#[derive(Default)]
struct Sum {
    findings: u64,
    asking: u64,
    first: Option<(Vec<u8>, Aspects)>,
    first_asking: Option<(Vec<u8>, Aspects)>,
    marks: Vec<Mark>,
    /// When it comes to something else though nothing is reported.
    again_at: Option<u64>,
}

impl Writer {
    pub(in crate::registry) fn load_drift(&mut self, now: u64) -> Result<(), DbError> {
        self.drift.started_at = now;
        for item in self.db.scan(HOSTS)? {
            let watched: Watched = parse(&item)?;
            self.drift.hosts.insert(item.key[HOSTS.len()..].to_string(), Arc::new(watched));
        }
        self.drift.all_due(now);
        self.load_exceptions()
    }

    pub(super) fn enrol_drift_key(
        &mut self,
        host: &str,
        generation: u64,
        key: [u8; 32],
        batch: &mut Batch,
    ) -> Result<u64, RegistryError> {
        let id = self.id_of(host)?;
        let host = &self.hosts[&id].host;
        runs(host, generation)?;
        if let Some(order) = &host.order {
            return Err(DriftRefusal::OrderOpen { generation: order.generation }.into());
        }
        let mut watched = self.watched(&id, generation);
        match watched.key {
            Some(known) if known == key => return Ok(watched.sequence),
            Some(_) => return Err(DriftRefusal::OtherKey { generation }.into()),
            None => watched.key = Some(key),
        }
        tracing::info!(host = id, generation, "the installed agent's key was taken");
        let sequence = watched.sequence;
        self.keep_watched(&id, watched, batch);
        Ok(sequence)
    }

    pub(super) fn forget_drift_key(
        &mut self,
        host: &str,
        by: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let id = self.id_of(host)?;
        let Some(watched) = self.drift.hosts.get(&id).filter(|watched| watched.key.is_some()) else { return Ok(()) };
        let watched = Watched { key: None, ..Watched::clone(watched) };
        self.keep_watched(&id, watched, batch);
        self.note_drift(&id, "the key of the installed agent is forgotten", &format!("operator {by}"), batch, now)
    }

    pub(super) fn take_drift_report(
        &mut self,
        host: &str,
        said: Said,
        batch: &mut Batch,
        now: u64,
    ) -> Result<u64, RegistryError> {
        let id = self.id_of(host)?;
        let view = &self.hosts[&id].host;
        runs(view, said.generation)?;
        if matches!(view.state, State::Deploying(_) | State::Verifying) {
            return Err(DriftRefusal::BeingWritten.into());
        }
        let mut watched = self.watched(&id, said.generation);
        if said.source == Source::Agent {
            if watched.key.is_none() || watched.key != said.key {
                return Err(DriftRefusal::WrongKey.into());
            }
            if said.sequence == watched.sequence && watched.digest == Some(said.digest) {
                return Ok(watched.sequence);
            }
            if said.sequence <= watched.sequence {
                return Err(DriftRefusal::Replayed { last: watched.sequence, said: said.sequence }.into());
            }
            let since = watched.agent.as_ref().map_or(u64::MAX, |heard| now.abs_diff(heard.at));
            if since < REPORTS_APART_SECONDS {
                return Err(DriftRefusal::TooSoon { seconds: REPORTS_APART_SECONDS - since }.into());
            }
        }
        let heard = self.heard(&id, &watched, &said, batch, now)?;
        match said.source {
            Source::Agent => {
                (watched.sequence, watched.digest) = (said.sequence, Some(said.digest));
                watched.agent = Some(heard);
            }
            Source::Outside => watched.outside = Some(heard),
        }
        let sequence = watched.sequence;
        self.keep_watched(&id, watched, batch);
        if self.is_clock_held() {
            // A clock that jumped ends no grace, by a report no more than by a tick.
            self.drift.set_due(&id, Some(now));
        } else {
            self.judge_drift(&id, batch, now);
        }
        Ok(sequence)
    }

    /// The head of a report, and its list into the batch where it is another one.
    fn heard(
        &mut self,
        id: &str,
        watched: &Watched,
        said: &Said,
        batch: &mut Batch,
        now: u64,
    ) -> Result<Heard, RegistryError> {
        let before = watched.heard(said.source);
        let look = look_of(before, said);
        let former = self.listed(id, said.source)?;
        let (found, listed_in, total) = match (said.same_as, before) {
            (Some(number), Some(before)) if before.listed_in == number => (former.found.clone(), number, before.total),
            (Some(number), _) => return Err(DriftRefusal::NotKept { said: number }.into()),
            (None, _) => (merged(&former.found, &said.findings, look, now), said.sequence, said.total),
        };
        let listed = Listed { gaps: said.gaps.clone(), found };
        let mut chunks = before.map_or(0, |heard| heard.chunks);
        if listed != *former {
            chunks = self.put_listed(id, said.source, listed, chunks, batch)?;
        } else {
            // Judged in a moment: not to be read from the store again.
            self.drift.staged.insert((id.to_string(), said.source), former);
        }
        let scan = said.scan.clone();
        let verification = said.verification;
        Ok(Heard { at: now, listed_in, scan, look, verification, gaps: said.gaps_total, total, chunks })
    }

    fn put_listed(
        &mut self,
        id: &str,
        source: Source,
        listed: Listed,
        former: u16,
        batch: &mut Batch,
    ) -> Result<u16, RegistryError> {
        let packed = listed.packed().map_err(|error| RegistryError::TooLarge(error.to_string()))?;
        let packed: Vec<Vec<u8>> = packed.into_iter().map(fitting).collect::<Result<_, _>>()?;
        // At most 4 MiB in pieces of 20 KiB.
        let chunks = u16::try_from(packed.len()).unwrap_or(u16::MAX);
        for (number, chunk) in (0..).zip(packed) {
            batch.put(list_key(id, source, number), Some(chunk));
        }
        (chunks..former).for_each(|number| batch.put(list_key(id, source, number), None));
        self.drift.staged.insert((id.to_string(), source), Arc::new(listed));
        Ok(chunks)
    }

    fn listed(&self, id: &str, source: Source) -> Result<Arc<Listed>, RegistryError> {
        if let Some(listed) = self.drift.staged.get(&(id.to_string(), source)) {
            return Ok(listed.clone());
        }
        let heard = self.drift.hosts.get(id).and_then(|watched| watched.heard(source));
        let chunks = heard.map_or(0, |heard| heard.chunks);
        super::top::read_listed(&*self.db, id, source, chunks).map(Arc::new)
    }

    pub(super) fn all_listed(&self, id: &str) -> Result<AllListed, RegistryError> {
        Ok(AllListed { agent: self.listed(id, Source::Agent)?, outside: self.listed(id, Source::Outside)? })
    }

    /// What is known of a host in this generation: nothing yet where it is another one.
    fn watched(&self, id: &str, generation: u64) -> Watched {
        let known = self.drift.hosts.get(id).filter(|watched| watched.generation == generation);
        known.map_or_else(|| Watched { generation, ..Watched::default() }, |watched| Watched::clone(watched))
    }

    fn keep_watched(&mut self, id: &str, watched: Watched, batch: &mut Batch) {
        // Strings and numbers of bounded length: serialising them cannot fail.
        batch.put(format!("{HOSTS}{id}"), serde_json::to_vec(&watched).ok());
        self.drift.hosts.insert(id.to_string(), Arc::new(watched));
        batch.drift.push(id.to_string());
    }

    /// A record changed: what is known of the drift of another generation goes; a host that came to rest, or into other
    /// rules, is judged again.
    pub(in crate::registry) fn drift_follows(
        &mut self,
        before: Option<&Host>,
        after: &Host,
        batch: &mut Batch,
        now: u64,
    ) {
        let Some(watched) = self.drift.hosts.get(&after.id) else { return };
        if watched.generation != after.reported_generation || after.reported.is_none() {
            return self.forget_drift(&after.id, batch);
        }
        let is_ready = |host: &Host| matches!(host.state, State::Ready { .. });
        let comes_to_rest = is_ready(after) && !before.is_some_and(is_ready);
        if comes_to_rest || before.is_none_or(|before| (&before.group, &before.drift) != (&after.group, &after.drift)) {
            self.drift.set_due(&after.id, Some(now));
        }
    }

    pub(in crate::registry) fn forget_drift(&mut self, id: &str, batch: &mut Batch) {
        let Some(watched) = self.drift.hosts.remove(id) else { return };
        self.drift.set_due(id, None);
        batch.put(format!("{HOSTS}{id}"), None);
        for source in Source::ALL {
            let chunks = watched.heard(source).map_or(0, |heard| heard.chunks);
            (0..chunks).for_each(|number| batch.put(list_key(id, source, number), None));
            self.drift.staged.remove(&(id.to_string(), source));
        }
        batch.drift.push(id.to_string());
    }

    /// Judges what is known of a host by the rules of now: its standing, and whether it asks for a rebuild. The answer is
    /// how many findings that were.
    pub(super) fn judge_drift(&mut self, id: &str, batch: &mut Batch, now: u64) -> usize {
        let Some(host) = self.hosts.get(id).map(|view| view.host.clone()) else { return 0 };
        let Some(before) = self.drift.hosts.get(id).cloned() else { return 0 };
        let rules = self.drift_rules(&host, now);
        let listed = match self.all_listed(id) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::error!(host = id, %error, "the findings of this host cannot be read");
                self.drift.set_due(id, Some(now + AGAIN_SECONDS));
                return 0;
            }
        };
        let mut sum = summed(&before, &listed, &rules.rules, now);
        let has_looked = before.agent.is_some() || before.outside.is_some();
        let silent_at = silent_at(&before, &host, rules.pace.report_seconds, self.drift.started_at);
        let mut after = Watched {
            drifted: has_looked.then_some(sum.findings > 0),
            silent: silent_at.is_some_and(|at| at <= now),
            findings: sum.findings,
            asking: sum.asking,
            marks: std::mem::take(&mut sum.marks).into(),
            ..Watched::clone(&before)
        };
        let noted_at = self.note_standing(&mut after, &sum, id, batch, now);
        let asks_at = self.ask_is_put_off_to(id, &sum, &after, now);
        let again = sum.again_at.into_iter().chain(silent_at.filter(|at| *at > now)).chain(noted_at).chain(asks_at);
        self.drift.set_due(id, again.min());
        if !after.stands_as(&before) {
            self.keep_watched(id, after, batch);
        } else if after.marks != before.marks {
            self.drift.hosts.insert(id.to_string(), Arc::new(after));
            batch.drift.push(id.to_string());
        }
        if asks_at.is_none() {
            self.ask_or_withdraw(id, &sum, batch, now);
        }
        listed.agent.found.len() + listed.outside.found.len()
    }

    /// Writes a change of the standing into the history, once in a while at most; what holds still by then is written then.
    /// The answer is when that is.
    fn note_standing(&mut self, after: &mut Watched, sum: &Sum, id: &str, batch: &mut Batch, now: u64) -> Option<u64> {
        let before = after.noted;
        let mut lines = Vec::new();
        match (before.silent, after.silent) {
            (false, true) => lines.push("silent: the installed agent reports no longer".to_string()),
            (true, false) => lines.push("the installed agent reports again".to_string()),
            _ => {}
        }
        match (before.drifted, after.drifted) {
            (None | Some(false), Some(true)) => {
                let first = sum.first.as_ref().map(|(path, aspects)| judge::sentence(path, *aspects, 0));
                let first = first.map_or_else(String::new, |first| format!(", {first}"));
                let many = if sum.findings == 1 { "1 finding".into() } else { format!("{} findings", sum.findings) };
                lines.push(format!("drifted: {many}{first}"));
            }
            (Some(true), Some(false)) => {
                lines.push("clean: nothing differs that the policy does not allow".to_string())
            }
            _ => {}
        }
        if lines.is_empty() {
            return None;
        }
        if is_within_pause(before.at, now) {
            return Some(before.at.min(now) + PAUSE_SECONDS);
        }
        after.noted = Noted { drifted: after.drifted, silent: after.silent, at: now, ..before };
        for line in lines {
            if let Err(error) = self.note_drift(id, &line, ACTOR, batch, now) {
                tracing::warn!(host = id, %error, line, "not in the host's history");
            }
        }
        None
    }

    fn note_drift(
        &mut self,
        id: &str,
        line: &str,
        actor: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let Some(view) = self.hosts.get(id).map(|view| HostView::clone(view)) else { return Ok(()) };
        let state = view.host.state.clone();
        let (from, to) = (state.clone(), state);
        let entry = Entry { from, to, cause: line.to_string(), actor: actor.to_string() };
        self.replace(view, &[entry], batch, now)
    }

    /// When a host may ask that asked a moment ago: what asked is taken back at once, and so is asked for again only after a
    /// pause, or a host whose findings come and go would write two lines for each report.
    fn ask_is_put_off_to(&self, id: &str, sum: &Sum, after: &Watched, now: u64) -> Option<u64> {
        let host = self.hosts.get(id).map(|view| &view.host)?;
        let would_ask = sum.first_asking.is_some() && is_at_rest(host) && !asks_already(host);
        let asked_at = after.noted.asked_at;
        (would_ask && is_within_pause(asked_at, now)).then(|| asked_at.min(now) + PAUSE_SECONDS)
    }

    /// A host asks once, and only from rest; what it asked for is taken back when nothing asks any more.
    fn ask_or_withdraw(&mut self, id: &str, sum: &Sum, batch: &mut Batch, now: u64) {
        let Some(host) = self.hosts.get(id).map(|view| &view.host) else { return };
        let (asks_already, is_at_rest) = (asks_already(host), is_at_rest(host));
        let event = match &sum.first_asking {
            Some((path, aspects)) if is_at_rest && !asks_already => {
                let reason = judge::sentence(path, *aspects, sum.asking - 1);
                Event::Ask { cause: Cause::new(CauseKind::Drift, &reason, ACTOR, now) }
            }
            None if asks_already => Event::Withdraw { kind: CauseKind::Drift, by: ACTOR.to_string() },
            _ => return,
        };
        // A protected host, say: its findings are shown, and it does not ask.
        if let Err(error) = self.host_event(id, &event, None, batch, now) {
            tracing::debug!(host = id, %error, "what drift says of this host was not taken");
        } else if matches!(event, Event::Ask { .. })
            && let Some(mut watched) = self.drift.hosts.get(id).map(|watched| Watched::clone(watched))
        {
            watched.noted.asked_at = now;
            self.keep_watched(id, watched, batch);
        }
    }
}

/// A clock that was set back prolongs no pause beyond its length.
fn is_within_pause(before: u64, now: u64) -> bool {
    before != 0 && now.abs_diff(before) < PAUSE_SECONDS
}

fn asks_already(host: &Host) -> bool {
    host.asks.iter().any(|cause| cause.kind == CauseKind::Drift)
}

fn is_at_rest(host: &Host) -> bool {
    matches!(host.state, State::Ready { .. }) && host.order.is_none()
}

/// The number of the whole look that a report is of, by the server's own count: an agent that lost its state begins again at
/// 1, and one that lies says any number; a quorum must neither stand still nor jump by it. One report is one more look at
/// most, and one verification is one look, however often its machine has to say what it saw.
fn look_of(before: Option<&Heard>, said: &Said) -> u64 {
    let Some(before) = before else { return 1 };
    let is_another = match said.source {
        Source::Agent => before.scan.number != said.scan.number,
        Source::Outside => before.verification != said.verification,
    };
    before.look.saturating_add(u64::from(is_another))
}

/// When an agent that reported once is late; only of a host that should run.
fn silent_at(watched: &Watched, host: &Host, report_seconds: u64, started_at: u64) -> Option<u64> {
    let heard = watched.agent.as_ref().filter(|_| matches!(host.state, State::Ready { .. }))?;
    Some(judge::silent_at(heard.at.max(started_at), report_seconds))
}

fn runs(host: &Host, said: u64) -> Result<(), DriftRefusal> {
    match &host.reported {
        None => Err(DriftRefusal::NotBuilt),
        Some(_) if host.reported_generation != said => {
            Err(DriftRefusal::OtherGeneration { runs: host.reported_generation, said })
        }
        Some(_) => Ok(()),
    }
}

pub(super) fn list_key(id: &str, source: Source, number: u16) -> String {
    format!("drift/list/{id}/{}/{number:03}", source.word())
}

/// What is known of each finding: both lists are in the order of their paths.
fn merged(before: &[Found], said: &[(Finding, Aspects)], look: u64, now: u64) -> Vec<Found> {
    let mut before = before.iter().peekable();
    let merge = |(finding, aspects): &(Finding, Aspects)| {
        let at = &finding.path.0;
        while before.next_if(|found| path::order(found.path(), at) == Ordering::Less).is_some() {}
        let former = before.next_if(|found| found.path() == at);
        let known = known(former.map_or(&[], |found| found.known.as_slice()), *aspects, look, now);
        Found { finding: finding.clone(), known }
    };
    said.iter().map(merge).collect()
}

fn summed(watched: &Watched, listed: &AllListed, rules: &[Rule], now: u64) -> Sum {
    let mut sum = Sum::default();
    for at in listed.paths() {
        let Some(JudgedPath { found, judged, again_at }) = at.judged(Some(watched), rules, now) else { continue };
        if judged.left.is_empty() {
            continue;
        }
        sum.findings += 1;
        let it = || Some((at.path.to_vec(), judged.left));
        sum.first = sum.first.take().or_else(it);
        let asks = judged.verdict == Verdict::Asks;
        if asks {
            sum.asking += 1;
            sum.first_asking = sum.first_asking.take().or_else(it);
        }
        sum.again_at = sum.again_at.into_iter().chain(again_at).min();
        let content = content_mark(found.finding.seen.as_ref());
        sum.marks.push(Mark { path: path_mark(at.path), content, aspects: judged.left, asks });
    }
    // A rule that ends matters only where it might have let something be.
    if listed.paths().next().is_some() {
        sum.again_at = sum.again_at.into_iter().chain(judge::next_end(rules, now)).min();
    }
    for (heard, listed) in [(&watched.agent, &listed.agent), (&watched.outside, &listed.outside)] {
        let total = heard.as_ref().map_or(0, |heard| heard.total);
        sum.findings = sum.findings.saturating_add(total.saturating_sub(listed.found.len() as u64));
    }
    sum
}

/// What is there now: the same on two hosts when these are equal. 0 where it was not read.
fn content_mark(seen: Option<&Node>) -> u32 {
    let Some(seen) = seen else { return 1 };
    let what = match seen.kind.as_str() {
        "file" => match &seen.digest {
            Some(digest) => digest.as_bytes().to_vec(),
            None => return 0,
        },
        "symlink" => seen.target.as_ref().map(|target| target.0.clone()).unwrap_or_default(),
        _ => format!("{:?}", seen.device).into_bytes(),
    };
    let digest = blake3::hash(&[seen.kind.as_bytes(), b"\0", &what].concat());
    digest.as_bytes().iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte)).max(2)
}
