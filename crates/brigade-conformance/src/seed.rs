//! Seeds and counts of random cases, from the environment.

use std::hash::{BuildHasher as _, RandomState};

/// `BRIGADE_SEED`, or a new seed; prints it, so that a failed run can be repeated.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("BRIGADE_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()) >> 16);
    println!("BRIGADE_SEED={seed}");
    seed
}

/// The count for a quick run, or with `BRIGADE_FULL=1` the whole one.
pub(crate) fn count(quick: usize, whole: usize) -> usize {
    match std::env::var("BRIGADE_FULL").as_deref() {
        Ok("1") => whole,
        _ => quick,
    }
}
