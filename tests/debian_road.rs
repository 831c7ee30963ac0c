//! A golden image as people use them, on the whole road: Debian 12 with systemd, cloud-init and OpenSSH is imported,
//! deployed by the real server onto a blank disk, boots, and is asked over ssh whether it is well.
//!
//! The disk takes 3 GiB under TMPDIR while it runs: zeros are really written.

mod lab;

use lab::road::{self, HOST, MAC, NETBOOT};
use lab::{Firmware, Lab, Machine, MachineSpec, Server};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 4 << 30;
/// Where gpt-image.sh puts the root partition (ROOT_FIRST).
const ROOT_OFFSET_BYTES: u64 = 66 << 20;
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
    let listed = debugfs(image, "ls -p /etc/ssh");
    assert!(listed.contains("/sshd_config/"), "not the image's root: {listed}");
    assert!(!listed.contains("ssh_host_"), "host keys are in the image: {listed}");
    assert_eq!(debugfs(image, "cat /etc/machine-id"), "", "a machine-id is in the image");
}

/// Looks into the root partition of an image, where it lies in the file.
fn debugfs(image: &Path, request: &str) -> String {
    // In sbin, which is not on every user's PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let filesystem = format!("{}?offset={ROOT_OFFSET_BYTES}", image.display());
    let output = Command::new("debugfs").env("PATH", path).args(["-R", request, &filesystem]).output();
    String::from_utf8_lossy(&output.expect("running debugfs").stdout).into_owned()
}

/// Looks often, so that the test need not wait; what may differ are the defaults of Debian and nothing else.
const LOOKS_OFTEN: &str = "[group.default]\ndrift = \"lab\"\n[drift.lab]\nscan = \"1m\"\nreport = \"1m\"\n";
/// A look at 800 MB under emulation, and what the machine does beside it.
const LOOK: Duration = Duration::from_secs(600);

/// Promises: a fresh Debian that booted, was logged into and rebooted has no finding under the defaults; then a package,
/// an edited file, a program swapped with its old time, a new setuid file, a kernel parameter and a removed unit are each
/// found, and nothing else is.
#[test]
#[ignore = "minutes; make test-full"]
fn a_used_debian_is_clean_and_each_change_by_hand_is_found() {
    let lab = Lab::new("drift");
    let server = Server::start(&lab, Path::new(env!("CARGO_BIN_EXE_regild")));
    server.regild(&["image", "import", built("debian-watch.raw").to_str().unwrap(), "--as", "debian:watch"]);
    let document = lab.dir().join("fleet.toml");
    std::fs::write(&document, LOOKS_OFTEN).unwrap();
    server.regild(&["apply", "-f", document.to_str().unwrap()]);
    let disk = lab::DiskSpec { bytes: DISK_BYTES, ..road::blank_disk(&lab, "target-1") };
    let spec = MachineSpec { disks: vec![disk], memory_mib: 2048, ..MachineSpec::new(HOST, Firmware::Bios, MAC) };
    let mut node = lab.machine(spec);
    node.power_on();
    server.wait_host(MAC, "discovered", NETBOOT, |host| host["state"] == "discovered").unwrap();
    server.regild(&["host", "approve", MAC, "--image", "debian:watch"]);
    node.power_cycle();
    let is_ready = |host: &Value| host["state"] == "ready" && host["detail"] == "confirmed";
    server.wait_host(HOST, "ready on debian:watch", DEPLOY + FIRST_BOOT, is_ready).unwrap();

    assert_eq!(ssh(&lab, "cloud-init status --wait | tail -n 1"), "status: done");
    ssh(&lab, "sudo systemctl reboot");
    for _ in 0..2 {
        node.expect_console("regild golden image watch up", FIRST_BOOT).unwrap();
    }
    assert_eq!(ssh(&lab, "systemctl is-system-running --wait"), "running");
    let booted: u64 = ssh(&lab, "date +%s").parse().unwrap();
    let shown = until_shown(&server, "looked at since the reboot", |shown| {
        shown["scan"]["began"].as_u64() > Some(booted) && shown["scan"]["kind"] != "events"
    });
    assert_eq!(shown["standing"], "clean", "{shown:#}");
    assert!(shown["scan"]["paths"].as_u64() > Some(17_000) && shown["content_since"].as_u64() > Some(0), "{shown:#}");
    eprintln!("a used Debian: {} paths, no finding; not looked at: {:#}", shown["scan"]["paths"], shown["gaps_listed"]);

    let expected = change_by_hand(&lab);
    let paths = |shown: &Value| -> Vec<String> {
        let found = shown["found"].as_array().unwrap().iter();
        found.map(|found| format!("{} {}", found["path"].as_str().unwrap(), found["aspects"])).collect()
    };
    let all_there = |shown: &Value| expected.iter().all(|path| paths(shown).contains(path));
    let shown = until_shown(&server, "found", all_there);
    // What dpkg keeps of its packages changes with the package, and is no less of a finding.
    let others = paths(&shown).into_iter().filter(|path| !expected.contains(path));
    let others: Vec<String> = others.filter(|path| !path.starts_with("/var/lib/dpkg/")).collect();
    assert_eq!(others, Vec::<String>::new(), "{shown:#}");
}

