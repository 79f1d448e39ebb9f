//! The Redis backend under faults and bad use, on real servers: killed, stopped, emptied, out of
//! memory, held up by a script, fed by other programs.
//!
//! Test names carry the ids of the fault checklist (E30 .. E35); `crash_` is the crash test,
//! `bad_use_` what misuse gets. Counts are small by default; `BRIGADE_FULL=1` runs the full ones.
//! `BRIGADE_SEED` repeats a run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod bad_use;
mod broken_keys;
mod crash;
mod gives_up;
mod gone;
mod idle_crowd;
mod look_costs;
mod lost_server;
mod many_queues;
mod memory;
mod other_host;
mod other_language;
mod pieces;
mod plain_clients;
mod recorded;
mod schedules;
mod stage;
mod torn;
mod wall_clock;

brigade::test_workers!();
