//! `regild image baseline` and `image files`: what an image consists of.

use super::Failure;
use super::client::Client;
use super::output::{self, Output};
use crate::wire::operator_baseline::{ImageBaseline, ImageFile, ImageVolume};
use std::io::{BufWriter, Write};

/// Asks for it first: an image that has one already answers at once.
pub fn show(client: &Client, path: &str, output: Output) -> Result<(), Failure> {
    let shown: ImageBaseline = client.post(path, &serde_json::json!({}))?;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut rows = vec![
        vec!["image".to_owned(), shown.image.clone()],
        vec!["state".to_owned(), shown.state.clone()],
        vec!["manifest digest".to_owned(), shown.manifest.clone()],
    ];
    let mut row = |key: &str, value: Option<String>| {
        rows.extend(value.map(|value| vec![key.to_owned(), value]));
    };
    row("reason", shown.reason.clone());
    row("digest", shown.digest.clone());
    row("read by", shown.origin.clone());
    row("made", shown.made_at.map(output::time));
    row("paths", shown.entries.map(|entries| entries.to_string()));
    row("size", shown.baseline_bytes.map(output::bytes));
    for volume in &shown.volumes {
        let ImageVolume { partition, format, mounted_at, known, reason } = volume;
        let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        row(&format!("partition {partition}"), Some(format!("{format} at {}, by {known}{why}", or_dash(mounted_at))));
    }
    output::print(output, &shown, &[], rows)
}

/// Handed on as it comes: an image may have a million files.
pub fn files(client: &Client, path: &str, output: Output) -> Result<(), Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    if matches!(output, Output::Json) {
        client.copy(path, &mut out)?;
        return Ok(out.flush()?);
    }
    writeln!(out, "KIND          MODE  OWNER         SIZE  CONTENT       PATH")?;
    let mut open = Vec::new();
    let mut is_whole = false;
    client.stream(path, |piece| {
        open.extend_from_slice(piece);
        let end = open.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in open.drain(..end).collect::<Vec<u8>>().split(|byte| *byte == b'\n') {
            match line {
                b"" | b"[" => {}
                b"]" | b"[]" => is_whole = true,
                object => row(&mut out, &serde_json::from_slice(object.strip_suffix(b",").unwrap_or(object))?)?,
            }
        }
        Ok(())
    })?;
    out.flush()?;
    if is_whole { Ok(()) } else { Err("the server broke off its list; its log says why".into()) }
}

fn row(out: &mut impl Write, file: &ImageFile) -> Result<(), Failure> {
    let owner = format!("{}:{}", file.uid, file.gid);
    let size = file.bytes.map(|bytes| bytes.to_string()).or_else(|| file.device.clone()).unwrap_or_default();
    let digest: String = file.digest.iter().flat_map(|digest| digest.chars()).take(12).collect();
    let target = file.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    let xattrs = if file.xattrs.is_empty() { String::new() } else { format!("  [{}]", file.xattrs.join(" ")) };
    let (kind, mode, path) = (&file.kind, &file.mode, &file.path);
    writeln!(out, "{kind:12}  {mode:4}  {owner:9} {size:>8}  {digest:12}  {path}{target}{xattrs}")?;
    Ok(())
}
