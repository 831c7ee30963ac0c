//! "Bring it back into the image": what differs on a host, as a patch in git's extended form, for `patch -p1` or
//! `git apply` in the root of the tree that the image is built from.
//!
//! A patch carries text, modes, new files, links, and removals of text. The rest (binary files, content that may not leave
//! the host, owners, directories, removals of all else) stands in its head as shell commands where there are some: `patch` and `git apply` pass over everything before the first `diff --git`.

use crate::decide::drift::path::{self, to_text};
use crate::wire::drift::Node;
use crate::wire::operator_drift::{Found, Shown};
use std::fmt::Write;

/// What goes into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// What was accepted.
    Accepted,
    /// What was accepted and what is a finding.
    All,
}

#[derive(Debug, Default)]
pub struct Patch {
    pub text: String,
    /// Paths that applying it changes, and those that the head only names.
    pub carried: usize,
    pub left: usize,
}

impl Patch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.carried + self.left == 0
    }
}

/// One path: its part of the patch, and what a patch cannot say of it.
#[derive(Debug, Default)]
struct Part {
    diff: String,
    /// A command, or why there is none.
    left: Vec<String>,
}

#[must_use]
pub fn of(shown: &Shown, which: Which) -> Patch {
    let mut all: Vec<&Found> = shown.accepted.iter().collect();
    if which == Which::All {
        all.extend(&shown.found);
    }
    all.sort_by(|a, b| path::order(&a.finding.path.0, &b.finding.path.0));
    all.dedup_by(|a, b| a.finding.path == b.finding.path);
    let mut patch = Patch::default();
    let (mut diffs, mut left) = (String::new(), Vec::new());
    for found in all {
        let part = part(found);
        patch.carried += usize::from(!part.diff.is_empty());
        patch.left += usize::from(part.diff.is_empty());
        diffs += &part.diff;
        left.extend(part.left);
    }
    if patch.is_empty() {
        return patch;
    }
    let (host, image) = (to_text(shown.line.host.as_bytes()), shown.line.image.as_deref().unwrap_or("-"));
    patch.text = format!("# What host {host} has and its image {} has not.\n", to_text(image.as_bytes()));
    patch.text += "# In the root of the image's tree: patch -p1 < FILE, or git apply FILE\n";
    let more = shown.findings_total.saturating_sub(shown.found.len() as u64);
    if more > 0 && which == Which::All {
        patch.text += &format!("# {more} more findings are not known one by one: too many to send\n");
    }
    if !left.is_empty() {
        patch.text += "# A patch cannot carry the following; as commands in that root, where there is one:\n";
    }
    left.iter().for_each(|line| patch.text += &format!("#   {line}\n"));
    patch.text += "\n";
    patch.text += &diffs;
    patch
}

fn part(found: &Found) -> Part {
    let finding = &found.finding;
    let path = &finding.path.0;
    // A host could name its file `/../x`: no patch tool may be led out of its tree by us.
    let is_path = path.first() == Some(&b'/')
        && path[1..].split(|byte| *byte == b'/').all(|name| !name.is_empty() && name != b"." && name != b"..");
    let mut part = Part::default();
    if !is_path {
        part.left.push(format!("{}: no path of a file", to_text(path)));
        return part;
    }
    match (&finding.expected, &finding.seen) {
        (None, None) => {}
        (None, Some(seen)) => added(found, seen, &mut part),
        (Some(was), None) => removed(found, was, &mut part),
        (Some(was), Some(seen)) if was.kind != seen.kind => {
            part.left.push(format!("rm -rf -- {}", word(path)));
            added(found, seen, &mut part);
        }
        (Some(was), Some(seen)) => changed(found, was, seen, &mut part),
    }
    part
}

