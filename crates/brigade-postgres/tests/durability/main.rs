//! What PostgreSQL keeps and does not accumulate: a server that is killed under load or right after
//! a hand-out, and a foreign transaction that holds an old snapshot.
//!
//! Counts are small by default; `BRIGADE_FULL=1` runs the full ones. `BRIGADE_SEED` repeats a run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod crash;
mod snapshot;
mod undone_lease;

brigade::test_workers!();
