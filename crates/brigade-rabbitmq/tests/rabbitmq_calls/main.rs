//! Calls over RabbitMQ: answers, cancels, passes, live reload, faults, and workers and callers in
//! another language. On a real server.
//!
//! Test names carry the ids of the fault checklist (F39, F40). Tests that do the server no harm
//! share one, each in a namespace of its own. Counts are small by default; `BRIGADE_FULL=1` runs
//! the full ones. `BRIGADE_SEED` repeats a run.

#![expect(clippy::cast_possible_wrap, reason = "counts of a test are small")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod answers;
mod attack;
mod cancel;
mod confirms;
mod other_language;
mod pass;
mod patience;
mod reload;
mod server;
mod stage;
mod waits;

brigade::test_workers!();
