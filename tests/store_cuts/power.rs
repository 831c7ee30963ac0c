//! S2: the power is cut under a machine that runs the registry. QEMU is the machine and SIGKILL the cut: what the
//! guest had not sent to its disk is gone, what it had sent is there. The next to look at the disk is the host.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::guest;
use crate::life::{Life, Op};
use crate::process::{Process, last_lines};
use crate::records;

const CUTS: usize = 20;
/// In the environment: fewer of them, for who has no time for all.
const CUTS_VARIABLE: &str = "REGILD_CUTS";
/// Machines at once: as many as the build machine has cores.
const MACHINES: usize = 2;
/// Firmware and kernel under emulation, beside other work.
const BOOT: Duration = Duration::from_secs(180);
/// Before a cut; answers in it show that the load was running.
const LAST_MOMENT: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(20);

/// Nothing that was answered is lost, the store opens, no closed order is open; on young stores and on old ones.
#[test]
#[ignore = "minutes; make test-full"]
fn twenty_power_cuts_lose_nothing_that_was_answered() {
    if let Some(seed) = guest::seed() {
        guest::live(seed);
    }
    let given = std::env::var(CUTS_VARIABLE).ok().map(|number| number.parse().expect("a number of cuts"));
    let total = given.unwrap_or(CUTS).max(MACHINES);
    let mut dice = Dice::new("power cuts");
    let dir = tempfile::Builder::new().prefix("regild-cuts-").tempdir().expect("a directory");
    build_guest(dir.path());
    let cuts: Vec<Cut> = thread::scope(|scope| {
        let machine = |number: usize| {
            let (dice, dir) = (dice.split(), dir.path().join(number.to_string()));
            scope.spawn(move || Machine::new(dir, dice).cut(total / MACHINES))
        };
        let machines: Vec<_> = (0..MACHINES).map(machine).collect();
        machines.into_iter().flat_map(|thread| thread.join().expect("a machine's thread panicked")).collect()
    });
    let answers: usize = cuts.iter().map(|cut| cut.answers).sum();
    let in_load = cuts.iter().filter(|cut| cut.in_load).count();
    let total = cuts.len();
    let failed: Vec<_> = cuts.iter().filter(|cut| !cut.lost.is_empty()).collect();
    let slowest = cuts.iter().map(|cut| cut.opening_millis).max().unwrap_or(0);
    eprintln!(
        "{total} cuts, {in_load} in running load; {answers} answers, {} cuts lost something; slowest opening {slowest} ms \
         (emulated)",
        failed.len()
    );
    if !failed.is_empty() {
        panic!("{} of {total} cuts lost something; consoles and disks: {}", failed.len(), dir.keep().display());
    }
    assert!(in_load * 2 >= total, "only {in_load} of {total} cuts fell into running load: they prove too little");
}

/// Kernel, and an initramfs with this test binary.
fn build_guest(dir: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store_cuts/build-guest.sh");
    let binary = std::env::current_exe().expect("this binary has a path");
    let status = Command::new(&script).arg(dir).arg(binary).status().expect("running build-guest.sh");
    assert!(status.success(), "{} failed; see above", script.display());
}

/// What one cut came to.
#[derive(Debug)]
struct Cut {
    answers: usize,
    opening_millis: u64,
    in_load: bool,
    lost: Vec<String>,
}

/// One machine with its disk, and what was answered on it.
struct Machine {
    dir: PathBuf,
    dice: Dice,
    lives: Vec<Life>,
}

