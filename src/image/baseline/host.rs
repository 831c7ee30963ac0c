//! What a host tells of an image whose file systems the server cannot read. The first word stays: a later one that says
//! otherwise is refused, and what the server has read itself no host can change.

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::PoisonError;

use thiserror::Error;

use super::{
    BaselineRecord, BaselineState, HOST_BASELINE_BYTES_MAX, ImageStore, RECORD_FORMAT, StoreError, files, io_error,
};
use crate::clock::UnixSeconds;
use crate::decide::drift::finding::Kind;
use crate::decide::drift::path::{self, to_text};
use crate::volume::layout;
use crate::wire::agent::OS_RELEASE_BYTES_MAX;
use crate::wire::baseline::{self, BaselineError, Entry, Header, Known, Origin, Volume};
use crate::wire::manifest::{self, Digest};

/// File systems that a host's kernel reads for the server.
const FOR_HOSTS: [&str; 3] = ["xfs", "btrfs", "f2fs"];
/// Between what an image lacks and what became of it.
const TRIED: &str = "; tried on ";

/// What a host says beside the list.
#[derive(Debug, Clone, Copy)]
pub struct FromHost<'a> {
    pub id: &'a str,
    /// The image's os-release(5); believed when the list has a file with this content in its place.
    pub os_release: Option<&'a str>,
    /// No other host is asked after this one: a list that lacks a volume is better than none.
    pub is_last: bool,
}

/// Why a host's baseline was not taken.
#[derive(Debug, Error)]
pub enum HostBaselineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("it is no whole baseline")]
    Invalid(#[from] BaselineError),
    #[error("it is of image {got}, not of {wanted}")]
    OtherImage { got: String, wanted: String },
    #[error("it does not say that {0} read it")]
    Origin(String),
    #[error("it has no files")]
    Empty,
    #[error("the server has read this image itself: a host's word does not replace that")]
    Known,
    #[error("{first} has told another content of this image before, and that stays: {what}")]
    Differs { first: String, what: String },
    #[error("what the server reads of this image itself is told otherwise: {what}")]
    DiffersFromServer { what: String },
    #[error("the host could not read all of it either: partition {partition}: {reason}")]
    Incomplete { partition: u32, reason: String },
}

impl HostBaselineError {
    /// Whether the image has one all the same.
    #[must_use]
    pub fn is_known(&self) -> bool {
        matches!(self, HostBaselineError::Known | HostBaselineError::Differs { .. })
    }
}

/// A list that was read from its first byte to its last.
struct Checked {
    header: Header,
    entries: u64,
    os_release: Option<String>,
}

impl ImageStore {
    /// Whether the next host that gets the image is to be asked for the list of its files: some of its file systems
    /// only a kernel reads.
    #[must_use]
    pub fn wants_host(&self, manifest: &str) -> bool {
        match self.baseline_of(manifest).ok().flatten() {
            Some(BaselineRecord { state: BaselineState::NeedsHost { .. }, .. }) => true,
            Some(BaselineRecord { state: BaselineState::Ready { origin: Origin::Image, .. }, volumes, .. }) => {
                volumes.iter().any(is_for_host)
            }
            _ => false,
        }
    }

