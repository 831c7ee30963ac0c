use super::*;
use proptest::prelude::*;

fn header() -> Header {
    let known = Known::Blocks { offset_bytes: 1, length_bytes: 2 };
    let volume = Volume { partition: 1, format: "ext4".into(), mounted_at: Some("/".into()), known };
    Header { image: "00".repeat(32), origin: Origin::Host { id: "h-1".into(), at: 7 }, volumes: vec![volume] }
}

fn node(kind: Kind) -> Node {
    let xattrs = vec![(b"security.capability".to_vec(), vec![0, 255])];
    Node { kind, mode: 0o4755, uid: 1, gid: u32::MAX, modified: -1, xattrs }
}

fn written(entries: &[Entry]) -> (Vec<u8>, Digest) {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    for entry in entries {
        writer.add(entry.clone()).unwrap();
    }
    writer.finish().unwrap()
}

fn entries() -> Vec<Entry> {
    let kinds = [
        (b"/".to_vec(), Kind::Directory),
        (b"/a".to_vec(), Kind::Directory),
        (b"/a/\n\xff".to_vec(), Kind::File { bytes: 3, digest: Some([7; 32]) }),
        (b"/a!".to_vec(), Kind::Symlink { target: b"../x".to_vec() }),
        (b"/dev".to_vec(), Kind::CharDevice { major: 1, minor: 3 }),
        (b"/f".to_vec(), Kind::Fifo),
    ];
    kinds.into_iter().map(|(path, kind)| Entry { path, node: node(kind) }).collect()
}

#[test]
fn what_is_written_is_read_again_and_its_digest_names_it() {
    let (bytes, digest) = written(&entries());
    let reader = Reader::new(&bytes[..]).unwrap();
    assert_eq!(reader.header, header());
    assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), entries());
    check_digest(&bytes[..], &manifest::to_hex(&digest)).unwrap();
    assert!(check_digest(&bytes[1..], &manifest::to_hex(&digest)).is_err());
}

#[test]
fn entries_out_of_order_are_not_written() {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    for (path, fits) in [(&b"/b"[..], true), (b"/a", false), (b"/b", false), (b"b", false), (b"/c\0", false)] {
        let added = writer.add(Entry { path: path.to_vec(), node: node(Kind::Fifo) });
        assert_eq!(added.is_ok(), fits, "{}", path::to_text(path));
    }
}

/// faults.md I1: a cut one has no end, and says so.
#[test]
fn a_cut_baseline_is_an_error_at_every_length() {
    let (bytes, _) = written(&entries());
    for length in 0..bytes.len() {
        let all = Reader::new(&bytes[..length]).and_then(|reader| reader.collect::<Result<Vec<_>, _>>());
        assert!(all.is_err(), "{length} of {}", bytes.len());
    }
}

/// Rule 9: what little comes may unpack to much.
#[test]
fn what_a_list_unpacks_to_has_an_end() {
    let (bytes, _) = written(&entries());
    let read = |left_bytes| {
        let mut reader = Reader::new(&bytes[..]).unwrap();
        assert_eq!(reader.left_bytes, 8 << 30);
        reader.left_bytes = left_bytes;
        let read = reader.by_ref().map_while(Result::ok).count();
        (read, reader.left_bytes)
    };
    let (all, left) = read(10_000);
    assert_eq!(all, entries().len());
    let used = 10_000 - left;
    assert!(used > 100, "{used}");
    assert_eq!((read(used), read(used - 1).0), ((all, 0), all - 1));
}

proptest! {
    /// Rule 10: a baseline from a host is outside text.
    #[test]
    fn damaged_bytes_end_in_an_error_or_in_ordered_paths(at in 0usize..400, to in any::<u8>()) {
        let (mut bytes, _) = written(&entries());
        let at = at % bytes.len();
        bytes[at] = to;
        let Ok(reader) = Reader::new(&bytes[..]) else { return Ok(()) };
        let paths: Vec<_> = reader.map_while(Result::ok).map(|entry| entry.path).collect();
        prop_assert!(paths.windows(2).all(|pair| path::order(&pair[0], &pair[1]) == Ordering::Less));
    }
}
