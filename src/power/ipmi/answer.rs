//! What ipmitool prints (1.8.18 and 1.8.19), read strictly. Pure.

use crate::power::error::printable;
use crate::power::settings::{BootMode, IPMI_CIPHERS};
use crate::power::{Override, PowerError, PowerState};

/// `Chassis Power is on`.
pub(super) fn power_state(printed: &str) -> Result<PowerState, String> {
    let mut states = printed.lines().filter_map(|line| line.strip_prefix("Chassis Power is "));
    match (states.next().map(str::trim), states.next()) {
        (Some("on"), None) => Ok(PowerState::On),
        (Some("off"), None) => Ok(PowerState::Off),
        _ => Err(format!("no power state in {:?}", printable(printed))),
    }
}

/// `Boot parameter data: 8004000000`: IPMI 2.0 table 28-14, parameter 5. The bytes, since the words under them differ
/// between versions.
pub(super) fn boot_override(printed: &str, mode: BootMode) -> Override {
    let unreadable = || Override::Unreadable { why: format!("it shows {:?}", printable(printed)) };
    let mut data = printed.lines().filter_map(|line| line.trim().strip_prefix("Boot parameter data:"));
    let Some(bytes) = data.next().and_then(|digits| crate::power::seal::from_hex(digits.trim())) else {
        return unreadable();
    };
    let [flags, device, _, _, _] = bytes[..] else { return unreadable() };
    let (valid, every_boot, uefi) = (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x20 != 0);
    let network = device >> 2 & 0x0f == 1;
    let not_shown = |shown: &str| Override::NotShown { shown: shown.to_string() };
    match (network, valid, every_boot) {
        (false, ..) => not_shown(&format!("boot device number {}", device >> 2 & 0x0f)),
        (true, false, _) => not_shown("the network, but does not mark it valid"),
        (true, true, true) => Override::Continuous,
        (true, true, false) if uefi != (mode == BootMode::Uefi) => {
            not_shown(if uefi { "the network by UEFI" } else { "the network by BIOS" })
        }
        (true, true, false) => Override::Checked,
    }
}

/// What `-v` tells of ipmitool's own probes, before the command: "Insufficient privilege level" in one of these lines
/// is the answer to a question that nobody asked.
const PROBES: [&str; 5] =
    ["Loading IANA PEN", "Get HPM.x Cap", "Running Get VSO", "Invalid completion code received", "Discovered IPMB"];

