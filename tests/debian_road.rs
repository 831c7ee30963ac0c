//! A golden image as people use them, on the whole road: Debian 12 with systemd, cloud-init and OpenSSH is imported,
//! deployed by the real server onto a blank disk, boots, and is asked over ssh whether it is well.

mod lab;

use lab::road::{self, HOST, MAC, NETBOOT};
use lab::{Firmware, Lab, Machine, MachineSpec, Server};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 4 << 30;
/// The reservation of config/lab.toml.
const ADDRESS: &str = "10.77.0.10";
/// 800 MB written and read back, then a whole Debian started for the first time, under emulation.
const DEPLOY: Duration = Duration::from_secs(600);
const FIRST_BOOT: Duration = Duration::from_secs(600);

/// Built by `make images-full`: minutes, and Debian's archive, so no test does it in passing.
fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab").join(name);
    assert!(path.exists(), "{} is missing; do: make images-full", path.display());
    path
}

/// Runs a command line in the machine and gives what it printed, whatever its status.
fn ssh(lab: &Lab, command: &str) -> String {
    let mut ssh = Command::new("ssh");
    // The host key was made by the machine a minute ago; nobody can know it, and it is not what is tested.
    for option in ["StrictHostKeyChecking=no", "BatchMode=yes", "ConnectTimeout=60", "LogLevel=ERROR"] {
        ssh.args(["-o", option]);
    }
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", lab.dir().join("known_hosts").display()));
    ssh.arg("-i").arg(built("ssh-key")).args(["-F", "none", &format!("debian@{ADDRESS}"), command]);
    let output = ssh.output().expect("running ssh; do: apt-get install openssh-client");
    assert_ne!(output.status.code(), Some(255), "no ssh: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Promises: a real image reaches Ready, confirmed by its own word, and is a sound system: systemd without a failed
/// unit, cloud-init done, an identity that was made on this machine.
fn from_blank_to_debian(firmware: Firmware) {
    let lab = Lab::new("debian");
    let server = Server::start(&lab, Path::new(env!("CARGO_BIN_EXE_regild")));
    let image = built("debian-v1.raw");
    server.regild(&["image", "import", image.to_str().unwrap(), "--as", "debian:v1"]);
    let disk = lab::DiskSpec { bytes: DISK_BYTES, ..road::blank_disk(&lab, "target-1") };
    let spec = MachineSpec { disks: vec![disk], memory_mib: 2048, ..MachineSpec::new(HOST, firmware, MAC) };
    let mut node = lab.machine(spec);

    node.power_on();
    server.wait_host(MAC, "discovered", NETBOOT, |host| host["state"] == "discovered").unwrap();
    server.regild(&["host", "approve", MAC, "--image", "debian:v1"]);
    node.power_cycle();
    let began = Instant::now();
    server.wait_host(HOST, "rebooting", DEPLOY, |host| host["state"] == "rebooting").unwrap();
    eprintln!("{firmware:?}: on the disk and read back {:.0} s after power-on", began.elapsed().as_secs_f32());
    server.wait_host(HOST, "ready on debian:v1", FIRST_BOOT, road::is_ready("debian:v1")).unwrap();
    eprintln!("{firmware:?}: ready, confirmed {:.0} s after power-on", began.elapsed().as_secs_f32());

    assert_eq!(ssh(&lab, "cat /etc/regild-image"), "v1");
    // Waits for the last unit: cloud-init's last stage comes after the word to the server.
    assert_eq!(ssh(&lab, "cloud-init status --wait | tail -n 1"), "status: done");
    let state = ssh(&lab, "systemctl is-system-running --wait");
    let failed = ssh(&lab, "systemctl --failed --no-pager; journalctl --boot --priority=err --no-pager | tail -n 20");
    assert_eq!(state, "running", "{failed}");
    eprintln!("{firmware:?}: systemd is done {:.0} s after power-on", began.elapsed().as_secs_f32());
    assert_eq!(ssh(&lab, "sudo id --user"), "0");
    let uefi = ssh(&lab, "test -d /sys/firmware/efi && echo uefi || echo bios");
    assert_eq!(uefi, if firmware == Firmware::Uefi { "uefi" } else { "bios" });
    identity_is_its_own(&lab, &image);

    if firmware == Firmware::Uefi {
        is_the_same_after_a_reboot(&lab, &mut node);
    }
    assert_eq!(road::attempts(&server), 1);
}

/// The second boot finds its identity in place. (One firmware is enough: Debian's own part of the road is the same.)
fn is_the_same_after_a_reboot(lab: &Lab, node: &mut Machine) {
    let identity = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub";
    let first = ssh(lab, identity);
    ssh(lab, "sudo systemctl reboot");
    for _ in 0..2 {
        node.expect_console("regild golden image v1 up", FIRST_BOOT).unwrap();
    }
    assert_eq!(ssh(lab, identity), first, "the second boot made the machine another one");
}

/// The image holds no host keys and no machine-id; the machine has both.
fn identity_is_its_own(lab: &Lab, image: &Path) {
    let keys = ssh(lab, "ls /etc/ssh | grep '^ssh_host_.*_key$'");
    assert!(keys.contains("ssh_host_ed25519_key"), "no host keys were made: {keys:?}");
    assert_eq!(ssh(lab, "cat /etc/machine-id").len(), 32);
    // The root partition of the image as it was built, looked into from outside.
    let root = lab.dir().join("image-root.ext4");
    let copied = Command::new("dd")
        .args(["bs=1M", "skip=66", "conv=sparse", "status=none"])
        .arg(format!("if={}", image.display()))
        .arg(format!("of={}", root.display()))
        .status()
        .expect("running dd");
    assert!(copied.success());
    let listed = debugfs(&root, "ls -p /etc/ssh");
    assert!(listed.contains("/sshd_config/"), "not the image's root: {listed}");
    assert!(!listed.contains("ssh_host_"), "host keys are in the image: {listed}");
    assert_eq!(debugfs(&root, "cat /etc/machine-id"), "", "a machine-id is in the image");
}

fn debugfs(filesystem: &Path, request: &str) -> String {
    // In sbin, which is not on every user's PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("debugfs").env("PATH", path).args(["-R", request]).arg(filesystem).output();
    String::from_utf8_lossy(&output.expect("running debugfs").stdout).into_owned()
}

#[test]
#[ignore = "minutes; make test-full"]
fn uefi_from_blank_to_debian() {
    from_blank_to_debian(Firmware::Uefi);
}

#[test]
#[ignore = "minutes; make test-full"]
fn bios_from_blank_to_debian() {
    from_blank_to_debian(Firmware::Bios);
}
