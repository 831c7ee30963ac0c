//! I1: an upload that is cut, whoever is killed: nothing is listed, nothing is kept, and the same import then works.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::cable::Cable;
use crate::disks::{MIB, noise, read};
use crate::lab::Lab;
use crate::raw::Connection;

const NAME: &str = "cut:1";
const PATH: &str = "PUT /v1/images/cut:1?source=test HTTP/1.1";

/// Without a partition table, so that a part of it, cut at a sector, would pass for an image of its own.
fn image() -> Vec<u8> {
    noise(5, 12 * MIB as usize)
}

fn temporary_files(lab: &Lab) -> usize {
    std::fs::read_dir(lab.path("state/images/tmp")).unwrap().count()
}

/// What is written of the pack so far: as much as has arrived, since noise does not compress, but for some MiB that are
/// on their way through the threads.
fn unfinished_bytes(lab: &Lab) -> u64 {
    let entries = std::fs::read_dir(lab.path("state/images/tmp")).unwrap();
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Every file of the store but the lock.
fn stored_files(lab: &Lab) -> usize {
    let count = |dir: &str| std::fs::read_dir(lab.path("state/images").join(dir)).map_or(0, Iterator::count);
    ["packs", "manifests", "names"].map(count).iter().sum()
}

#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let came = (0..3000).any(|_| {
        let now = holds();
        if !now {
            std::thread::sleep(Duration::from_millis(20));
        }
        now
    });
    assert!(came, "{what}: not after a minute");
}

/// Not listed, by the operators' list and by the machines' reference; and nothing lies in the store.
#[track_caller]
fn nothing_is_there(lab: &Lab, place: &str) {
    assert_eq!(lab.json(&["image", "list"]), serde_json::json!([]), "{place}");
    assert_eq!(lab.from(crate::lab::STRANGER).get("/images/refs/cut:1").status, 404, "{place}");
    assert_eq!((temporary_files(lab), stored_files(lab)), (0, 0), "{place}: files are left");
}

/// The same import works, and what comes out is what went in.
#[track_caller]
fn import_works(lab: &Lab, image: &[u8]) {
    let (file, out) = (lab.path("whole.raw"), lab.path("out.raw"));
    std::fs::write(&file, image).unwrap();
    let _ = std::fs::remove_file(&out);
    lab.regild(&["image", "import", file.to_str().unwrap(), "--as", NAME]);
    lab.regild(&["image", "export", NAME, out.to_str().unwrap()]);
    assert!(read(&out) == image);
    // The list of its files is made behind it.
    wait_until("its baseline was tried", || temporary_files(lab) == 0);
}

fn send(connection: &mut Connection, bytes: &[u8], is_chunked: bool) {
    for piece in bytes.chunks(100_000) {
        if is_chunked {
            write!(connection.writer, "{:x}\r\n", piece.len()).unwrap();
        }
        connection.writer.write_all(piece).unwrap();
        if is_chunked {
            connection.writer.write_all(b"\r\n").unwrap();
        }
    }
}

/// I1: cut at 0 %, 50 % and 99.9 % of the body, with a length and in chunks, plain and compressed.
#[test]
fn i1_an_upload_that_is_cut_leaves_nothing_and_the_next_one_works() {
    let lab = Lab::new();
    let image = image();
    let compressed = zstd::bulk::compress(&image, 1).unwrap();
    for body in [&image, &compressed] {
        for is_chunked in [false, true] {
            for per_mille in [0, 500, 999] {
                let mut connection = lab.operator();
                let length = format!("Content-Length: {}", body.len());
                let length = if is_chunked { "Transfer-Encoding: chunked" } else { &length };
                connection.head(&[PATH, "Host: regild", length]);
                let cut = body.len() * per_mille / 1000 / 512 * 512;
                send(&mut connection, &body[..cut], is_chunked);
                // The server is in the middle of it: its pack is there, unfinished. It makes none before it has seen
                // what is coming.
                wait_until("the import begins", || cut == 0 || temporary_files(&lab) > 0);
                connection.close();
                wait_until("the import ends", || temporary_files(&lab) == 0);
                nothing_is_there(&lab, &format!("{length}, {per_mille} per mille"));
            }
        }
    }
    // A last chunk that never comes is a cut, too, however whole the image in front of it is.
    let mut connection = lab.operator();
    connection.head(&[PATH, "Host: regild", "Transfer-Encoding: chunked"]);
    send(&mut connection, &image, true);
    wait_until("the import begins", || temporary_files(&lab) > 0);
    connection.close();
    wait_until("the import ends", || temporary_files(&lab) == 0);
    nothing_is_there(&lab, "all but the end");
    import_works(&lab, &image);
}

/// `regild image import` of a pipe: it goes on as far as the test lets it.
struct Import {
    child: Child,
    pipe: File,
}

impl Import {
    fn start(lab: &Lab) -> Import {
        let fifo: PathBuf = lab.path("image.fifo");
        if !fifo.exists() {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }
        let mut command = lab.regild_command(&["image", "import", fifo.to_str().unwrap(), "--as", NAME]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Opening waits for the reader.
        let pipe = File::options().write(true).open(&fifo).unwrap();
        Import { child, pipe }
    }
}

/// I1: the operator's command is killed in the middle of its import.
#[test]
fn i1_an_import_whose_command_is_killed_leaves_nothing_and_the_next_one_works() {
    let lab = Lab::new();
    let image = image();
    let mut import = Import::start(&lab);
    import.pipe.write_all(&image[..image.len() / 2]).unwrap();
    wait_until("the import is in the middle", || unfinished_bytes(&lab) > MIB);
    import.child.kill().expect("SIGKILL");
    import.child.wait().unwrap();
    wait_until("the server has cleaned up", || temporary_files(&lab) == 0);
    nothing_is_there(&lab, "the command was killed");
    import_works(&lab, &image);
}

/// I1: the server is killed in the middle of an import. The command says so; the restarted server lists nothing,
/// removes what the dead one left, and the same import works.
#[test]
fn i1_an_import_whose_server_is_killed_is_cleaned_up_at_its_restart() {
    let mut lab = Lab::new();
    let image = image();
    for _ in 0..2 {
        let mut import = Import::start(&lab);
        import.pipe.write_all(&image[..image.len() / 2]).unwrap();
        wait_until("the import is in the middle", || unfinished_bytes(&lab) > MIB);
        lab.kill();
        assert!(temporary_files(&lab) > 0, "a server that is killed cannot clean up");
        // The pipe's reader is gone with the command, which fails by itself.
        let _ = import.pipe.write_all(&image[image.len() / 2..]);
        drop(import.pipe);
        let output = import.child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("regild: "), "{output:?}");
        lab.start();
        nothing_is_there(&lab, "the server was killed");
    }
    import_works(&lab, &image);
    // And it is still there after the next crash.
    lab.kill();
    lab.start();
    assert_eq!(lab.json(&["image", "list"])[0]["image"], NAME);
}

/// S6: a second server on the same state is turned away, says why, and harms nothing of the first.
#[test]
fn s6_a_second_server_on_the_same_store_is_turned_away() {
    let mut lab = Lab::new();
    lab.import_image();
    // On a cable of its own, so that no port stands in its way: only the store can.
    let other = Cable::new();
    let second = lab.serve_command(&other.server).output();
    let second = second.unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("the store cannot be used") && said.contains("in use by another regild"), "{said}");
    assert!(lab.is_running());
    lab.is_well();
    assert_eq!(lab.json(&["image", "list"]).as_array().unwrap().len(), 1, "the first one's socket is gone");
}
