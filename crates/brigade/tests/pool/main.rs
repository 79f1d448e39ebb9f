//! How a pool behaves, as its users count on it. Test names carry the ids of the checklist that
//! they cover; `tests/README.md` has the table, with what does not translate and why.
//! `tests/tidy/` checks that no id is forgotten.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

brigade::test_workers!();

mod builds;
mod calls;
mod cancel;
mod crash;
mod gate;
mod handle;
mod hooks;
mod logs;
mod macros;
mod map;
mod memory_budget;
mod metrics;
mod monitor;
mod outside;
mod panics;
mod probe;
mod process;
mod progress;
mod queue;
mod receipts;
mod recycle;
mod sharing;
mod shutdown;
mod sizing;
mod strays;
mod tasks;
mod timeout;
mod validation;
mod values;
