//! One thing in a file system, on either side, and what differs between the sides.

use std::fmt;

/// A blake3 digest.
pub type Digest = [u8; 32];

/// What is known of one path. Times are for people: they are never compared, since a file system sets them by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky: the low twelve bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Unix seconds.
    pub modified: i64,
    /// By name: `security.capability`, `security.selinux`, `system.posix_acl_access`, `user.*`, `trusted.*`.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `digest` is `None` where the content was not read.
    File {
        bytes: u64,
        digest: Option<Digest>,
    },
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
}

impl Kind {
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Kind::File { .. } => "file",
            Kind::Directory => "directory",
            Kind::Symlink { .. } => "symlink",
            Kind::CharDevice { .. } => "char_device",
            Kind::BlockDevice { .. } => "block_device",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
        }
    }
}

/// One way in which a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Not in the image.
    Added,
    /// In the image, gone here.
    Removed,
    /// Another kind of thing, a directory for a file.
    Kind,
    /// Content or length of a file, target of a symlink, numbers of a device.
    Content,
    Mode,
    Owner,
    Xattrs,
    /// Beside another one: what is there now has a privilege, and not the one that the image gave it.
    Privilege,
}

impl Aspect {
    pub const ALL: [Aspect; 8] = [
        Aspect::Added,
        Aspect::Removed,
        Aspect::Kind,
        Aspect::Content,
        Aspect::Mode,
        Aspect::Owner,
        Aspect::Xattrs,
        Aspect::Privilege,
    ];

    /// The word in policies, JSON and tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Aspect::Added => "added",
            Aspect::Removed => "removed",
            Aspect::Kind => "kind",
            Aspect::Content => "content",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Xattrs => "xattrs",
            Aspect::Privilege => "privilege",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Aspect> {
        Aspect::ALL.into_iter().find(|aspect| aspect.word() == word)
    }
}

/// A set of aspects; the empty one is "no difference".
#[derive(Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub struct Aspects(u8);

impl Aspects {
    pub const NONE: Aspects = Aspects(0);
    pub const ALL: Aspects = Aspects(u8::MAX >> (8 - Aspect::ALL.len()));
    /// What is meant where somebody allows a path and does not say which ways to differ.
    pub const ALL_BUT_PRIVILEGE: Aspects = Aspects::ALL.without(Aspects::NONE.with(Aspect::Privilege));

    #[must_use]
    pub const fn with(self, aspect: Aspect) -> Aspects {
        Aspects(self.0 | 1 << aspect as u8)
    }

    #[must_use]
    pub const fn has(self, aspect: Aspect) -> bool {
        self.0 & (1 << aspect as u8) != 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// # Errors
    /// The first word that is none of an aspect.
    pub fn from_words<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Aspects, &'w str> {
        words.into_iter().map(|word| Aspect::from_word(word).ok_or(word)).collect()
    }

    /// Those of `self` that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Aspects) -> Aspects {
        Aspects(self.0 & !other.0)
    }

    #[must_use]
    pub const fn and(self, other: Aspects) -> Aspects {
        Aspects(self.0 & other.0)
    }

    #[must_use]
    pub const fn or(self, other: Aspects) -> Aspects {
        Aspects(self.0 | other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(move |aspect| self.has(*aspect))
    }
}

impl FromIterator<Aspect> for Aspects {
    fn from_iter<I: IntoIterator<Item = Aspect>>(aspects: I) -> Aspects {
        aspects.into_iter().fold(Aspects::NONE, Aspects::with)
    }
}

impl fmt::Display for Aspects {
    /// `mode+owner`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Aspect::word).collect();
        f.write_str(&words.join("+"))
    }
}

impl fmt::Debug for Aspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aspects({self})")
    }
}

/// The extended attribute that gives a program capabilities (capabilities(7), "File capabilities").
pub const CAPABILITY: &[u8] = b"security.capability";

