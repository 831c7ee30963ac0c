//! What operators say of images: channels that point to a version, versions that are deprecated or blocked.
//!
//! The image store knows contents; what a content is good for is a record like any other.

use super::RegistryError;
use super::history;
use super::rollouts::{Rollout, RolloutCommand};
use super::writer::{Batch, Writer};
use crate::db::DbError;
use crate::decide::host::{Event, Host, ImageChoice};
use crate::decide::rollout::plan::Goal;
use crate::decide::version::{self, Stage, Word};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const CHANNELS: &str = "channel/";
const MARKS: &str = "image-mark/";

/// Where a channel points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// `NAME@CHANNEL`.
    pub name: String,
    /// `NAME:VERSION`.
    pub image: String,
    pub manifest: String,
    pub by: String,
    pub reason: String,
    /// Unix seconds of the last move.
    pub at: u64,
    /// Moves so far; their lines are history of `channel-NAME@CHANNEL`.
    pub moves: u64,
}

impl Channel {
    #[must_use]
    pub fn choice(&self) -> ImageChoice {
        ImageChoice { name: self.image.clone(), manifest: self.manifest.clone() }
    }
}

/// What a version is no longer good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// Only hosts that a person names get it.
    Preview,
    /// Hosts on it ask for what their group should run.
    Deprecated,
    /// And no order for it is opened any more, none that is open begins, and none gets another attempt.
    Blocked,
    /// As blocked, and its data goes once nobody uses it.
    Retired,
}

/// A marked version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub image: String,
    pub kind: MarkKind,
    pub by: String,
    pub reason: String,
    pub at: u64,
}

/// All of it, as readers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    pub channels: BTreeMap<String, Channel>,
    pub marks: BTreeMap<String, Mark>,
    /// Marks that retired versions had before.
    pub before: BTreeMap<String, Mark>,
    /// Versions whose data goes or is gone, with the mark that they get back when they are imported again.
    pub collected: BTreeMap<String, Option<Mark>>,
    /// Versions that the image store cannot answer for: why. Not stored.
    pub unfit: Arc<BTreeMap<String, String>>,
    /// Where signatures are required: the versions that a trusted key has signed, and no other may be ordered. Not stored.
    pub signed: Option<Arc<BTreeSet<String>>>,
}

impl ImageFacts {
    /// Why no order for this version may be opened.
    #[must_use]
    pub fn blocked(&self, image: &str) -> Option<&Mark> {
        self.marks.get(image).filter(|mark| mark.kind == MarkKind::Blocked)
    }
}

impl Writer {
    pub(super) fn load_images(&mut self) -> Result<(), DbError> {
        let mut facts = ImageFacts::default();
        for item in self.db.scan(CHANNELS)? {
            let channel: Channel = super::fleet::parse(&item)?;
            facts.channels.insert(channel.name.clone(), channel);
        }
        for item in self.db.scan(MARKS)? {
            let mark: Mark = super::fleet::parse(&item)?;
            facts.marks.insert(mark.image.clone(), mark);
        }
        for item in self.db.scan(super::image_life::BEFORE)? {
            let mark: Mark = super::fleet::parse(&item)?;
            facts.before.insert(mark.image.clone(), mark);
        }
        facts.collected = self.load_collected()?;
        self.images = Arc::new(facts);
        Ok(())
    }

    /// Moves a channel. Nothing is ordered by this: hosts of groups that follow it ask at the next tick.
    pub(super) fn set_channel(&mut self, to: Channel, batch: &mut Batch, now: u64) -> Result<Channel, RegistryError> {
        // Asked here, where versions are retired, so that no channel ever points to one whose data goes.
        if let Some(why) = version::refuses(self.images.stage(&to.image), version::Asker::Many) {
            return Err(RegistryError::ImageRefused(format!("{} {why}", to.image)));
        }
        let facts = Arc::make_mut(&mut self.images);
        let former = facts.channels.get(&to.name);
        let moves = former.map_or(0, |former| former.moves);
        let line = history::Line {
            number: moves,
            at: now,
            generation: 0,
            from: former.map_or_else(String::new, |former| former.image.clone()),
            to: to.image.clone(),
            cause: to.reason.clone(),
            actor: format!("operator {}", to.by),
        };
        let to = Channel { at: now, moves: moves + 1, ..to };
        // Strings and numbers: serialising them cannot fail.
        batch.put(history::key(&format!("channel-{}", to.name), moves), serde_json::to_vec(&line).ok());
        batch.put(format!("{CHANNELS}{}", to.name), serde_json::to_vec(&to).ok());
        facts.channels.insert(to.name.clone(), to.clone());
        Ok(to)
    }

