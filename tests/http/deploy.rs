//! A1, A2, A5, A6, I7: the real agent carries out the order of the real server, on disks that it sees in a /sys and a
//! /dev of its own (a mount namespace): the same program as on a machine, without the minutes of firmware.

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::cable::{CLIENT_LINK, SERVER_IP, ip};
use crate::disks::{MIB, assert_same_disk, deployed, gpt_image, noise, read};
use crate::lab::{IMAGE, Lab, Machine};

pub const DISK_BYTES: u64 = 12 * MIB;

/// A disk as the agent finds it.
pub struct Disk {
    pub name: &'static str,
    pub serial: Option<&'static str>,
    pub wwn: Option<&'static str>,
    pub sector_bytes: u32,
    pub content: Vec<u8>,
}

impl Disk {
    pub fn blank(name: &'static str, serial: Option<&'static str>) -> Disk {
        Disk { name, serial, wwn: None, sector_bytes: 512, content: vec![0; DISK_BYTES as usize] }
    }

    fn with_data(name: &'static str, serial: Option<&'static str>) -> Disk {
        Disk { content: noise(9, DISK_BYTES as usize), ..Disk::blank(name, serial) }
    }
}

/// One power-on of a machine in the deploy environment.
pub struct Boot<'l> {
    lab: &'l Lab,
    machine: &'l Machine,
    pub dir: PathBuf,
    uefi: bool,
    /// What the agent is run by, `strace ...`.
    pub under: String,
}

impl<'l> Boot<'l> {
    pub fn new(lab: &'l Lab, machine: &'l Machine, disks: &[Disk]) -> Boot<'l> {
        let dir = lab.path(&format!("machine-{}", machine.number));
        // A machine may be booted again with other disks.
        let _ = std::fs::remove_dir_all(&dir);
        let put = |path: &str, content: &[u8]| {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        put("sys/class/net/eth0/address", machine.mac.as_bytes());
        put("sys/class/net/eth0/device/uevent", b"");
        for disk in disks {
            let file = |name: &str| format!("sys/block/{}/{name}", disk.name);
            put(&file("size"), (disk.content.len() / 512).to_string().as_bytes());
            put(&file("queue/logical_block_size"), disk.sector_bytes.to_string().as_bytes());
            put(&file("device/model"), b"FAKE DISK");
            for (name, value) in [("serial", disk.serial), ("wwid", disk.wwn)] {
                if let Some(value) = value {
                    put(&file(name), value.as_bytes());
                }
            }
            put(&format!("dev/{}", disk.name), &disk.content);
        }
        Boot { lab, machine, dir, uefi: false, under: String::new() }
    }

    pub fn disk(&self, name: &str) -> Vec<u8> {
        read(&self.dir.join("dev").join(name))
    }