/// What somebody with the root password does in a bad week; the findings that it must make.
fn change_by_hand(lab: &Lab) -> Vec<String> {
    let package = lab.dir().join("package");
    std::fs::create_dir_all(package.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(package.join("usr/bin")).unwrap();
    std::fs::write(package.join("usr/bin/hot-fix"), "#!/bin/sh\n").unwrap();
    let control = "Package: hot-fix\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\n\
                   Description: installed by hand\n";
    std::fs::write(package.join("DEBIAN/control"), control).unwrap();
    let deb = lab.dir().join("hot-fix.deb");
    let built = Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).args([&package, &deb]).output();
    assert!(built.expect("running dpkg-deb").status.success());
    let bytes = std::fs::read(&deb).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("\\\\x{byte:02x}")).collect();
    for command in [
        &format!("printf '%b' {hex} | sudo tee /run/hot-fix.deb >/dev/null")[..],
        "sudo apt-get install --yes /run/hot-fix.deb",
        "echo 'PermitRootLogin yes' | sudo tee -a /etc/ssh/sshd_config",
        "sudo cp -p /usr/bin/who /run/who && printf X | sudo dd of=/usr/bin/who bs=1 seek=9000 conv=notrunc",
        "sudo touch -r /run/who /usr/bin/who",
        "sudo cp /usr/bin/id /usr/local/bin/become && sudo chmod 4755 /usr/local/bin/become",
        "echo 'kernel.kptr_restrict = 0' | sudo tee /etc/sysctl.d/99-debug.conf",
        "sudo rm /usr/lib/systemd/system/fstrim.timer",
    ] {
        let said = ssh(lab, &format!("({command}) 2>&1 && echo well"));
        assert!(said.ends_with("well"), "{command}: {said}");
    }
    let expected = [
        "/etc/ssh/sshd_config [\"content\"]",
        "/etc/sysctl.d/99-debug.conf [\"added\"]",
        "/usr/bin/hot-fix [\"added\"]",
        "/usr/bin/who [\"content\"]",
        "/usr/lib/systemd/system/fstrim.timer [\"removed\"]",
        "/usr/local/bin/become [\"added\"]",
        "/var/lib/dpkg/status [\"content\"]",
    ];
    expected.map(str::to_owned).into()
}

/// `drift show` of the machine, once `wanted` holds for it.
fn until_shown(server: &Server, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let shown: Value = serde_json::from_str(&server.regild(&["drift", "show", HOST, "-o", "json"])).unwrap();
        if wanted(&shown) {
            eprintln!("{what} after {:.0} s", began.elapsed().as_secs_f32());
            return shown;
        }
        assert!(began.elapsed() < LOOK, "not {what} in {LOOK:?}: {shown:#}");
        std::thread::sleep(Duration::from_secs(2));
    }
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
