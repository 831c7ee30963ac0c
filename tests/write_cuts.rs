//! The real agent binary, killed, starved and lied to: at no instant does half an image boot (rule 4).

mod disks;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use disks::server::Server;
use disks::{Dice, Images, MIB, assert_same_disk, deployed, gpt_image, read};
use regild::image::ImageStore;

const IMAGE_BYTES: u64 = 40 * MIB;
const DISK_BYTES: u64 = 48 * MIB;
const CUTS: u64 = 20;

fn agent(command: &str, server: &Server, image: &str, target: &Path) -> Command {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_regild-agent"));
    agent.arg(command).args(["--server", &server.url(), "--image", image, "--json", "--target"]).arg(target);
    agent.stdout(Stdio::piped()).stderr(Stdio::piped());
    agent
}

#[track_caller]
fn run(mut command: Command) -> Output {
    let output = command.output().expect("running the agent");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What was done: the last line.
fn done(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON")
}

fn shared(images: Images) -> (tempfile::TempDir, Arc<ImageStore>) {
    (images.dir, Arc::new(images.store))
}

/// Waits until the condition holds or the child has ended.
fn wait_until(child: &mut Child, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() && child.try_wait().expect("waiting for the agent").is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "the agent neither ends nor gets on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// P1: the machine loses its power at any point of the write. What is then on the disk does not boot, or is whole;
/// and the next run completes it.
#[test]
fn a_cut_at_any_point_leaves_no_bootable_half_and_the_next_run_completes() {
    let mut dice = Dice::new("cuts", 20);
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    images.import("a:1", &image);
    let before = gpt_image(DISK_BYTES, 500);
    let wanted = deployed(&image, &before);
    let disk = images.disk("disk", &before);
    let (_dir, store) = shared(images);
    let server = Server::start(store);
    server.pause_before_ranges(Duration::from_millis(15));
    run(agent("write", &server, "a:1", &disk));
    assert_same_disk(&read(&disk), &wanted);
    let whole_bytes = server.sent_bytes();

    let (mut cleared, mut whole) = (0, 0);
    for cut in 0..CUTS {
        std::fs::write(&disk, &before).expect("the old disk again");
        let sent_before = server.sent_bytes();
        // One cut in five comes after the last byte was sent: into the reading back, the head, or too late.
        let cut_bytes = dice.below(whole_bytes * 5 / 4).min(whole_bytes);
        let then = Duration::from_micros(dice.below(150_000));
        let mut child = agent("write", &server, "a:1", &disk).spawn().expect("starting the agent");
        wait_until(&mut child, || server.sent_bytes() - sent_before >= cut_bytes);
        std::thread::sleep(then);
        child.kill().expect("SIGKILL");
        child.wait().expect("reaping");

        let got = read(&disk);
        let place = format!("cut {cut}: after {cut_bytes} bytes and {then:?}");
        if got == wanted {
            whole += 1;
        } else if got[..MIB as usize] == before[..MIB as usize] {
            assert!(got == before, "{place}: the old head is there, so nothing else may have changed");
        } else {
            assert!(got[..1024].iter().all(|byte| *byte == 0), "{place}: a head without proof");
            let head_begun = got[1024..MIB as usize].iter().any(|byte| *byte != 0);
            let body = MIB as usize..IMAGE_BYTES as usize;
            assert!(!head_begun || got[body.clone()] == wanted[body], "{place}: a head over half a body");
            cleared += 1;
        }
        run(agent("write", &server, "a:1", &disk));
        assert!(read(&disk) == wanted, "{place}: the next run completes");
    }
    eprintln!("{CUTS} cuts: {cleared} left the disk without a head, {whole} came after the end");
    assert!(cleared >= CUTS / 3, "the cuts must fall into the write to prove anything");
}

/// A cut write is continued: what is on the disk already is not fetched again.
#[test]
fn the_run_after_a_cut_fetches_only_the_rest() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    images.import("a:1", &image);
    let before = gpt_image(DISK_BYTES, 500);
    let disk = images.disk("disk", &before);
    let (_dir, store) = shared(images);
    let server = Server::start(store);
    server.pause_before_ranges(Duration::from_millis(100));
    let mut child = agent("write", &server, "a:1", &disk).spawn().expect("starting the agent");
    wait_until(&mut child, || server.sent_bytes() >= 20 * MIB);
    std::thread::sleep(Duration::from_millis(50));
    child.kill().expect("SIGKILL");
    child.wait().expect("reaping");
    server.pause_before_ranges(Duration::ZERO);
    let done = done(&run(agent("write", &server, "a:1", &disk)));
    assert!(done["kept_bytes"].as_u64().expect("a number") >= 8 * MIB, "{done}");
    assert_same_disk(&read(&disk), &deployed(&image, &before));
    let done = self::done(&run(agent("write", &server, "a:1", &disk)));
    assert_eq!(done["already_there"], true, "P2: {done}");
}

/// N3: the server is restarted in the middle; the agent waits and goes on.
#[test]
fn a_restart_of_the_server_is_survived() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    images.import("a:1", &image);
    let before = gpt_image(DISK_BYTES, 500);
    let disk = images.disk("disk", &before);
    let (_dir, store) = shared(images);
    let server = Server::start(Arc::clone(&store));
    server.pause_before_ranges(Duration::from_millis(50));
    let mut child = agent("write", &server, "a:1", &disk).spawn().expect("starting the agent");
    wait_until(&mut child, || server.sent_bytes() >= 12 * MIB);
    let address = server.address;
    server.stop();
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().expect("waiting").is_none(), "it must not give up");
    let _server = Server::start_at(store, address);
    let output = child.wait_with_output().expect("the agent ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same_disk(&read(&disk), &deployed(&image, &before));
}

