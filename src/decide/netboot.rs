//! What kind of netboot client sent this DHCP packet: asked by every port, decided only here.
//!
//! Facts are the raw DHCP options; the answer says which program is asking (a ROM, iPXE, an OS), so
//! that [one decision](crate::decide) can say what it boots.

/// The DHCP options that tell netboot clients apart, as they came over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetbootFacts<'a> {
    /// Option 60 (RFC 2132 section 9.13), e.g. `PXEClient:Arch:00007:UNDI:003016`.
    pub vendor_class: Option<&'a [u8]>,
    /// Option 77, raw: framed by lengths (RFC 3004 section 4) or, as iPXE sends it, a bare string.
    pub user_class: Option<&'a [u8]>,
    /// Option 93 (RFC 4578 section 2.1): every architecture that the client lists, best first.
    pub architectures: &'a [u16],
    /// Whether option 175, iPXE's own encapsulated options, was there.
    pub ipxe_option_175: bool,
}

/// Firmware for which we have a first bootloader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FirmwareArch {
    /// Legacy PXE on x86.
    Bios,
    /// UEFI on x86-64.
    UefiX64,
}

/// Who is asking to be netbooted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetbootClient {
    /// A PXE ROM: wants the name of a first bootloader on TFTP.
    Firmware {
        /// Which bootloader it can run.
        arch: FirmwareArch,
    },
    /// iPXE, ours or one from a NIC's ROM: wants a script by HTTP.
    Ipxe {
        /// Whether it runs under UEFI; local boot differs.
        uefi: bool,
    },
    /// Firmware that wants an `http://` URL (UEFI 2.5 HTTP boot).
    UefiHttp,
    /// Netbooting, on a machine for which we have no bootloader.
    UnknownArch(u16),
    /// Netbooting, but it never said on what machine; a guess could offer a loader of the wrong kind.
    ArchMissing,
    /// An operating system or anything else that only wants an address.
    NotNetboot,
}

/// Tells which netboot client sent these options.
///
/// iPXE is looked for first: it repeats the vendor class and architecture of the ROM that it replaced,
/// and answering it like a ROM would chainload iPXE from iPXE for ever.
#[must_use]
pub fn classify(facts: &NetbootFacts<'_>) -> NetbootClient {
    let pxe_class = facts.vendor_class.is_some_and(|class| class.starts_with(b"PXEClient"));
    let http_class = facts.vendor_class.is_some_and(|class| class.starts_with(b"HTTPClient"));
    let is_ipxe = facts.ipxe_option_175 || facts.user_class.is_some_and(names_ipxe);
    let machine = machine(facts);
    if is_ipxe {
        return match machine {
            Some(Machine::Bios) | None => NetbootClient::Ipxe { uefi: false },
            Some(Machine::UefiX64 | Machine::UefiHttp) => NetbootClient::Ipxe { uefi: true },
            Some(Machine::Other(arch)) => NetbootClient::UnknownArch(arch),
        };
    }
    if http_class {
        return NetbootClient::UefiHttp;
    }
    match machine {
        Some(Machine::Bios) => NetbootClient::Firmware { arch: FirmwareArch::Bios },
        Some(Machine::UefiX64) => NetbootClient::Firmware { arch: FirmwareArch::UefiX64 },
        Some(Machine::UefiHttp) => NetbootClient::UefiHttp,
        Some(Machine::Other(arch)) => NetbootClient::UnknownArch(arch),
        None if pxe_class => NetbootClient::ArchMissing,
        None => NetbootClient::NotNetboot,
    }
}

enum Machine {
    Bios,
    UefiX64,
    UefiHttp,
    Other(u16),
}

/// The first architecture of option 93 that we know; else the first it lists; else what the vendor class names.
fn machine(facts: &NetbootFacts<'_>) -> Option<Machine> {
    let listed = facts.architectures;
    let known = listed.iter().map(|arch| by_number(*arch)).find(|arch| !matches!(arch, Machine::Other(_)));
    known
        .or_else(|| listed.first().map(|arch| Machine::Other(*arch)))
        .or_else(|| facts.vendor_class.and_then(arch_in_vendor_class).map(by_number))
}

/// IANA's "Processor Architecture Types". 7 and 9 are both x86-64: RFC 4578 gave 7 to EFI byte code and 9 to
/// x86-64, erratum 4625 swapped them, and firmware of either belief is in the field (OVMF sends 7).
fn by_number(arch: u16) -> Machine {
    match arch {
        0 => Machine::Bios,
        7 | 9 => Machine::UefiX64,
        15 | 16 => Machine::UefiHttp,
        other => Machine::Other(other),
    }
}