/// Why `ipmitool -v` failed, by what it said on standard error.
pub(super) fn failure(place: &str, user: &str, cipher: u8, what: &str, stderr: &str) -> PowerError {
    let (place, user) = (place.to_string(), user.to_string());
    let told = |line: &&str| !line.trim().is_empty() && !PROBES.iter().any(|probe| line.starts_with(probe));
    let lines = || stderr.lines().filter(told);
    let says = |words: &[&str]| lines().any(|line| words.iter().any(|word| line.contains(word)));
    let first = printable(lines().next().unwrap_or("it said nothing"));
    if says(&["RAKP 2 HMAC is invalid", "unauthorized name", "RAKP 4 message has invalid", "unauthorized GUID"]) {
        return PowerError::WrongPassword { place, user };
    }
    if says(&["invalid role", "Insufficient privilege", "privilege level exceeds", "insufficient privilege"]) {
        return PowerError::NotAllowed { place, user, said: first };
    }
    if says(&["invalid authentication algorithm", "invalid integrity algorithm", "invalid confidentiality algorithm"])
        || says(&["no cipher suite match", "no matching cipher suite", "is not what we requested"])
    {
        let other = IPMI_CIPHERS.into_iter().find(|other| *other != cipher).unwrap_or(cipher);
        return PowerError::Cipher { place, cipher, other };
    }
    if says(&["insufficient resources", "Node busy", "Out of space", "in update"]) {
        return PowerError::Busy { place, said: first, retry_after: None };
    }
    if says(&["does not support IPMI v2"]) {
        return PowerError::Refused { place, what: "open a session".to_string(), said: first };
    }
    if says(&["Unable to establish", "Address lookup", "Could not open socket"]) {
        return PowerError::NotReached { place, why: format!("no IPMI session ({first})") };
    }
    if says(&["No response", "no response", "timeout", "Timeout", "session lost"]) {
        return PowerError::NoAnswer { place, why: first };
    }
    PowerError::Refused {
        place,
        what: what.to_string(),
        said: printable(lines().next_back().unwrap_or("it said nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_line_is_a_power_state() {
        assert_eq!(power_state("Chassis Power is on\n"), Ok(PowerState::On));
        assert_eq!(power_state("Chassis Power is off\n"), Ok(PowerState::Off));
        for odd in ["", "on", "Chassis Power is", "Chassis Power is one", "not Chassis Power is on"] {
            assert!(power_state(odd).is_err(), "{odd:?}");
        }
        assert!(power_state("Chassis Power is on\nChassis Power is off\n").is_err(), "two answers");
    }

    #[test]
    fn the_override_is_read_from_its_bytes() {
        let printed = |data: &str| {
            format!("Boot parameter version: 1\nBoot parameter 5 is valid/unlocked\nBoot parameter data: {data}\n")
        };
        let not_shown = |text: &str| Override::NotShown { shown: text.into() };
        for (data, mode, means) in [
            ("a004000000", BootMode::Uefi, Override::Checked),
            ("8004000000", BootMode::Bios, Override::Checked),
            ("8004000000", BootMode::Uefi, not_shown("the network by BIOS")),
            ("a004000000", BootMode::Bios, not_shown("the network by UEFI")),
            ("e004000000", BootMode::Uefi, Override::Continuous),
            // Debian's ipmi_sim.
            ("0004000000", BootMode::Uefi, not_shown("the network, but does not mark it valid")),
            ("a008000000", BootMode::Uefi, not_shown("boot device number 2")),
            ("0000000000", BootMode::Uefi, not_shown("boot device number 0")),
        ] {
            assert_eq!(boot_override(&printed(data), mode), means, "{data} {mode:?}");
        }
        for odd in ["", "zz04000000", "a004", "a00400000000"] {
            let shown = boot_override(&printed(odd), BootMode::Uefi);
            assert!(matches!(shown, Override::Unreadable { .. }), "{odd:?}: {shown:?}");
        }
    }

    /// As OPERATOR, who may not ask what ipmitool asks first.
    const PROBED: &str = "Loading IANA PEN Registry...\nGet HPM.x Capabilities request failed, compcode = d4\n\
        Running Get VSO Capabilities my_addr 0x20, transit 0, target 0x20\n\
        Invalid completion code received: Insufficient privilege level\nDiscovered IPMB address 0x0\n";

    /// The texts are ipmitool 1.8.19's, each seen from it or in its source.
    #[test]
    fn a_failure_is_known_by_its_words() {
        let end = "Error: Unable to establish IPMI v2 / RMCP+ session\n";
        let kind = |text: &str| match failure("ipmi b:623", "u", 17, "chassis power on", text) {
            PowerError::WrongPassword { .. } => "password",
            PowerError::NotAllowed { .. } => "privilege",
            PowerError::Cipher { cipher: 17, other: 3, .. } => "cipher",
            PowerError::Busy { .. } => "busy",
            PowerError::NotReached { .. } => "reach",
            PowerError::NoAnswer { .. } => "answer",
            PowerError::Refused { .. } => "refused",
            other => panic!("{other:?}"),
        };
        for (text, means) in [
            (format!("Loading IANA PEN Registry...\n> RAKP 2 HMAC is invalid\n{end}"), "password"),
            (format!("RAKP 2 message indicates an error : unauthorized name\n{end}"), "password"),
            (format!("RAKP 2 message indicates an error : invalid role\n{end}"), "privilege"),
            ("Set Session Privilege Level to ADMINISTRATOR failed: Insufficient privilege level\n".into(), "privilege"),
            (format!("Error in open session response message : invalid authentication algorithm\n{end}"), "cipher"),
            (format!("Authentication algorithm 0x01 is not what we requested 0x03\n{end}"), "cipher"),
            (format!("Error in open session response message : insufficient resources for session\n{end}"), "busy"),
            ("Set Chassis Power Control to Cycle failed: Insufficient privilege level\n".into(), "privilege"),
            (format!("{PROBED}Set Chassis Power Control to Cycle failed: Unspecified error\n"), "refused"),
            (format!("{PROBED}{end}"), "reach"),
            ("Set Chassis Power Control to Cycle failed: Node busy\n".into(), "busy"),
            (format!("This BMC does not support IPMI v2 / RMCP+\n{end}"), "refused"),
            (format!("Loading IANA PEN Registry...\n{end}"), "reach"),
            (format!("Address lookup for x failed\nCould not open socket!\n{end}"), "reach"),
            ("Error: no response from RAKP 3\nUnable to get Chassis Power Status\n".into(), "answer"),
            ("Set Chassis Power Control to Cycle failed: Invalid command\n".into(), "refused"),
            (String::new(), "refused"),
        ] {
            assert_eq!(kind(&text), means, "{text}");
        }
    }
}
