//! A small seeded generator (SplitMix64), so that a failed run can be run again.

use std::ops::Range;
use std::time::Duration;

/// Draws numbers from a seed.
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// Seeded by `BRIGADE_SEED`, or by the clock; prints the seed.
    pub fn from_env() -> Self {
        let given = std::env::var("BRIGADE_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seed = given.unwrap_or_else(|| {
            mix(now.tv_nsec.cast_unsigned() ^ (u64::from(std::process::id()) << 32)) >> 16
        });
        println!("BRIGADE_SEED={seed}");
        Self::new(seed)
    }

    /// Seeded by a number.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// The seed, for messages.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number of the range, which must not be empty. The bias of a remainder does not matter
    /// here.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.draw() % (range.end - range.start)
    }

    /// A time of the range.
    pub fn time(&mut self, range: Range<Duration>) -> Duration {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.within(micros(range.start)..micros(range.end)))
    }

    /// One of these; `None` if there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let count = items.len() as u64;
        (count > 0).then(|| &items[usize::try_from(self.within(0..count)).unwrap_or(0)])
    }
}

fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_within_its_bounds() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.within(5..10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(3).iter().all(|number| (5..10).contains(number)));
        assert!(Random::new(1).pick::<u8>(&[]).is_none());
    }
}
