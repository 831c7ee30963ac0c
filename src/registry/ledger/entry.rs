//! One entry, and its bytes: version byte, then postcard. These types are the stored form; they change only together
//! with the version, since entries of every version are kept for ever.

use super::Tip;
use super::links::{Node, Runs};
use crate::decide::cause::CauseKind;
use crate::decide::host::ImageChoice;
use crate::decide::mac::Mac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
/// What is kept of texts, so that an entry stays far below what the store takes. More is cut, and the cut is shown.
const REASON_CHARS_MAX: usize = 500;
const BY_CHARS_MAX: usize = 100;
const MACS_MAX: usize = 32;

/// What an entry speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An order was opened: `image` is what it will write.
    Ordered,
    /// `image` is what the disk holds from now on; none: nothing of ours any more.
    Runs,
}

impl Kind {
    /// The word in JSON and CSV.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Ordered => "ordered",
            Kind::Runs => "runs",
        }
    }
}

/// Something that happened to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub kind: Kind,
    /// Its id.
    pub host: String,
    pub macs: Vec<Mac>,
    pub image: Option<ImageChoice>,
    /// What it ran before.
    pub former: Option<ImageChoice>,
    pub generation: u64,
    /// Why: the cause that opened the order first, then those that joined it. Empty where no order was involved.
    pub causes: Vec<CauseKind>,
    /// One line for people.
    pub reason: String,
    pub by: String,
}

/// A fact in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From 1, without a gap.
    pub number: u64,
    /// Unix seconds, as the server's clock stood.
    pub at: u64,
    pub fact: Fact,
    /// The entry before this one of the same host, of either kind; 0: there is none.
    pub before: u64,
    /// Of an entry that says what the host runs.
    pub runs: Option<Runs>,
    /// Digest of entry `number - 1`.
    pub previous: [u8; 32],
}

impl Entry {
    pub(super) fn node(&self) -> Option<Node> {
        self.runs.map(|runs| Node { number: self.number, at: self.at, runs })
    }
}

/// Where an entry belongs.
pub(super) struct Place {
    pub number: u64,
    pub at: u64,
    pub before: u64,
    pub runs: Option<Runs>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    number: u64,
    at: u64,
    before: u64,
    /// `None`: it was ordered. So the kind needs no byte of its own, and the two cannot disagree.
    runs: Option<Runs>,
    host: StoredId,
    macs: Vec<[u8; 6]>,
    image: Option<StoredImage>,
    former: Option<StoredImage>,
    generation: u64,
    causes: Vec<StoredCause>,
    reason: String,
    by: String,
    previous: [u8; 32],
}

/// 7 bytes in place of 15.
#[derive(Serialize, Deserialize)]
enum StoredId {
    FirstMac([u8; 6]),
    Other(String),
}

#[derive(Serialize, Deserialize)]
struct StoredImage {
    name: String,
    manifest: StoredDigest,
}

/// 33 bytes in place of 65.
#[derive(Serialize, Deserialize)]
enum StoredDigest {
    Blake3([u8; 32]),
    Other(String),
}

/// In this order for ever: postcard writes the position.
#[derive(Serialize, Deserialize)]
enum StoredCause {
    Operator,
    Rollout(u64),
    Schedule,
    MaxAge,
    Drift,
    Channel,
    ImageDeprecated,
    ImageBlocked,
}

/// The bytes of a fact in its place, after the entry that `tip` is the digest of.
pub(super) fn encode(fact: &Fact, place: &Place, tip: Tip) -> Vec<u8> {
    pack(&Stored {
        number: place.number,
        at: place.at,
        before: place.before,
        runs: place.runs,
        host: store_id(&fact.host),
        macs: fact.macs.iter().take(MACS_MAX).map(|mac| mac.0).collect(),
        image: fact.image.as_ref().map(store_image),
        former: fact.former.as_ref().map(store_image),
        generation: fact.generation,
        causes: fact.causes.iter().map(|cause| store_cause(*cause)).collect(),
        reason: one_line(&fact.reason, REASON_CHARS_MAX),
        by: one_line(&fact.by, BY_CHARS_MAX),
        previous: tip.digest,
    })
}

