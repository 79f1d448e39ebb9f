//! The dispatcher's source of randomness: seeded, so that a simulation replays.
//!
//! It spreads pauses and ages; nothing depends on it being hard to guess.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A factor from `1 - spread` to 1.
    pub(super) fn jitter(&mut self, spread: f64) -> f64 {
        let unit = f64::from(u32::try_from(self.next() >> 32).unwrap_or(u32::MAX));
        1.0 - spread * unit / f64::from(u32::MAX)
    }
}
