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
    match catch_unwind(AssertUnwindSafe(|| live(seed, Trace::default()))) {
        Ok(lived) => lived,
        Err(_) => {
            let trace = Trace::kept();
            let again = catch_unwind(AssertUnwindSafe(|| live(seed, trace.clone())));
            let tail = trace.tail();
            let same = if again.is_err() { "" } else { "it did not fail when it was run again!\n" };
            panic!(
                "seed {seed} breaks a law; the last of what happened:\n{tail}\n{same}\
                 the whole of it: REGILD_SIM_SEED={seed} cargo test --test sim one_seed -- --nocapture"
            );
        }
    }
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