/// A5 on the real binary: the kernel answers EIO to its writes, once and for good.
#[test]
fn a_write_that_fails_in_the_kernel_is_tried_again_and_then_named() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    images.import("a:1", &image);
    let before = gpt_image(DISK_BYTES, 500);
    let wanted = deployed(&image, &before);
    let disk = images.disk("disk", &before);
    let log = images.dir.path().join("strace.log");
    let (_dir, store) = shared(images);
    let server = Server::start(store);
    let with_faults = |when: &str| {
        let agent = agent("write", &server, "a:1", &disk);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o"]).arg(&log).args(["-e", "trace=pwrite64", "-e"]);
        strace.arg(format!("inject=pwrite64:error=EIO:when={when}")).arg(agent.get_program()).args(agent.get_args());
        strace.output().expect("strace must be installed (apt install strace): it makes the kernel fail")
    };
    let output = with_faults("5..7");
    assert!(output.status.success(), "three failures are borne: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(read_log(&log).matches("(INJECTED)").count(), 3, "the faults did happen");
    assert_same_disk(&read(&disk), &wanted);

    std::fs::write(&disk, &before).expect("the old disk again");
    let output = with_faults("5+");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("disk") && said.contains("failed to write at byte") && said.contains("os error 5"), "{said}");
    assert_eq!(read_log(&log).matches("(INJECTED)").count(), 4, "once and three times more");
    assert!(read(&disk)[..MIB as usize].iter().all(|byte| *byte == 0));
}

fn read_log(path: &Path) -> String {
    std::fs::read_to_string(path).expect("strace's log")
}

/// A loop device that is gone with the test.
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Loop {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().expect("running losetup");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "this test needs root and loop devices: {said}");
        Loop(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// A real block device: exclusive open, BLKZEROOUT, and the words for a disk that is in use.
#[test]
fn a_block_device_is_written_and_one_in_use_is_refused_by_name() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    images.import("a:1", &image);
    let before = gpt_image(DISK_BYTES, 500);
    let file = images.disk("disk", &before);
    let mount = images.dir.path().join("mount");
    let (_dir, store) = shared(images);
    let server = Server::start(store);
    let device = Loop::attach(&file);
    let done = done(&run(agent("write", &server, "a:1", device.path())));
    assert!(done["zeroed_bytes"].as_u64().expect("a number") > MIB, "{done}");
    run(agent("verify", &server, "a:1", device.path()));
    assert_same_disk(&read(device.path()), &deployed(&image, &before));
    drop(device);

    let mkfs = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file).status().expect("running mkfs.ext4");
    assert!(mkfs.success());
    let device = Loop::attach(&file);
    std::fs::create_dir(&mount).expect("a mount point");
    let mounted = Command::new("mount").arg(device.path()).arg(&mount).status().expect("running mount");
    assert!(mounted.success(), "this test needs root");
    let refused = agent("write", &server, "a:1", device.path()).output().expect("running the agent");
    let unmounted = Command::new("umount").arg(&mount).status().expect("running umount");
    assert!(unmounted.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("is in use") && said.contains("is mounted at"), "{said}");
}

#[test]
fn verify_says_by_its_exit_status_whether_the_disk_holds_the_image() {
    let images = Images::new();
    let image = gpt_image(IMAGE_BYTES, 1);
    images.import("a:1", &image);
    let mut content = deployed(&image, &vec![0; DISK_BYTES as usize]);
    let right = images.disk("right", &content);
    content[30 * MIB as usize] ^= 1;
    let wrong = images.disk("wrong", &content);
    let (_dir, store) = shared(images);
    let server = Server::start(store);
    run(agent("verify", &server, "a:1", &right));
    let output = agent("verify", &server, "a:1", &wrong).output().expect("running the agent");
    assert_eq!(output.status.code(), Some(1));
    let done = done(&output);
    assert_eq!(done["first_wrong_byte"], 30 * MIB, "{done}");
    assert_eq!(done["wrong_extents"].as_u64().zip(done["wrong_holes"].as_u64()).map(|(a, b)| a + b), Some(1), "{done}");
    assert!(read(&wrong) == content, "verify writes nothing");
    let no_image = agent("verify", &server, "a:2", &right).output().expect("running the agent");
    assert_eq!(no_image.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&no_image.stderr).contains("404"));
    let usage = agent("verify", &server, "../etc", &right).output().expect("running the agent");
    assert_eq!(usage.status.code(), Some(2), "wrong usage");
}