fn added(found: &Found, seen: &Node, part: &mut Part) {
    let path = &found.finding.path.0;
    match seen.kind.as_str() {
        "directory" => part.left.push(format!("mkdir -m {:04o} -- {}", seen.mode, word(path))),
        "symlink" => match seen.target.as_ref().filter(|target| !target.0.contains(&b'\n')) {
            Some(target) => match std::str::from_utf8(&target.0) {
                Ok(target) => part.diff = new_file(path, "120000", target),
                Err(_) => part.left.push(format!("ln -s -- {} {}", quoted(&target.0), word(path))),
            },
            None => part.left.push(format!("{}: a link to a name of several lines", to_text(path))),
        },
        "file" => {
            let empty = (seen.bytes == Some(0)).then(String::new);
            match found.finding.content.clone().or(empty) {
                Some(content) if !content.contains('\0') => {
                    part.diff = new_file(path, &mode_of(seen), &content);
                    special_mode(path, seen, part);
                }
                _ => {
                    let text = "its content is binary, too large, or may not leave the host";
                    part.left.push(format!("{}: a new file; {text}", to_text(path)));
                }
            }
        }
        other => part.left.push(format!("{}: a new {}", to_text(path), to_text(other.as_bytes()))),
    }
    if (seen.uid, seen.gid) != (0, 0) {
        part.left.push(format!("chown -h {}:{} -- {}", seen.uid, seen.gid, word(path)));
    }
    xattrs(found, seen, part);
}

fn removed(found: &Found, was: &Node, part: &mut Part) {
    let path = &found.finding.path.0;
    // A patch that removes must hold all that it removes. (One of an empty file confuses `patch`.)
    match found.diff.as_deref().and_then(hunks).filter(|_| was.kind == "file") {
        Some(hunks) => {
            let head = git_line(path) + &format!("deleted file mode {}\n", mode_of(was));
            part.diff = head + &format!("--- {}\n+++ /dev/null\n{hunks}", side("a", path));
        }
        None => part.left.push(format!("{} -- {}", if was.kind == "directory" { "rmdir" } else { "rm" }, word(path))),
    }
}

fn changed(found: &Found, was: &Node, seen: &Node, part: &mut Part) {
    let path = &found.finding.path.0;
    let is_file = seen.kind == "file";
    let differs =
        (was.bytes, &was.digest, &was.target, was.device) != (seen.bytes, &seen.digest, &seen.target, seen.device);
    let modes =
        (is_file && was.mode != seen.mode).then(|| format!("old mode {}\nnew mode {}\n", mode_of(was), mode_of(seen)));
    if is_file {
        let hunks = found.diff.as_deref().and_then(hunks).filter(|_| differs);
        if differs && hunks.is_none() {
            let text = "its content is binary, too large, or may not leave the host";
            part.left.push(format!("{}: other content; {text}", to_text(path)));
        }
        if modes.is_some() || hunks.is_some() {
            part.diff = git_line(path) + modes.as_deref().unwrap_or("");
        }
        if let Some(hunks) = hunks {
            part.diff += &format!("--- {}\n+++ {}\n{hunks}", side("a", path), side("b", path));
        }
        if was.mode != seen.mode {
            special_mode(path, seen, part);
        }
    } else {
        match &seen.target {
            Some(target) if differs => part.left.push(format!("ln -sfn -- {} {}", quoted(&target.0), word(path))),
            _ if differs => part.left.push(format!("{}: another {}", to_text(path), to_text(seen.kind.as_bytes()))),
            _ => {}
        }
        if was.mode != seen.mode && seen.kind != "symlink" {
            part.left.push(format!("chmod {:04o} -- {}", seen.mode, word(path)));
        }
    }
    if (was.uid, was.gid) != (seen.uid, seen.gid) {
        part.left.push(format!("chown -h {}:{} -- {}", seen.uid, seen.gid, word(path)));
    }
    if was.xattrs != seen.xattrs {
        xattrs(found, seen, part);
    }
}

