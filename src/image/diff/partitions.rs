//! What became of each partition's entry in the table, and of what lies in it.

use super::Side;
use super::sums::Sums;
use crate::decide::drift::path::to_text;
use crate::volume::layout::parts::Part;
use crate::wire::operator_diff::{FileCounts, PartitionDiff, PartitionSide};

/// Every partition of both sides, by number. Files are not looked at yet.
pub(super) fn compare(old: &Side, new: &Side, sums: &Sums) -> Vec<PartitionDiff> {
    let mut numbers: Vec<u32> = old.parts.iter().chain(&new.parts).map(|part| part.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let diff = |number: u32| {
        let (from, to) = (old.part(number).map(side), new.part(number).map(side));
        let blocks = sums.parts.iter().find(|(other, _)| *other == number).map(|(_, sums)| *sums).unwrap_or_default();
        let entry = match (&from, &to) {
            (Some(from), Some(to)) => changes(from, to),
            _ => Vec::new(),
        };
        // A block of two that lie on each other is counted to one of them.
        let is_known = old.lies_alone(number) && new.lies_alone(number);
        let is_same = if is_known { blocks.is_same() } else { sums.whole.is_same() };
        let state = match (&from, &to) {
            (None, _) => "added",
            (_, None) => "removed",
            _ if entry.is_empty() && is_same => "same",
            _ => "changed",
        };
        PartitionDiff {
            number,
            state: state.to_owned(),
            entry: entry.into_iter().map(str::to_owned).collect(),
            from,
            to,
            blocks,
            mounted_at: None,
            how: "same".to_owned(),
            reason: None,
            files: FileCounts::default(),
        }
    };
    numbers.into_iter().map(diff).collect()
}

/// Whether no byte of a partition differs, so that no file does. A block that lies across its borders says nothing, and one
/// that two partitions share says it of one of them.
pub(super) fn is_untouched(old: &Side, new: &Side, diff: &PartitionDiff) -> bool {
    let (Some(from), Some(to)) = (&diff.from, &diff.to) else { return false };
    let lies_on_blocks = |side: &PartitionSide| side.offset_bytes.is_multiple_of(4096);
    let lies_alone = old.lies_alone(diff.number) && new.lies_alone(diff.number);
    from.bytes == to.bytes && lies_on_blocks(from) && lies_on_blocks(to) && lies_alone && diff.blocks.is_same()
}

fn changes(from: &PartitionSide, to: &PartitionSide) -> Vec<&'static str> {
    let mut changes = Vec::new();
    let mut note = |differs: bool, what| changes.extend(differs.then_some(what));
    note(from.offset_bytes != to.offset_bytes, "moved");
    note(from.bytes != to.bytes, "resized");
    note(from.kind != to.kind, "type");
    note(from.name != to.name, "name");
    note(from.guid != to.guid, "guid");
    note(from.flags != to.flags, "flags");
    note(from.format != to.format, "format");
    note(from.label != to.label, "label");
    note(from.uuid != to.uuid, "uuid");
    changes
}

/// Names and labels are the image's own words.
fn side(part: &Part) -> PartitionSide {
    let text = |text: &String| to_text(text.as_bytes());
    PartitionSide {
        offset_bytes: part.offset_bytes,
        bytes: part.length_bytes,
        kind: part.mbr_type.map_or_else(|| text(&part.type_guid), |kind| format!("{kind:#04x}")),
        name: part.part_label.as_ref().map(text).unwrap_or_default(),
        guid: part.part_uuid.as_ref().map(text).unwrap_or_default(),
        flags: part.flags,
        format: part.detected.format.word().to_owned(),
        label: part.detected.label.as_ref().map(text),
        uuid: part.detected.uuid.as_ref().map(text),
    }
}
