//! I1 and the collection's own: SIGKILL at any instant. No version that was said to be there is lost, and what is left over
//! the next collection finds.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use regild::image::{ImageStore, ScrubRequest};

use crate::dice::Dice;
use crate::shelf::{gc, import, is_whole, listed, name, nothing_is_left_over};

/// Versions that are there at once, about.
const KEPT: usize = 6;

#[test]
fn ten_kills_of_imports_and_collections_lose_nothing_and_leak_nothing() {
    kills(10);
}

#[test]
#[ignore = "a minute; make test-full"]
fn a_hundred_kills_of_imports_and_collections_lose_nothing_and_leak_nothing() {
    kills(100);
}

/// The child: this very test binary, told by its environment.
#[test]
#[ignore = "started by the kills"]
fn child() {
    let Ok(dir) = std::env::var("REGILD_KILLS_STORE") else { return };
    let mut dice = Dice::from_seed(std::env::var("REGILD_KILLS_SEED").unwrap().parse().unwrap());
    let store = ImageStore::open(Path::new(&dir)).unwrap();
    let mut there = listed(&store);
    let mut next: u64 = std::env::var("REGILD_KILLS_NEXT").unwrap().parse().unwrap();
    let say = |what: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n@{what}").and_then(|()| out.flush()).unwrap();
    };
    say("begins".to_owned());
    loop {
        if there.len() < KEPT || dice.below(3) > 0 {
            // Beside a collection, as in the server.
            let gone: Vec<u64> = there.iter().copied().filter(|_| there.len() > 2 && dice.below(4) == 0).collect();
            std::thread::scope(|scope| {
                gone.iter().for_each(|number| say(format!("going {number}")));
                let collecting = scope.spawn(|| gc(&store, &gone, false));
                import(&store, next).unwrap();
                say(format!("there {next}"));
                collecting.join().unwrap();
            });
            there.insert(next);
            there.retain(|number| !gone.contains(number));
            next += 1;
        } else {
            let oldest: Vec<u64> = there.iter().copied().take(there.len() - KEPT / 2).collect();
            oldest.iter().for_each(|number| say(format!("going {number}")));
            gc(&store, &oldest, false);
            there.retain(|number| !oldest.contains(number));
            let request = ScrubRequest { image: None, from: None, bytes_per_second: 0, now: 1 };
            assert!(store.scrub(&request, &|| false).unwrap().bad.is_empty());
        }
    }
}

fn start(dir: &Path, seed: u64, next: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kills::child", "--ignored", "--nocapture", "--test-threads", "1"])
        .env("REGILD_KILLS_STORE", dir)
        .env("REGILD_KILLS_SEED", seed.to_string())
        .env("REGILD_KILLS_NEXT", next.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a life of the child was heard to say before it was killed.
#[derive(Default)]
struct Said {
    there: BTreeSet<u64>,
    going: BTreeSet<u64>,
}

fn live_and_die(mut child: Child, after: Duration, round: u32) -> Said {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Said::default();
    let mut hear = |line: &str| match line.strip_prefix('@').and_then(|line| line.split_once(' ')) {
        Some(("there", number)) => drop(said.there.insert(number.parse().unwrap())),
        Some(("going", number)) => drop(said.going.insert(number.parse().unwrap())),
        _ => {}
    };
    for line in lines.by_ref() {
        if line.unwrap() == "@begins" {
            break;
        }
    }
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| lines.map_while(Result::ok).for_each(|line| hear(&line)));
        std::thread::sleep(after);
        let ended = child.try_wait().unwrap();
        if ended.is_some() {
            let mut error = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut error).unwrap();
            panic!("round {round}: the child ended by itself: {error}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        listening.join().unwrap();
    });
    said
}

fn kills(rounds: u32) {
    let mut dice = Dice::new("image store kills");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let mut there: BTreeSet<u64> = BTreeSet::new();
    let (mut next, mut imports, mut leaks) = (1, 0, 0);
    for round in 0..rounds {
        let after = Duration::from_millis(dice.below(400));
        let said = live_and_die(start(&path, dice.below(u64::MAX), next), after, round);
        imports += said.there.len();
        let store = ImageStore::open(&path).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        let now = listed(&store);
        for number in there.union(&said.there).filter(|number| !said.going.contains(number)) {
            assert!(now.contains(number), "round {round} lost {number}, which was said to be there");
        }
        now.iter().for_each(|number| is_whole(&store, *number));
        // The very version that was under way: its name is free, or it is there.
        next = now.iter().chain(&said.there).chain(&said.going).max().map_or(next, |last| next.max(last + 1));
        let found = gc(&store, &[], false);
        leaks += usize::from(!found.is_clean());
        assert!(found.failed.is_empty() && found.held_back.is_none(), "round {round}: {found:?}");
        nothing_is_left_over(&store, &path);
        let again = gc(&store, &[], true);
        assert!(again.is_clean(), "round {round}: the first run left {again:?}");
        now.iter().for_each(|number| is_whole(&store, *number));
        for number in &said.going {
            assert!(
                now.contains(number) || store.gone(&name(*number)).unwrap().is_some(),
                "{number} has lost its name"
            );
        }
        there = now;
    }
    eprintln!("{rounds} kills, {imports} imports said, {leaks} kills left something, and it was found");
    assert!(imports as u32 >= rounds / 4, "only {imports} imports in {rounds} rounds: they prove too little");
}
