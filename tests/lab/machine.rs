//! A machine of the lab: QEMU under software emulation (KVM cannot be relied on where tests run).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::disk::{DiskSpec, Throttle, throttle_path};
use super::nvram::BootEntries;
use super::process::{POLL, Process, last_lines};
use super::qmp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS; its network boot is the NIC's option ROM, QEMU's iPXE.
    Bios,
    /// OVMF, with variables that stay over power cycles.
    Uefi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootOrder {
    /// As every managed machine should be set: the network first, and the server decides.
    NetworkThenDisks,
    DisksOnly,
    /// UEFI only: QEMU says nothing, and the firmware goes by its own variables alone, as a real mainboard does.
    AsInNvram,
}

#[derive(Debug, Clone)]
pub struct MachineSpec {
    pub name: String,
    pub firmware: Firmware,
    pub mac: String,
    pub disks: Vec<DiskSpec>,
    pub memory_mib: u32,
    pub boot_order: BootOrder,
    /// `virtio-net-pci`, `e1000`, `e1000e`, ... as QEMU calls them.
    pub nic: String,
    /// UEFI only. QEMU's option ROM would put its own iPXE in front of the firmware's PXE, and the
    /// firmware's own is what real machines have; `true` keeps the ROM.
    pub ipxe_rom_on_uefi: bool,
    /// SMBIOS system UUID; made from the MAC when absent.
    pub uuid: Option<String>,
    pub extra_args: Vec<String>,
}

impl MachineSpec {
    pub fn new(name: &str, firmware: Firmware, mac: &str) -> MachineSpec {
        MachineSpec {
            name: name.to_owned(),
            firmware,
            mac: mac.to_owned(),
            disks: Vec::new(),
            memory_mib: 1024,
            boot_order: BootOrder::NetworkThenDisks,
            nic: "virtio-net-pci".to_owned(),
            ipxe_rom_on_uefi: false,
            uuid: None,
            extra_args: Vec::new(),
        }
    }
}

#[derive(Debug)]
pub struct Machine {
    spec: MachineSpec,
    tap: String,
    dir: PathBuf,
    qemu: Option<Process>,
    powered_on: u32,
    /// Where the console log's current boot begins, in bytes.
    boot_offset: usize,
    /// How far `expect_console` has read.
    read_offset: usize,
}

impl Machine {
    pub(super) fn new(dir: &Path, spec: MachineSpec, tap: String) -> Machine {
        if spec.firmware == Firmware::Uefi {
            // A writable copy of its own, as each mainboard has its own flash chip.
            std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", vars_path(dir, &spec)).expect("copying OVMF's variables");
        }
        for disk in &spec.disks {
            disk.create_if_missing();
        }
        Machine { spec, tap, dir: dir.to_owned(), qemu: None, powered_on: 0, boot_offset: 0, read_offset: 0 }
    }

    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// For changes that need an open case: add a disk, take one out. Seen at the next power-on.
    pub fn spec_mut(&mut self) -> &mut MachineSpec {
        &mut self.spec
    }

    pub fn tap(&self) -> &str {
        &self.tap
    }

    pub fn power_on(&mut self) {
        assert!(!self.is_running(), "{} is on already", self.spec.name);
        for disk in &self.spec.disks {
            disk.create_if_missing();
        }
        self.powered_on += 1;
        let mut console =
            File::options().create(true).append(true).open(self.console_path()).expect("opening the console log");
        writeln!(console, "\n==== {}: power on number {}", self.spec.name, self.powered_on)
            .expect("writing the console log");
        self.boot_offset = std::fs::metadata(self.console_path()).map(|data| data.len() as usize).unwrap_or(0);
        self.read_offset = self.boot_offset;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(self.arguments());
        let log = self.dir.join(format!("{}.qemu.log", self.spec.name));
        self.qemu = Some(Process::spawn(qemu, &log));
    }

    /// A power cut: QEMU gets SIGKILL, the guest no warning.
    pub fn power_off(&mut self) {
        self.qemu = None;
    }

    pub fn power_cycle(&mut self) {
        self.power_off();
        self.power_on();
    }

    pub fn is_running(&mut self) -> bool {
        self.qemu.as_mut().is_some_and(Process::is_running)
    }

    /// What the firmware's flash chip says; UEFI only, and only while the machine is off.
    pub fn boot_entries(&self) -> BootEntries {
        assert!(self.qemu.is_none(), "{} is on: its flash chip may be half written", self.spec.name);
        BootEntries::read(&vars_path(&self.dir, &self.spec))
    }

    /// Other limits for disk number `index` from now on; it must have had a [`Throttle`] at power-on.
    pub fn set_throttle(&mut self, index: usize, throttle: Throttle) {
        let limits = json!({ "path": throttle_path(index), "property": "limits", "value": throttle.limits() });
        qmp::execute(&self.qmp_path(), "qom-set", &limits);
    }

    /// The serial console of all boots since the machine was made, without terminal escapes.
    pub fn console(&self) -> String {
        plain_text(&self.console_bytes())
    }

