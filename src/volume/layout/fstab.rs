//! The image's own /etc/fstab: which of its volumes it mounts where. Outside text.

/// More lines than any system has are passed over.
const LINES_MAX: usize = 1024;

/// One line, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `UUID=...`, `/dev/sda2`, ...
    pub device: String,
    /// Absolute, without a slash at its end.
    pub at: String,
    pub options: String,
}

/// What an fstab calls a volume by.
#[derive(Debug, Clone, Copy)]
pub struct Names<'v> {
    pub partition: u32,
    pub uuid: Option<&'v str>,
    pub label: Option<&'v str>,
    pub part_uuid: Option<&'v str>,
    pub part_label: Option<&'v str>,
}

/// Lines that mount something somewhere; no swap, no comment, nothing relative.
pub fn parse(text: &[u8]) -> Vec<Line> {
    let text = String::from_utf8_lossy(text);
    text.lines().take(LINES_MAX).filter_map(line).collect()
}

fn line(text: &str) -> Option<Line> {
    let mut fields = text.split_whitespace();
    let (device, at, format) = (fields.next()?, fields.next()?, fields.next()?);
    if device.starts_with('#') || !at.starts_with('/') || format == "swap" {
        return None;
    }
    let at = unescaped(at);
    let parts: Vec<&str> = at.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) || at.contains('\0') {
        return None;
    }
    let at = format!("/{}", parts.join("/"));
    Some(Line { device: unescaped(device), at, options: fields.next().unwrap_or("defaults").to_owned() })
}

/// `\040` is a blank, as in fstab(5).
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let code =
            after.get(..3).filter(|code| *first == b'\\' && code.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match code.map(|code| code.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'))) {
            Some(value) if value < 256 => {
                bytes.push(value as u8);
                rest = &after[3..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a line's first field means this volume. A device's name tells the partition's number only: an image is one
/// disk, whatever that is called on a host.
pub fn means(device: &str, names: &Names<'_>) -> bool {
    let device = device.trim_matches('"');
    let by_link = [
        ("by-uuid/", "UUID="),
        ("by-label/", "LABEL="),
        ("by-partuuid/", "PARTUUID="),
        ("by-partlabel/", "PARTLABEL="),
    ];
    let tag = match device.strip_prefix("/dev/disk/") {
        Some(link) => {
            let found =
                by_link.iter().find_map(|(directory, tag)| Some(format!("{tag}{}", link.strip_prefix(directory)?)));
            let Some(tag) = found else { return false };
            tag
        }
        None => device.to_owned(),
    };
    let Some((kind, value)) = tag.split_once('=') else {
        return number_of(&tag).is_some_and(|number| number == names.partition);
    };
    let value = value.trim_matches('"');
    let is = |name: Option<&str>| name.is_some_and(|name| name == value);
    let is_in_any_case = |name: Option<&str>| name.is_some_and(|name| name.eq_ignore_ascii_case(value));
    match kind {
        "UUID" => is_in_any_case(names.uuid),
        "LABEL" => is(names.label),
        "PARTUUID" => is_in_any_case(names.part_uuid),
        "PARTLABEL" => is(names.part_label),
        _ => false,
    }
}

/// 2 of `/dev/sda2`, `/dev/vda2`, `/dev/nvme0n1p2`, `/dev/mmcblk0p2`.
fn number_of(device: &str) -> Option<u32> {
    let name = device.strip_prefix("/dev/")?;
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (disk, number) = name.split_at(name.len() - digits);
    let is_disk = ["sd", "vd", "hd", "xvd"].iter().any(|kind| {
        let letters = disk.strip_prefix(kind).unwrap_or_default();
        !letters.is_empty() && letters.bytes().all(|letter| letter.is_ascii_lowercase())
    });
    let is_with_p = disk.ends_with('p') && ["nvme", "mmcblk", "loop", "nbd"].iter().any(|kind| disk.starts_with(kind));
    (is_disk || is_with_p).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> = Names {
        partition: 2,
        uuid: Some("0a1b2c3d-0000-4000-8000-000000000001"),
        label: Some("my data"),
        part_uuid: Some("9af6039c-31e9-86d4-8dc5-44dee43a299c"),
        part_label: Some("root"),
    };

    #[test]
    fn a_volume_is_known_by_each_of_its_names() {
        for device in [
            "UUID=0A1B2C3D-0000-4000-8000-000000000001",
            "UUID=\"0a1b2c3d-0000-4000-8000-000000000001\"",
            "LABEL=my data",
            "PARTUUID=9AF6039C-31E9-86D4-8DC5-44DEE43A299C",
            "PARTLABEL=root",
            "/dev/disk/by-uuid/0a1b2c3d-0000-4000-8000-000000000001",
            "/dev/disk/by-label/my data",
            "/dev/sda2",
            "/dev/vdb2",
            "/dev/nvme0n1p2",
            "/dev/mmcblk0p2",
        ] {
            assert!(means(device, &NAMES), "{device}");
        }
        for device in [
            "UUID=",
            "LABEL=MY DATA",
            "/dev/sda",
            "/dev/sda12",
            "/dev/nvme0n2",
            "/dev/mapper/x2",
            "tmpfs",
            "/dev/disk/by-path/2",
        ] {
            assert!(!means(device, &NAMES), "{device}");
        }
    }

    #[test]
    fn lines_that_mount_nothing_are_none() {
        let text = b"# comment\nUUID=x / ext4 errors=remount-ro 0 1\nUUID=y none swap sw 0 0\nLABEL=my\\040data /srv/my\\040data/ ext4\n\
                     /dev/sdb1 relative ext4\n/dev/sdb1 /a/../b ext4\n\xff\n";
        let lines = parse(text);
        let line = |device: &str, at: &str, options: &str| Line {
            device: device.into(),
            at: at.into(),
            options: options.into(),
        };
        assert_eq!(
            lines,
            [line("UUID=x", "/", "errors=remount-ro"), line("LABEL=my data", "/srv/my data", "defaults")]
        );
    }
}
