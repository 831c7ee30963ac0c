//! Stages of versions in the writer (`decide::version`): retired, collected, there again; and versions that the image
//! store cannot answer for.
//!
//! Orders, channels and removals all pass through the one writer, so between "nobody uses it" and "nobody gets it any more"
//! there is no gap.

use super::RegistryError;
use super::image_uses::ImageUses;
use super::images::{ImageFacts, Mark, MarkKind};
use super::writer::{Batch, Writer};
use super::{Command, Registry, Reply};
use crate::db::DbError;
use crate::decide::version::{self, Stage, Word};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const COLLECTED: &str = "image-collected/";

/// What is asked about versions by the keeping of images (`upkeep`) and by operators.
#[derive(Debug)]
pub enum ImageCommand {
    /// Retires a version; with `only_unused` it is refused while anything uses it.
    Retire { mark: Mark, only_unused: bool, reply: Reply<()> },
    /// The data of these is about to go. The answer is those of which it may: retired, and used by nobody. They do not come
    /// back but by an import.
    Collect { images: Vec<String>, reply: Reply<Vec<String>> },
    /// A collected version was imported again.
    Restored { image: String, reply: Reply<()> },
    /// Versions that must not be ordered for what the image store knows of them (damage, no trusted signature), and why.
    /// `signed`: where signatures are required, all that are signed.
    Unfit { images: BTreeMap<String, String>, signed: Option<BTreeSet<String>>, reply: Reply<()> },
}

impl MarkKind {
    #[must_use]
    pub fn stage(self) -> Stage {
        match self {
            MarkKind::Preview => Stage::Preview,
            MarkKind::Deprecated => Stage::Deprecated,
            MarkKind::Blocked => Stage::Blocked,
            MarkKind::Retired => Stage::Retired,
        }
    }

    /// `None` for an active version, which has no mark.
    #[must_use]
    pub fn of(stage: Stage) -> Option<MarkKind> {
        match stage {
            Stage::Active => None,
            Stage::Preview => Some(MarkKind::Preview),
            Stage::Deprecated => Some(MarkKind::Deprecated),
            Stage::Blocked => Some(MarkKind::Blocked),
            Stage::Retired => Some(MarkKind::Retired),
        }
    }
}

impl ImageFacts {
    #[must_use]
    pub fn stage(&self, image: &str) -> Stage {
        self.marks.get(image).map_or(Stage::Active, |mark| mark.kind.stage())
    }

    /// Why no order for this version may be opened or begin, as a sentence, if so.
    #[must_use]
    pub fn refused(&self, image: &str) -> Option<String> {
        let marked = self.marks.get(image).filter(|mark| matches!(mark.kind, MarkKind::Blocked | MarkKind::Retired));
        if let Some(mark) = marked {
            return Some(format!("{} is {}: {}", mark.image, mark.kind.stage().word(), mark.reason));
        }
        if let Some(why) = self.unfit.get(image) {
            return Some(format!("{image} cannot be used: {why}"));
        }
        // One that was imported since it was last looked is in neither list.
        let is_signed = self.signed.as_ref().is_none_or(|signed| signed.contains(image));
        (!is_signed).then(|| format!("{image} cannot be used: it is not known that a trusted key has signed it"))
    }
}

impl Writer {
    pub(super) fn load_collected(&self) -> Result<BTreeMap<String, Option<Mark>>, DbError> {
        let mut collected = BTreeMap::new();
        for item in self.db.scan(COLLECTED)? {
            let image = item.key[COLLECTED.len()..].to_string();
            collected.insert(image, super::fleet::parse(&item)?);
        }
        Ok(collected)
    }

    pub(super) fn take_image(&mut self, command: ImageCommand, batch: &mut Batch, now: u64) {
        match command {
            ImageCommand::Retire { mark, only_unused, reply } => {
                let answer = self.guard().and_then(|()| self.retire(mark, only_unused, batch, now));
                batch.answer(reply, answer);
            }
            ImageCommand::Collect { images, reply } => {
                let answer = self.guard().map(|()| self.collect(images, batch));
                batch.answer(reply, answer);
            }
            ImageCommand::Restored { image, reply } => {
                let answer = self.guard().map(|()| self.restored(&image, batch));
                batch.answer(reply, answer);
            }
            ImageCommand::Unfit { images, signed, reply } => {
                if *self.images.unfit != images || self.images.signed.as_deref() != signed.as_ref() {
                    let facts = Arc::make_mut(&mut self.images);
                    (facts.unfit, facts.signed) = (Arc::new(images), signed.map(Arc::new));
                }
                batch.answer(reply, Ok(()));
            }
        }
    }

