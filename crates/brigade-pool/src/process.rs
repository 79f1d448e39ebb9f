//! One child process, from its start to its reaping.
//!
//! A worker is this program started again: fork and exec by `posix_spawn`, never a bare fork, from
//! one thread that lives as long as the process (`PR_SET_PDEATHSIG` fires when the *thread* that
//! spawned ends). The child gets a cleared environment plus a list, the control socket as its
//! descriptor 0 and pipes as 1 and 2; it sets up the rest of itself in `worker::start` before any
//! code of the user runs.
//!
//! Signals go through the pidfd, or to the process group while its leader has not been reaped, so
//! that a reused number can never be hit. Where we may not signal a worker (this program gave up
//! its privileges after it had started it) the worker is asked to end itself. Descendants that left
//! the group are found by an environment variable that they inherit.

mod cgroup;
mod command;
mod console;
mod exit;
mod limit_watch;
mod orphans;
mod output;
mod posix_spawn;
pub(crate) mod proc_fs;
mod program_tree;
mod rights;
mod spawn;
mod standard_stream;
mod tree;
mod tree_use;
mod watch;

pub use cgroup::GroupLimits;
pub(crate) use cgroup::{ControlGroup, GroupCounts};
pub(crate) use command::Command;
pub(crate) use console::flush as flush_console;
pub(crate) use exit::{Death, Held, KILL_BOUND, Process, check_children_are_kept};
pub(crate) use limit_watch::{LimitedAttempt, WatchedTree, watch};
pub(crate) use output::Pipe;
pub use program_tree::{Confinement, ProgramTree};
pub(crate) use rights::{check_pool_rights, is_secure};
pub(crate) use spawn::{Spawned, spawn};
pub(crate) use tree::{cookie, end_own_strays, reap_orphans, sweep};
pub(crate) use tree_use::TreeUse;

/// Makes a child a worker: the process id of its pool, then blanks. The worker removes
/// it from its environment and writes its title over the memory, see `worker::title`.
pub(crate) const WORKER_VARIABLE: &str = "BRIGADE_WORKER";
