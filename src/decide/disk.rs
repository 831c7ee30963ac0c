//! Which disk may be written: the right one or none.
//!
//! Pure: the disks as the agent saw them and the rule go in, one index or a refusal that lists every disk comes
//! out. Nothing here guesses. Kernel names (`sda`) never count, because they change from boot to boot.

use std::fmt;

#[cfg(test)]
mod tests;

/// One whole disk as seen. Empty texts count as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Kernel name, for people only.
    pub name: String,
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub model: Option<String>,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    /// `virtio`, `nvme`, `ata`, `scsi`, `usb`, `other`.
    pub transport: String,
    pub removable: bool,
    pub read_only: bool,
    /// What is on it (`gpt`, `ext4`, `data`), `None` when it is blank.
    pub content: Option<String>,
}

/// What a disk must be. Every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub model: Option<String>,
    pub transport: Option<String>,
    pub min_bytes: Option<u64>,
    pub max_bytes: Option<u64>,
}

/// The disk that was written for this host before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskId {
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub size_bytes: u64,
}

/// What the image asks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub image_bytes: u64,
    pub sector_bytes: u32,
}

/// Whether disks that hold something may be written although it is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignContent {
    Kept,
    /// The operator released it, for this order.
    Released,
}

/// No disk is written. `lines` has one line for every disk: what it is, and why it was not taken or `candidate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    pub lines: Vec<String>,
}

/// Why there is no one right disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalReason {
    /// The machine has no disk at all.
    NoDisk,
    /// It has disks, and none of them may be written.
    NoCandidate,
    /// So many disks are equally right.
    Candidates(usize),
    /// The rule goes by a serial number or WWN that so many disks have (clones, multipath).
    SameId(usize),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            RefusalReason::NoDisk => write!(f, "no disk was found: is its driver in the deploy environment?"),
            RefusalReason::NoCandidate => write!(f, "no disk may be written"),
            RefusalReason::Candidates(count) => {
                write!(f, "{count} disks may be written: name the right one in the disk rule")
            }
            RefusalReason::SameId(count) => {
                write!(f, "{count} disks have the serial number or WWN of the disk rule, so it names none of them")
            }
        }?;
        self.lines.iter().try_for_each(|line| write!(f, "; {line}"))
    }
}

impl std::error::Error for Refusal {}

/// The one disk that may be written, as an index into `disks`.
///
/// # Errors
/// [`Refusal`] when there is none or more than one; it lists all of them with the reason.
pub fn choose(
    disks: &[Disk],
    rule: &Rule,
    own_disk: Option<&DiskId>,
    foreign: ForeignContent,
    needs: Needs,
) -> Result<usize, Refusal> {
    let verdicts: Vec<Result<(), String>> = disks.iter().map(|d| judge(d, rule, own_disk, foreign, needs)).collect();
    let candidates: Vec<usize> = (0..disks.len()).filter(|&i| verdicts[i].is_ok()).collect();
    // Counted over all disks, not over candidates only: of two disks with one serial number, a reason that
    // rules one of them out does not prove that the rule meant the other.
    let same_id = disks.iter().filter(|d| is_named(d, rule)).count();
    let reason = match (disks.len(), candidates.as_slice()) {
        (0, _) => RefusalReason::NoDisk,
        _ if (rule.serial.is_some() || rule.wwn.is_some()) && same_id > 1 => RefusalReason::SameId(same_id),
        (_, [one]) => return Ok(*one),
        (_, []) => RefusalReason::NoCandidate,
        (_, many) => RefusalReason::Candidates(many.len()),
    };
    let lines = disks.iter().zip(&verdicts).map(|(disk, verdict)| {
        let verdict = verdict.as_ref().err().map_or("candidate", String::as_str);
        format!("{}: {verdict}", describe(disk))
    });
    Err(Refusal { reason, lines: lines.collect() })
}

/// The disk that was written for this host is not among those that the machine has, or not surely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnDiskError {
    /// How many could be it.
    pub alike: usize,
    /// One for every disk.
    pub lines: Vec<String>,
}

impl fmt::Display for OwnDiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.alike {
            0 => write!(f, "the disk that regild wrote for this host is not among those of the machine"),
            count => {
                write!(f, "{count} disks have the serial number or WWN of the one that regild wrote for this host")
            }
        }
    }
}

impl std::error::Error for OwnDiskError {}

