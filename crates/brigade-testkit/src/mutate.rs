//! Bytes for decoders: valid ones that were damaged, from a seed.

use crate::random::Random;

/// No input is longer.
const BYTES_MAX: usize = 64 << 10;
/// Numbers at which lengths and counters tend to break.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];
/// Texts that decoders, logs and terminals tend to stumble over: depth, ends of strings, escapes,
/// invalid UTF-8, odd numbers.
const TEXTS: [&[u8]; 18] = [
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":",
    b"]",
    b"}",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\x1b[31m",
    b"\r\n",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "\u{202e}".as_bytes(),
    b"null",
    b"1e999",
    b"-9223372036854775809",
    b"* * 31 2 *",
    b"*/0",
];

/// Draws inputs from a corpus of valid ones.
#[derive(Clone, Debug)]
pub struct Mutator {
    random: Random,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// With a corpus that is not empty.
    pub fn new(random: Random, corpus: Vec<Vec<u8>>) -> Self {
        Self { random, corpus }
    }

    /// The next input: one of the corpus with some of its bytes changed, moved, left out or joined
    /// with another's; sometimes noise.
    pub fn draw(&mut self) -> Vec<u8> {
        let mut input = match self.random.within(0..16) {
            0 => (0..self.random.within(0..200))
                .map(|_| self.random.draw().to_le_bytes()[0])
                .collect(),
            _ => self.random.pick(&self.corpus).cloned().unwrap_or_default(),
        };
        for _ in 0..self.random.within(0..6) {
            self.change(&mut input);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = at + self.below(input.len() - at + 1).min(64);
        match self.random.within(0..9) {
            0 if at < input.len() => input[at] ^= 1 << self.random.within(0..8),
            1 => self.put_number(input, at),
            2 => self.put_varint(input, at),
            3 => drop(input.drain(at..end)),
            4 => {
                let again = input[at..end].to_vec();
                let times = self.below(20);
                input.splice(at..at, again.repeat(times));
            }
            5 => input.truncate(at),
            6 => {
                let other = self.random.pick(&self.corpus).cloned().unwrap_or_default();
                let from = self.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let text = self.random.pick(&TEXTS).copied().unwrap_or_default();
                let times = 1 + self.below(3) * self.below(40);
                input.splice(at..at, text.repeat(times));
            }
        }
    }

    /// Puts a number over what is there: little endian, of 1 to 8 bytes.
    fn put_number(&mut self, input: &mut Vec<u8>, at: usize) {
        let number = self.random.pick(&NUMBERS).copied().unwrap_or_default();
        let bytes = &number.to_le_bytes()[..1 << self.random.within(0..4)];
        let end = (at + bytes.len()).min(input.len());
        input.splice(at..end, bytes.iter().copied());
    }

    /// Puts a number over a byte, as postcard writes it: seven bits a byte, the lowest first.
    fn put_varint(&mut self, input: &mut Vec<u8>, at: usize) {
        let mut number = self.random.pick(&NUMBERS).copied().unwrap_or_default();
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
        let end = (at + 1).min(input.len());
        input.splice(at..end, bytes);
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.random.within(0..end.max(1) as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_most_of_it_differs() {
        let draw = |seed| {
            let mut mutator = Mutator::new(
                Random::new(seed),
                vec![b"{\"name\":[1,2,3]}".to_vec(), vec![0; 40]],
            );
            (0..1000).map(|_| mutator.draw()).collect::<Vec<_>>()
        };
        let inputs = draw(7);
        assert_eq!(inputs, draw(7));
        assert!(inputs.iter().all(|input| input.len() <= BYTES_MAX));
        let different: std::collections::BTreeSet<_> = inputs.iter().collect();
        assert!(different.len() > 500, "{}", different.len());
    }
}
