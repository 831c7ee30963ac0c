//! Inside the guest of the power cuts: the registry under load until the power is cut. `guest-init` starts this very
//! test binary there, with the seed in its environment.

use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Instant;

use crate::client::Client;
use crate::dice::Dice;
use crate::direct::Direct;
use crate::life::{Life, Op};
use crate::records::Opened;

pub const HOSTS: u8 = 20;
const CLIENTS: usize = 4;
/// A word of the kernel's command line; what the kernel does not know goes into the environment of init.
pub const SEED: &str = "REGILD_GUEST_SEED";
pub const BEGAN: &str = "the load begins";

/// The seed, in the guest.
pub fn seed() -> Option<u64> {
    std::env::var(SEED).ok()?.parse().ok()
}

/// Lives on the disk's store and says each answer on the console, after it was given.
pub fn live(seed: u64) -> ! {
    let began = Instant::now();
    let opened = Opened::open(Path::new("/disk/state")).unwrap_or_else(|why| panic!("the store does not open: {why}"));
    let opening = began.elapsed().as_millis();
    let stored = opened.stored(HOSTS).unwrap_or_else(|why| panic!("the store cannot be read: {why}"));
    Direct::new(opened.registry.clone()).apply_brakes();
    let mut dice = Dice::from_seed(seed);
    say(&format!("{BEGAN}; millis until the store was open: {opening}"));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mine = (0..HOSTS).filter(|host| usize::from(*host) % CLIENTS == client);
            let lives = mine.map(|host| Life::resume(host, &stored[usize::from(host)])).collect();
            let mut client = Client::new(Direct::new(opened.registry.clone()), lives, dice.split());
            let answered = |host, op| {
                // What was only read cannot be lost.
                if op != Op::History {
                    say(&ack_line(host, op));
                }
            };
            scope.spawn(move || client.live(answered));
        }
    });
    panic!("the load ended");
}

fn say(line: &str) {
    let mut console = std::io::stdout().lock();
    // One write, so that no other thread's line and no half a line comes between.
    console.write_all(format!("{line}\n").as_bytes()).expect("the console takes a line");
    console.flush().expect("the console takes a line");
}

fn ack_line(host: u8, op: Op) -> String {
    format!("ack {host} {}", serde_json::to_string(&op).expect("an operation is JSON"))
}

/// How long the store took to open.
pub fn opening_millis(console: &str) -> Option<u64> {
    // The test harness has begun the line with the test's name.
    console.lines().find_map(|line| line.split_once(BEGAN)?.1.trim().rsplit(' ').next()?.parse().ok())
}

/// The answers on a console, in their order; a line that was cut is none.
pub fn answers(console: &str) -> Vec<(u8, Op)> {
    let whole = console.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let answer = |line: &str| {
        let (host, op) = line.trim().strip_prefix("ack ")?.split_once(' ')?;
        Some((host.parse().ok()?, serde_json::from_str(op).ok()?))
    };
    whole.filter_map(answer).collect()
}
