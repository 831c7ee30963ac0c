//! Real files by qemu-img, xz, gzip and zstd, and hostile ones: what is imported is the same disk whatever it came in,
//! and what is refused says why and leaves nothing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::image::{ImageStore, ImportError, ImportRequest, Imported, Record};

const MIB: usize = 1 << 20;
const LIMIT: u64 = 64 << 20;

struct Lab {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        Lab { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn import(&self, name: &str, reader: impl Read, declared: Declared) -> Result<Record, ImportError> {
        let image = name.parse().unwrap();
        let request = ImportRequest { image: &image, now: 1, source: "test", max_image_bytes: LIMIT };
        self.store.import_declared(reader, &declared, &request, &|_| ()).map(|done| match done {
            Imported::New(record) | Imported::AlreadyThere(record) | Imported::Mended(record) => record,
        })
    }

    fn import_file(&self, name: &str, file: &Path) -> Result<Record, ImportError> {
        self.import(name, File::open(file).unwrap(), Declared::default())
    }

    /// The whole message of a refusal; and nothing may be left.
    #[track_caller]
    fn refused(&self, reader: impl Read) -> String {
        self.refused_as(reader, Declared::default())
    }

    #[track_caller]
    fn refused_as(&self, reader: impl Read, declared: Declared) -> String {
        let error = self.import("bad:1", reader, declared).expect_err("it was imported");
        let files = |dir: &str| fs::read_dir(self.path("store").join(dir)).unwrap().count();
        let listed = self.store.list().unwrap();
        assert!(listed.iter().all(|record| record.image.name() != "bad"));
        assert_eq!(files("tmp"), 0, "left in tmp");
        if listed.is_empty() {
            assert_eq!((files("packs"), files("manifests"), files("names")), (0, 0, 0), "left in the store");
        }
        crate::causes::in_one_line(&error)
    }