/// What somebody who may use a file gets by it that he does not have himself.
#[derive(Debug, PartialEq, Eq)]
enum Privilege<'n> {
    /// Whose rights a program takes, and which of root's.
    Program { user: Option<u32>, group: Option<u32>, capability: Option<&'n [u8]> },
    /// The kernel's driver, and who may speak to it.
    Device { kind: &'n Kind, mode: u16, owner: (u32, u32) },
}

fn privilege(node: &Node) -> Option<Privilege<'_>> {
    match &node.kind {
        Kind::File { .. } => {
            let user = (node.mode & 0o4000 != 0).then_some(node.uid);
            let group = (node.mode & 0o2000 != 0).then_some(node.gid);
            let capability = node.xattrs.iter().find(|(name, _)| name == CAPABILITY).map(|(_, value)| value.as_slice());
            let has_one = user.is_some() || group.is_some() || capability.is_some();
            has_one.then_some(Privilege::Program { user, group, capability })
        }
        // How an overlay file system marks what was removed. Nothing opens it, and everybody may make one.
        Kind::CharDevice { major: 0, minor: 0 } => None,
        kind @ (Kind::CharDevice { .. } | Kind::BlockDevice { .. }) => {
            Some(Privilege::Device { kind, mode: node.mode, owner: (node.uid, node.gid) })
        }
        // Set-gid on a directory says whose its new files are.
        Kind::Directory | Kind::Symlink { .. } | Kind::Fifo | Kind::Socket => None,
    }
}

/// Whether it is a set-uid or set-gid file, one with capabilities, or a device.
#[must_use]
pub fn is_privileged(node: &Node) -> bool {
    privilege(node).is_some()
}

/// Whether an extended attribute is compared, by its name. Others are the file system's or the host's own.
#[must_use]
pub fn xattr_counts(name: &[u8]) -> bool {
    const WHOLE: [&[u8]; 4] =
        [CAPABILITY, b"security.selinux", b"system.posix_acl_access", b"system.posix_acl_default"];
    WHOLE.contains(&name) || name.starts_with(b"user.") || name.starts_with(b"trusted.")
}

/// A path that differs. At least one side is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Absolute, as in the running system.
    pub path: Vec<u8>,
    pub expected: Option<Node>,
    pub seen: Option<Node>,
}

impl Finding {
    #[must_use]
    pub fn aspects(&self) -> Aspects {
        compare(self.expected.as_ref(), self.seen.as_ref())
    }
}

/// What differs. A content that one side did not read is not compared beyond its length: whoever compares sees to it
/// that it is read in time. A privileged file with another content gives its privilege to another program.
#[must_use]
pub fn compare(expected: Option<&Node>, seen: Option<&Node>) -> Aspects {
    let aspects = plainly(expected, seen);
    let own = seen.and_then(privilege);
    let is_new = own.is_some() && (aspects.has(Aspect::Content) || own != expected.and_then(privilege));
    if is_new { aspects.with(Aspect::Privilege) } else { aspects }
}

