//! UEFI boot entries: variables of a hostile firmware, a loader of a hostile image.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regild::agent::boot_entry::{LoaderPlace, guid_bytes, make_right};

const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

#[derive(Debug, Arbitrary)]
struct Input {
    entries: Vec<(u16, Entry)>,
    order: Vec<u16>,
    odd_byte: Option<u8>,
    booted: Option<u16>,
    /// Files that are no boot entries, or nearly.
    others: Vec<(String, Vec<u8>)>,
    path: String,
    guid_text: String,
    numbers: (u32, u64, u64),
}

#[derive(Debug, Arbitrary)]
enum Entry {
    Any(Vec<u8>),
    Ours,
}

// In memory: a run makes some ten files.
static EFIVARS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
});

fuzz_target!(|input: Input| {
    if let Some(bytes) = guid_bytes(&input.guid_text) {
        let digits = input.guid_text.chars().filter(|c| *c != '-').collect::<String>();
        assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digits:?}");
        assert_eq!(format!("{:02x}", bytes[15]), digits[30..].to_lowercase());
    }
    let dir = EFIVARS.path();
    clear(dir);
    let variable = |name: &str, value: &[u8]| {
        let name = format!("{name}-{GLOBAL}");
        // A name that no file system takes is none that firmware has.
        if !name.contains(['/', '\0']) && name.len() < 200 {
            let _ = fs::write(dir.join(name), [&[7, 0, 0, 0], value].concat());
        }
    };
    for (name, value) in input.others.iter().take(4) {
        variable(name, value);
    }
    for (number, entry) in input.entries.iter().take(8) {
        match entry {
            Entry::Any(value) => variable(&format!("Boot{number:04X}"), value),
            Entry::Ours => variable(&format!("Boot{number:04X}"), &ours()),
        }
    }
    let mut order: Vec<u8> = input.order.iter().take(16).flat_map(|number| number.to_le_bytes()).collect();
    order.extend(input.odd_byte);
    variable("BootOrder", &order);
    if let Some(booted) = input.booted {
        variable("BootCurrent", &booted.to_le_bytes());
    }
    let (partition_number, first_lba, blocks) = input.numbers;
    let path = input.path.chars().take(512).collect();
    let place = LoaderPlace { partition_number, first_lba, blocks, partition_guid: [6; 16], path };
    let before = contents(dir);
    make_right(dir, &place).expect("files can be written");
    let after = contents(dir);
    check(&before, &after, &input);
    make_right(dir, &place).expect("files can be written");
    assert_eq!(contents(dir), after, "doing it again changes nothing");
});

type Variables = BTreeMap<String, Vec<u8>>;

fn clear(dir: &Path) {
    for entry in fs::read_dir(dir).expect("our own directory").flatten() {
        fs::remove_file(entry.path()).expect("our own file");
    }
}

fn contents(dir: &Path) -> Variables {
    let read =
        |entry: fs::DirEntry| (entry.file_name().into_string().expect("text"), fs::read(entry.path()).expect("a file"));
    fs::read_dir(dir).expect("our own directory").flatten().map(read).collect()
}

/// An entry as a former deploy made it.
fn ours() -> Vec<u8> {
    let label: Vec<u8> = "regild disk\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    [&[1, 0, 0, 0, 4, 0][..], &label, &[0x7f, 0xff, 4, 0]].concat()
}

fn is_ours(value: &[u8]) -> bool {
    value.get(10..).is_some_and(|rest| rest.starts_with(&ours()[6..30]))
}

fn check(before: &Variables, after: &Variables, input: &Input) {
    let is_entry = |name: &str| {
        let digits = name.strip_prefix("Boot").and_then(|rest| rest.strip_suffix(&format!("-{GLOBAL}")));
        digits.is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let our_names: Vec<&String> =
        after.iter().filter(|(name, value)| is_entry(name) && is_ours(value)).map(|(name, _)| name).collect();
    assert_eq!(our_names.len(), 1, "{our_names:?}");
    let number = u16::from_str_radix(&our_names[0][4..8], 16).expect("digits");
    for (name, value) in before {
        let may_change = name.starts_with("BootOrder-") || (is_entry(name) && is_ours(value));
        assert!(may_change || after.get(name) == Some(value), "{name} is not ours");
    }
    let order_of = |variables: &Variables| -> Vec<u16> {
        let raw = variables.get(&format!("BootOrder-{GLOBAL}")).map_or(&[][..], |raw| &raw[4.min(raw.len())..]);
        raw.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
    };
    let (old, new) = (order_of(before), order_of(after));
    let at = new.iter().position(|entry| *entry == number).expect("our entry is in the order");
    assert_eq!(new.iter().filter(|entry| **entry == number).count(), 1);
    // The network that booted us stays first; without one we are first.
    match input.booted.filter(|booted| old.contains(booted) && *booted != number) {
        Some(booted) => assert_eq!((new[0], at), (booted, 1)),
        None => assert_eq!(at, 0),
    }
    check_option(&after[our_names[0]][4..]);
}

/// The form that firmware expects: lengths that add up, and an end.
fn check_option(option: &[u8]) {
    let list_bytes = usize::from(u16::from_le_bytes([option[4], option[5]]));
    assert_eq!(option.len(), 6 + 24 + list_bytes);
    let mut rest = &option[option.len() - list_bytes..];
    let mut nodes = Vec::new();
    while let [kind, sub, low, high, ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        nodes.push((*kind, *sub));
        assert!(length >= 4, "a node of {length} bytes");
        rest = rest.get(length..).expect("a node ends inside the list");
    }
    assert_eq!((nodes.as_slice(), rest.len()), ([(4, 1), (4, 4), (0x7f, 0xff)].as_slice(), 0));
}
