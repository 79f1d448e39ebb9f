//! Whether a task left the process as it found it.
//!
//! After each attempt of a worker with one slot, once its answer is on its way, the state of the
//! process is compared with that before the first attempt. A worker that was changed begins nothing
//! more and is replaced, so that no later task sees the change. `docs/workers.md` lists what is
//! compared. Workers with many slots are not checked: there, attempts share the process by choice.
//!
//! A full look costs about 20 us, a quick one 5. That is little compared with an attempt of more
//! than [`SHORT`], and nothing where attempts are rare. Only in a burst of short attempts, without
//! a pause of [`PAUSE`], does it add up. There, after [`BURST`] of them, a full look is taken once
//! in [`FULL_EVERY`], and a quick one after each attempt.

mod full;
mod hash;
mod process_state;
mod quick;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use full::Full;
use quick::Quick;

use super::panics;
use crate::sync::lock;

/// An attempt that takes longer always gets a full look.
const SHORT: Duration = Duration::from_micros(50);
/// Without an attempt for so long, a burst is over.
const PAUSE: Duration = Duration::from_millis(5);
/// More short attempts than this are a burst.
const BURST: u32 = 64;
/// Longest time without a full look in a burst.
const FULL_EVERY: Duration = Duration::from_millis(1);

static HYGIENE: Mutex<Option<Hygiene>> = Mutex::new(None);

struct Hygiene {
    quick: Quick,
    full: Full,
    began: Instant,
    answered: Instant,
    last_full: Instant,
    /// Short attempts without a pause.
    short: u32,
}

/// Notes the state before the first attempt. Called by the thread that runs attempts.
pub(super) fn take_baseline() {
    let now = Instant::now();
    let hygiene = Hygiene {
        quick: Quick::new(),
        full: Full::new(),
        began: now,
        answered: now,
        last_full: now,
        short: 0,
    };
    *lock(&HYGIENE) = Some(hygiene);
}

/// An attempt begins.
pub(super) fn begin() {
    if let Some(hygiene) = lock(&HYGIENE).as_mut() {
        hygiene.began = Instant::now();
    }
}

/// An attempt was answered: what it changed, if anything, as a reason to replace the worker.
pub(super) fn changed() -> Option<String> {
    let mut hygiene = lock(&HYGIENE);
    let hygiene = hygiene.as_mut()?;
    let now = Instant::now();
    let short = now - hygiene.began < SHORT;
    if hygiene.began.saturating_duration_since(hygiene.answered) >= PAUSE {
        hygiene.short = 0;
    }
    hygiene.short = hygiene.short.saturating_add(u32::from(short));
    hygiene.answered = now;
    let quick = if panics::is_ours() {
        hygiene.quick.changed()
    } else {
        Some("the panic hook")
    };
    let what = quick.or_else(|| {
        let is_due = !short || hygiene.short <= BURST || now - hygiene.last_full >= FULL_EVERY;
        is_due.then(|| {
            hygiene.last_full = now;
            hygiene.full.changed()
        })?
    });
    what.map(|what| format!("a task changed {what} of the process"))
}
