//! The fault tests: real processes are killed, stopped, starved and flooded, then everything is
//! counted.
//!
//! Test names begin with the id of the fault checklist (A1 .. A14, B15 .. B17, I51; `load_` are the
//! load tests, `x_` further attacks). Each test runs its scenario in a program of its own, this
//! very binary started again (see `stage`), so that processes, descriptors and memory can be
//! counted whatever else runs, and so that a hang ends as a failure.
//!
//! By default counts are small enough for a loaded machine with two cores: A1 1,500 jobs, A11 400
//! cycles, I51 1,000 jobs and 100 poisons, noise 20 workers, the race of cancels 2,000 calls.
//! `BRIGADE_FULL=1` runs 10,000 jobs, 100,000 cycles, 10,000 jobs and 1,000 poisons, 1,000 workers
//! and 100,000 calls. The load test always makes its 10,000 calls. `BRIGADE_SEED` repeats a run.
//!
//! What needs root (control groups, a PID namespace) runs where it can; where it cannot, the test
//! prints what is missing and checks that the library says so.

#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

mod cgroup;
mod chaos;
mod crash;
mod damage;
mod held_up;
mod host;
mod hostile;
mod identity;
mod kill;
mod leaks;
mod limits;
mod load;
mod parent;
mod schedules;
mod stage;
mod start;
mod states;
mod surroundings;
mod tasks;
mod ten_endings;

brigade::test_workers!();
