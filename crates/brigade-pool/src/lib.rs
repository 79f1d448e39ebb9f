//! Brigade's pool: it owns worker processes, gives them calls, watches, stops and restarts them,
//! and takes in worker hosts that join it.
//!
//! Programs use the crate `brigade`, which has all of this under its own name.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg_attr(not(feature = "sandbox"), path = "no_confinement.rs")]
mod confinement;
mod entry;
#[cfg(test)]
mod fuzz;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "remote")]
mod host;
mod link;
mod pool;
mod process;
#[cfg(feature = "remote")]
pub mod remote;
mod wire;
mod worker;

#[cfg(any(test, fuzzing))]
use brigade_core::payload;
#[cfg(feature = "remote")]
use brigade_core::printable;
use brigade_core::{
    address, args, attempt_limits, attempt_report, call, call_handle, codec, context, error, event,
    function, invocation, job_context, options, outcome, output, place, policy, progress,
    progress_queue, refused, registry, request, retry, sandbox, signature, sync, traceparent,
};
use brigade_runtime::shutdown;

/// For the command.
#[cfg(feature = "sandbox")]
#[doc(hidden)]
pub use confinement::{Confined, PreparedSandbox};
pub use entry::init;
/// For the macros of `brigade`.
#[doc(hidden)]
pub use entry::{block_on, enter_before_main};
pub use pool::{
    BudgetUse, Builder, Events, Map, MonitorLine, MonitoredCall, MonitoredStats, MonitoredWorker,
    Neighbours, Order, Pool, Shutdown, Stats, Times, WorkerCount, WorkerInfo, WorkerState,
};
pub use process::{Confinement, GroupLimits, ProgramTree};
#[doc(hidden)]
pub use worker::{Start, create_thread};
