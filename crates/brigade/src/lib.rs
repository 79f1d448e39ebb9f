//! Brigade runs functions in worker processes that may crash, hang or leak without hurting anything
//! else. Anything that runs can be stopped, and every call that gives no value tells how it ended
//! and what it cost.
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
//! | run jobs one after another, or many and then one | `Chain`, `Group` |
//! | keep jobs in a file | `Broker`, `Queue`, `Consumer` (feature `sqlite`, on by default) |
//! | let workers of other hosts join | `Builder::listen`, `remote` (feature `remote`) |
//! | push jobs by the clock | `Schedule`, `Broker::schedule` |
//! | test code that pushes jobs | `testing` |
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
#![cfg_attr(
    all(feature = "rabbitmq", not(any(feature = "redis", feature = "sqlite"))),
    expect(
        dead_code,
        unused_imports,
        reason = "RabbitMQ lists, schedules and joins no jobs"
    )
)]

mod address;
mod attempt_report;
#[cfg(feature = "broker")]
mod broker;
mod call;
#[cfg(feature = "broker")]
mod clock;
mod codec;
#[cfg(feature = "broker")]
mod consume;
mod context;
mod entry;
mod error;
mod event;
#[cfg(feature = "broker")]
mod finding;
#[cfg(feature = "broker")]
mod flow;
#[cfg(test)]
mod fuzz;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "remote")]
mod host;
#[cfg(feature = "broker")]
mod job;
mod job_context;
#[cfg(feature = "broker")]
mod limits;
mod link;
mod outcome;
mod payload;
pub mod policy;
mod pool;
mod printable;
mod process;
mod progress;
mod refused;
mod registry;
#[cfg(feature = "remote")]
pub mod remote;
mod retry;
#[cfg(feature = "broker")]
mod schedule;
mod shutdown;
mod stop;
#[cfg(feature = "broker")]
pub mod store;
mod sync;
mod task;
#[cfg(feature = "broker")]
pub mod testing;
mod traceparent;
#[cfg(feature = "broker")]
mod why;
mod wire;
mod worker;

pub use brigade_macros::{main, task};

pub use attempt_report::{
    AttemptOutcome, AttemptReport, Cost, Exit, MemoryLimit, Step, StopReceipt,
};
#[cfg(feature = "broker")]
pub use broker::{
    Broker, BrokerCall, CallProgress, Lease, Manager, Queue, ScheduleChanges, Stopped, TakenJob,
    ToJob,
};
#[cfg(feature = "sqlite")]
pub use broker::{PushIn, SqlTransaction, SqlValue};
pub use call::Call;
#[cfg(feature = "broker")]
pub use clock::Clock;
pub use codec::Codec;
#[cfg(feature = "broker")]
pub use consume::{
    Consumer, ConsumerHandle, ConsumerStats, HandlerEnd, HandlerStop, LeasedJob, Served,
    SettledAttempt,
};
pub use context::Context;
pub use entry::init;
pub use error::{Error, ErrorKind};
pub use event::Event;
#[cfg(feature = "broker")]
pub use finding::{Finding, Level};
#[cfg(feature = "broker")]
pub use flow::{Chain, FlowStep, Following, Group, PushedFlow, ToFlow};
#[cfg(feature = "broker")]
pub use job::{AttemptKind, AttemptRecord, Job, JobId, JobInfo, JobState, Parents, Unserved};
pub use job_context::JobContext;
#[cfg(feature = "broker")]
pub use limits::{Limits, Rate};
pub use outcome::{CallError, Cancelled, Failure, Pass, RetryAdvice, TimedOut};
pub use payload::Bytes;
pub use pool::{
    Builder, CallHandle, Events, Map, Neighbours, Order, Pool, ProgressStream, Shutdown, Stats,
    Times, WorkerCount, WorkerInfo, WorkerState,
};
pub use process::{Captured, GroupLimits, Output};
pub use progress::Progress;
pub use retry::Retry;
#[cfg(feature = "broker")]
pub use schedule::{Missed, Recurrence, Schedule, Scheduled, Tick};
pub use stop::{StopSignal, stop_signal};
#[cfg(feature = "broker")]
pub use store::{
    CallCounts, CancelOutcome, Capabilities, Edit, LiveConsumer, PushOutcome, QueueCounts, Settled,
};
pub use task::{Args, Function, Task};
pub use traceparent::TraceParent;
#[cfg(feature = "broker")]
pub use why::{Blocker, Explanation};

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
    pub use linkme;

    pub use crate::call::call;
    pub use crate::entry::{block_on, enter_before_main};
    pub use crate::registry::{FUNCTIONS, FunctionEntry, Invoke, TASKS, TaskEntry, function};
    pub use crate::task::{
        Invocation, IsResult, MayNotSend, MaySend, NoResult, Refusal, Returned, SendProbe,
        future_of_a_task, signature,
    };
    pub use crate::worker::{Start, create_thread};
}

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