    #[track_caller]
    fn run(&self, command: &[&str]) -> Vec<u8> {
        let output = Command::new(command[0]).args(&command[1..]).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// `qemu-img ARGUMENTS`, and the file that the last one names.
    #[track_caller]
    fn qemu_img(&self, arguments: &str) -> PathBuf {
        let words: Vec<&str> = std::iter::once("qemu-img").chain(arguments.split(' ')).collect();
        self.run(&words);
        self.path(words.last().unwrap())
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// 4 MiB and a sector: noise, holes, zeros between, text that packs well.
fn disk() -> Vec<u8> {
    let mut disk = noise(3, 4 * MIB + 512);
    disk[MIB + 4096..2 * MIB].fill(0);
    disk[2 * MIB + 512..3 * MIB + 512].fill(b'x');
    disk[4 * MIB - 100_000..4 * MIB - 30_000].fill(0);
    disk
}

/// Promise: each format with each compression is the same disk, stored once.
#[test]
fn whatever_it_comes_in_it_is_the_same_disk() {
    let lab = Lab::new();
    fs::write(lab.path("disk.raw"), disk()).unwrap();
    lab.qemu_img("convert -f raw -O qcow2 disk.raw disk.qcow2");
    lab.qemu_img("convert -f raw -O qcow2 -c disk.raw packed.qcow2");
    lab.qemu_img("convert -f raw -O qcow2 -o compat=0.10 disk.raw old.qcow2");
    lab.qemu_img("convert -f raw -O qcow2 -o cluster_size=512 disk.raw small.qcow2");
    lab.qemu_img("convert -f raw -O qcow2 -c -o cluster_size=2M disk.raw large.qcow2");
    lab.qemu_img("convert -f raw -O qcow2 -o preallocation=metadata disk.raw allocated.qcow2");
    let first = lab.import_file("disk:raw", &lab.path("disk.raw")).unwrap();
    let forms =
        ["disk.raw", "disk.qcow2", "packed.qcow2", "old.qcow2", "small.qcow2", "large.qcow2", "allocated.qcow2"];
    let mut packings: Vec<(&str, &str)> = vec![("zstd -qc --ultra -22", "disk.raw"), ("xz -9c", "disk.raw")];
    for packer in ["cat", "zstd -qc", "xz -1c", "gzip -c"] {
        packings.extend(forms.map(|form| (packer, form)));
    }
    for (number, (packer, form)) in packings.into_iter().enumerate() {
        let words: Vec<&str> = packer.split(' ').chain([form]).collect();
        fs::write(lab.path("packed"), lab.run(&words)).unwrap();
        let record = lab.import_file(&format!("disk:v{number}"), &lab.path("packed"));
        let record = record.unwrap_or_else(|error| panic!("{words:?}: {}", crate::causes::in_one_line(&error)));
        assert_eq!((&record.content_digest, record.added_bytes), (&first.content_digest, 0), "{words:?}");
    }
    assert_eq!(fs::read_dir(lab.path("store/tmp")).unwrap().count(), 0);
}

/// A sparse stream as `regild image import` sends it: of each piece its data, or so many zeros.
fn sparse_stream(pieces: &[(&[u8], usize)]) -> Vec<u8> {
    let mut stream = SPARSE_HEADER.to_vec();
    let mut block = |kind: usize, bytes: usize, content: &[u8]| {
        stream.extend_from_slice(&(bytes << 3 | kind << 1).to_le_bytes()[..3]);
        stream.extend_from_slice(content);
    };
    for (data, zeros) in pieces {
        data.chunks(60_000).for_each(|data| block(0, data.len(), data));
        (0..zeros / 131_072).for_each(|_| block(1, 131_072, &[0]));
        block(1, zeros % 131_072, &[0]);
    }
    block(0, 0, &[]);
    let last = stream.len() - 3;
    stream[last] |= 1;
    stream
}

/// Promise: holes that are said, not sent, leave the disk the same, wherever they begin and end; and whatever else comes in
/// such a stream is looked at as ever.
#[test]
fn holes_that_are_said_are_zeros() {
    let lab = Lab::new();
    let data = noise(9, 9000);
    for (number, layout) in [
        vec![(0, 5 * MIB)],
        vec![(512, 4 * MIB)],
        vec![(9000, 3 * MIB), (9000, 2 * MIB - 18_000 + 512)],
        vec![(0, MIB), (4096, MIB - 4096), (0, MIB), (1, MIB - 513)],
        vec![(0, 2 * MIB + 100), (9000, MIB), (700, 3 * MIB + 836 - 512)],
    ]
    .into_iter()
    .enumerate()
    {
        let pieces: Vec<(&[u8], usize)> = layout.iter().map(|(bytes, zeros)| (&data[..*bytes], *zeros)).collect();
        let mut raw: Vec<u8> =
            pieces.iter().flat_map(|(data, zeros)| [data.to_vec(), vec![0; *zeros]].concat()).collect();
        let odd = raw.len() % 512;
        raw.resize(raw.len() + (512 - odd) % 512, 0);
        let stream = sparse_stream(&[&pieces[..], &[(&[][..], (512 - odd) % 512)]].concat());
        let said = lab.import(&format!("said:{number}"), &stream[..], Declared::default()).unwrap();
        let sent = lab.import(&format!("sent:{number}"), &raw[..], Declared::default()).unwrap();
        assert_eq!((said.content_digest, sent.image_bytes), (sent.content_digest, raw.len() as u64), "{layout:?}");
        let out = File::create(lab.path("out.raw")).unwrap();
        lab.store.export(&format!("said:{number}").parse().unwrap(), &out).unwrap();
        assert!(fs::read(lab.path("out.raw")).unwrap() == raw, "{layout:?}");
    }
    fs::write(lab.path("disk.raw"), disk()).unwrap();
    let first = lab.import_file("disk:raw", &lab.path("disk.raw")).unwrap();
    let qcow2 = fs::read(lab.qemu_img("convert -f raw -O qcow2 disk.raw disk.qcow2")).unwrap();
    let inside = lab.import("disk:qcow2", &sparse_stream(&[(&qcow2, 0)])[..], Declared::default()).unwrap();
    assert_eq!(inside.content_digest, first.content_digest);
    let fixed = fs::read(lab.qemu_img("convert -f raw -O vpc -o subformat=fixed disk.raw fixed.vhd")).unwrap();
    assert!(lab.refused(&sparse_stream(&[(&fixed, 0)])[..]).contains("a VHD image of fixed size"));
    let packed = zstd::bulk::compress(&qcow2, 1).unwrap();
    assert!(lab.refused(&sparse_stream(&[(&packed, 0)])[..]).contains("packed twice"));
    assert!(lab.refused(&sparse_stream(&[(&disk()[..MIB], MIB)])[..MIB]).contains("cut short"));
}

/// Several streams behind one another are one file to each of these tools: pigz, pixz and pzstd write such.
#[test]
fn streams_behind_one_another_are_one_image() {
    let lab = Lab::new();
    let disk = disk();
    let first = lab.import("disk:1", &disk[..], Declared::default()).unwrap();
    let (left, right) = disk.split_at(3 * MIB + 77);
    fs::write(lab.path("left"), left).unwrap();
    fs::write(lab.path("right"), right).unwrap();
    for packer in ["gzip", "xz", "zstd"] {
        let both = [lab.run(&[packer, "-c", "left"]), lab.run(&[packer, "-c", "right"])].concat();
        let record = lab.import(&format!("disk:{packer}"), &both[..], Declared::default()).unwrap();
        assert_eq!(record.content_digest, first.content_digest, "{packer}");
    }
}

/// Promise: what was declared holds, and nothing is taken for what it is not.
#[test]
fn what_was_declared_must_hold() {
    let lab = Lab::new();
    fs::write(lab.path("disk.raw"), &disk()[..MIB]).unwrap();
    let qcow2 = lab.qemu_img("convert -f raw -O qcow2 disk.raw disk.qcow2");
    let as_format = |format| Declared { format: Some(format), ..Declared::default() };
    let said = lab.refused_as(File::open(&qcow2).unwrap(), as_format(Format::Raw));
    assert!(said.contains("declared as raw, but it is qcow2"), "{said}");
    let said = lab.refused_as(File::open(lab.path("disk.raw")).unwrap(), as_format(Format::Qcow2));
    assert!(said.contains("declared as qcow2, but it is raw"), "{said}");
    let packed = zstd::bulk::compress(&fs::read(&qcow2).unwrap(), 1).unwrap();
    assert!(lab.refused_as(&packed[..], as_format(Format::Raw)).contains("declared as raw"));
    assert!(lab.refused(&zstd::bulk::compress(&packed, 1).unwrap()[..]).contains("packed twice"));
    for (format, words) in [
        ("vmdk", "a VMDK image"),
        ("vpc", "a VHD image"),
        ("vhdx", "a VHDX image"),
        ("vdi", "a VDI image"),
        ("qed", "a QED image"),
    ] {
        let file = lab.qemu_img(&format!("convert -f raw -O {format} disk.raw disk.{format}"));
        let said = lab.refused(File::open(file).unwrap());
        assert!(said.contains(words) && said.contains("qemu-img convert -O raw"), "{format}: {said}");
    }
    let fixed = lab.qemu_img("convert -f raw -O vpc -o subformat=fixed disk.raw fixed.vhd");
    assert!(lab.refused(File::open(fixed).unwrap()).contains("a VHD image of fixed size"));
    lab.import("good:1", File::open(&qcow2).unwrap(), as_format(Format::Qcow2)).unwrap();
}

/// Promise: the digest of the file is checked before anything is listed, also when a decoder could stop early.
#[test]
fn a_file_of_another_digest_is_refused() {
    let lab = Lab::new();
    let disk = disk();
    fs::write(lab.path("disk.raw"), &disk).unwrap();
    lab.qemu_img("convert -f raw -O qcow2 disk.raw disk.qcow2");
    for file in [
        disk.clone(),
        zstd::bulk::compress(&disk, 1).unwrap(),
        lab.run(&["xz", "-c", "disk.raw"]),
        fs::read(lab.path("disk.qcow2")).unwrap(),
    ] {
        let right = [
            format!("sha256:{}", clock::hex(&sha2::Sha256::digest(&file))),
            format!("blake3:{}", blake3::hash(&file).to_hex()),
        ];
        let expects = |text: &str| Declared { digest: Some(text.parse().unwrap()), ..Declared::default() };
        for right in &right {
            let last = if right.ends_with('0') { '1' } else { '0' };
            let wrong = format!("{}{last}", &right[..right.len() - 1]);
            let said = lab.refused_as(&file[..], expects(&wrong));
            assert!(said.contains(right.as_str()) && said.contains(&wrong), "{said}");
        }
        for right in &right {
            assert_eq!(lab.import("disk:1", &file[..], expects(right)).unwrap().image_bytes, disk.len() as u64);
        }
        // The next file is tried on an empty store.
        fs::remove_dir_all(lab.path("store/names/disk")).unwrap();
        for dir in ["packs", "manifests"] {
            fs::remove_dir_all(lab.path("store").join(dir)).unwrap();
            fs::create_dir(lab.path("store").join(dir)).unwrap();
        }
    }
    for wrong in ["", "sha256", "md5:00", "sha256:00", &format!("sha256:{}", "G".repeat(64))] {
        assert!(wrong.parse::<FileDigest>().is_err(), "{wrong}");
    }
}

/// I4: small files that want memory or room. Sizes decide, no ratios: an honest sparse image packs as well as a bomb.
#[test]
fn bombs_stop_at_their_limits() {
    let lab = Lab::new();
    File::create(lab.path("zeros")).unwrap().set_len(LIMIT + 512).unwrap();
    for packer in [&["zstd", "-qc"][..], &["xz", "-1c"], &["gzip", "-1c"]] {
        let bomb = lab.run(&[packer, &["zeros"]].concat());
        let said = lab.refused(&bomb[..]);
        assert!(said.contains("larger than the 67108864 bytes"), "{packer:?}: {said}");
    }
    // One byte that claims a window of 2 GiB, and a dictionary of 1 GiB.
    let wide = lab.run(&["sh", "-c", "head -c 10M zeros | zstd -qc --ultra -20 --long=31 --no-check -"]);
    assert!(lab.refused(&wide[..]).contains("needs more memory"), "zstd");
    let wide = lab.run(&["sh", "-c", "head -c 1M zeros | xz -c --lzma2=preset=0,dict=1GiB"]);
    assert!(lab.refused(&wide[..]).contains("needs more memory"), "xz");
    // A qcow2 that says it is huge, and one that is.
    lab.qemu_img("create -q -f qcow2 huge.qcow2 4T");
    let said = lab.refused(File::open(lab.path("huge.qcow2")).unwrap());
    assert!(said.contains("4398046511104 bytes") && said.contains("bytes_max"), "{said}");
    lab.qemu_img("create -q -f qcow2 small.qcow2 1M");
    let small = std::fs::read(lab.path("small.qcow2")).unwrap();
    let endless = io::Read::chain(&small[..], io::repeat(1));
    assert!(lab.refused(endless).contains("qcow2 file is larger"));
    // One with a header that is refused anyway is not kept first.
    let endless = io::Read::chain(&b"QFI\xfb"[..], io::repeat(1));
    assert!(lab.refused(endless).contains("has version 16843009"));
}

/// Promise: cut or followed by something else, a packed image is never a short one.
#[test]
fn packed_and_damaged_is_refused() {
    let lab = Lab::new();
    fs::write(lab.path("disk.raw"), &disk()[..2 * MIB]).unwrap();
    for packer in ["gzip", "xz", "zstd"] {
        let good = lab.run(&[packer, "-c", "disk.raw"]);
        for cut in [10, good.len() / 2, good.len() - 9, good.len() - 1] {
            let said = lab.refused(&good[..cut]);
            assert!(said.contains(packer) && said.contains("cut short"), "{packer} at {cut}: {said}");
        }
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 0x55;
        assert!(lab.refused(&bad[..]).contains(packer));
        let said = lab.refused(&[&good[..], b"garbage behind"].concat()[..]);
        assert!(said.contains("followed by something else"), "{packer}: {said}");
    }
}

/// Promise: a qcow2 that is not the whole of an image is refused with what to do.
#[test]
fn a_qcow2_that_does_not_stand_alone_is_refused() {
    let lab = Lab::new();
    fs::write(lab.path("disk.raw"), &disk()[..2 * MIB]).unwrap();
    lab.qemu_img("convert -f raw -O qcow2 disk.raw base.qcow2");
    lab.qemu_img("create -q -f qcow2 -F qcow2 -b base.qcow2 over.qcow2");
    lab.qemu_img("create -q -f qcow2 -F raw -b /etc/passwd spy.qcow2");
    lab.qemu_img("create -q -f qcow2 -o data_file=other.raw external.qcow2 2M");
    lab.qemu_img("convert -f raw -O qcow2 disk.raw snap.qcow2");
    lab.qemu_img("snapshot -c one snap.qcow2");
    lab.qemu_img("convert -f raw -O qcow2 -c -o compression_type=zstd disk.raw zstd.qcow2");
    lab.qemu_img("convert -f raw -O qcow2 -o extended_l2=on disk.raw extended.qcow2");
    // qemu-img measures how fast the processor is, and gives up when it saw no time pass, as on a busy machine.
    let luks = "qemu-img create -q -f qcow2 --object secret,id=s,data=abc \
                -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks.qcow2 2M";
    lab.run(&["sh", "-c", &format!("for try in $(seq 50); do {luks} && exit; done; exit 1")]);
    lab.qemu_img("create -q -f qcow2 -o lazy_refcounts=on dirty.qcow2 2M");
    let set = |name: &str, at: u64, bytes: &[u8]| {
        let file = File::options().write(true).open(lab.path(name)).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    set("dirty.qcow2", 79, &[1]);
    lab.qemu_img("create -q -f qcow2 corrupt.qcow2 2M");
    set("corrupt.qcow2", 79, &[2]);
    lab.qemu_img("create -q -f qcow2 future.qcow2 2M");
    set("future.qcow2", 72, &[0x80]);
    lab.run(&["cp", "disk.raw", "ancient.qcow2"]);
    set("ancient.qcow2", 0, b"QFI\xfb\0\0\0\x01");
    for (name, words, advice) in [
        ("over.qcow2", "needs a backing file (\"base.qcow2\")", "qemu-img convert -O qcow2 IN OUT"),
        ("spy.qcow2", "needs a backing file (\"/etc/passwd\")", "qemu-img convert"),
        ("external.qcow2", "has its data in another file", "qemu-img convert"),
        ("snap.qcow2", "has 1 internal snapshots", "-l SNAPSHOT"),
        ("zstd.qcow2", "compressed with zstd", "qemu-img convert -c"),
        ("extended.qcow2", "has extended L2 entries", "qemu-img convert"),
        ("luks.qcow2", "is encrypted", "decrypt it"),
        ("dirty.qcow2", "was not closed cleanly", "qemu-img check -r all"),
        ("corrupt.qcow2", "is marked as corrupt", "qemu-img check -r all"),
        ("future.qcow2", "features that are not known", "qemu-img convert"),
        ("ancient.qcow2", "has version 1", "qemu-img convert"),
    ] {
        let said = lab.refused(File::open(lab.path(name)).unwrap());
        assert!(said.contains(words) && said.contains(advice), "{name}: {said}");
    }
}

/// A qcow2 of 4 MiB with two data clusters, and where its tables are: header 0, refcounts 1 and 2, L1 3, L2 4, data 5..
fn small_qcow2(lab: &Lab) -> Vec<u8> {
    let mut disk = vec![0; 4 * MIB];
    disk[..70_000].copy_from_slice(&noise(8, 70_000));
    fs::write(lab.path("small.raw"), disk).unwrap();
    let bytes = fs::read(lab.qemu_img("convert -f raw -O qcow2 small.raw small.qcow2")).unwrap();
    assert_eq!(word(&bytes, 40), 3 << 16, "the layout that these tests know");
    assert_eq!(word(&bytes, 3 << 16) & 0xffff_ffff, 4 << 16);
    bytes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

const CLUSTER: usize = 1 << 16;
const L1: usize = 3 * CLUSTER;
const L2: usize = 4 * CLUSTER;

/// Loops, tables on one another, sizes that lie: each is found in the tables, before a byte of data is read.
#[test]
fn a_qcow2_whose_tables_lie_is_refused() {
    let lab = Lab::new();
    let good = small_qcow2(&lab);
    lab.import("good:1", &good[..], Declared::default()).unwrap();
    let at = |cluster: u64| 1 << 63 | cluster << 16;
    let end = good.len() as u64 / CLUSTER as u64;
    let cases: &[(&str, usize, u64, &str)] = &[
        ("the L1 table is its own L2 table", L1, at(3), "L2 table 0 lies where something else is"),
        ("the header is an L2 table", L1, at(0), "lies where something else is"),
        ("the L2 table holds itself as data", L2, at(4), "data lies where something else is"),
        ("data is the L1 table", L2, at(3), "data lies where something else is"),
        ("two entries have one cluster", L2 + 8, word(&good, L2), "data lies where something else is"),
        ("data behind the file's end", L2, at(end + 5), "does not lie in the file"),
        ("data far away", L2, at(1 << 38), "does not lie in the file"),
        ("an L2 table behind the file's end", L1, at(end), "does not lie in the file"),
        ("an L2 table between clusters", L1, at(4) + 512, "does not lie in the file"),
        ("an L1 table behind the file's end", 40, end << 16, "the L1 table does not lie in the file"),
        ("an L1 table on the header", 40, 0, "the L1 table lies where something else is"),
        ("a refcount table on the L1 table", 48, 3 << 16, "the refcount table lies where something else is"),
        ("reserved bits in L1", L1, at(4) | 1, "reserved bits"),
        ("reserved bits in L2", L2, at(5) | 1 << 60, "reserved bits"),
        ("data behind the image's end", L2 + 8 * 64, at(5), "behind the image's end"),
        ("compressed data on a table", L2, 1 << 62 | 3 << 16, "compressed data lies where something else is"),
        ("compressed data behind the end", L2, 1 << 62 | (end + 1) << 16, "does not lie in the file"),
        ("more compressed data than there is", L2, 1 << 62 | 0xff << 54 | (end - 1) << 16, "does not lie in the file"),
    ];
    for (what, place, value, words) in cases {
        let mut bad = good.clone();
        bad[*place..place + 8].copy_from_slice(&value.to_be_bytes());
        let said = lab.refused(&bad[..]);
        assert!(said.contains(words), "{what}: {said}");
    }
    let half_words: &[(&str, usize, u32, &str)] = &[
        ("clusters of a byte", 20, 0, "clusters would have 2^0 bytes"),
        ("clusters of 4 GiB", 20, 32, "clusters would have 2^32 bytes"),
        ("an L1 table of 32 GiB", 36, u32::MAX, "L1 table has 4294967295 entries"),
        ("no L1 table", 36, 0, "its size needs 1"),
        ("a refcount table of 256 TiB", 56, u32::MAX, "its refcount table would have"),
        ("a short header", 100, 20, "its header contradicts itself"),
        ("refcounts of 2^99 bits", 96, 99, "its header contradicts itself"),
    ];
    for (what, place, value, words) in half_words {
        let mut bad = good.clone();
        bad[*place..place + 4].copy_from_slice(&value.to_be_bytes());
        let said = lab.refused(&bad[..]);
        assert!(said.contains(words), "{what}: {said}");
    }
    for cut in [3, 4, 20, 103, 200, CLUSTER, 5 * CLUSTER, good.len() - CLUSTER] {
        lab.refused(&good[..cut]);
    }
}

/// A compressed cluster that holds more, less or other than a cluster.
#[test]
fn a_compressed_cluster_is_a_cluster_or_an_error() {
    let lab = Lab::new();
    fs::write(lab.path("x.raw"), vec![b'x'; 2 * MIB]).unwrap();
    let good = fs::read(lab.qemu_img("convert -f raw -O qcow2 -c x.raw x.qcow2")).unwrap();
    let first = lab.import("good:1", &good[..], Declared::default()).unwrap();
    assert_eq!(first.content_digest, lab.import_file("good:2", &lab.path("x.raw")).unwrap().content_digest);
    let l2 = (word(&good, word(&good, 40) as usize) & 0xff_ffff_ffff) as usize;
    let entry = word(&good, l2);
    assert_eq!(entry >> 62, 1);
    let data = (entry & ((1 << 54) - 1)) as usize;
    let mut bad = good.clone();
    bad[data..data + 40].fill(0xff);
    assert!(lab.refused(&bad[..]).contains("qcow2 image cannot be read"));
    // A whole stream of deflate that ends before the cluster does: one stored block of four bytes.
    let mut bad = good.clone();
    bad[data..data + 9].copy_from_slice(&[1, 4, 0, 0xfb, 0xff, 1, 2, 3, 4]);
    assert!(lab.refused(&bad[..]).contains("qcow2 image cannot be read"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is in a qcow2's header and tables: imported or refused, in bounded time, with nothing left behind.
    #[test]
    fn any_damage_to_a_qcow2_is_an_answer(patches in prop::collection::vec((0usize..5, 0usize..112, any::<u8>()), 1..6)) {
        let lab = Lab::new();
        let mut bytes = QCOW2.clone();
        for (cluster, at, byte) in patches {
            bytes[cluster * CLUSTER + at] = byte;
        }
        let _ = lab.import("any:1", &bytes[..], Declared::default());
        prop_assert_eq!(fs::read_dir(lab.path("store/tmp")).unwrap().count(), 0);
    }
}

static QCOW2: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| small_qcow2(&Lab::new()));
