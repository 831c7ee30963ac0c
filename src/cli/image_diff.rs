//! `regild image diff` and `image plan`: what differs between two images, and what a machine would fetch.

use super::Failure;
use super::client::{Client, segment};
use super::output::{self, Output};
use crate::wire::operator_diff::{
    BlockSums, FileCounts, FileDiff, FileSide, ImageDiff, ImagePlan, PartitionDiff, PartitionSide, PlannedFetch,
};
use clap::Args;

/// As many as the server tells in one answer.
const ALL: u64 = 100_000;

/// What changed from one image to another: blocks, partitions, files. Bytes that a terminal must not see are shown as \xNN.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The older one: NAME:VERSION or NAME@CHANNEL.
    from: String,
    /// The newer one.
    to: String,
    /// Files to list.
    #[arg(long, value_name = "N", default_value = "100")]
    limit: u64,
    /// Files in front of the list that are left out.
    #[arg(long, value_name = "N", default_value = "0")]
    skip: u64,
    /// Every file that differs, up to 100,000; the rest by --skip.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// How many bytes a host would fetch to get an image.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// What is on its disk, written by an order: NAME:VERSION or NAME@CHANNEL. Without it: nothing of the image.
    #[arg(long)]
    from: Option<String>,
    /// The image that it is to get.
    #[arg(long)]
    to: String,
    /// The length of its disk; it matters only where the disk is about as long as the image.
    #[arg(long, value_name = "BYTES")]
    disk_bytes: Option<u64>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

pub fn diff(client: &Client, args: &DiffArgs) -> Result<(), Failure> {
    let limit = if args.all { ALL } else { args.limit };
    let (from, to, skip) = (segment(&args.from), segment(&args.to), args.skip);
    let diff: ImageDiff = client.get(&format!("/v1/images/{from}/diff?to={to}&limit={limit}&skip={skip}"))?;
    if matches!(args.output, Output::Json) {
        return output::print(Output::Json, &diff, &[], Vec::new());
    }
    print!("{}", told(&diff));
    Ok(())
}

/// The whole answer for people.
fn told(diff: &ImageDiff) -> String {
    let (from, to) = (&diff.from, &diff.to);
    let mut lines = vec![format!("{} -> {}", from.image, to.image)];
    if diff.is_same {
        lines.push("nothing differs: both have the same content".to_owned());
        return lines.join("\n") + "\n";
    }
    let change = |old: u64, new: u64| match old == new {
        true => output::bytes(new),
        false => format!("{} -> {}", output::bytes(old), output::bytes(new)),
    };
    lines.push(format!("size             {}", change(from.image_bytes, to.image_bytes)));
    lines.push(format!("data             {}", change(from.data_bytes, to.data_bytes)));
    let sums = &diff.blocks;
    let shared = sums.same_bytes + sums.moved_bytes;
    lines.push(format!("bytes shared     {} ({} of it moved)", output::bytes(shared), output::bytes(sums.moved_bytes)));
    let compressed = output::bytes(diff.new_compressed_bytes);
    lines.push(format!("bytes new        {} ({compressed} compressed)", output::bytes(sums.new_bytes)));
    if diff.from_table != diff.to_table {
        lines.push(format!("partition table  {} -> {}", diff.from_table, diff.to_table));
    }
    if !diff.outside.is_same() {
        lines.push(format!("outside of the partitions: {}", blocks(&diff.outside)));
    }
    for part in &diff.partitions {
        lines.extend(partition(part));
        lines.extend(diff.file_list.iter().filter(|file| file.partition == part.number).map(file));
    }
    if diff.skipped + diff.cut > 0 {
        let more = if diff.cut > 0 {
            format!("; {} more behind: --all, or --skip {}", diff.cut, diff.skipped + diff.file_list.len() as u64)
        } else {
            String::new()
        };
        lines.push(format!("{} of {} files are listed{more}", diff.file_list.len(), diff.files.all()));
    }
    lines.join("\n") + "\n"
}

fn partition(part: &PartitionDiff) -> Vec<String> {
    let called = match part.number {
        0 => "the whole image".to_owned(),
        number => format!("partition {number}"),
    };
    let named = |side: &PartitionSide| {
        let label = Some(&side.name).filter(|name| !name.is_empty()).or(side.label.as_ref());
        let words = [label.map(|label| format!("\"{label}\"")), Some(side.format.clone())];
        let words: Vec<String> = words.into_iter().flatten().chain([output::bytes(side.bytes)]).collect();
        words.join(", ")
    };
    let is = part.to.as_ref().or(part.from.as_ref()).map(named).unwrap_or_default();
    let at = part.mounted_at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
    let mut lines = vec![format!("{called} ({is}){at}: {}", part.state)];
    if let (Some(from), Some(to)) = (&part.from, &part.to) {
        lines.extend(part.entry.iter().map(|what| format!("  {what}: {}", entry(what, from, to))));
    }
    if part.state == "same" {
        return lines;
    }
    if part.state != "removed" {
        lines.push(format!("  {}", blocks(&part.blocks)));
    }
    let reason = part.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match part.how.as_str() {
        "compared" => lines.push(format!("  files: {}{reason}", counts(&part.files))),
        "same" => lines.push("  files: none differs".to_owned()),
        _ => lines.push(format!("  files: blocks only{reason}")),
    }
    lines
}

