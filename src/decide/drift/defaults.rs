//! What may differ on any server of a distribution that was deployed and used as meant: the last rules of every host.
//!
//! They allow nothing in /usr, /boot (but GRUB's note of the last boot), unit files, accounts, kernel parameters: what
//! no rule allows is reported. They ask for no rebuild: that is for a policy to say. The list of Debian was found by
//! comparing a Debian 12 before and after its use (docs/drift-policy.md says how, and what was not tried).

use super::classes::{self, Class};
use super::policy::{Action, Pattern, Rule};

/// Whose defaults hold for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Debian,
    Ubuntu,
    /// RHEL, Fedora, CentOS Stream, Rocky, Alma, Oracle, Amazon Linux.
    Rhel,
    /// Any other Linux: what is the same everywhere.
    Other,
    /// No defaults at all.
    None,
}

/// The same on every Linux.
const COMMON: &[&str] = &[
    "kernel-filesystems",
    "logs",
    "journal",
    "tmp",
    "machine-id",
    "ssh-host-keys",
    "host-name",
    "resolver",
    "network-state",
    "cloud-init",
    "cloud-init-network",
    "random-seed",
    "timestamps",
    "service-state",
    "swap",
    "lost-found",
    "shell-histories",
    "account-backups",
    "package-caches",
    "bootloader-state",
    "agent",
];
const DEBIAN: &[&str] = &["backups", "hardware-database"];
const UBUNTU: &[&str] = &["backups", "hardware-database", "ubuntu-services", "snap-state"];
const RHEL: &[&str] = &["hardware-database", "rhel-services"];

impl Family {
    pub const ALL: [Family; 5] = [Family::Debian, Family::Ubuntu, Family::Rhel, Family::Other, Family::None];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Family::Debian => "debian",
            Family::Ubuntu => "ubuntu",
            Family::Rhel => "rhel",
            Family::Other => "other",
            Family::None => "none",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.word() == word)
    }

    /// Of a system's /etc/os-release (os-release(5)): by `ID`, or the first of `ID_LIKE` that is known.
    #[must_use]
    pub fn of_os_release(text: &str) -> Family {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or("").trim().trim_matches(['"', '\'']).to_ascii_lowercase()
        };
        let known = |id: &str| match id {
            "debian" => Some(Family::Debian),
            "ubuntu" => Some(Family::Ubuntu),
            "rhel" | "fedora" | "centos" | "rocky" | "almalinux" | "ol" | "amzn" => Some(Family::Rhel),
            _ => None,
        };
        let like = value("ID_LIKE");
        known(&value("ID")).or_else(|| like.split_whitespace().find_map(known)).unwrap_or(Family::Other)
    }

    /// The classes that its defaults allow.
    pub fn classes(self) -> impl Iterator<Item = &'static Class> {
        let (common, own): (&[&str], &[&str]) = match self {
            Family::Debian => (COMMON, DEBIAN),
            Family::Ubuntu => (COMMON, UBUNTU),
            Family::Rhel => (COMMON, RHEL),
            Family::Other => (COMMON, &[]),
            Family::None => (&[], &[]),
        };
        common.iter().chain(own).filter_map(|name| classes::class(name))
    }
}

/// The rules, in order.
#[must_use]
pub fn rules(family: Family) -> Vec<Rule> {
    let of_class = |class: &'static Class| {
        let from = format!("defaults of {}, class {}", family.word(), class.name);
        of_members(class).map(move |(pattern, aspects)| Rule {
            pattern,
            aspects,
            action: Action::Allow,
            content: false,
            why: class.sentence.to_string(),
            until: None,
            from: from.clone(),
        })
    };
    family.classes().flat_map(of_class).collect()
}

/// Each path of a class with the ways in which it may differ.
pub(super) fn of_members(class: &'static Class) -> impl Iterator<Item = (Pattern, super::finding::Aspects)> + use<> {
    class.members.iter().flat_map(|member| {
        // Every pattern of the table is one: a test reads them all.
        member.patterns.iter().filter_map(|text| Some((Pattern::new(text.as_bytes()).ok()?, member.aspects)))
    })
}