/// The one disk that was written for this host, as an index into `disks`: to be read, so its rule is not asked.
///
/// # Errors
/// [`OwnDiskError`] when there is none or more than one.
pub fn find_own(disks: &[Disk], own: &DiskId) -> Result<usize, OwnDiskError> {
    let same: Vec<usize> = (0..disks.len()).filter(|&i| is_same(&disks[i], own)).collect();
    match same.as_slice() {
        [one] => Ok(*one),
        several => Err(OwnDiskError { alike: several.len(), lines: disks.iter().map(describe).collect() }),
    }
}

/// Whether a disk is the one that was written for this host.
#[must_use]
pub fn is_own(disk: &Disk, own: &DiskId) -> bool {
    is_same(disk, own)
}

/// Every test in the order in which a person would ask; the first that fails is the reason.
fn judge(
    disk: &Disk,
    rule: &Rule,
    own_disk: Option<&DiskId>,
    foreign: ForeignContent,
    needs: Needs,
) -> Result<(), String> {
    match_rule(disk, rule)?;
    let by_name = rule.serial.is_some() || rule.wwn.is_some() || rule.transport.is_some();
    if (disk.removable || disk.transport == "usb") && !by_name {
        return Err("removable or USB, and the disk rule does not name it".to_owned());
    }
    if disk.read_only {
        return Err("read-only".to_owned());
    }
    if disk.size_bytes < needs.image_bytes {
        return Err(format!("too small: the image needs {} bytes", needs.image_bytes));
    }
    if disk.sector_bytes != needs.sector_bytes {
        return Err(format!("wrong sector size: the image was made for {} bytes", needs.sector_bytes));
    }
    let allowed = foreign == ForeignContent::Released || own_disk.is_some_and(|own| is_same(disk, own));
    match &disk.content {
        Some(content) if !allowed => {
            Err(format!("holds foreign content ({}) that nobody released", printable(content)))
        }
        _ => Ok(()),
    }
}

fn match_rule(disk: &Disk, rule: &Rule) -> Result<(), String> {
    let texts = [
        ("serial number", &rule.serial, &disk.serial),
        ("WWN", &rule.wwn, &disk.wwn),
        ("model", &rule.model, &disk.model),
    ];
    for (what, wanted, got) in texts {
        if wanted.is_some() && !is_equal(wanted, got) {
            return Err(format!("not the {what} of the disk rule"));
        }
    }
    if rule.transport.as_ref().is_some_and(|wanted| *wanted != disk.transport) {
        return Err("not the transport of the disk rule".to_owned());
    }
    if rule.min_bytes.is_some_and(|min| disk.size_bytes < min) {
        return Err("smaller than the disk rule allows".to_owned());
    }
    if rule.max_bytes.is_some_and(|max| disk.size_bytes > max) {
        return Err("larger than the disk rule allows".to_owned());
    }
    Ok(())
}

/// The disk has the serial number and WWN that the rule gives.
fn is_named(disk: &Disk, rule: &Rule) -> bool {
    (rule.serial.is_none() || is_equal(&rule.serial, &disk.serial))
        && (rule.wwn.is_none() || is_equal(&rule.wwn, &disk.wwn))
}

/// Both have an id and it is the same; no id that both have differs; and the size is the same. A serial number
/// alone is not enough: disk emulations hand out the same one for disks of any size.
fn is_same(disk: &Disk, own: &DiskId) -> bool {
    let contradicts = |a: &Option<String>, b: &Option<String>| present(a) && present(b) && !is_equal(a, b);
    disk.size_bytes == own.size_bytes
        && (is_equal(&disk.wwn, &own.wwn) || is_equal(&disk.serial, &own.serial))
        && !contradicts(&disk.wwn, &own.wwn)
        && !contradicts(&disk.serial, &own.serial)
}

fn present(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|t| !t.trim().is_empty())
}

/// Firmware and kernel pad ids with blanks and spell hex either way.
fn is_equal(a: &Option<String>, b: &Option<String>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => !a.trim().is_empty() && a.trim().eq_ignore_ascii_case(b.trim()),
        _ => false,
    }
}

fn describe(disk: &Disk) -> String {
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
    format!(
        "{} ({}, {} bytes, sectors of {}, serial {}, wwn {}, model {}, {})",
        printable(&disk.name),
        printable(&disk.transport),
        disk.size_bytes,
        disk.sector_bytes,
        text(&disk.serial),
        text(&disk.wwn),
        text(&disk.model),
        disk.content.as_deref().map_or_else(|| "blank".to_owned(), |c| format!("holds {}", printable(c))),
    )
}

/// A disk's own words in a log line: no control characters, and not endless.
fn printable(text: &str) -> String {
    text.trim().chars().take(64).flat_map(char::escape_debug).collect()
}
