//! Brigade's values: calls, jobs, outcomes, errors, formats. No IO and no runtime.
//!
//! Programs use the crate `brigade`, which has all of this under its own name. The modules are for
//! the crates of Brigade: their contents may change with each release.

#[doc(hidden)]
pub mod address;
#[doc(hidden)]
pub mod args;
#[doc(hidden)]
pub mod attempt_limits;
#[doc(hidden)]
pub mod attempt_report;
#[doc(hidden)]
pub mod call;
#[doc(hidden)]
pub mod call_handle;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod codec;
#[doc(hidden)]
pub mod context;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod event;
#[doc(hidden)]
pub mod finding;
#[doc(hidden)]
pub mod flow;
#[doc(hidden)]
pub mod function;
#[doc(hidden)]
pub mod invocation;
#[doc(hidden)]
pub mod job;
#[doc(hidden)]
pub mod job_context;
#[doc(hidden)]
pub mod job_event;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod options;
#[doc(hidden)]
pub mod outcome;
#[doc(hidden)]
pub mod output;
#[doc(hidden)]
pub mod payload;
#[doc(hidden)]
pub mod place;
pub mod policy;
#[doc(hidden)]
pub mod printable;
#[doc(hidden)]
pub mod progress;
#[doc(hidden)]
pub mod progress_queue;
#[doc(hidden)]
pub mod refused;
#[doc(hidden)]
pub mod registry;
#[doc(hidden)]
pub mod request;
#[doc(hidden)]
pub mod retry;
#[doc(hidden)]
pub mod sandbox;
#[doc(hidden)]
pub mod schedule;
#[doc(hidden)]
pub mod signature;
#[doc(hidden)]
pub mod span;
#[doc(hidden)]
pub mod statistics;
pub mod store;
#[doc(hidden)]
pub mod sync;
#[doc(hidden)]
pub mod task;
#[doc(hidden)]
pub mod tick;
#[doc(hidden)]
pub mod to_job;
#[doc(hidden)]
pub mod traceparent;
#[doc(hidden)]
pub mod why;

/// For the macros of `brigade`.
#[doc(hidden)]
pub use linkme;

pub use args::Args;
pub use attempt_limits::AttemptLimits;
pub use attempt_report::{
    AttemptOutcome, AttemptReport, Cost, Exit, LimitHit, MemoryHold, MemoryLimit, Step, StopReceipt,
};
pub use call::Call;
pub use call_handle::{CallHandle, ProgressStream};
pub use clock::Clock;
pub use codec::Codec;
pub use context::Context;
pub use error::{Error, ErrorKind};
pub use event::Event;
pub use finding::{Finding, Level};
pub use flow::{Chain, FlowStep, Following, Group, ToFlow};
pub use function::Function;
pub use job::{AttemptKind, AttemptRecord, Job, JobId, JobInfo, JobState, Parents, Unserved};
pub use job_context::JobContext;
pub use job_event::{EventCursor, EventPage, EventRequest, JobEvent, JobEventKind};
pub use limits::{Limits, Rate};
pub use options::Options;
pub use outcome::{CallError, Cancelled, Failure, Pass, RetryAdvice, TimedOut};
pub use output::{Captured, Output};
pub use payload::Bytes;
pub use place::Place;
pub use progress::Progress;
pub use retry::Retry;
pub use sandbox::{Sandbox, SandboxBuilder};
pub use schedule::{Missed, Recurrence, Schedule, Scheduled};
pub use statistics::{Durations, MinuteCounts, StatisticsFilter, TaskCounts};
pub use store::{
    CallCounts, CancelOutcome, Capabilities, DeadGroup, Edit, JobFilter, JobPage, LiveConsumer,
    PushOutcome, QueueCounts, RunningJob, Settled,
};
pub use task::Task;
pub use tick::Tick;
pub use to_job::ToJob;
pub use traceparent::TraceParent;
pub use why::{Blocker, Explanation};