    /// Fetches the boot script, as iPXE, and runs the agent with what is in it.
    pub fn run(&self) -> Output {
        let orders = self.machine.orders(self.lab);
        let command_line = format!(
            "initrd=initrd.img regild.server=http://{SERVER_IP}:8080 regild.host={} regild.generation={} regild.token={}\n",
            self.machine.host, orders.generation, orders.token
        );
        std::fs::write(self.dir.join("cmdline"), command_line).unwrap();
        if self.uefi {
            std::fs::create_dir_all(self.dir.join("sys/firmware/efi")).unwrap();
        }
        // The deploy environment has one address; our end of the cable has many.
        let from = self.machine.address.to_string();
        let client = &self.lab.cable.client;
        ip(&["-n", client, "route", "replace", &SERVER_IP.to_string(), "dev", CLIENT_LINK, "src", &from]);
        let script = format!(
            "mount --bind cmdline /proc/cmdline && mount --bind sys /sys && mount --bind dev /dev && exec {} {} deploy",
            self.under,
            env!("CARGO_BIN_EXE_regild-agent")
        );
        // `ip netns exec` gives every command a mount namespace of its own.
        let mut shell = self.lab.cable.client_command("sh");
        shell.args(["-c", &script]).current_dir(&self.dir).output().expect("running the agent")
    }
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

/// Refused for good: nothing was written, the order is closed, and the machine boots its own disk.
#[track_caller]
fn refused_unwritten(boot: &Boot, before: &[Disk], words: &[&str]) {
    let output = boot.run();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for disk in before {
        assert_same_disk(&boot.disk(disk.name), &disk.content);
    }
    let host = boot.lab.host(boot.machine);
    assert_eq!((&host["state"], &host["order"]), (&"failed".into(), &Value::Null), "{host}");
    let detail = host["detail"].as_str().unwrap();
    for word in words {
        assert!(detail.contains(word), "no {word:?} in {detail:?}");
    }
    let script = boot.machine.script(boot.lab);
    assert!(script.contains("sanboot") && !script.contains("regild.token"), "{script}");
}

const BY_SERIAL: &str = "[group.default.disk]\nserial = \"ROOT\"\n";
/// Three hosts that fail stop a fleet of this size. Where a story is about how each of many hosts fails, the breaker
/// waits as long as a policy can make it wait.
const LATE_BREAKER: &str = "[policy.breaker]\npercent_max = \"50%\"\nhosts_min = 20\n";

/// A1: two disks of one size, one of them with data; the order names the other one by serial number. Only that one
/// changes, in whatever order and on whatever bus the machine shows them.
#[test]
fn a1_only_the_disk_that_the_order_names_changes() {
    let lab = Lab::new();
    lab.apply(BY_SERIAL, &[]);
    let image = lab.import_image();
    for (number, [root, data]) in (1..).zip([["vdb", "vda"], ["nvme0n1", "sda"]]) {
        let machine = Machine::approved(&lab, number);
        let disks = [Disk::blank(root, Some("ROOT")), Disk::with_data(data, Some("DATA"))];
        let boot = Boot::new(&lab, &machine, &disks);
        succeeded(&boot.run());
        assert_same_disk(&boot.disk(root), &deployed(&image, &disks[0].content));
        assert_same_disk(&boot.disk(data), &disks[1].content);
        let host = lab.host(&machine);
        assert_eq!((&host["state"], &host["reported"]), (&"rebooting".into(), &IMAGE.into()), "{host}");
        // The next order finds the disk by itself and leaves the other one alone again, also when they change places.
        lab.regild(&["host", "reimage", &machine.mac, "--reason", "once more"]);
        let swapped = [
            Disk { content: boot.disk(root), ..Disk::blank(data, Some("ROOT")) },
            Disk { content: boot.disk(data), ..Disk::blank(root, Some("DATA")) },
        ];
        let boot = Boot::new(&lab, &machine, &swapped);
        succeeded(&boot.run());
        assert_same_disk(&boot.disk(data), &swapped[0].content);
        assert_same_disk(&boot.disk(root), &swapped[1].content);
    }
}

/// A2: a serial number that is missing, that nobody has, or that two have; among them disks that could not be
/// written anyway: not a byte is written, and the machine goes to its disk.
#[test]
fn a2_a_serial_number_that_names_no_disk_or_two_is_refused() {
    let lab = Lab::new();
    lab.apply(&format!("{BY_SERIAL}{LATE_BREAKER}"), &["--loosen"]);
    lab.import_image();
    let small = || Disk { content: vec![0; MIB as usize], ..Disk::blank("vdc", Some("ROOT")) };
    let twins = "2 disks have the serial number or WWN of the disk rule";
    let table = [
        (vec![Disk::blank("vda", None)], ["no disk may be written", "not the serial number of the disk rule"]),
        (vec![Disk::blank("vda", None), Disk::with_data("vdb", None)], ["no disk may be written", "vdb"]),
        (vec![Disk::blank("vda", Some("A")), Disk::blank("vdb", Some("ROOTS"))], ["no disk may be written", "ROOTS"]),
        (vec![Disk::blank("vda", Some("ROOT")), Disk::blank("vdb", Some("ROOT"))], [twins, "vdb"]),
        (vec![Disk::blank("vda", Some("ROOT")), Disk::with_data("vdb", Some("root "))], [twins, "vda"]),
        (vec![Disk::blank("vda", Some("ROOT")), small()], [twins, "vdc"]),
    ];
    for (number, (disks, words)) in (1..).zip(table) {
        let machine = Machine::approved(&lab, number);
        refused_unwritten(&Boot::new(&lab, &machine, &disks), &disks, &words);
        assert_eq!(
            lab.host(&machine)["detail"].as_str().unwrap().matches("(virtio,").count(),
            disks.len(),
            "all are listed"
        );
    }
}

/// A2: the two paths to a multipath disk have one WWN; and without a rule two disks are one too many.
#[test]
fn a2_two_paths_to_one_disk_and_two_disks_without_a_rule_are_refused() {
    let lab = Lab::new();
    lab.apply("[group.default.disk]\nwwn = \"naa.5000c500a1b2c3d4\"\n", &[]);
    let image = lab.import_image();
    let path = |name, wwn| Disk { wwn: Some(wwn), ..Disk::blank(name, None) };
    let machine = Machine::approved(&lab, 1);
    let paths = [path("sda", "naa.5000c500a1b2c3d4"), path("sdb", "NAA.5000C500A1B2C3D4")];
    refused_unwritten(&Boot::new(&lab, &machine, &paths), &paths, &["2 disks have the serial number or WWN"]);
    let machine = Machine::approved(&lab, 2);
    let one_path = [path("sda", "naa.5000c500a1b2c3d4"), path("sdb", "naa.5000c500a1b2c3d5")];
    let boot = Boot::new(&lab, &machine, &one_path);
    succeeded(&boot.run());
    assert_same_disk(&boot.disk("sda"), &deployed(&image, &one_path[0].content));
    assert_same_disk(&boot.disk("sdb"), &one_path[1].content);

    let lab = Lab::new();
    lab.import_image();
    let machine = Machine::approved(&lab, 1);
    let two = [Disk::blank("vda", Some("A")), Disk::blank("vdb", Some("B"))];
    refused_unwritten(&Boot::new(&lab, &machine, &two), &two, &["2 disks may be written: name the right one"]);
    let machine = Machine::approved(&lab, 2);
    let foreign = [Disk::with_data("vda", Some("A"))];
    refused_unwritten(&Boot::new(&lab, &machine, &foreign), &foreign, &["holds foreign content (data)"]);
}

/// I7: an image that does not fit, other sectors, no EFI system partition, no boot code, a loader of another
/// architecture: refused before the first write.
#[test]
fn i7_what_would_not_start_there_is_not_written_there() {
    let lab = Lab::new();
    lab.apply(LATE_BREAKER, &["--loosen"]);
    lab.import_image();
    let machine = Machine::approved(&lab, 1);
    let small = [Disk { content: vec![0; 6 * MIB as usize], ..Disk::blank("vda", None) }];
    refused_unwritten(&Boot::new(&lab, &machine, &small), &small, &["too small: the image needs 8388608 bytes"]);

    let machine = Machine::approved(&lab, 2);
    let native_4k = [Disk { sector_bytes: 4096, ..Disk::blank("vda", None) }];
    let words = ["wrong sector size: the image was made for 512 bytes"];
    refused_unwritten(&Boot::new(&lab, &machine, &native_4k), &native_4k, &words);

    // The image has no EFI system partition with an x64 loader, so neither one of another architecture.
    let machine = Machine::approved(&lab, 3);
    let good = [Disk::blank("vda", None)];
    let mut boot = Boot::new(&lab, &machine, &good);
    boot.uefi = true;
    refused_unwritten(&boot, &good, &["booted by UEFI, and the image has no x64 loader"]);

    let mut without_code = gpt_image(8 * MIB, 2);
    without_code[..440].fill(0);
    let file = lab.path("no-code.raw");
    std::fs::write(&file, without_code).unwrap();
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", "tiny:no-code"]);
    let machine = Machine::plug_in(&lab, 4);
    machine.script(&lab);
    lab.regild(&["host", "approve", &machine.mac, "--image", "tiny:no-code"]);
    refused_unwritten(&Boot::new(&lab, &machine, &good), &good, &["booted by BIOS, and the image has no boot code"]);
}

/// Runs the agent with faults in its writes, and says how many of them happened.
fn boot_with_faults(lab: &Lab, machine: &Machine, inject: &str) -> (Output, usize, Vec<u8>) {
    let mut boot = Boot::new(lab, machine, &[Disk::blank("vda", Some("A"))]);
    let log = boot.dir.join("strace.log");
    boot.under = format!("strace -f -o {} -e trace=pwrite64 -e inject=pwrite64:{inject}", log.display());
    let output = boot.run();
    let injected = std::fs::read_to_string(&log).expect("strace must be installed").matches("(INJECTED").count();
    (output, injected, boot.disk("vda"))
}

/// Three attempts, each of which fails and leaves the disk without a head and without partition tables; then the
/// host is Failed, and the machine is sent to its disk.
#[track_caller]
fn fails_three_times_and_no_more(lab: &Lab, machine: &Machine, inject: &str, words: &[&str], injected: usize) {
    for attempt in 1..=3 {
        let (output, count, disk) = boot_with_faults(lab, machine, inject);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(count >= injected, "{count} faults");
        assert!(disk[..MIB as usize].iter().all(|byte| *byte == 0), "a head on a disk that failed");
        assert!(disk[disk.len() - MIB as usize..].iter().all(|byte| *byte == 0), "a backup table");
        let host = lab.host(machine);
        assert_eq!(host["state"], if attempt < 3 { "queued" } else { "failed" }, "{host}");
        assert!(host["reported"].is_null(), "marked as done: {host}");
    }
    let history = lab.regild(&["host", "history", &machine.mac]);
    assert!(words.iter().all(|word| history.contains(word)), "{words:?}: {history}");
    assert_eq!(lab.host(machine)["order"], Value::Null);
    assert!(!machine.script(lab).contains("regild.token"), "a fourth attempt");
}

/// A5: a disk whose writes fail for good is tried four times at one place, is named, and does not lead to a loop of
/// reboots.
#[test]
fn a5_a_disk_that_fails_ends_in_failed_and_not_in_a_reboot_loop() {
    let lab = Lab::new();
    lab.import_image();
    let machine = Machine::approved(&lab, 1);
    let words = ["failed to write at byte", "/dev/vda", "os error 5"];
    fails_three_times_and_no_more(&lab, &machine, "error=EIO:when=3+", &words, 4);
    let second = Machine::approved(&lab, 2);
    let (output, injected, _) = boot_with_faults(&lab, &second, "error=EIO:when=3+");
    assert_eq!((output.status.code(), injected), (Some(1), 4), "once, and three times more");
}

/// A6: other bytes reach the disk than were sent. Once, they are found by reading back and written again; for good,
/// the attempt fails and nothing is marked as done.
#[test]
fn a6_bytes_that_change_on_their_way_to_the_disk_are_found_by_reading_back() {
    let lab = Lab::new();
    let image = lab.import_image();
    let machine = Machine::approved(&lab, 1);
    let (output, injected, disk) = boot_with_faults(&lab, &machine, "poke_enter=@arg2=5a5a5a5a:when=3");
    succeeded(&output);
    assert_eq!(injected, 1, "the fault did happen");
    assert_same_disk(&disk, &deployed(&image, &vec![0; DISK_BYTES as usize]));
    assert_eq!(lab.host(&machine)["reported"], IMAGE);

    let machine = Machine::approved(&lab, 2);
    let words = ["/dev/vda does not keep what is written", "after writing them twice"];
    fails_three_times_and_no_more(&lab, &machine, "poke_enter=@arg2=5a5a5a5a:when=3+", &words, 2);
}
