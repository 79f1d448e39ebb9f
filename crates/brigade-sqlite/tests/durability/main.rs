//! The fault tests of durable queues: programs that push and serve are killed, frozen, locked out
//! and cut from their disk; then what happened is compared with a ledger that no database keeps.
//!
//! Test names begin with the id of the fault checklist (B18, B19, D23 .. D29, I51, I52); `crash_`
//! are the crash tests. What dies, and what counts or breaks system calls, is a program of its own:
//! this very binary started again (see `stage`).
//!
//! By default counts are small enough for a loaded machine with two cores; `BRIGADE_FULL=1` runs
//! the full ones: 20 seeds of thousands of jobs, 200 power cuts, a lock of 30 s, 10,000 good jobs
//! and 1,000 poisons, 50,000 failures. `BRIGADE_SEED` repeats a run.
//!
//! A small disk is a tmpfs in a mount namespace of the test's own. Where neither root nor an
//! unprivileged user namespace may mount one, these tests fail and say so.

#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod alive;
mod chains;
mod commit;
mod crash;
mod damaged;
mod disk;
mod frozen;
mod full;
mod hidden;
mod locked;
mod power;
mod stage;
mod steps;
mod storm;
mod tasks;
mod verdict;

brigade::test_workers!();
