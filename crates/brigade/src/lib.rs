//! Brigade runs functions in worker processes that may crash, hang or leak without hurting anything
//! else. Anything that runs can be stopped, and the error of a call says how it ended and what it
//! cost.
//!
//! ```no_run
//! use brigade::{Pool, task};
//!
//! #[task]
//! fn add(a: i64, b: i64) -> i64 {
//!     a + b
//! }
//!
//! #[brigade::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let pool = Pool::builder().workers(4).start().await?;
//!     assert_eq!(pool.call(add(3, 4)).await?, 7);
//!     assert_eq!(pool.run(|a: i64, b: i64| a * b, (3, 4)).await?, 12);
//!     pool.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! # What to look at
//!
//! | you want to | see |
//! |---|---|
//! | make a function callable by name | [`task`](macro@task), [`Context`] |
//! | run any function of this program | [`Pool::run`], [`Call::of`] |
//! | set a timeout, a memory limit, retries | [`Call`] |
//! | size, recycle, pin, limit workers | [`Builder`] |
//! | stop, await, watch a call | [`CallHandle`] |
//! | know how it ended | [`CallError`], [`AttemptReport`], [`AttemptOutcome`] |
//! | run a stream of inputs | [`Pool::map`] |
//! | build state once per worker | [`Builder::init`], [`Context::state`] |
//! | see what happens | [`Pool::stats`], [`Pool::workers`], [`Pool::events`] |
//! | run jobs one after another, or many and then one | [`Chain`], [`Group`] |
//! | keep jobs at a broker | [`Broker`], [`Queue`], [`Consumer`] |
//! | let workers of other hosts join | [`Builder::listen`], [`remote`](mod@remote) |
//! | push jobs by the clock | [`Schedule`], [`Broker::schedule`] |
//! | test code that pushes jobs | [`testing`] |
//!
//! # Cargo features
//!
//! | feature | what it adds |
//! |---|---|
//! | `sqlite` (default) | jobs in a file: `sqlite:jobs.db` |
//! | `redis` | jobs on Redis or Valkey: `redis://host/` |
//! | `rabbitmq` | jobs and calls over RabbitMQ: `amqp://host/` |
//! | `remote` | workers on other hosts that join a pool |
//! | `tls` | TLS for what is enabled: `rediss://`, `amqps://`, `tls://` |
//!
//! # How a stop works
//!
//! Whether by [`CallHandle::cancel`], a timeout, a memory limit or [`Pool::shutdown`]: the task is
//! asked ([`Context::is_cancelled`], [`Context::on_cancel`]), then its process tree gets SIGTERM,
//! then SIGKILL, each step with its own bound ([`Builder::kill_after`]). A task that stops when
//! asked keeps its worker.
//!
//! # What workers are
//!
//! This program started again, by [`main`](macro@main) or [`init`]: an own process group, a clean
//! environment ([`Builder::env`]), no inherited descriptors, no arguments of this process
//! ([`Builder::program`]), no way to more privileges. They end when this process ends, however it
//! ends. A setuid, setgid or file-capability program is never a worker. A task that changes its
//! process (timers, standard streams, working directory, umask, environment, limits, signals, user,
//! scheduling, namespaces and more) is the last of its worker, which is replaced; `docs/workers.md`
//! has the whole table.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod broker;
mod consume;
mod pushed_flow;
mod stop;
pub mod testing;

use brigade_core::{
    attempt_report, call, call_handle, clock, codec, context, error, finding, flow, job,
    job_context, limits, outcome, place, progress, registry, retry, schedule, sync, to_job,
    traceparent, why,
};
use brigade_runtime::shutdown;

pub use brigade_macros::{main, task};

