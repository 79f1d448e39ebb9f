//! The four calls that would end a program that ran them itself.

#![expect(
    unsafe_code,
    reason = "a segfault is provoked by writing to an address where nothing is"
)]

use std::hint::black_box;
use std::ptr;
use std::time::Duration;

use brigade::{AttemptOutcome, Call, CallError, TimedOut, task};

/// How long the endless loop may run.
const LOOP_TIMEOUT: Duration = Duration::from_millis(500);
/// What the hog may use.
const HOG_BYTES: u64 = 64 << 20;
/// What the calls print is kept for their reports, so that it does not disturb the terminal.
const CAPTURE_BYTES: usize = 64 << 10;

/// A bad call, what it is and how it has to end.
pub(crate) struct Mishap {
    pub(crate) name: &'static str,
    pub(crate) call: fn() -> Call<()>,
    pub(crate) is_expected: fn(&CallError) -> bool,
}

pub(crate) const MISHAPS: [Mishap; 4] = [
    Mishap {
        name: "segfault",
        call: || segfault().capture(CAPTURE_BYTES),
        is_expected: |error| matches!(error, CallError::Crashed(c) if c.ended == AttemptOutcome::Signalled),
    },
    Mishap {
        name: "stack overflow",
        call: || stack_overflow().capture(CAPTURE_BYTES),
        is_expected: |error| matches!(error, CallError::Crashed(c) if c.ended == AttemptOutcome::StackOverflow),
    },
    Mishap {
        name: "endless loop",
        call: || endless_loop().capture(CAPTURE_BYTES).timeout(LOOP_TIMEOUT),
        is_expected: |error| matches!(error, CallError::TimedOut(TimedOut::Run(_))),
    },
    Mishap {
        name: "memory hog",
        call: || memory_hog().capture(CAPTURE_BYTES).memory(HOG_BYTES),
        is_expected: |error| matches!(error, CallError::Crashed(c) if matches!(c.ended, AttemptOutcome::OutOfMemory(_))),
    },
];

#[task(name = "demo.segfault")]
fn segfault() {
    // SAFETY: none, on purpose: nothing is ever mapped at address 16, so the kernel ends the
    // worker.
    unsafe { ptr::without_provenance_mut::<u8>(16).write_volatile(1) }
}

#[task(name = "demo.stack_overflow")]
fn stack_overflow() {
    black_box(descend(1));
}

fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    // Never true, which neither compiler nor lint can know.
    if black_box(depth) == 0 {
        0
    } else {
        descend(depth + 1) + frame[7]
    }
}

#[task(name = "demo.endless_loop")]
fn endless_loop() {
    loop {
        std::hint::spin_loop();
    }
}

#[task(name = "demo.memory_hog")]
fn memory_hog() {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1_u8; 1 << 20]));
    }
}
