//! `regild image list` and `show`: what is known of versions, for people.

use super::Failure;
use super::output::{self, Output};
use crate::wire::image_facts::{Facts, KernelFacts, OsFacts, PartitionFacts};
use crate::wire::operator::Image;

/// `labels`: each `KEY` or `KEY=VALUE`.
pub fn list(output: Output, mut images: Vec<Image>, labels: &[String]) -> Result<(), Failure> {
    images.retain(|image| labels.iter().all(|label| has_label(image, label)));
    let row = |image: &Image| {
        let sizes = [image.image_bytes, image.data_bytes, image.added_bytes].map(output::bytes);
        let [size, data, added] = sizes;
        let digest = image.content_digest.chars().take(12).collect();
        let stage = if image.refused.is_some() { format!("{}, refused", image.stage) } else { image.stage.clone() };
        let (hosts, imported) = (image.hosts.to_string(), output::time(image.imported_at));
        vec![image.image.clone(), stage, size, data, added, hosts, imported, digest]
    };
    let head = ["IMAGE", "STAGE", "SIZE", "DATA", "ADDED", "HOSTS", "IMPORTED", "CONTENT"];
    output::print(output, &images, &head, images.iter().map(row).collect())
}

fn has_label(image: &Image, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => image.provenance.labels.get(key).is_some_and(|is| is == value),
        None => image.provenance.labels.contains_key(wanted),
    }
}

pub fn show(output: Output, image: &Image) -> Result<(), Failure> {
    let mut rows = vec![
        ("image", image.image.clone()),
        ("stage", image.stage.clone()),
        ("refused", image.refused.clone().unwrap_or_default()),
        ("signed by", image.signed_by.join(", ")),
    ];
    rows.extend(image.facts.iter().flat_map(|facts| facts_rows(facts)));
    let labels = image.provenance.labels.iter().map(|(key, value)| format!("{key}={value}"));
    rows.extend([
        ("size", output::bytes(image.image_bytes)),
        ("data", output::bytes(image.data_bytes)),
        ("added to the store", output::bytes(image.added_bytes)),
        ("hosts", image.hosts.to_string()),
        ("imported", format!("{} from {}", output::time(image.imported_at), image.source)),
        ("builder", image.provenance.builder.clone().unwrap_or_default()),
        ("commit", image.provenance.commit.clone().unwrap_or_default()),
        ("labels", labels.collect::<Vec<_>>().join("\n")),
        ("content digest", image.content_digest.clone()),
        ("manifest digest", image.manifest.clone()),
    ]);
    let told = rows.into_iter().filter(|(_, value)| !value.is_empty());
    let rows = told.map(|(key, value)| vec![key.to_string(), value]).collect();
    output::print(output, image, &[], rows)?;
    let partitions = image.facts.as_ref().map(|facts| &facts.partitions).filter(|all| !all.is_empty());
    if let (Output::Table, Some(partitions)) = (output, partitions) {
        println!();
        let head = ["PARTITION", "NAME", "TYPE", "START", "SIZE", "FILE SYSTEM", "LABEL", "UUID"];
        output::print(output, partitions, &head, partitions.iter().map(partition).collect())?;
    }
    Ok(())
}

fn facts_rows(facts: &Facts) -> Vec<(&'static str, String)> {
    if let Some(why) = &facts.unread {
        return vec![("facts", format!("cannot be read: {why}")), ("boots by", facts.boot.join(", "))];
    }
    let arch = match &facts.arch.name {
        Some(name) => format!("{name} (by the {})", facts.arch.evidence),
        None => format!("unknown: {}", facts.arch.evidence),
    };
    let mut kernels: Vec<String> = facts.kernels.iter().map(kernel).collect();
    kernels.extend(facts.kernels_unread.iter().map(|why| format!("there may be more: {why}")));
    if kernels.is_empty() {
        kernels.push("none found in /boot and /usr/lib/modules".to_string());
    }
    let boot = if facts.boot.is_empty() { "nothing that was found".to_string() } else { facts.boot.join(", ") };
    vec![
        ("system", os(&facts.os)),
        ("kernels", kernels.join("\n")),
        ("architecture", arch),
        ("boots by", boot),
        ("partition table", facts.table.clone()),
    ]
}

fn os(os: &OsFacts) -> String {
    let name = os.pretty_name.as_ref().or(os.id.as_ref());
    let evidence = os.evidence.as_deref().unwrap_or("?");
    let words = [&os.id, &os.version_id].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
    match (name, &os.unknown) {
        (Some(name), _) => format!("{name} ({words}, by {evidence})"),
        (None, why) => format!("unknown: {}", why.as_deref().unwrap_or(evidence)),
    }
}

fn kernel(kernel: &KernelFacts) -> String {
    match (&kernel.image, &kernel.modules) {
        (Some(_), Some(_)) => kernel.version.clone(),
        (Some(image), None) => format!("{} (no modules; {image})", kernel.version),
        (None, Some(modules)) => format!("{} (modules only; {modules})", kernel.version),
        (None, None) => kernel.version.clone(),
    }
}

fn partition(part: &PartitionFacts) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_string());
    let number = if part.number == 0 { "whole image".to_string() } else { part.number.to_string() };
    let kind = part.type_name.clone().or_else(|| Some(part.type_id.clone()).filter(|id| !id.is_empty()));
    let file_system = match &part.unreadable {
        Some(why) => format!("{}, unreadable: {why}", part.file_system),
        None => part.file_system.clone(),
    };
    let (start, size) = (output::bytes(part.start_bytes), output::bytes(part.bytes));
    vec![number, text(&part.name), text(&kind), start, size, file_system, text(&part.label), text(&part.uuid)]
}
