//! For which processor an image was built: by the head of a program that every system has, else by its EFI loaders.

use crate::causes;
use crate::decide::drift::finding::Kind;
use crate::volume::{Found, Tree, VolumeError};
use crate::wire::image_facts::{ArchFacts, text_of};

/// What runs first or always; of systems whose /bin is a symlink and of those where it is not.
const PROGRAMS: [&[u8]; 12] = [
    b"/usr/lib/systemd/systemd",
    b"/lib/systemd/systemd",
    b"/sbin/init",
    b"/usr/sbin/init",
    b"/usr/bin/sh",
    b"/bin/sh",
    b"/usr/bin/bash",
    b"/bin/bash",
    b"/usr/bin/busybox",
    b"/bin/busybox",
    b"/usr/bin/env",
    b"/init",
];
/// `/sbin/init` is mostly a symlink.
const HOPS_MAX: usize = 4;
/// Up to `e_machine` and the word behind it.
const ELF_BYTES: usize = 20;

pub(super) fn of_tree(tree: &mut dyn Tree) -> ArchFacts {
    let mut unread = None;
    for program in PROGRAMS {
        match machine_of(tree, program) {
            Ok(Some((name, place))) => {
                return ArchFacts { name: Some(name), evidence: format!("ELF header of {}", text_of(&place)) };
            }
            Ok(None) => {}
            Err(error) => unread = unread.or(Some(causes::in_one_line(&error))),
        }
    }
    let evidence = unread.unwrap_or_else(|| "no init, shell or busybox with an ELF header is in its root".to_owned());
    ArchFacts { name: None, evidence }
}

/// Where the system's own tree tells nothing. `loaders`: architectures as UEFI names them.
pub(super) fn by_loaders(arch: &mut ArchFacts, loaders: &[String]) {
    let mut names: Vec<&str> = loaders.iter().filter_map(|loader| of_loader(loader)).collect();
    names.dedup();
    match names[..] {
        [one] => {
            let why = std::mem::take(&mut arch.evidence);
            *arch = ArchFacts { name: Some(one.to_owned()), evidence: format!("name of its EFI loader ({why})") };
        }
        [] => {}
        _ => arch.evidence += "; it has EFI loaders for several",
    }
}

fn of_loader(loader: &str) -> Option<&'static str> {
    match loader {
        "x64" => Some("x86_64"),
        "ia32" => Some("i386"),
        "aa64" => Some("aarch64"),
        "arm" => Some("arm"),
        "riscv64" => Some("riscv64"),
        _ => None,
    }
}

/// The architecture of a program, and where it lies in the end.
fn machine_of(tree: &mut dyn Tree, program: &[u8]) -> Result<Option<(String, Vec<u8>)>, VolumeError> {
    let Some(found) = follow(tree, program)? else { return Ok(None) };
    let head = tree.read(&found, ELF_BYTES)?;
    Ok(machine(&head).map(|name| (name, found.path)))
}

/// A file, through symlinks at the end of its path; those on the way are met by the other names of [`PROGRAMS`].
fn follow(tree: &mut dyn Tree, program: &[u8]) -> Result<Option<Found>, VolumeError> {
    let mut at = program.to_vec();
    for _ in 0..HOPS_MAX {
        let Some(found) = tree.find(&at)? else { return Ok(None) };
        match &found.node.kind {
            Kind::File { .. } => return Ok(Some(found)),
            Kind::Symlink { target } => at = joined(&at, target),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The path of a symlink's target, by its names alone.
fn joined(link: &[u8], target: &[u8]) -> Vec<u8> {
    let above: &[u8] = if target.starts_with(b"/") { b"" } else { link };
    let mut names: Vec<&[u8]> = above.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    names.pop();
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.iter().fold(Vec::new(), |path, name| [&path[..], b"/", name].concat())
}

/// By `e_machine` of the ELF header (gabi, and binutils' include/elf/common.h), as `uname -m` says it.
fn machine(head: &[u8]) -> Option<String> {
    let rest = head.strip_prefix(b"\x7fELF")?;
    let (class, order) = (*rest.first()?, *rest.get(1)?);
    let word = [*head.get(18)?, *head.get(19)?];
    let number = if order == 2 { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) };
    let name = match (number, class, order) {
        (62, 2, _) => "x86_64",
        // The x32 ABI.
        (62, _, _) => "x86_64 (32 bit)",
        (3, ..) => "i386",
        (183, ..) => "aarch64",
        (40, ..) => "arm",
        (243, 2, _) => "riscv64",
        (243, ..) => "riscv32",
        (21, _, 1) => "ppc64le",
        (21, ..) => "ppc64",
        (22, ..) => "s390x",
        (258, ..) => "loongarch64",
        (8, ..) => "mips",
        (other, ..) => return Some(format!("ELF machine {other}")),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_leads_on_by_its_names() {
        assert_eq!(joined(b"/sbin/init", b"../lib/systemd/systemd"), b"/lib/systemd/systemd");
        assert_eq!(joined(b"/sbin/init", b"/bin//./busybox"), b"/bin/busybox");
        assert_eq!(joined(b"/bin/sh", b"dash"), b"/bin/dash");
        assert_eq!(joined(b"/a", b"../../../.."), b"");
    }

    #[test]
    fn the_machine_is_read_in_the_files_own_byte_order() {
        let elf = |class: u8, order: u8, machine: [u8; 2]| {
            [b"\x7fELF".as_slice(), &[class, order, 1], &[0; 9], &[3, 0], &machine].concat()
        };
        let cases = [
            (elf(2, 1, [62, 0]), Some("x86_64")),
            (elf(2, 1, [183, 0]), Some("aarch64")),
            (elf(2, 2, [0, 22]), Some("s390x")),
            (elf(2, 1, [21, 0]), Some("ppc64le")),
            (elf(2, 1, [0x34, 0x12]), Some("ELF machine 4660")),
            (b"#!/bin/sh\nexec /lib/init".to_vec(), None),
            (b"\x7fELF\x02".to_vec(), None),
        ];
        for (head, name) in cases {
            assert_eq!(machine(&head).as_deref(), name, "{head:?}");
        }
    }
}
