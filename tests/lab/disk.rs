//! Disks of a lab machine: raw sparse files, on the bus, with the serial number and with the faults asked for.

use std::fs::File;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Virtio,
    /// A SCSI disk on a virtio-scsi controller.
    Scsi,
    Nvme,
    /// A SATA disk on the chipset's AHCI controller.
    Sata,
}

/// Limits in bytes and requests a second; 0 is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throttle {
    pub write_bytes: u64,
    pub read_bytes: u64,
    pub requests: u64,
}

impl Throttle {
    /// As QEMU's throttle groups take them.
    pub(super) fn limits(self) -> serde_json::Value {
        serde_json::json!({
            "bps-write": self.write_bytes, "bps-read": self.read_bytes, "iops-total": self.requests,
        })
    }
}

/// Where QEMU keeps the limits of disk number `index`.
pub(super) fn throttle_path(index: usize) -> String {
    format!("/objects/{}", throttle_group(index))
}

fn throttle_group(index: usize) -> String {
    format!("throttle{index}")
}

#[derive(Debug, Clone)]
pub struct DiskSpec {
    pub path: PathBuf,
    /// A file that does not exist is made, sparse, of this size. An existing one is taken as it is.
    pub bytes: u64,
    pub serial: Option<String>,
    pub bus: Bus,
    pub read_only: bool,
    /// 512 when absent; 4096 makes a "4Kn" disk.
    pub sector_bytes: Option<u32>,
    /// A configuration file of QEMU's blkdebug driver: which request fails, and how.
    pub blkdebug: Option<PathBuf>,
    pub throttle: Option<Throttle>,
    /// Anything else for the device, e.g. `wwn=0x5000c500a1b2c3d4`.
    pub device_options: Vec<String>,
}

impl DiskSpec {
    pub fn new(path: impl AsRef<Path>, bytes: u64) -> DiskSpec {
        DiskSpec {
            path: path.as_ref().to_owned(),
            bytes,
            serial: None,
            bus: Bus::Virtio,
            read_only: false,
            sector_bytes: None,
            blkdebug: None,
            throttle: None,
            device_options: Vec::new(),
        }
    }

    pub(super) fn create_if_missing(&self) {
        if self.path.exists() {
            return;
        }
        File::create(&self.path)
            .and_then(|file| file.set_len(self.bytes))
            .unwrap_or_else(|error| panic!("creating the disk {}: {error}", self.path.display()));
    }

    /// QEMU's arguments for disk number `index`; `boot_index` is its place in the firmware's order,
    /// if QEMU is to say one.
    pub(super) fn arguments(&self, index: usize, boot_index: Option<usize>) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut node = serde_json::json!({
            "driver": "file", "filename": self.path, "discard": "unmap", "read-only": self.read_only,
        });
        if let Some(config) = &self.blkdebug {
            node = serde_json::json!({ "driver": "blkdebug", "config": config, "image": node });
        }
        if let Some(throttle) = self.throttle {
            let group = throttle_group(index);
            let group_object =
                serde_json::json!({ "qom-type": "throttle-group", "id": group, "limits": throttle.limits() });
            arguments.extend(["-object".to_owned(), group_object.to_string()]);
            node = serde_json::json!({ "driver": "throttle", "throttle-group": group, "file": node });
        }
        // Writeback, as a disk with a cache: what was not flushed may be lost. The host's page cache keeps it
        // when QEMU is killed, so a power cut here loses what the guest had not sent yet, and no more.
        let root = serde_json::json!({
            "driver": "raw", "node-name": format!("disk{index}"), "file": node, "discard": "unmap",
            "read-only": self.read_only, "cache": { "direct": false, "no-flush": false },
        });
        arguments.extend(["-blockdev".to_owned(), root.to_string()]);
        arguments.extend(self.device(index, boot_index));
        arguments
    }

    fn device(&self, index: usize, boot_index: Option<usize>) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut device = match self.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Scsi => {
                let controller = format!("virtio-scsi-pci,id=scsi{index}");
                arguments.extend(["-device".to_owned(), controller]);
                format!("scsi-hd,bus=scsi{index}.0")
            }
            Bus::Nvme => "nvme".to_owned(),
            Bus::Sata => format!("ide-hd,bus=ide.{index}"),
        };
        device += &format!(",drive=disk{index}");
        if let Some(place) = boot_index {
            device += &format!(",bootindex={place}");
        }
        match (&self.serial, self.bus) {
            (Some(serial), _) => device += &format!(",serial={serial}"),
            // QEMU's NVMe device has no serial number of its own and insists on one.
            (None, Bus::Nvme) => device += &format!(",serial=nvme{index}"),
            (None, _) => {}
        }
        if let Some(bytes) = self.sector_bytes {
            device += &format!(",logical_block_size={bytes},physical_block_size={bytes}");
        }
        for option in &self.device_options {
            device += &format!(",{option}");
        }
        arguments.extend(["-device".to_owned(), device]);
        arguments
    }
}
