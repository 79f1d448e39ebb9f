//! The worker's side: the life of a child process that belongs to a pool.
//!
//! Threads: the *main* thread runs attempts; a worker with many slots adds more like it while
//! attempts block. The *monitor* reads the control channel, so that a stop is heard while a task
//! hogs its thread, and ends the whole process group when the pool is gone. A worker with many
//! slots also has a *ticker*, see `serve`.
//!
//! Invariants: a result is written before anything is read that could make the worker begin another
//! attempt on the same slot; standard output and error belong to the tasks; an attempt is answered
//! exactly once.

mod attempt;
mod crash_note;
mod failed_start;
mod hooks;
mod hygiene;
mod identity;
mod limits;
mod logs;
mod meter;
mod monitor;
mod panics;
mod sandbox;
mod serve;
mod start;
mod threads;
mod title;

pub(crate) use start::enter_if_worker;
pub use threads::{Start, create_thread};