/// `PXEClient:Arch:00007:...` (PXE 2.1): the same number as option 93, in five digits.
fn arch_in_vendor_class(class: &[u8]) -> Option<u16> {
    let rest = class.strip_prefix(b"PXEClient:Arch:")?;
    let digits = rest.get(..5)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether option 77 names iPXE, bare (what iPXE sends) or as one of the classes of RFC 3004's framing.
fn names_ipxe(user_class: &[u8]) -> bool {
    if user_class == b"iPXE" {
        return true;
    }
    let mut rest = user_class;
    while let [len, tail @ ..] = rest {
        let Some((class, next)) = tail.split_at_checked(usize::from(*len)) else {
            return false;
        };
        if class == b"iPXE" {
            return true;
        }
        rest = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use NetbootClient::{ArchMissing, Ipxe, NotNetboot, UefiHttp, UnknownArch};

    const BIOS: NetbootClient = NetbootClient::Firmware { arch: FirmwareArch::Bios };
    const UEFI: NetbootClient = NetbootClient::Firmware { arch: FirmwareArch::UefiX64 };
    const SEABIOS_CLASS: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";
    const OVMF_CLASS: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";

    fn ask(class: &[u8], user: Option<&[u8]>, architectures: &[u16], option_175: bool) -> NetbootClient {
        classify(&NetbootFacts {
            vendor_class: (!class.is_empty()).then_some(class),
            user_class: user,
            architectures,
            ipxe_option_175: option_175,
        })
    }

    #[test]
    fn every_firmware_is_known_by_its_architecture() {
        let table: &[(&[u8], &[u16], NetbootClient)] = &[
            (SEABIOS_CLASS, &[0], BIOS),
            (OVMF_CLASS, &[7], UEFI),
            (b"PXEClient:Arch:00009:UNDI:003016", &[9], UEFI),
            // A list: the first that we can serve, wherever it stands.
            (b"PXEClient", &[6, 7], UEFI),
            (b"PXEClient", &[0, 7], BIOS),
            // Without option 93 the vendor class must do.
            (SEABIOS_CLASS, &[], BIOS),
            (OVMF_CLASS, &[], UEFI),
            (b"PXEClient:Arch:00011:UNDI:003000", &[], UnknownArch(11)),
            // HTTP boot: by number and by class.
            (b"HTTPClient:Arch:00016:UNDI:003001", &[16], UefiHttp),
            (b"HTTPClient:Arch:00015:UNDI:003001", &[15], UefiHttp),
            (b"HTTPClient", &[], UefiHttp),
            // An OS.
            (b"", &[], NotNetboot),
            (b"udhcp 1.35.0", &[], NotNetboot),
            (b"android-dhcp-13", &[], NotNetboot),
        ];
        for (class, architectures, wanted) in table {
            let got = ask(class, None, architectures, false);
            assert_eq!(got, *wanted, "{} {architectures:?}", String::from_utf8_lossy(class));
        }
    }

    #[test]
    fn d5_no_loader_of_a_wrong_or_guessed_architecture() {
        assert_eq!(ask(b"PXEClient:Arch:65535", None, &[0xffff], false), UnknownArch(0xffff));
        assert_eq!(ask(b"PXEClient:Arch:00011", None, &[11], false), UnknownArch(11));
        // 93 is believed over the class, and a class without a readable number is no BIOS.
        assert_eq!(ask(SEABIOS_CLASS, None, &[11], false), UnknownArch(11));
        assert_eq!(ask(b"PXEClient", None, &[], false), ArchMissing);
        assert_eq!(ask(b"PXEClient:Arch:7", None, &[], false), ArchMissing);
        assert_eq!(ask(b"PXEClient:Arch:+0007:", None, &[], false), ArchMissing);
        assert_eq!(ask(b"PXEClient:Arch:99999:", None, &[], false), ArchMissing);
    }

    #[test]
    fn ipxe_is_never_taken_for_the_rom_that_it_replaced() {
        let framed: &[u8] = b"\x04iPXE";
        let second: &[u8] = b"\x03abc\x04iPXE";
        for user in [b"iPXE".as_slice(), framed, second] {
            assert_eq!(ask(SEABIOS_CLASS, Some(user), &[0], false), Ipxe { uefi: false });
            assert_eq!(ask(OVMF_CLASS, Some(user), &[7], false), Ipxe { uefi: true });
        }
        assert_eq!(ask(OVMF_CLASS, None, &[7], true), Ipxe { uefi: true });
        assert_eq!(ask(b"", None, &[], true), Ipxe { uefi: false });
        assert_eq!(ask(b"PXEClient:Arch:00011", Some(b"iPXE"), &[11], true), UnknownArch(11));
    }

    #[test]
    fn a_crooked_user_class_is_not_ipxe() {
        for user in [b"".as_slice(), b"\x05iPXE", b"\xff", b"ipxe", b"iPXE2", b"\x00\x00\x00"] {
            assert_eq!(ask(OVMF_CLASS, Some(user), &[7], false), UEFI, "{user:?}");
        }
    }
}
