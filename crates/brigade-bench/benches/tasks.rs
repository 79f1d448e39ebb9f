//! What the workers run, and the inputs with their right answers.

use brigade::{Bytes, Context, task};
use md5::{Digest, Md5};

#[task]
pub(crate) fn noop() {}

#[task]
pub(crate) fn echo(data: Bytes) -> Bytes {
    data
}

#[task]
pub(crate) fn digest(data: Bytes) -> (Bytes, [u8; 16]) {
    let digest = md5(&data);
    (data, digest)
}

/// Which process answers.
#[task]
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// Keeps its worker busy until it is cancelled.
#[task]
pub(crate) async fn hold(cx: &Context) {
    cx.cancelled().await;
}

pub(crate) fn md5(data: &[u8]) -> [u8; 16] {
    Md5::digest(data).into()
}

/// Bytes that differ from seed to seed.
pub(crate) fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Inputs of [`digest`] with the right answers to them.
pub(crate) fn samples() -> Vec<(Bytes, [u8; 16])> {
    let sample = |seed| {
        let data = bytes(3072, seed);
        let digest = md5(&data);
        (data.into(), digest)
    };
    (0..64).map(sample).collect()
}
