//! Jobs on RabbitMQ under faults and bad use, on real servers: killed, stopped, short of memory,
//! impatient, with queues deleted and fed by other programs.
//!
//! Test names carry the ids of the fault checklist (F36 .. F42); `bad_use_` is what misuse gets.
//! Counts are small by default; `BRIGADE_FULL=1` runs the full ones. `BRIGADE_SEED` repeats a run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod attack;
mod bad_use;
mod check;
mod crash;
mod faults;
mod holders;
mod limits;
mod load;
mod many_queues;
mod order;
mod patience;
mod probe;
mod several;
mod stage;

brigade::test_workers!();
