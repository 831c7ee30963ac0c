//! Who keeps a busy disk, in words that tell a person what to unmount or stop.

use std::fs;
use std::path::Path;

/// What holds the block device with this number (`st_rdev`), or a hint where nothing can be found.
pub(super) fn of(device: u64) -> String {
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let dir = Path::new("/sys/dev/block").join(number);
    let mut found = Vec::new();
    for (name, number, holders) in disk_and_partitions(&dir) {
        found.extend(holders.iter().map(|holder| format!("{name} is part of {holder}")));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        found.extend(mounts_of(&mounts, &number).map(|place| format!("{name} is mounted at {place}")));
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        if has_swap(&swaps, &name) {
            found.push(format!("{name} is swap space"));
        }
    }
    if found.is_empty() {
        found.push("by a program that opened it, or by a mount in another namespace".to_owned());
    }
    found.join(", ")
}

/// Name, `major:minor` and holders (device mapper, RAID) of a disk and of each of its partitions.
fn disk_and_partitions(disk: &Path) -> Vec<(String, String, Vec<String>)> {
    let mut parts = vec![disk.canonicalize().unwrap_or_else(|_| disk.to_owned())];
    let entries = fs::read_dir(&parts[0]).into_iter().flatten().flatten();
    parts.extend(entries.map(|entry| entry.path()).filter(|path| path.join("partition").exists()));
    parts.iter().map(|path| describe(path)).collect()
}

fn describe(path: &Path) -> (String, String, Vec<String>) {
    let text = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let number = fs::read_to_string(path.join("dev")).unwrap_or_default();
    let holders = fs::read_dir(path.join("holders")).into_iter().flatten().flatten();
    let holders = holders.map(|entry| text(&entry.path())).collect();
    (text(path), number.trim().to_owned(), holders)
}

/// Mount points in `/proc/self/mountinfo` of the device with this `major:minor`.
fn mounts_of<'t>(mountinfo: &'t str, number: &'t str) -> impl Iterator<Item = &'t str> {
    let fields = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(move |fields| fields.get(2) == Some(&number)).filter_map(|fields| fields.get(4).copied())
}

fn has_swap(swaps: &str, name: &str) -> bool {
    let devices = swaps.lines().filter_map(|line| line.split_whitespace().next());
    devices.filter_map(|device| device.strip_prefix("/dev/")).any(|device| device == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_swaps_are_found_by_device() {
        let mountinfo = "22 28 0:20 / /sys rw - sysfs sysfs rw\n28 1 254:1 / / rw - ext4 /dev/vda1 rw\n";
        assert_eq!(mounts_of(mountinfo, "254:1").collect::<Vec<_>>(), ["/"]);
        assert_eq!(mounts_of(mountinfo, "254:2").count(), 0);
        let swaps = "Filename Type Size Used Priority\n/dev/vda2 partition 1048572 0 -2\n";
        assert!(has_swap(swaps, "vda2") && !has_swap(swaps, "vda"));
    }
}