#[doc(inline)]
pub use brigade_core::{
    Args, AttemptKind, AttemptOutcome, AttemptRecord, AttemptReport, Blocker, Bytes, Call,
    CallCounts, CallError, CallHandle, CancelOutcome, Cancelled, Capabilities, Captured, Chain,
    Clock, Codec, Context, Cost, Edit, Error, ErrorKind, Event, Exit, Explanation, Failure,
    Finding, FlowStep, Following, Function, Group, Job, JobContext, JobId, JobInfo, JobState,
    Level, Limits, LiveConsumer, MemoryLimit, Missed, Options, Output, Parents, Pass, Place,
    Progress, ProgressStream, PushOutcome, QueueCounts, Rate, Recurrence, Retry, RetryAdvice,
    Schedule, Scheduled, Settled, Step, StopReceipt, Task, Tick, TimedOut, ToFlow, ToJob,
    TraceParent, Unserved,
};
#[doc(inline)]
pub use brigade_core::{policy, store};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use brigade_pool::fuzzing;
#[cfg(feature = "remote")]
#[doc(inline)]
pub use brigade_pool::remote;
#[doc(inline)]
pub use brigade_pool::{
    Builder, Events, GroupLimits, Map, Neighbours, Order, Pool, Shutdown, Stats, Times,
    WorkerCount, WorkerInfo, WorkerState, init,
};

#[cfg(feature = "sqlite")]
#[doc(inline)]
pub use brigade_sqlite::{PushIn, SqlTransaction, SqlValue};
pub use broker::{Broker, Lease, Manager, Queue, ScheduleChanges, Stopped, TakenJob};
pub use consume::{
    Consumer, ConsumerHandle, ConsumerStats, HandlerEnd, HandlerStop, LeasedJob, Served,
    SettledAttempt,
};
pub use pushed_flow::PushedFlow;
pub use stop::{StopSignal, stop_signal};

/// Lets pools start workers in a test file, under `cargo test` and nextest alike: one line at its
/// top level.
///
/// The test harness owns `main` there, so workers are entered from a constructor (`.init_array`)
/// before it. With the GNU C library the macro also stands in front of `pthread_create`, so that
/// threads which a task starts can report a stack overflow, as they can in a program with a `main`
/// of its own. So it may stand only once in a test program.
#[macro_export]
macro_rules! test_workers {
    () => {
        const _: () = {
            #[used]
            #[unsafe(link_section = ".init_array")]
            static ENTER: extern "C" fn() = $crate::__private::enter_before_main;

            #[cfg(all(target_env = "gnu", not(miri)))]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn pthread_create(
                thread: *mut ::core::ffi::c_void,
                attributes: *const ::core::ffi::c_void,
                start: $crate::__private::Start,
                argument: *mut ::core::ffi::c_void,
            ) -> ::core::ffi::c_int {
                unsafe { $crate::__private::create_thread(thread, attributes, start, argument) }
            }
        };
    };
}

/// Names plain functions that other hosts may be asked for, with [`Pool::run`] or [`Call::of`]: the
/// pool's program and the hosts' must be the same build, and the hosts allow it
/// (`brigade::remote::serve(..).functions(true)`). What travels is a function's place in this list,
/// so that a host runs nothing else. Workers of the pool itself run any function.
///
/// ```
/// fn total(prices: Vec<u64>) -> u64 { prices.iter().sum() }
/// fn mul(a: i64, b: i64) -> i64 { a * b }
/// brigade::functions!(total, mul);
/// ```
#[macro_export]
macro_rules! functions {
    ($($function:path),+ $(,)?) => {
        $(const _: () = {
            #[$crate::__private::linkme::distributed_slice($crate::__private::FUNCTIONS)]
            #[linkme(crate = $crate::__private::linkme)]
            static FUNCTION: $crate::__private::FunctionEntry = $crate::__private::function($function);
        };)+
    };
}

/// What the macros use. Not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use brigade_core::linkme;

    pub use brigade_core::call::call;
    pub use brigade_core::invocation::{Invocation, Invoke, Refusal, Returned};
    pub use brigade_core::registry::{FUNCTIONS, FunctionEntry, TASKS, TaskEntry, function};
    pub use brigade_core::signature::signature;
    pub use brigade_core::task::{
        IsResult, MayNotSend, MaySend, NoResult, SendProbe, future_of_a_task,
    };
    pub use brigade_pool::{Start, create_thread};
    pub use brigade_pool::{block_on, enter_before_main};
}

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
