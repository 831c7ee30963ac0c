//! The boot entries in OVMF's flash chip, read from the outside: what the firmware will really go by, whatever the
//! guest believes it has written. Only reads.
//!
//! The file is a firmware volume (UEFI PI, volume 3) with EDK II's variable store in it: a row of variables, each
//! with a state byte that a change clears bits of, so that old values stay behind as deleted ones.

use std::path::Path;

/// EFI_GLOBAL_VARIABLE, in the byte order of the disk.
const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
/// VARIABLE_STORE_HEADER.
const STORE_HEADER_BYTES: usize = 28;
/// AUTHENTICATED_VARIABLE_HEADER.
const VARIABLE_HEADER_BYTES: usize = 60;
/// StartId of a variable.
const START: [u8; 2] = [0xaa, 0x55];
/// VAR_ADDED: header and data are written, and neither deleted nor being replaced.
const VALID: u8 = 0x3f;

/// One EFI_LOAD_OPTION.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    pub number: u16,
    pub description: String,
    /// The device path: nodes of type, subtype, length (2) and content.
    pub path: Vec<u8>,
}

impl BootEntry {
    /// Whether the path leads to a network interface (a MAC address node: messaging device, subtype 11).
    pub fn is_network(&self) -> bool {
        self.has_node(3, 11)
    }

    /// Whether the path begins with a partition by its GUID (a hard drive node: media device, subtype 1).
    pub fn is_partition(&self) -> bool {
        self.path.starts_with(&[4, 1])
    }

    fn has_node(&self, kind: u8, subtype: u8) -> bool {
        let mut rest = &self.path[..];
        while let [first, second, low, high, ..] = *rest {
            if (first, second) == (kind, subtype) {
                return true;
            }
            let length = usize::from(u16::from_le_bytes([low, high]));
            // A node that has no length or a wrong one: nothing can be read behind it.
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
        false
    }
}

/// The boot entries of a variables file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntries {
    /// As `BootOrder` has them.
    pub in_order: Vec<BootEntry>,
    /// All that exist, in `BootOrder` or not.
    pub all: Vec<BootEntry>,
}

impl BootEntries {
    pub fn read(file: &Path) -> BootEntries {
        let flash = std::fs::read(file).unwrap_or_else(|error| panic!("reading {}: {error}", file.display()));
        let variables = variables(&flash);
        let mut all: Vec<BootEntry> =
            variables.iter().filter_map(|(name, value)| boot_entry(number_of(name)?, value)).collect();
        all.sort_by_key(|entry| entry.number);
        let order = variables.iter().find(|(name, _)| name == "BootOrder").map(|(_, value)| *value);
        let numbers = order.unwrap_or_default().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let in_order = numbers.filter_map(|number| all.iter().find(|entry| entry.number == number).cloned());
        BootEntries { in_order: in_order.collect(), all }
    }

    /// `0001 UEFI PXEv4, 0007 regild disk`, as `BootOrder` has them.
    pub fn order(&self) -> String {
        let lines = self.in_order.iter().map(|entry| format!("{:04X} {}", entry.number, entry.description));
        lines.collect::<Vec<_>>().join(", ")
    }

    pub fn named(&self, description: &str) -> Vec<&BootEntry> {
        self.all.iter().filter(|entry| entry.description == description).collect()
    }
}

/// Name and value of every valid global variable.
fn variables(flash: &[u8]) -> Vec<(String, &[u8])> {
    assert_eq!(&flash[40..44], b"_FVH", "not a firmware volume");
    let volume_header_bytes = usize::from(u16::from_le_bytes([flash[48], flash[49]]));
    let mut rest = &flash[volume_header_bytes + STORE_HEADER_BYTES..];
    let mut found = Vec::new();
    while rest.starts_with(&START) && rest.len() > VARIABLE_HEADER_BYTES {
        let size = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four bytes")) as usize;
        let (name_bytes, data_bytes) = (size(36), size(40));
        let data_from = VARIABLE_HEADER_BYTES + name_bytes;
        if rest[2] == VALID && rest[44..60] == GLOBAL {
            found.push((ucs2(&rest[VARIABLE_HEADER_BYTES..data_from]), &rest[data_from..data_from + data_bytes]));
        }
        // Each begins at a multiple of four.
        rest = &rest[(data_from + data_bytes).next_multiple_of(4).min(rest.len())..];
    }
    assert!(!found.is_empty(), "no variables: is it the layout that OVMF has today?");
    found
}

/// `Boot0007` -> 7.
fn number_of(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("Boot").filter(|digits| digits.len() == 4)?;
    u16::from_str_radix(digits, 16).ok()
}

fn boot_entry(number: u16, value: &[u8]) -> Option<BootEntry> {
    let path_bytes = usize::from(u16::from_le_bytes(value.get(4..6)?.try_into().ok()?));
    let description = ucs2(value.get(6..)?);
    let path_from = 6 + (description.encode_utf16().count() + 1) * 2;
    let path = value.get(path_from..path_from + path_bytes)?.to_vec();
    Some(BootEntry { number, description, path })
}

/// Up to the first NUL.
fn ucs2(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>())
}