fn plainly(expected: Option<&Node>, seen: Option<&Node>) -> Aspects {
    let (expected, seen) = match (expected, seen) {
        (None, None) => return Aspects::NONE,
        (None, Some(_)) => return Aspects::NONE.with(Aspect::Added),
        (Some(_), None) => return Aspects::NONE.with(Aspect::Removed),
        (Some(expected), Some(seen)) => (expected, seen),
    };
    let mut aspects = Aspects::NONE;
    match (&expected.kind, &seen.kind) {
        (Kind::File { bytes, digest }, Kind::File { bytes: seen_bytes, digest: seen_digest }) => {
            let both = digest.as_ref().zip(seen_digest.as_ref());
            if bytes != seen_bytes || both.is_some_and(|(a, b)| a != b) {
                aspects = aspects.with(Aspect::Content);
            }
        }
        (a, b) if a.word() != b.word() => return aspects.with(Aspect::Kind),
        (a, b) if a != b => aspects = aspects.with(Aspect::Content),
        _ => {}
    }
    // Linux ignores the mode of a symlink, and file systems disagree on it.
    if expected.mode != seen.mode && !matches!(seen.kind, Kind::Symlink { .. }) {
        aspects = aspects.with(Aspect::Mode);
    }
    if (expected.uid, expected.gid) != (seen.uid, seen.gid) {
        aspects = aspects.with(Aspect::Owner);
    }
    if expected.xattrs != seen.xattrs {
        aspects = aspects.with(Aspect::Xattrs);
    }
    aspects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64, digest: Option<u8>) -> Node {
        let kind = Kind::File { bytes, digest: digest.map(|byte| [byte; 32]) };
        Node { kind, mode: 0o644, uid: 0, gid: 0, modified: 0, xattrs: Vec::new() }
    }

    #[test]
    fn each_way_to_differ_has_its_word_and_times_are_none() {
        let is = file(3, Some(1));
        let differs = |seen: Node| compare(Some(&is), Some(&seen)).to_string();
        assert_eq!(differs(Node { modified: 9, ..is.clone() }), "");
        assert_eq!(differs(file(3, Some(2))), "content");
        assert_eq!(differs(file(4, None)), "content");
        assert_eq!(differs(file(3, None)), "", "what was not read is not said to differ");
        assert_eq!(differs(Node { mode: 0o4755, uid: 1, ..is.clone() }), "mode+owner+privilege");
        assert_eq!(differs(Node { xattrs: vec![(b"user.a".to_vec(), Vec::new())], ..is.clone() }), "xattrs");
        assert_eq!(differs(Node { kind: Kind::Directory, mode: 0, ..is.clone() }), "kind");
        assert_eq!(compare(None, Some(&is)).to_string(), "added");
        assert_eq!(compare(Some(&is), None).to_string(), "removed");
        let link = |target: &[u8], mode| Node { kind: Kind::Symlink { target: target.to_vec() }, mode, ..is.clone() };
        assert_eq!(compare(Some(&link(b"a", 0o777)), Some(&link(b"b", 0o755))).to_string(), "content");
    }

    /// What appears or becomes another one is told; what was the image's, or goes, is not.
    #[test]
    fn a_privilege_is_one_that_the_image_did_not_give() {
        let plain = file(3, Some(1));
        let su = Node { mode: 0o4755, ..plain.clone() };
        let capable = |value: u8| Node { xattrs: vec![(CAPABILITY.to_vec(), vec![value])], ..plain.clone() };
        let device = |minor| Node { kind: Kind::BlockDevice { major: 8, minor }, mode: 0o600, ..plain.clone() };
        let whiteout = Node { kind: Kind::CharDevice { major: 0, minor: 0 }, ..plain.clone() };
        let directory = Node { kind: Kind::Directory, mode: 0o2755, ..plain.clone() };
        for (expected, seen, differs) in [
            (None, Some(&su), "added+privilege"),
            (None, Some(&Node { mode: 0o2755, ..plain.clone() }), "added+privilege"),
            (None, Some(&capable(1)), "added+privilege"),
            (None, Some(&device(1)), "added+privilege"),
            (None, Some(&whiteout), "added"),
            (None, Some(&directory), "added"),
            (Some(&directory), Some(&su), "kind+privilege"),
            (Some(&plain), Some(&su), "mode+privilege"),
            (Some(&su), Some(&su), ""),
            (Some(&su), Some(&plain), "mode"),
            (Some(&su), None, "removed"),
            (Some(&su), Some(&Node { gid: 5, ..su.clone() }), "owner"),
            (Some(&su), Some(&Node { uid: 5, ..su.clone() }), "owner+privilege"),
            (Some(&su), Some(&Node { mode: 0o4755, ..file(3, Some(2)) }), "content+privilege"),
            (Some(&capable(1)), Some(&capable(2)), "xattrs+privilege"),
            (Some(&capable(1)), Some(&capable(1)), ""),
            (Some(&device(1)), Some(&device(2)), "content+privilege"),
            (Some(&device(1)), Some(&Node { mode: 0o666, ..device(1) }), "mode+privilege"),
        ] {
            assert_eq!(compare(expected, seen).to_string(), differs, "{expected:?} {seen:?}");
        }
    }

    #[test]
    fn a_set_of_aspects_is_a_set() {
        let both: Aspects = [Aspect::Mode, Aspect::Owner].into_iter().collect();
        assert!(both.has(Aspect::Mode) && !both.has(Aspect::Added) && !both.is_empty());
        assert_eq!(both.without(Aspects::NONE.with(Aspect::Mode)).to_string(), "owner");
        assert_eq!(Aspects::ALL.iter().count(), Aspect::ALL.len());
        assert_eq!(Aspects::ALL_BUT_PRIVILEGE.with(Aspect::Privilege), Aspects::ALL);
        assert!(Aspect::ALL.iter().all(|aspect| Aspect::from_word(aspect.word()) == Some(*aspect)));
    }
}
