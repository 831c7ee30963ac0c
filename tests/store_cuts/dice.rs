//! Numbers from a seed that is printed.

use regild::clock;

/// SplitMix64: a few lines that give the same numbers for ever.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From `REGILD_SEED`, or from chance: the moment of a kill cannot be repeated exactly anyway, so a new seed
    /// in each run finds more than the same one would.
    pub fn new(test: &str) -> Dice {
        let given = std::env::var("REGILD_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(u32::from_le_bytes(clock::random_bytes())));
        eprintln!("{test}: REGILD_SEED={seed}");
        Dice(seed)
    }

    pub fn from_seed(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A die of its own for a thread.
    pub fn split(&mut self) -> Dice {
        Dice(self.next())
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