fn entry(what: &str, from: &PartitionSide, to: &PartitionSide) -> String {
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let side = |side: &PartitionSide| match what {
        "moved" => format!("byte {}", side.offset_bytes),
        "resized" => format!("{} bytes", side.bytes),
        "type" => side.kind.clone(),
        "name" => side.name.clone(),
        "guid" => side.guid.clone(),
        "flags" => format!("{:#x}", side.flags),
        "format" => side.format.clone(),
        "label" => dash(&side.label),
        "uuid" => dash(&side.uuid),
        _ => String::new(),
    };
    format!("{} -> {}", side(from), side(to))
}

fn blocks(sums: &BlockSums) -> String {
    let [same, moved, new, zeroed] =
        [sums.same_bytes, sums.moved_bytes, sums.new_bytes, sums.zeroed_bytes].map(output::bytes);
    format!("{new} new, {moved} moved, {zeroed} zeros now, {same} as before")
}

fn counts(counts: &FileCounts) -> String {
    format!("{} added, {} removed, {} changed", counts.added, counts.removed, counts.changed)
}

fn file(file: &FileDiff) -> String {
    let size = |side: &FileSide| match (&side.bytes, &side.target, &side.device) {
        (Some(bytes), ..) => format!("{bytes} bytes"),
        (_, Some(target), _) => format!("-> {target}"),
        (_, _, Some(device)) => format!("{} {device}", side.kind),
        _ => side.kind.clone(),
    };
    let (sign, how) = match (&file.from, &file.to) {
        (None, Some(to)) => ('+', size(to)),
        (Some(from), None) => ('-', size(from)),
        (Some(from), Some(to)) => {
            ('~', file.what.iter().map(|what| aspect(what, from, to, size)).collect::<Vec<_>>().join(", "))
        }
        (None, None) => ('?', String::new()),
    };
    format!("  {sign} {}  ({how})", file.path)
}

fn aspect(what: &str, from: &FileSide, to: &FileSide, size: impl Fn(&FileSide) -> String) -> String {
    let names = |side: &FileSide| if side.xattrs.is_empty() { "none".to_owned() } else { side.xattrs.join(" ") };
    let [old, new] = match what {
        "kind" => [from.kind.clone(), to.kind.clone()],
        "mode" => [from.mode.clone(), to.mode.clone()],
        "owner" => [from, to].map(|side| format!("{}:{}", side.uid, side.gid)),
        "xattrs" => [from, to].map(names),
        _ => [from, to].map(size),
    };
    if old == new { what.to_owned() } else { format!("{what} {old} -> {new}") }
}

pub fn plan(client: &Client, args: &PlanArgs) -> Result<(), Failure> {
    let from = args.from.as_ref().map(|from| format!("from={}", segment(from)));
    let disk = args.disk_bytes.map(|bytes| format!("disk_bytes={bytes}"));
    let query: Vec<String> = from.into_iter().chain(disk).collect();
    let plan: ImagePlan = client.get(&format!("/v1/images/{}/plan?{}", segment(&args.to), query.join("&")))?;
    let row = |what: &str, fetch: &PlannedFetch| {
        let [fetched, kept, copied] = [fetch.fetched_bytes, fetch.kept_bytes, fetch.copied_bytes].map(output::bytes);
        vec![what.to_owned(), fetched, fetch.fetched_bytes.to_string(), fetch.requests.to_string(), kept, copied]
    };
    let mut rows = Vec::new();
    if let Some(from) = &plan.from {
        rows.push(row(&format!("an order, over {from}"), &plan.order));
        rows.extend(plan.unseeded.iter().map(|fetch| row("the same, not told what is there (no --seed-image)", fetch)));
    }
    rows.push(row("an order, onto a blank disk", &plan.blank));
    output::print(args.output, &plan, &["WRITE", "FETCHED", "BYTES", "REQUESTS", "KEPT", "COPIED"], rows)?;
    if matches!(args.output, Output::Table) {
        println!("Each fetches the manifest too: {}.", output::bytes(plan.manifest_bytes));
    }
    Ok(())
}
