//! The fleet under one seed: the real decisions, registry and scheduler, with simulated machines, network, disks, clock
//! and operators (ARCHITECTURE.md, "The simulation").

#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/documents.rs"]
mod documents;
#[path = "sim/laws.rs"]
mod laws;
#[path = "sim/machine.rs"]
mod machine;
#[path = "sim/operator.rs"]
mod operator;
#[path = "sim/racks.rs"]
mod racks;
#[path = "sim/server.rs"]
mod server;
#[path = "sim/service.rs"]
mod service;
#[path = "sim/store.rs"]
mod store;
#[path = "sim/trace.rs"]
mod trace;
#[path = "sim/world.rs"]
mod world;

use racks::{Lived, live};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use trace::Trace;

/// Runs one seed; when a law is broken it is run again to tell how.
fn run(seed: u64) -> Lived {
    let broken = match catch_unwind(AssertUnwindSafe(|| live(seed, Trace::default()))) {
        Ok(lived) => return lived,
        Err(payload) => words(payload),
    };
    let trace = Trace::kept();
    let again = catch_unwind(AssertUnwindSafe(|| live(seed, trace.clone()))).map_err(words);
    let tail = trace.tail();
    let same = if again.err() == Some(broken.clone()) { "" } else { "(something else when it was run again!)\n" };
    panic!(
        "the last of what happened in seed {seed}:\n{tail}\n{same}seed {seed} breaks a law: {broken}\n\
         the whole of it: REGILD_SIM_SEED={seed} cargo test --test sim one_seed -- --nocapture"
    );
}

fn words(payload: Box<dyn std::any::Any + Send>) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("REGILD_SIM_SEED") else { return };
    let lived = live(seed.parse().expect("REGILD_SIM_SEED is a number"), Trace::printed());
    println!("{lived:?}");
}

/// `REGILD_SIM_SEEDS` of them, from `REGILD_SIM_FIRST`.
#[test]
fn many_seeds_keep_all_laws() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (first, seeds) = (number("REGILD_SIM_FIRST", 1), number("REGILD_SIM_SEEDS", 200));
    let began = Instant::now();
    let mut all = Lived::default();
    for seed in first..first + seeds {
        let lived = run(seed);
        all.host_days += lived.host_days;
        all.orders += lived.orders;
        all.builds += lived.builds;
        all.commits += lived.commits;
        all.crashes += lived.crashes;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{seeds} seeds in {seconds:.1} s: {all:?}, {:.0} host-days a second", all.host_days as f64 / seconds);
}
