//! Which kernels are installed: images in /boot, modules in /usr/lib/modules.

use crate::volume::{Fault, Tree, VolumeError};
use crate::wire::image_facts::{KernelFacts, text_of};

/// More than any distribution keeps.
pub(super) const KERNELS_MAX: usize = 64;
/// Directories that are gone into on the way: some hundred entries each. What has more is no system's root.
const ENTRIES_MAX: usize = 50_000;
const WAY: [&[u8]; 6] = [b"/", b"/boot", b"/lib", b"/usr", b"/usr/lib", b"/lib/modules"];
const MODULES: [&[u8]; 2] = [b"/usr/lib/modules/", b"/lib/modules/"];

/// Walks the few directories in which a kernel can be; the tree's one walk is over then. With an error: what was found
/// before it.
pub(super) fn walk(tree: &mut dyn Tree) -> Result<Vec<KernelFacts>, (Vec<KernelFacts>, VolumeError)> {
    let mut kernels = Vec::new();
    for _ in 0..ENTRIES_MAX {
        let found = match tree.next_found() {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(kernels),
            Err(error) => return Err((kernels, error)),
        };
        let is_directory = found.node.kind.word() == "directory";
        if is_directory && !WAY.contains(&&found.path[..]) && found.path != b"/usr/lib/modules" {
            tree.skip();
        }
        let modules = MODULES.iter().find_map(|top| found.path.strip_prefix(*top)).filter(|_| is_directory);
        let image = found.path.strip_prefix(b"/boot/").and_then(version).filter(|_| !is_directory);
        if let Some(version) = modules.or(image) {
            add(&mut kernels, version, &found.path, modules.is_some());
        }
    }
    let fault = Fault::TooMuch(format!("more than {ENTRIES_MAX} entries where kernels are looked for"));
    Err((kernels, fault.into()))
}

/// The kernels at the top of a file system that is a /boot, if it is one.
pub(super) fn at_top(tree: &mut dyn Tree, partition: u32) -> Vec<KernelFacts> {
    let mut kernels = Vec::new();
    for _ in 0..ENTRIES_MAX {
        // What was found before an error counts; that it is damaged is said of its partition.
        let Ok(Some(found)) = tree.next_found() else { break };
        if found.node.kind.word() == "directory" && found.path != b"/" {
            tree.skip();
        } else if let Some(version) = found.path.strip_prefix(b"/").and_then(version) {
            let place = [format!("partition {partition}:").as_bytes(), &found.path].concat();
            add(&mut kernels, version, &place, false);
        }
    }
    kernels
}

fn version(name: &[u8]) -> Option<&[u8]> {
    let kinds: [&[u8]; 3] = [b"vmlinuz-", b"vmlinux-", b"Image-"];
    kinds.iter().find_map(|kind| name.strip_prefix(*kind)).filter(|version| !version.is_empty())
}

fn add(kernels: &mut Vec<KernelFacts>, version: &[u8], place: &[u8], is_modules: bool) {
    let (version, place) = (text_of(version), text_of(place));
    let at = kernels.iter().position(|kernel| kernel.version == version).unwrap_or(kernels.len());
    if at == kernels.len() && at < KERNELS_MAX {
        kernels.push(KernelFacts { version, image: None, modules: None });
    }
    if let Some(kernel) = kernels.get_mut(at) {
        *(if is_modules { &mut kernel.modules } else { &mut kernel.image }) = Some(place);
    }
}
