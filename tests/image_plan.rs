//! `image plan` says what the agent then fetches: to the byte, request by request.

mod disks;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use disks::{Dice, Images, MIB, StoreSource, Watch, gpt_image, noise, read};
use regild::agent::{Outcome, WriteOptions, write_image};
use regild::image::ImageRef;
use regild::image::plan::Version;
use regild::transfer::forecast::Fetch;
use regild::wire::manifest::{Manifest, to_hex};

fn name(text: &str) -> ImageRef {
    text.parse().unwrap()
}

/// Writes an image with the real agent: what it did, and how many ranges it asked for.
fn write(images: &Images, to: &str, disk: &std::path::Path, seed: Option<Manifest>) -> (Outcome, u64) {
    let manifest = images.store.manifest(&images.store.resolve(&name(to)).unwrap()).unwrap();
    let requests = AtomicU64::new(0);
    let source = StoreSource::with(&images.store, |_, _, bytes| {
        requests.fetch_add(1, Ordering::Relaxed);
        Ok(bytes)
    });
    let options = WriteOptions { patience: Duration::from_secs(2), seed, ..WriteOptions::default() };
    let outcome = write_image(&source, &manifest, disk, &options, &Watch::default()).unwrap();
    drop(source);
    (outcome, requests.into_inner())
}

#[track_caller]
fn same(planned: Fetch, (done, requests): (Outcome, u64), what: &str) {
    assert_eq!((planned.bytes, planned.requests), (done.fetched_bytes, requests), "{what}: {planned:?} {done:?}");
    if done.already_there {
        // What lies behind the old image's end is not known; a plan expects something to zero there, and here is nothing.
        return;
    }
    assert_eq!((planned.kept_bytes, planned.copied_bytes), (done.kept_bytes, done.copied_bytes), "{what}: {done:?}");
}

/// The plan for a pair and a disk, and then the writes: onto a blank disk, over the other image, and over it with its
/// manifest at hand.
fn try_pair(images: &Images, from: &str, to: &str, disk_bytes: u64) -> [Fetch; 3] {
    let plan = images.store.plan(Some(&name(from)), &name(to), Some(disk_bytes)).unwrap();
    let what = format!("{from} -> {to} on {disk_bytes}");
    let blank = vec![0; disk_bytes as usize];
    let disk = images.disk("disk", &blank);
    same(plan.blank, write(images, to, &disk, None), &format!("{what}, blank"));
    let disk = images.disk("disk", &blank);
    write(images, from, &disk, None);
    let before = read(&disk);
    same(plan.unseeded.unwrap(), write(images, to, &disk, None), &what);
    let disk = images.disk("disk", &before);
    let seed = images.store.manifest(&images.store.resolve(&name(from)).unwrap()).unwrap();
    same(plan.seeded.unwrap(), write(images, to, &disk, Some(seed)), &format!("{what}, seeded"));
    [plan.blank, plan.unseeded.unwrap(), plan.seeded.unwrap()]
}

/// Issue 5, line 4: "how many bytes a host would fetch".
#[test]
fn a_plan_is_what_the_agent_fetches() {
    let images = Images::new();
    images.import("a:1", &gpt_image(24 * MIB, 1));
    images.import("a:2", &gpt_image(24 * MIB, 2));
    let [blank, order, seeded] = try_pair(&images, "a:1", "a:2", 40 * MIB);
    assert!(
        order.bytes <= blank.bytes && seeded.bytes < blank.bytes && seeded.copied_bytes > 0,
        "{order:?} {seeded:?}"
    );
    // The same image: its head and nothing else. Without `--from`: a blank disk.
    let [blank, order, _] = try_pair(&images, "a:2", "a:2", 40 * MIB);
    assert!(order.bytes < blank.bytes / 2, "{order:?} {blank:?}");
    let plan = images.store.plan(None, &name("a:2"), None).unwrap();
    assert_eq!((plan.blank, plan.unseeded, plan.seeded), (blank, None, None));
    let manifest = images.store.manifest_bytes(&images.store.resolve(&name("a:2")).unwrap()).unwrap();
    assert_eq!(plan.manifest_bytes, manifest.len() as u64);
}

