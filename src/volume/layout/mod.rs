//! What of an image is known how: which part is its root, where the others are mounted, what is covered by blocks. The
//! same for the server, which reads the image's bytes, and for a host's deploy environment, whose kernel reads more.

use super::Format;
use crate::gpt::ESP_TYPE;
use crate::wire::agent::OS_RELEASE_BYTES_MAX;
use crate::wire::baseline::{Known, Volume};

pub mod fstab;
pub mod parts;

use fstab::{Line, Names};
use parts::Part;

/// GRUB's core image on a BIOS machine: no file system, and only an installer writes to it.
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";

/// Of the Discoverable Partitions Specification (uapi-group.org), for the architectures that regild boots: root, /usr,
/// and the hash trees of both.
const ROOTS: [&str; 2] = ["4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "b921b045-1df0-41c3-af44-4c6f280d3fae"];
const USRS: [&str; 2] = ["8484680c-9521-48c6-9c11-b0720656f69e", "b0e01050-ee5f-4390-949a-9101b17104e9"];
const ROOT_HASHES: [&str; 2] = ["2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "df3300ce-d69f-4c92-978c-9bfb0f38d820"];
const USR_HASHES: [&str; 2] = ["77ff5f63-e7b6-4633-acf4-1565b864c0e6", "6e11a4e7-fbca-4ded-b9e9-e1a512bb664e"];
/// Mounted by systemd where the fstab says nothing of it.
const OTHERS: [(&str, &str); 5] = [
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "/home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "/srv"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "/var"),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", "/var/tmp"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "/boot"),
];

/// Where a distribution says which it is; the second is mostly a link to the first (os-release(5)).
const OS_RELEASES: [&[u8]; 2] = [b"/usr/lib/os-release", b"/etc/os-release"];

/// A tree's os-release(5): at which path it lies, and what it says.
pub type OsRelease = (&'static [u8], Vec<u8>);

/// Whether a path is one of an os-release(5).
#[must_use]
pub fn is_os_release(path: &[u8]) -> bool {
    OS_RELEASES.contains(&path)
}

/// Looks for a tree's os-release(5). `read` gives at most so many bytes of the file at a path, and
/// nothing where there is none.
///
/// # Errors
/// The first of `read`: what lies behind it is not looked at.
pub fn os_release<E>(mut read: impl FnMut(&[u8], usize) -> Result<Option<Vec<u8>>, E>) -> Result<Option<OsRelease>, E> {
    for path in OS_RELEASES {
        if let Some(text) = read(path, OS_RELEASE_BYTES_MAX)? {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// Where a part is mounted, and with which options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub at: String,
    pub options: String,
}

/// For choosing the root, the higher the likelier; `None`: it is none.
pub fn likeness_to_root(part: &Part, has_fstab: bool, has_usr: bool) -> Option<u32> {
    let is_declared = ROOTS.contains(&part.type_guid.as_str());
    let score = u32::from(is_declared) * 4 + u32::from(has_fstab) * 2 + u32::from(has_usr);
    (has_fstab || has_usr).then_some(score)
}

/// Whether a part is the root by its type, though nobody looks into it.
pub fn is_declared_root(part: &Part) -> bool {
    ROOTS.contains(&part.type_guid.as_str())
}

/// Where each part is mounted, by the root's fstab, then by the parts' types.
pub fn places(parts: &[Part], root: Option<usize>, lines: &[Line]) -> Vec<Option<Place>> {
    let mut taken: Vec<String> = lines.iter().map(|line| line.at.clone()).collect();
    let mut places = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        if root == Some(at) {
            let options = lines.iter().find(|line| line.at == "/").map(|line| line.options.clone());
            places.push(Some(Place { at: "/".to_owned(), options: options.unwrap_or_default() }));
            continue;
        }
        let names = names(part);
        let line = lines.iter().find(|line| fstab::means(&line.device, &names) && line.at != "/");
        let by_line = line.map(|line| Place { at: line.at.clone(), options: line.options.clone() });
        let place = by_line.or_else(|| by_type(part).filter(|place| !taken.contains(&place.at)));
        taken.extend(place.iter().map(|place| place.at.clone()));
        places.push(place);
    }
    places
}

/// What an fstab may call it.
#[must_use]
pub fn names(part: &Part) -> Names<'_> {
    Names {
        partition: part.number,
        uuid: part.detected.uuid.as_deref(),
        label: part.detected.label.as_deref(),
        part_uuid: part.part_uuid.as_deref(),
        part_label: part.part_label.as_deref(),
    }
}

fn by_type(part: &Part) -> Option<Place> {
    let at = match part.type_guid.as_str() {
        usr if USRS.contains(&usr) => "/usr",
        other => OTHERS.iter().find(|(guid, _)| *guid == other)?.1,
    };
    Some(Place { at: at.to_owned(), options: String::new() })
}

/// How each part is known, before anybody has looked into it; `reads`: whose files whoever asks can read.
#[must_use]
pub fn known(parts: &[Part], places: &[Option<Place>], reads: impl Fn(Format) -> bool) -> Vec<Known> {
    let has_hash = |hashes: &[&str]| {
        parts.iter().any(|part| part.detected.format == Format::Verity && hashes.contains(&part.type_guid.as_str()))
    };
    let (root_hash, usr_hash) = (has_hash(&ROOT_HASHES), has_hash(&USR_HASHES));
    let is_hashed = |part: &Part| {
        (root_hash && ROOTS.contains(&part.type_guid.as_str())) || (usr_hash && USRS.contains(&part.type_guid.as_str()))
    };
    let known = |(part, place): (&Part, &Option<Place>)| {
        let format = part.detected.format;
        // An EFI system partition that no fstab mounts is not written to, and the machine starts from it.
        let is_loader = part.type_guid == BIOS_BOOT || (part.type_guid == ESP_TYPE && place.is_none());
        let never_written = part.is_read_only || format.is_read_only() || is_hashed(part) || is_loader;
        if never_written {
            return Known::Blocks { offset_bytes: part.offset_bytes, length_bytes: part.length_bytes };
        }
        match (format, place) {
            (format, Some(_)) if reads(format) => Known::Files,
            (format, _) => Known::Not { reason: why_not(format) },
        }
    };
    parts.iter().zip(places).map(known).collect()
}

/// As a baseline says it.
#[must_use]
pub fn volumes(parts: &[Part], places: &[Option<Place>], known: Vec<Known>) -> Vec<Volume> {
    let volume = |((part, place), known): ((&Part, &Option<Place>), Known)| Volume {
        partition: part.number,
        format: part.detected.format.word().to_owned(),
        mounted_at: place.as_ref().map(|place| place.at.clone()),
        known,
    };
    parts.iter().zip(places).zip(known).map(volume).collect()
}

/// What a report says of a part that nobody looks into.
fn why_not(format: Format) -> String {
    match format {
        Format::Swap => "swap space has no files".to_owned(),
        Format::Luks => "it is encrypted".to_owned(),
        Format::LvmMember | Format::RaidMember => {
            "it is part of an LVM or RAID, which is not put together here".to_owned()
        }
        Format::Blank => "nothing is in it".to_owned(),
        Format::Unknown => "it is not known what is in it".to_owned(),
        format if format.is_read_here() => "the image's /etc/fstab does not mount it".to_owned(),
        format => format!(
            "the server does not read {}; the deploy environment's kernel does, on the first host that gets the image",
            format.word()
        ),
    }
}

/// Whether a host's kernel could read what the server cannot.
pub fn needs_host(format: Format) -> bool {
    matches!(format, Format::Xfs | Format::Btrfs | Format::F2fs | Format::Ntfs | Format::Exfat)
}