impl Machine {
    fn new(dir: PathBuf, dice: Dice) -> Machine {
        std::fs::create_dir(&dir).expect("a directory for the machine");
        Machine { dir, dice, lives: Vec::new() }
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    fn cut(mut self, cuts: usize) -> Vec<Cut> {
        let mut done = Vec::new();
        let mut fresh = true;
        for number in 0..cuts {
            // A young store is another thing than an old one: every third cut begins anew.
            fresh |= number % 3 == 0;
            if fresh {
                self.lives = (0..guest::HOSTS).map(Life::unborn).collect();
                make_file_system(&self.disk());
            }
            let what = if fresh { "a new store" } else { "the store that went on" };
            let seconds = 1.0 + self.dice.below(5000) as f64 / 1000.0;
            let cut = self.cut_after(Duration::from_secs_f64(seconds), number);
            let verdict = if cut.lost.is_empty() { "all kept" } else { "LOST" };
            eprintln!(
                "{} cut {number}, {what}: {seconds:.1} s into the load, {} answers, {verdict}",
                self.dir.display(),
                cut.answers
            );
            cut.lost.iter().for_each(|lost| eprintln!("  {lost}"));
            fresh = !cut.lost.is_empty();
            done.push(cut);
        }
        done
    }

    fn cut_after(&mut self, load: Duration, number: usize) -> Cut {
        let console = self.dir.join(format!("console-{number}"));
        let mut qemu = self.power_on(&console);
        if let Err(why) = wait_for(&mut qemu, &console, guest::BEGAN) {
            return Cut { answers: 0, opening_millis: 0, in_load: false, lost: vec![why] };
        }
        thread::sleep(load - LAST_MOMENT);
        let before = guest::answers(&read(&console)).len();
        thread::sleep(LAST_MOMENT);
        let ran = qemu.is_running();
        qemu.kill();
        let console = read(&console);
        let answers = guest::answers(&console);
        let mut lost = self.lost(&answers).unwrap_or_else(|why| vec![why]);
        if !ran {
            lost.push(format!("the guest ended by itself:\n{}", last_lines(&console, 20)));
        }
        let opening_millis = guest::opening_millis(&console).unwrap_or(0);
        Cut { answers: answers.len(), opening_millis, in_load: answers.len() > before, lost }
    }

    fn power_on(&mut self, console: &Path) -> Process {
        let guest = self.dir.parent().expect("it lies in the test's directory");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "q35", "-accel", "tcg", "-m", "384", "-display", "none", "-nodefaults", "-no-reboot"]);
        qemu.arg("-kernel").arg(guest.join("vmlinuz")).arg("-initrd").arg(guest.join("initrd.img"));
        let seed = self.dice.below(1 << 32);
        // Without no_timer_check the kernel sometimes panics on a busy host, since its first ticks come late.
        let kernel = format!("console=ttyS0 quiet loglevel=2 panic=-1 no_timer_check {}={seed}", guest::SEED);
        qemu.args(["-append", &kernel]);
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.arg("-drive").arg(format!("if=virtio,format=raw,cache=writeback,file={}", self.disk().display()));
        Process::spawn(qemu, &self.dir.join("qemu.log"))
    }

    /// Looks at a copy of the disk, since looking repairs: the machine must get on by itself.
    fn lost(&mut self, answers: &[(u8, Op)]) -> Result<Vec<String>, String> {
        for (host, op) in answers {
            self.lives[usize::from(*host)].apply(*op);
        }
        let (copy, found) = (self.dir.join("copy.raw"), self.dir.join("found"));
        let _ = std::fs::remove_dir_all(&found);
        std::fs::create_dir(&found).map_err(|error| error.to_string())?;
        run(Command::new("cp").arg("--sparse=always").args([&self.disk(), &copy]), 0)?;
        // Replays the journal; 1 is "errors corrected".
        run(Command::new("e2fsck").arg("-fp").arg(&copy), 1)?;
        run(Command::new("debugfs").arg("-R").arg(format!("rdump /state {}", found.display())).arg(&copy), 0)?;
        let stored = records::read_under_load(&found.join("state"), guest::HOSTS)?;
        let lost = self.lives.iter().zip(&stored).flat_map(|(life, stored)| life.lost(stored)).collect();
        self.lives = self.lives.iter().zip(&stored).map(|(life, stored)| Life::resume(life.number, stored)).collect();
        Ok(lost)
    }
}

fn make_file_system(disk: &Path) {
    let _ = std::fs::remove_file(disk);
    let file = std::fs::File::create(disk).expect("creating the disk");
    file.set_len(512 << 20).expect("a disk of 512 MiB, sparse");
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk), 0).expect("making a file system");
}

fn run(command: &mut Command, worst: i32) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.code().is_some_and(|code| code <= worst) {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{command:?}: {}, {}", output.status, String::from_utf8_lossy(&said)))
}

fn wait_for(qemu: &mut Process, console: &Path, needle: &str) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let running = qemu.is_running();
        let text = read(console);
        if text.contains(needle) {
            return Ok(());
        }
        if !running || began.elapsed() > BOOT {
            let end = last_lines(&text, 20);
            return Err(format!("no {needle:?} in {:?}\n{}\n{end}", began.elapsed(), qemu.log()));
        }
        thread::sleep(POLL);
    }
}

fn read(console: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(console).unwrap_or_default()).into_owned()
}
