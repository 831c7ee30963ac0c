//! S1: `regild serve` is killed with SIGKILL under load, again and again, on one state directory.

use serde_json::Value;
use std::time::Duration;

use crate::client::{Broken, Client};
use crate::dice::Dice;
use crate::life::{Life, Op};
use crate::records;
use crate::site::Site;
use crate::wire::{self, Wire};

const HOSTS: u8 = 24;
const CLIENTS: usize = 4;
/// The promise is 2 s, and what it took is printed; this is for machines that do much else.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// Each form is a promise of its own: nothing that was answered is lost, a closed order stays closed, the next start
/// comes up at once.
#[test]
fn ten_kills_of_the_server_lose_nothing_that_was_answered() {
    kills(10);
}

#[test]
#[ignore = "minutes; make test-full"]
fn a_hundred_kills_of_the_server_lose_nothing_that_was_answered() {
    kills(100);
}

fn kills(rounds: u32) {
    let mut dice = Dice::new("kills");
    let mut site = Site::new();
    let operators = site.state().join("regild.sock");
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let lives = (0..HOSTS).filter(|host| usize::from(*host) % CLIENTS == client).map(Life::unborn).collect();
            Client::new(Wire { operators: operators.clone() }, lives, dice.split())
        })
        .collect();
    let (mut answers, mut in_load, mut slowest) = (0, 0, Duration::ZERO);
    // Killed as soon as they are acknowledged: from now on they must be there.
    site.start();
    let applied = clients[0].door.apply_brakes().unwrap_or_else(|broken| panic!("{broken:?}"));
    site.kill();
    assert_eq!(applied["changes"], 2, "{applied}");
    for round in 0..rounds {
        // One in ten while the server is still opening what the last kill left.
        if dice.below(10) == 0 {
            site.begin();
            std::thread::sleep(Duration::from_millis(dice.below(80)));
            site.kill();
        } else {
            slowest = slowest.max(site.start());
            compare_with_server(&clients, round);
            let load = Duration::from_millis(20 + dice.below(800));
            let (round_answers, under_way) = kill_under_load(&mut site, &mut clients, load);
            answers += round_answers;
            in_load += u32::from(round_answers > 0 && under_way.iter().any(|op| *op != Op::History));
        }
        compare_with_store(&site, &mut clients, round);
    }
    slowest = slowest.max(site.start());
    compare_with_server(&clients, rounds);
    site.stop();
    compare_with_store(&site, &mut clients, rounds);
    eprintln!(
        "{rounds} kills, {in_load} of them with writes under way; {answers} answers, all kept; slowest start {slowest:?}"
    );
    assert!(in_load * 2 >= rounds, "only {in_load} of {rounds} kills fell into the load: they prove too little");
    assert!(slowest < OPENING_MAX, "a start took {slowest:?}");
}

/// How many answers there were, and what was asked but not answered.
fn kill_under_load(site: &mut Site, clients: &mut [Client<Wire>], load: Duration) -> (u64, Vec<Op>) {
    std::thread::scope(|scope| {
        let living: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(move || {
                    let mut answers = 0;
                    let under_way = client.live(|_, op| answers += u64::from(op != Op::History));
                    (answers, under_way)
                })
            })
            .collect();
        std::thread::sleep(load);
        site.kill();
        let ended = living.into_iter().map(|thread| thread.join().expect("a client panicked; see above"));
        let (answers, under_way): (Vec<u64>, Vec<Op>) = ended.unzip();
        (answers.iter().sum(), under_way)
    })
}

/// What the server that came up again says, to operators and to machines.
fn compare_with_server(clients: &[Client<Wire>], round: u32) {
    let hosts = clients[0].door.hosts().unwrap_or_else(|broken| panic!("round {round}: {broken:?}"));
    let brakes = clients[0].door.brakes_to_change();
    assert!(matches!(brakes, Ok(0)), "round {round} lost the brakes: {:?}", brakes.map_err(show));
    for life in clients.iter().flat_map(|client| &client.lives) {
        let host = hosts.as_array().into_iter().flatten().find(|host| host["id"] == life.id().as_str());
        let host = host.unwrap_or(&Value::Null);
        let mut state = host["state"].as_str().unwrap_or_default().to_string();
        if state == "deploying" || state == "ready" {
            state = format!("{state}:{}", host["detail"].as_str().unwrap_or_default());
        }
        assert_eq!(state, life.state(), "round {round}: {host}, {life:?}");
        let attempts = host["order"]["attempts"].as_u64().map(|attempts| attempts as u32);
        assert_eq!(attempts, life.attempts, "round {round}: {host}, {life:?}");
        if life.lease.is_some() {
            let leased = wire::is_leased(life);
            assert!(matches!(leased, Ok(true)), "round {round}: {:?}, {life:?}", leased.map_err(show));
        }
    }
}

fn show(broken: Broken) -> String {
    format!("{broken:?}")
}

/// What lies in the store, as a copy of it, so that the server is the first to open what the kill left. The clients go
/// on from there: what was under way is known now.
fn compare_with_store(site: &Site, clients: &mut [Client<Wire>], round: u32) {
    let copy = site.path("copy");
    site.copy_state(&copy);
    let stored = records::read_under_load(&copy, HOSTS).unwrap_or_else(|why| panic!("round {round}: {why}"));
    let lives = || clients.iter().flat_map(|client| &client.lives);
    let lost: Vec<String> = lives().flat_map(|life| life.lost(&stored[usize::from(life.number)])).collect();
    assert!(lost.is_empty(), "round {round} lost what was answered:\n{}", lost.join("\n"));
    for life in clients.iter_mut().flat_map(|client| &mut client.lives) {
        *life = Life::resume(life.number, &stored[usize::from(life.number)]);
    }
}