    /// Waits until the console shows `needle`, looking at everything since the last power-on. A machine
    /// that reboots by itself stays within one power-on: where the same line comes again at the next boot,
    /// use `expect_console`.
    pub fn wait_console(&mut self, needle: &str, timeout: Duration) -> Result<Duration, String> {
        self.wait_from(self.boot_offset, needle, timeout).map(|(elapsed, _)| elapsed)
    }

    /// The same, looking only behind what the last `expect_console` found: for a story told in order.
    pub fn expect_console(&mut self, needle: &str, timeout: Duration) -> Result<Duration, String> {
        let (elapsed, end) = self.wait_from(self.read_offset, needle, timeout)?;
        self.read_offset = end;
        Ok(elapsed)
    }

    /// Answers how long it took and where in the log the line with the needle ends.
    fn wait_from(&mut self, offset: usize, needle: &str, timeout: Duration) -> Result<(Duration, usize), String> {
        let start = Instant::now();
        loop {
            let running = self.is_running();
            let log = self.console_bytes();
            let fresh = &log[offset.min(log.len())..];
            let mut end = offset;
            for line in fresh.split_inclusive(|byte| *byte == b'\n') {
                end += line.len();
                if plain_text(line).contains(needle) {
                    return Ok((start.elapsed(), end));
                }
            }
            if !running || start.elapsed() > timeout {
                return Err(self.why_not(needle, running, start.elapsed(), fresh));
            }
            std::thread::sleep(POLL);
        }
    }

    fn why_not(&self, needle: &str, running: bool, elapsed: Duration, fresh: &[u8]) -> String {
        let state = match &self.qemu {
            Some(_) if running => "it still runs".to_owned(),
            Some(qemu) => format!("QEMU ended: {}", last_lines(&qemu.log(), 5)),
            None => "it is switched off".to_owned(),
        };
        format!(
            "{}: no {needle:?} on the console in {:.1} s; {state}. The console's end:\n{}",
            self.spec.name,
            elapsed.as_secs_f32(),
            last_lines(&plain_text(fresh), 30)
        )
    }

    fn console_path(&self) -> PathBuf {
        self.dir.join(format!("{}.console.log", self.spec.name))
    }

    fn qmp_path(&self) -> PathBuf {
        self.dir.join(format!("{}.qmp", self.spec.name))
    }

    fn console_bytes(&self) -> Vec<u8> {
        std::fs::read(self.console_path()).unwrap_or_default()
    }

    fn arguments(&self) -> Vec<String> {
        let spec = &self.spec;
        let mut line = format!(
            "-name {} -machine q35{} -accel tcg -smp 1 -m {} -display none -monitor none -nodefaults -vga std \
             -device virtio-rng-pci -serial chardev:console -uuid {}",
            spec.name,
            // SeaBIOS then shows on the serial console what it and the iPXE ROM show on the screen.
            if spec.firmware == Firmware::Bios { ",graphics=off" } else { "" },
            spec.memory_mib,
            spec.uuid.clone().unwrap_or_else(|| uuid_of(&spec.mac))
        );
        if spec.firmware == Firmware::Uefi {
            // IPv6 PXE off: OVMF would try it for a minute before it gives up on a network.
            line += &format!(
                " -fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=n \
                 -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
                 -drive if=pflash,format=raw,file={}",
                vars_path(&self.dir, spec).display()
            );
        }
        line += &format!(
            " -netdev tap,id=net0,ifname={},script=no,downscript=no -device {},netdev=net0,mac={}",
            self.tap, spec.nic, spec.mac
        );
        if spec.boot_order == BootOrder::NetworkThenDisks {
            line += ",bootindex=0";
        }
        let without_rom = match spec.firmware {
            Firmware::Uefi => !spec.ipxe_rom_on_uefi,
            // SeaBIOS tries every option ROM after the disks; without a ROM there is nothing to try.
            Firmware::Bios => spec.boot_order == BootOrder::DisksOnly,
        };
        if without_rom {
            line += ",romfile=";
        }
        let mut arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        // Appended to, so that it tells of all boots.
        let console = format!("file,id=console,append=on,path={}", self.console_path().display());
        arguments.extend(["-chardev".to_owned(), console]);
        // For guest and firmware to be told things while they run.
        arguments.extend(["-qmp".to_owned(), format!("unix:{},server=on,wait=off", self.qmp_path().display())]);
        for (index, disk) in spec.disks.iter().enumerate() {
            let place = (spec.boot_order != BootOrder::AsInNvram).then_some(index + 1);
            arguments.extend(disk.arguments(index, place));
        }
        arguments.extend(spec.extra_args.iter().cloned());
        arguments
    }
}

/// The writable half of OVMF's flash chip.
fn vars_path(dir: &Path, spec: &MachineSpec) -> PathBuf {
    dir.join(format!("{}.vars.fd", spec.name))
}

/// A system UUID that is the machine's own and the same in every run.
fn uuid_of(mac: &str) -> String {
    format!("7e611d00-0000-4000-8000-{}", mac.replace(':', ""))
}

/// Without carriage returns and terminal escapes (ESC, '[', parameters, one letter), which firmware and GRUB
/// put between words and even inside them.
fn plain_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => {
                if characters.next() == Some('[') {
                    characters.by_ref().find(|c| c.is_ascii_alphabetic());
                }
            }
            '\r' | '\0' => {}
            other => plain.push(other),
        }
    }
    plain
}