    /// Takes a baseline that a host's deploy environment has read. The same content from another host changes nothing.
    ///
    /// # Errors
    /// [`HostBaselineError`]; then nothing has changed.
    pub fn put_host_baseline(
        &self,
        manifest: &str,
        host: FromHost<'_>,
        from: impl Read,
        now: UnixSeconds,
    ) -> Result<BaselineRecord, HostBaselineError> {
        self.manifest_bytes(manifest)?;
        let temp = files::TempFile::create(&self.dir)?;
        let copied = std::io::copy(&mut from.take(HOST_BASELINE_BYTES_MAX + 1), &mut &temp.file);
        let baseline_bytes = copied.map_err(io_error("write", temp.path()))?;
        if baseline_bytes > HOST_BASELINE_BYTES_MAX {
            let what = format!("it is longer than {HOST_BASELINE_BYTES_MAX} bytes");
            return Err(BaselineError::Invalid(what).into());
        }
        let told = || from_start(&temp);
        let Checked { header, entries, os_release } = check(told()?, manifest, host)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(told()?).map_err(io_error("read", temp.path()))?;
        let digest = manifest::to_hex(hasher.finalize().as_bytes());
        let _alone = self.baselining.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.baseline_of(manifest)?;
        if let Some(before) = before.as_ref()
            && let BaselineState::Ready { digest: known, origin, .. } = &before.state
        {
            let known = self.baseline_list(known)?;
            match origin {
                Origin::Host { id, .. } => {
                    same(&known, told()?, &|_| true)
                        .and_then(|()| same_volumes(&before.volumes, &header, &|_| true))
                        .map_err(|what| HostBaselineError::Differs { first: id.clone(), what })?;
                    return Ok(before.clone());
                }
                Origin::Image if before.volumes.iter().any(is_for_host) => {
                    complete(&header, host.is_last && header.volumes.iter().any(is_told))?;
                    // What the server has read must be there as it was read; the rest is the host's word.
                    let own = |path: &[u8]| is_own(&before.volumes, path);
                    same(&known, told()?, &own)
                        .and_then(|()| same_volumes(&before.volumes, &header, &|volume| !is_for_host(volume)))
                        .map_err(|what| HostBaselineError::DiffersFromServer { what })?;
                }
                Origin::Image => return Err(HostBaselineError::Known),
            }
        } else {
            complete(&header, host.is_last)?;
        }
        temp.publish(&self.baseline_path(&digest))?;
        let state = BaselineState::Ready { digest: digest.clone(), origin: header.origin, entries, baseline_bytes };
        let os_release = before.as_ref().and_then(|before| before.os_release.clone()).or(os_release);
        let (format, manifest) = (RECORD_FORMAT, manifest.to_owned());
        let record = BaselineRecord { format, manifest, state, made_at: now, volumes: header.volumes, os_release };
        self.write_record(&record)?;
        if let Some(old) = before.as_ref().and_then(BaselineRecord::digest).filter(|old| *old != digest) {
            self.remove_list(old)?;
        }
        Ok(record)
    }

    /// Notes why a host could not tell: it stands where people look for the baseline. `why` is one clean line.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub fn note_host_failure(&self, manifest: &str, host: &str, why: &str) -> Result<(), StoreError> {
        let _alone = self.baselining.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut record) = self.baseline_of(manifest)? else { return Ok(()) };
        if matches!(record.state, BaselineState::Ready { origin: Origin::Host { .. }, .. }) {
            // Another one could tell meanwhile.
            return Ok(());
        }
        let note = |reason: &mut String| {
            let lacks = reason.split(TRIED).next().unwrap_or_default();
            *reason = format!("{lacks}{TRIED}{host}: {why}");
        };
        if let BaselineState::NeedsHost { reason } = &mut record.state {
            note(reason);
        }
        for volume in record.volumes.iter_mut().filter(|volume| is_for_host(volume)) {
            if let Known::Not { reason } = &mut volume.known {
                note(reason);
            }
        }
        self.write_record(&record)
    }
}

/// Whether a record says the same as `reason`, and how it went on a host.
pub(super) fn has_tried(record: &BaselineRecord, reason: &str) -> bool {
    let BaselineState::NeedsHost { reason: before } = &record.state else { return false };
    before.strip_prefix(reason).is_some_and(|rest| rest.starts_with(TRIED))
}

fn is_for_host(volume: &Volume) -> bool {
    let is_unread = matches!(volume.known, Known::Not { .. }) && volume.mounted_at.is_some();
    is_unread && FOR_HOSTS.contains(&volume.format_word())
}

fn is_told(volume: &Volume) -> bool {
    volume.known == Known::Files && FOR_HOSTS.contains(&volume.format_word())
}

