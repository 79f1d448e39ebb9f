//! A hash by which two states of one process differ.

/// One step of a hash that only has to tell two states of one process apart (FNV-1a, with a
/// rotation).
pub(super) fn mix(hash: u64, part: u64) -> u64 {
    (hash ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(5)
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let hash = words.by_ref().fold(0, |hash, word| {
        mix(
            hash,
            word.iter()
                .fold(0, |word, byte| word << 8 | u64::from(*byte)),
        )
    });
    words
        .remainder()
        .iter()
        .fold(hash, |hash, byte| mix(hash, u64::from(*byte)))
}
