//! Brigade runs functions in worker processes that may crash, hang or leak without hurting anything
//! else. Anything that runs can be stopped, and every call that gives no value says how it ended
//! and what it cost.
//!
//! The same call runs in a pool on this machine, on workers of other hosts, or through a broker:
//! an SQLite file, PostgreSQL, Redis or RabbitMQ. Distribution is left to those engines.
//!
//! # Quick start
//!
//! A task is an ordinary function. Calling it describes a [`Call`]; a [`Pool`] runs it in a worker
//! process.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use brigade::{Pool, task};
//!
//! #[task]
//! fn add(a: i64, b: i64) -> i64 {
//!     a + b
//! }
//!
//! #[brigade::main] // worker processes start here and never reach main
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let pool = Pool::builder().workers(4).start().await?;
//!     assert_eq!(pool.call(add(3, 4)).await?, 7);
//!
//!     // Any plain function of this program, without a registration.
//!     assert_eq!(pool.run(|a: i64, b: i64| a * b, (3, 4)).await?, 12);
//!
//!     // A call starts when it is made. It can be stopped at any time.
//!     let call = pool.call(add(1, 2).timeout(Duration::from_secs(5)));
//!     call.cancel("the user left").await;
//!
//!     pool.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! A [`Broker`] keeps jobs until a [`Consumer`] has run them, whatever dies meanwhile.
//!
//! ```standalone_crate
//! # use std::time::Duration;
//! use brigade::{Broker, task};
//!
//! #[task]
//! fn greet(name: String) {
//!     println!("hello {name}");
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let url = format!("sqlite:{}/jobs.db", directory.path().display());
//! let broker = Broker::connect(&url).await?; // sqlite:jobs.db, redis://.., amqp://..
//! broker.push(greet("Ann".to_owned()).retries(3)).await?;
//!
//! // Serves the task's queue. Without `.in_process()` each attempt runs in a worker process.
//! broker
//!     .consumer()
//!     .task(greet)
//!     .in_process()
//!     .run_until(async { tokio::time::sleep(Duration::from_millis(100)).await })
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # The main types
//!
//! | type | what it is |
//! |---|---|
//! | [`task`](macro@task), [`Context`] | a named function; what it knows of its attempt |
//! | [`Call`] | a described call: task, arguments, [`Options`] |
//! | [`Pool`], [`Builder`] | worker processes on this machine that run calls; their settings |
//! | [`CallHandle`] | a running call: a future of its result, to stop and to watch |
//! | [`CallError`], [`AttemptReport`] | how a call ended that gave no value, and what is known of it |
//! | [`Error`], [`ErrorKind`] | what Brigade could not do |
//! | [`Broker`], [`Queue`] | where jobs wait; one queue of it |
//! | [`Job`], [`Lease`] | a durable request; a job that was handed out |
//! | [`Consumer`] | takes jobs from queues, runs and settles them |
//! | [`Schedule`] | pushes a job by the clock |
//! | [`Chain`], [`Group`] | jobs that depend on each other |
//! | [`Retry`], [`Limits`] | pauses between attempts; limits of a queue over all hosts |
//! | [`Place`] | "a pool or a broker", for code that runs with either |
//!
//! Further: [`Pool::map`] for a stream of inputs, [`Builder::init`] and [`Context::state`] for
//! state that each worker builds once, [`Pool::events`] and [`Pool::stats`] to observe,
//! [`remote`](mod@remote) for workers on other hosts, [`testing`] for tests of code that pushes
//! jobs.
//!
//! # Cargo features
//!
//! | feature | what it adds |
//! |---|---|
//! | `sqlite` (default) | jobs in a file: `sqlite:jobs.db` |
//! | `postgres` | jobs in PostgreSQL: `postgres://user@host/database` |
//! | `sqlx` | pushes within transactions of sqlx; with `postgres` |
//! | `redis` | jobs on Redis or Valkey: `redis://host/` |
//! | `rabbitmq` | jobs and calls over RabbitMQ: `amqp://host/` |
//! | `remote` | workers on other hosts that join a pool |
//! | `tls` | TLS for what is enabled: `postgres://` with `sslmode`, `rediss://`, `amqps://`, `tls://` |
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
    Args, AttemptKind, AttemptLimits, AttemptOutcome, AttemptRecord, AttemptReport, Blocker, Bytes,
    Call, CallCounts, CallError, CallHandle, CancelOutcome, Cancelled, Capabilities, Captured,
    Chain, Clock, Codec, Context, Cost, DeadGroup, Durations, Edit, Error, ErrorKind, Event,
    EventCursor, EventPage, EventRequest, Exit, Explanation, Failure, Finding, FlowStep, Following,
    Function, Group, Job, JobContext, JobEvent, JobEventKind, JobFilter, JobId, JobInfo, JobPage,
    JobState, Level, LimitHit, Limits, LiveConsumer, MemoryHold, MemoryLimit, MinuteCounts, Missed,
    Options, Output, Parents, Pass, Place, Progress, ProgressStream, PushOutcome, QueueCounts,
    Rate, Recurrence, Retry, RetryAdvice, RunningJob, Sandbox, SandboxBuilder, Schedule, Scheduled,
    Settled, StatisticsFilter, Step, StopReceipt, Task, TaskCounts, Tick, TimedOut, ToFlow, ToJob,
    TraceParent, Unserved,
};
#[doc(inline)]
pub use brigade_core::{job_event, policy, statistics, store};

/// Spans for servers that push jobs on behalf of their clients; the table of all spans is in
/// `docs/tracing.md`.
pub mod span {
    pub use brigade_core::span::{record_response, request, traceparent_of};
}
#[cfg(fuzzing)]
#[doc(hidden)]
pub use brigade_pool::fuzzing;
#[cfg(feature = "remote")]
#[doc(inline)]
pub use brigade_pool::remote;
#[doc(inline)]
pub use brigade_pool::{
    BudgetUse, Builder, Confinement, Events, GroupLimits, Map, MonitorLine, MonitoredCall,
    MonitoredStats, MonitoredWorker, Neighbours, Order, Pool, ProgramTree, Shutdown, Stats, Times,
    WorkerCount, WorkerInfo, WorkerState, init,
};
/// For the command.
#[cfg(feature = "sandbox")]
#[doc(hidden)]
pub use brigade_pool::{Confined, PreparedSandbox};

/// Pushing within a transaction of the application's own, in the SQLite file that has the jobs.
#[cfg(feature = "sqlite")]
pub mod sqlite {
    #[doc(inline)]
    pub use brigade_sqlite::{PushIn, SqlTransaction, SqlValue};
}

/// Pushing within a transaction of the application's own, in the PostgreSQL database that has the
/// jobs.
#[cfg(feature = "postgres")]
pub mod postgres {
    #[doc(inline)]
    pub use brigade_postgres::{DriverError, PostgresTransaction, PushInPostgres, push_all_in};
}
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