fn xattrs(found: &Found, seen: &Node, part: &mut Part) {
    let path = &found.finding.path.0;
    for (name, _) in &seen.xattrs {
        part.left.push(format!("{}: extended attribute {}", to_text(path), to_text(&name.0)));
    }
}

/// git knows two modes of a file, and patch no setuid.
fn special_mode(path: &[u8], seen: &Node, part: &mut Part) {
    if ![0o644, 0o755].contains(&seen.mode) {
        part.left.push(format!("chmod {:04o} -- {}", seen.mode, word(path)));
    }
}

/// The one of git's two modes that is nearer.
fn mode_of(node: &Node) -> String {
    if node.mode & 0o100 == 0 { "100644".to_string() } else { "100755".to_string() }
}

fn new_file(path: &[u8], mode: &str, content: &str) -> String {
    let mut text = git_line(path) + &format!("new file mode {mode}\n");
    if content.is_empty() {
        return text;
    }
    let count = content.split_inclusive('\n').count();
    text += &format!("--- /dev/null\n+++ {}\n@@ -0,0 +1,{count} @@\n", side("b", path));
    for line in content.split_inclusive('\n') {
        // Writing to a String cannot fail.
        let _ = write!(text, "+{line}");
    }
    if !content.ends_with('\n') {
        text += "\n\\ No newline at end of file\n";
    }
    text
}

/// The hunks of a diff as the server shows it, with the content as it is in the file again: for terminals it is written
/// in the form of [`path::to_text`], which can be read back. `None` for one that is not of this form.
fn hunks(diff: &str) -> Option<String> {
    let start = if diff.starts_with("@@ ") { 0 } else { diff.find("\n@@ ")? + 1 };
    let mut text = String::new();
    for line in diff[start..].split_inclusive('\n') {
        let line = line.strip_suffix('\n').unwrap_or(line);
        match line.chars().next()? {
            '@' | '\\' => text += line,
            sign @ (' ' | '+' | '-') => {
                text.push(sign);
                let parts: Option<Vec<Vec<u8>>> = line[1..].split('\t').map(path::from_text).collect();
                text += std::str::from_utf8(&parts?.join(&b'\t')).ok()?;
            }
            _ => return None,
        }
        text.push('\n');
    }
    Some(text)
}

fn git_line(path: &[u8]) -> String {
    format!("diff --git {} {}\n", name("a", path), name("b", path))
}

/// As git writes it after `---` and `+++`: a tabulator ends a name with a blank in it.
fn side(side: &str, path: &[u8]) -> String {
    let name = name(side, path);
    if name.contains(' ') && !name.starts_with('"') { name + "\t" } else { name }
}

/// `a/etc/motd`, in git's quotes where a byte needs them.
fn name(side: &str, path: &[u8]) -> String {
    let is_plain = |byte: &u8| (0x20..0x7f).contains(byte) && !b"\"\\".contains(byte);
    if path.iter().all(is_plain) {
        return format!("{side}{}", to_text(path));
    }
    let mut text = format!("\"{side}");
    for byte in path {
        if is_plain(byte) { text.push(char::from(*byte)) } else { text += &format!("\\{byte:03o}") }
    }
    text + "\""
}

/// A path as a word of a shell, relative to the tree's root.
fn word(path: &[u8]) -> String {
    quoted(path.strip_prefix(b"/").unwrap_or(path))
}

/// `'...'`, or `$'...'` where a byte could not stand on a line.
fn quoted(bytes: &[u8]) -> String {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+@%:,=".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_word) {
        return to_text(bytes);
    }
    if bytes.iter().all(|byte| (0x20..0x7f).contains(byte) && !b"'\\".contains(byte)) {
        return format!("'{}'", to_text(bytes));
    }
    let escaped = |byte: &u8| if is_word(byte) { char::from(*byte).to_string() } else { format!("\\x{byte:02x}") };
    format!("$'{}'", bytes.iter().map(escaped).collect::<String>())
}
