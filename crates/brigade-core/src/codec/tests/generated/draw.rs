//! [`Draw`]: numbers and texts at random, the same ones again from the same seed.

/// A small generator of numbers (SplitMix64); the packages have no test kit.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 1).unwrap() % limit
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    pub(super) fn text(&mut self) -> String {
        let texts = [
            "",
            "a",
            "null",
            "AAAA",
            "1",
            "-0.0",
            "NaN",
            "true",
            "\u{0}",
            "🦀\u{10ffff}",
            "\"\\\n",
            "type",
            "\u{0}brigade:none",
            "ünï",
            "[]",
            "x y",
        ];
        texts[self.below(texts.len())].to_owned()
    }

    /// Of so many bits, often at an end of what they hold.
    pub(super) fn number(&mut self, bits: u8) -> u128 {
        let all = u128::MAX >> (128 - bits);
        match self.below(6) {
            0 => 0,
            1 => 1,
            2 => all,
            3 => all >> 1,
            4 => (all >> 1) + 1,
            _ => self.wide() & all,
        }
    }
}