    /// Marks a version, or with `None` makes it good again.
    pub(super) fn mark_image(
        &mut self,
        image: &str,
        mark: Option<Mark>,
        by: &str,
        batch: &mut Batch,
        now: u64,
    ) -> Result<(), RegistryError> {
        let stage = mark.as_ref().map_or(Stage::Active, |mark| mark.kind.stage());
        self.may_step(image, Word::To(stage))?;
        if Arc::make_mut(&mut self.images).before.remove(image).is_some() {
            batch.put(format!("{}{image}", super::image_life::BEFORE), None);
        }
        self.put_mark(image, mark, batch);
        match self.images.blocked(image).cloned() {
            Some(mark) => self.end_rollouts_of(&mark, batch, now),
            None => self.unblock(image, by, batch, now),
        }
        self.enforce_blocks(batch, now);
        Ok(())
    }

    pub(super) fn put_mark(&mut self, image: &str, mark: Option<Mark>, batch: &mut Batch) {
        let facts = Arc::make_mut(&mut self.images);
        // As above.
        let value = mark.as_ref().and_then(|mark| serde_json::to_vec(mark).ok());
        batch.put(format!("{MARKS}{image}"), value);
        match mark {
            Some(mark) => facts.marks.insert(image.to_string(), mark),
            None => facts.marks.remove(image),
        };
    }

    /// A rollout of a blocked version is over; one of another version, or back to former ones, goes on without it.
    fn end_rollouts_of(&mut self, mark: &Mark, batch: &mut Batch, now: u64) {
        let of_it = |rollout: &&Arc<Rollout>| {
            let image = if let Goal::Image(image) = &rollout.plan.request.goal { Some(&image.name) } else { None };
            image == Some(&mark.image) && !rollout.progress.stage.is_over()
        };
        let numbers: Vec<u64> = self.rollouts.values().filter(of_it).map(|rollout| rollout.plan.number).collect();
        for number in numbers {
            let reason = format!("{} is blocked: {}", mark.image, mark.reason);
            let abort = RolloutCommand::Abort { by: mark.by.clone(), reason };
            if let Err(error) = self.command_rollout(number, abort, batch, now) {
                tracing::warn!(rollout = number, %error, "the rollout of a blocked version was not aborted");
            }
        }
    }

    fn unblock(&mut self, image: &str, by: &str, batch: &mut Batch, now: u64) {
        let blocked =
            |host: &Host| host.order.as_ref().is_some_and(|order| order.image.name == image && order.blocked.is_some());
        let hosts: Vec<String> =
            self.hosts.values().filter(|view| blocked(&view.host)).map(|view| view.host.id.clone()).collect();
        for id in hosts {
            let event = Event::ImageUnblocked { image: image.to_string(), by: by.to_string() };
            self.try_apply(&id, &event, batch, now);
        }
    }

    /// Tells each host that waits for a blocked version, or is being written with it. What does not fit into this commit
    /// the next tick does.
    pub(super) fn enforce_blocks(&mut self, batch: &mut Batch, now: u64) {
        let facts = self.images.clone();
        for mark in facts.marks.values().filter(|mark| mark.kind == MarkKind::Blocked) {
            let concerned = self.hosts.values().filter(|view| view.host.is_concerned(&mark.image));
            let concerned: Vec<String> = concerned.map(|view| view.host.id.clone()).collect();
            for id in concerned {
                if batch.is_full() {
                    return;
                }
                let (image, reason, by) = (mark.image.clone(), mark.reason.clone(), mark.by.clone());
                self.try_apply(&id, &Event::ImageBlocked { image, reason, by }, batch, now);
            }
        }
    }

    fn try_apply(&mut self, id: &str, event: &Event, batch: &mut Batch, now: u64) {
        if let Err(error) = self.apply(id, event, None, batch, now) {
            tracing::warn!(host = id, %error, "a host was not told of its image's mark");
        }
    }
}