    fn image_uses(&self) -> ImageUses {
        ImageUses::of(self.hosts.values().map(|view| &view.host), &self.rollouts, &self.images)
    }

    /// Whether a version may take this step now.
    pub(super) fn may_step(&self, image: &str, word: Word) -> Result<Stage, RegistryError> {
        let is_collected = self.images.collected.contains_key(image);
        // A look at the whole fleet, which the other steps do not need.
        let heeds_uses = matches!(word, Word::Remove | Word::To(Stage::Preview | Stage::Retired));
        let uses = if heeds_uses && !is_collected { self.image_uses() } else { ImageUses::default() };
        let stepped = version::step(self.images.stage(image), word, is_collected, uses.image(image));
        stepped.map_err(|refusal| RegistryError::ImageRefused(format!("{image}: {refusal}")))
    }

    fn retire(&mut self, mark: Mark, only_unused: bool, batch: &mut Batch, now: u64) -> Result<(), RegistryError> {
        let image = mark.image.clone();
        let word = if only_unused { Word::Remove } else { Word::To(Stage::Retired) };
        self.may_step(&image, word)?;
        if self.images.collected.contains_key(&image) {
            return Ok(());
        }
        // What was blocked is blocked again when it comes back; who retires a retired one changes nothing of that.
        let before = self.images.marks.get(&image).filter(|mark| mark.kind != MarkKind::Retired).cloned();
        if let Some(before) = before {
            // Strings and numbers: serialising them cannot fail.
            batch.put(format!("{BEFORE}{image}"), serde_json::to_vec(&before).ok());
            Arc::make_mut(&mut self.images).before.insert(image.clone(), before);
        }
        self.put_mark(&image, Some(Mark { kind: MarkKind::Retired, ..mark }), batch);
        tracing::info!(image, now, "a version was retired");
        Ok(())
    }

    fn collect(&mut self, images: Vec<String>, batch: &mut Batch) -> Vec<String> {
        let uses = self.image_uses();
        let facts = Arc::make_mut(&mut self.images);
        let mut taken = Vec::new();
        for image in images {
            if facts.collected.contains_key(&image) {
                taken.push(image);
                continue;
            }
            if facts.stage(&image) != Stage::Retired || !uses.image(&image).is_empty() {
                continue;
            }
            let before = facts.before.remove(&image);
            batch.put(format!("{BEFORE}{image}"), None);
            batch.put(format!("{COLLECTED}{image}"), serde_json::to_vec(&before).ok());
            facts.collected.insert(image.clone(), before);
            taken.push(image);
        }
        taken
    }

    fn restored(&mut self, image: &str, batch: &mut Batch) {
        if let Some(before) = Arc::make_mut(&mut self.images).collected.remove(image) {
            batch.put(format!("{COLLECTED}{image}"), None);
            self.put_mark(image, before, batch);
        }
    }
}

/// Marks under a retired one, for when it comes back.
pub(super) const BEFORE: &str = "image-mark-before/";

impl Registry {
    /// Retires a version.
    ///
    /// # Errors
    /// [`RegistryError::ImageRefused`] with what uses it.
    pub async fn retire_image(&self, mark: Mark, only_unused: bool) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Image(ImageCommand::Retire { mark, only_unused, reply })).await
    }

    /// Those of these versions whose data may go now.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn collect_images(&self, images: Vec<String>) -> Result<Vec<String>, RegistryError> {
        self.ask(|reply| Command::Image(ImageCommand::Collect { images, reply })).await
    }

    /// A collected version is there again.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn image_restored(&self, image: String) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Image(ImageCommand::Restored { image, reply })).await
    }

    /// Which versions must not be ordered from now on; `signed`: and that no others than these may be.
    ///
    /// # Errors
    /// When the queue is full.
    pub async fn set_unfit_images(
        &self,
        images: BTreeMap<String, String>,
        signed: Option<BTreeSet<String>>,
    ) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Image(ImageCommand::Unfit { images, signed, reply })).await
    }
}