/// Of what only a kernel reads, all must have been read: the first list is the image's for ever, and the next host's kernel
/// may do better (more memory, newer modules).
fn complete(told: &Header, is_enough: bool) -> Result<(), HostBaselineError> {
    match told.volumes.iter().find(|volume| is_for_host(volume)) {
        Some(Volume { partition, known: Known::Not { reason }, .. }) if !is_enough => {
            // Outside text: `said::text` cleans the line that people read.
            Err(HostBaselineError::Incomplete { partition: *partition, reason: reason.clone() })
        }
        _ => Ok(()),
    }
}

/// Whether a path lies in a volume whose files the server has read.
fn is_own(volumes: &[Volume], at: &[u8]) -> bool {
    let holding = volumes.iter().filter_map(|volume| Some((volume.mounted_at.as_ref()?, volume)));
    let holding = holding.filter(|(mount, _)| path::is_within(at, mount.as_bytes()));
    holding.max_by_key(|(mount, _)| mount.len()).is_some_and(|(_, volume)| volume.known == Known::Files)
}

fn from_start(temp: &files::TempFile) -> Result<&File, StoreError> {
    (&temp.file).rewind().map_err(io_error("read", temp.path()))?;
    Ok(&temp.file)
}

fn check(told: &File, manifest: &str, host: FromHost<'_>) -> Result<Checked, HostBaselineError> {
    let mut reader = baseline::Reader::new(told)?;
    let header = reader.header.clone();
    if header.image != manifest {
        let got = to_text(header.image.as_bytes()).chars().take(64).collect();
        return Err(HostBaselineError::OtherImage { got, wanted: manifest.to_owned() });
    }
    if !matches!(&header.origin, Origin::Host { id, .. } if id == host.id) {
        return Err(HostBaselineError::Origin(host.id.to_owned()));
    }
    let os_release = host.os_release.filter(|text| text.len() <= OS_RELEASE_BYTES_MAX);
    let claimed: Option<Digest> = os_release.map(|text| manifest::digest(text.as_bytes()));
    let (mut entries, mut holds) = (0, false);
    reader.try_for_each(|entry| {
        let Entry { path, node } = entry?;
        entries += 1;
        let content = if let Kind::File { digest, .. } = &node.kind { *digest } else { None };
        holds |= layout::is_os_release(&path) && content.is_some() && content == claimed;
        Ok::<_, BaselineError>(())
    })?;
    if entries == 0 {
        return Err(HostBaselineError::Empty);
    }
    Ok(Checked { header, entries, os_release: os_release.filter(|_| holds).map(str::to_owned) })
}

/// Whether both have the same entries, of those whose paths count; else the first that differs.
fn same(known: &File, told: &File, counts: &impl Fn(&[u8]) -> bool) -> Result<(), String> {
    let entries = |list| {
        let reader = baseline::Reader::new(list).map_err(|error| error.to_string())?;
        let counted = |entry: &Result<Entry, BaselineError>| entry.as_ref().map_or(true, |entry| counts(&entry.path));
        Ok::<_, String>(reader.filter(counted).map(|entry| entry.map_err(|error| error.to_string())))
    };
    let (mut known, mut told) = (entries(known)?, entries(told)?);
    loop {
        match (known.next().transpose()?, told.next().transpose()?) {
            (None, None) => return Ok(()),
            (Some(known), Some(told)) if known == told => {}
            (known, told) => {
                let first =
                    [known, told].into_iter().flatten().map(|entry| entry.path).min_by(|a, b| path::order(a, b));
                return Err(to_text(&first.unwrap_or_default()).chars().take(200).collect());
            }
        }
    }
}

fn same_volumes(known: &[Volume], told: &Header, counts: &impl Fn(&Volume) -> bool) -> Result<(), String> {
    match known.iter().find(|volume| counts(volume) && !told.volumes.contains(volume)) {
        Some(volume) => Err(format!("how partition {} is known", volume.partition)),
        None => Ok(()),
    }
}