/// `None`: not as this version, or any before it, writes it.
pub(super) fn decode(raw: &[u8]) -> Option<Entry> {
    let stored: Stored = unpack(raw)?;
    Some(Entry {
        number: stored.number,
        at: stored.at,
        fact: Fact {
            kind: if stored.runs.is_some() { Kind::Runs } else { Kind::Ordered },
            host: load_id(stored.host),
            macs: stored.macs.into_iter().map(Mac).collect(),
            image: stored.image.map(load_image),
            former: stored.former.map(load_image),
            generation: stored.generation,
            causes: stored.causes.into_iter().map(load_cause).collect(),
            reason: stored.reason,
            by: stored.by,
        },
        before: stored.before,
        runs: stored.runs,
        previous: stored.previous,
    })
}

pub(super) fn pack(thing: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(thing, vec![VERSION]).expect("numbers, texts and lists of them always fit into a Vec")
}

pub(super) fn unpack<T: DeserializeOwned>(raw: &[u8]) -> Option<T> {
    let (version, rest) = raw.split_first()?;
    let (thing, left) = (*version == VERSION).then(|| postcard::take_from_bytes(rest).ok())??;
    // Bytes after the end would be a place to hide something in, and no writer of ours puts any there.
    left.is_empty().then_some(thing)
}

fn store_id(id: &str) -> StoredId {
    match id.parse().map(|id: crate::config::fleet::words::HostId| id.0) {
        Ok(Mac(bytes)) => StoredId::FirstMac(bytes),
        Err(_) => StoredId::Other(id.to_string()),
    }
}

fn load_id(stored: StoredId) -> String {
    match stored {
        StoredId::FirstMac(bytes) => crate::config::fleet::words::HostId(Mac(bytes)).to_string(),
        StoredId::Other(id) => id,
    }
}

fn store_image(image: &ImageChoice) -> StoredImage {
    let digest = blake3::Hash::from_hex(&image.manifest).ok();
    // Only what comes back as it was: the lower-case form.
    let digest = digest.filter(|digest| digest.to_hex().as_str() == image.manifest);
    let manifest =
        digest.map_or_else(|| StoredDigest::Other(image.manifest.clone()), |hash| StoredDigest::Blake3(hash.into()));
    StoredImage { name: image.name.clone(), manifest }
}

fn load_image(stored: StoredImage) -> ImageChoice {
    let manifest = match stored.manifest {
        StoredDigest::Blake3(digest) => blake3::Hash::from_bytes(digest).to_hex().to_string(),
        StoredDigest::Other(text) => text,
    };
    ImageChoice { name: stored.name, manifest }
}

fn store_cause(cause: CauseKind) -> StoredCause {
    match cause {
        CauseKind::Operator => StoredCause::Operator,
        CauseKind::Rollout { number } => StoredCause::Rollout(number),
        CauseKind::Schedule => StoredCause::Schedule,
        CauseKind::MaxAge => StoredCause::MaxAge,
        CauseKind::Drift => StoredCause::Drift,
        CauseKind::Channel => StoredCause::Channel,
        CauseKind::ImageDeprecated => StoredCause::ImageDeprecated,
        CauseKind::ImageBlocked => StoredCause::ImageBlocked,
    }
}

fn load_cause(stored: StoredCause) -> CauseKind {
    match stored {
        StoredCause::Operator => CauseKind::Operator,
        StoredCause::Rollout(number) => CauseKind::Rollout { number },
        StoredCause::Schedule => CauseKind::Schedule,
        StoredCause::MaxAge => CauseKind::MaxAge,
        StoredCause::Drift => CauseKind::Drift,
        StoredCause::Channel => CauseKind::Channel,
        StoredCause::ImageDeprecated => CauseKind::ImageDeprecated,
        StoredCause::ImageBlocked => CauseKind::ImageBlocked,
    }
}

/// Outside text as one line of at most `chars_max`.
fn one_line(text: &str, chars_max: usize) -> String {
    let plain = |char: char| if char.is_control() { ' ' } else { char };
    let mut line: String = text.chars().take(chars_max).map(plain).collect();
    if text.chars().nth(chars_max).is_some() {
        line.pop();
        line.push('…');
    }
    line
}