/// Where a disk is about as long as its image, clearing its end clears a piece of the image.
#[test]
fn a_plan_holds_on_disks_that_are_as_long_as_the_image() {
    let images = Images::new();
    for version in [1, 2] {
        images.import(&format!("a:{version}"), &gpt_image(6 * MIB, version));
    }
    images.import("a:long", &gpt_image(7 * MIB, 2));
    for extra in [0, 512, 16896, MIB - 512, MIB + 512] {
        try_pair(&images, "a:1", "a:2", 6 * MIB + extra);
        try_pair(&images, "a:1", "a:1", 6 * MIB + extra);
        try_pair(&images, "a:long", "a:1", 7 * MIB + extra);
        try_pair(&images, "a:1", "a:long", 7 * MIB + extra);
    }
    let refused = images.store.plan(None, &name("a:1"), Some(6 * MIB - 512)).unwrap_err();
    assert!(refused.to_string().contains("does not fit"), "{refused}");
}

/// Any two images: shifted, cut, with holes, without a table.
#[test]
fn a_plan_holds_for_any_pair() {
    let mut dice = Dice::new("a_plan_holds_for_any_pair", 20261128);
    for round in 0..6 {
        let images = Images::new();
        let mib = 3 + dice.below(5);
        let mut old = noise(round, (mib * MIB) as usize);
        for _ in 0..dice.below(6) {
            let (at, len) = (dice.below(mib * MIB) as usize, dice.below(2 * MIB) as usize);
            let end = (at + len).min(old.len());
            old[at..end].fill(0);
        }
        let mut new = old.clone();
        let shift = 4096 * dice.below(300) as usize;
        if dice.below(2) == 0 {
            new.copy_within(..(old.len() - shift), shift);
        }
        for _ in 0..dice.below(5) {
            let (at, len) = (dice.below(mib * MIB) as usize, dice.below(MIB) as usize);
            let end = (at + len).min(new.len());
            new[at..end].copy_from_slice(&noise(1000 + dice.below(1000), end - at));
        }
        if dice.below(2) == 0 {
            new[..MIB as usize].copy_from_slice(&old[..MIB as usize]);
        }
        new.truncate(new.len() - 4096 * dice.below(200) as usize);
        images.import("any:old", &old);
        images.import("any:new", &new);
        let disk_bytes = (mib + dice.below(3)) * MIB + 4096 * dice.below(300);
        try_pair(&images, "any:old", "any:new", disk_bytes);
        try_pair(&images, "any:new", "any:old", disk_bytes);
    }
}

/// A seed is used from a quarter in common on, by the plan as by the agent.
#[test]
fn a_plan_says_from_how_much_in_common_on_the_old_image_is_of_use() {
    let images = Images::new();
    let old = noise(1, 9 * MIB as usize);
    images.import("a:old", &old);
    for (mib, is_of_use) in [(0, false), (1, false), (3, true)] {
        let mut new = noise(2 + mib as u64, 9 * MIB as usize);
        // At another place, so that only the seed leads to it.
        new[4 * MIB as usize..][..mib * MIB as usize].copy_from_slice(&old[MIB as usize..][..mib * MIB as usize]);
        images.import(&format!("a:{mib}"), &new);
        let [blank, _, seeded] = try_pair(&images, "a:old", &format!("a:{mib}"), 12 * MIB);
        assert_eq!(seeded.bytes < blank.bytes, is_of_use, "{mib} MiB in common: {seeded:?} {blank:?}");
    }
}

/// Where an index is damaged, a rollout is not said to fetch nothing.
#[test]
fn what_cannot_be_counted_is_told_from_the_manifest() {
    let images = Images::new();
    let manifest = images.import("a:1", &gpt_image(6 * MIB, 1));
    let digest = images.store.resolve(&name("a:1")).unwrap();
    let to = Version { name: "a:1", manifest: &digest };
    let counted = images.store.blank_bytes(to).unwrap();
    assert_eq!(counted, images.store.plan(None, &name("a:1"), None).unwrap().blank.bytes);
    for pack in &manifest.packs {
        let path = images.dir.path().join("store/packs").join(to_hex(pack)).with_extension("idx");
        assert!(path.exists());
        std::fs::write(path, b"damaged").unwrap();
    }
    assert!(images.store.plan(None, &name("a:1"), None).is_err());
    let told = images.store.blank_bytes(to).unwrap();
    assert!(told > 0 && told <= counted, "{told} from the manifest, {counted} counted");
}
