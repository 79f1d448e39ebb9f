//! What is special of PostgreSQL, on real servers: faults (killed, replaced by a standby, with
//! connections that are ended), poolers, bad use, the plans of statements. Everything else is in
//! the conformance suite.
//!
//! Counts are small by default; `BRIGADE_FULL=1` runs the full ones. `BRIGADE_SEED` repeats a run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod bad_use;
mod check;
mod chores;
mod cut_connections;
mod dead_processes;
mod flows;
mod full_disk;
mod isolation;
mod lost_connections;
mod migrate;
mod open_transactions;
mod plans;
mod pooler;
mod push_function;
mod roles;
mod search_path;
mod stage;
mod timeouts;
mod unique_keys;

brigade::test_workers!();
