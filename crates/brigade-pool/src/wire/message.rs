//! The messages inside frames. Control types are flat: a recursive one could overflow the stack of
//! the process that decodes it.
//!
//! Messages are values between a pool and its worker processes on the same host, and have no state.
//! The number of a frame's kind also says in which direction and on which of the two sockets it
//! goes.
//!
//! Invariants: `Hello` and `Ready` carry magic, version and build, so each side knows with whom it
//! speaks before the first call. A function travels as its distance from a known one only between
//! processes of one build, over their private sockets. A crash note has a fixed size, since a
//! signal handler writes it.
//!
//! Framing is in `frame`, the messages between hosts are in `remote`.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::attempt_limits::AttemptLimits;
use crate::codec::Codec;
use crate::job_context::JobContext;
use crate::options::Options;
use crate::retry::Retry;
use crate::sandbox::Sandbox;
use crate::traceparent::TraceParent;

/// Kinds of frames. Below 16: to the worker on data; 16-31: to the worker on control; 32-47: from
/// the worker on data; 48-63: from the worker on control.
pub(crate) mod kind {
    /// [`CallMeta`](super::CallMeta), then the arguments: run this.
    pub(crate) const CALL: u8 = 1;

    /// [`Hello`](super::Hello): who the worker is. Carries the data socket.
    pub(crate) const HELLO: u8 = 16;
    /// [`CancelFrame`](super::CancelFrame): ask the attempt to stop.
    pub(crate) const CANCEL: u8 = 17;
    /// Empty: are you there?
    pub(crate) const PING: u8 = 18;
    /// The number of a signal as u8: end your process tree as that signal would. For a pool that
    /// may not signal its worker.
    pub(crate) const END: u8 = 19;

    /// The result.
    pub(crate) const DONE: u8 = 32;
    /// [`Failure`](brigade_core::Failure).
    pub(crate) const FAILED: u8 = 33;
    /// [`PanicNote`](super::PanicNote).
    pub(crate) const PANICKED: u8 = 34;
    /// The reason as text.
    pub(crate) const PASSED: u8 = 35;
    /// The fraction as f64, the codec as u8, then the payload.
    pub(crate) const PROGRESS: u8 = 36;
    /// Empty: the call was not begun; run it elsewhere.
    pub(crate) const RETURNED: u8 = 37;
    /// `Refused`: the call cannot run here or its result cannot travel.
    pub(crate) const REFUSED: u8 = 38;
    /// Empty: the attempt has begun. Sent only where workers are shared and the call has a timeout.
    pub(crate) const STARTED: u8 = 39;
    /// The reason as text: this worker wants to be replaced and begins nothing more.
    pub(crate) const RETIRE: u8 = 40;
    /// [`LogRecord`](super::super::LogRecord): an event of `tracing`; id is the attempt or zero.
    pub(crate) const LOG: u8 = 41;
    /// [`Cost`](brigade_core::Cost): what the attempt took that is answered next. Only for attempts
    /// that ran for [`Cost::MEASURED_FROM`](brigade_core::Cost::MEASURED_FROM) or longer.
    pub(crate) const COST: u8 = 42;

    /// [`Ready`](super::Ready).
    pub(crate) const READY: u8 = 48;
    /// Empty.
    pub(crate) const PONG: u8 = 49;
    /// [`CrashNote`](super::CrashNote) of a process about to die of a signal.
    pub(crate) const CRASH_NOTE: u8 = 50;
    /// [`StartFailed`](super::StartFailed).
    pub(crate) const START_FAILED: u8 = 51;
    /// [`PanicNote`](super::PanicNote): a panic, sent before it unwinds. The frame's id is the
    /// attempt's or zero.
    pub(crate) const PANIC: u8 = 52;
    /// The largest resident memory that this process has had, in bytes as u64: sent when it exits
    /// or dies of a signal.
    pub(crate) const PEAK: u8 = 53;
}

/// The place of a worker: how it is set up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkerSettings {
    pub(crate) worker: u32,
    pub(crate) slots: u32,
    pub(crate) payload_bytes_max: u64,
    pub(crate) cpu: Option<u32>,
    pub(crate) nice: i32,
    pub(crate) init: Option<HookCall>,
    pub(crate) teardown: Option<u64>,
    /// Time after which an async task that was asked to stop and has not is dropped at its next
    /// await.
    pub(crate) drop_after: Duration,
    /// Most detailed level of log events that it sends: 0 none, 1 errors, 5 all.
    pub(crate) log_level: u8,
    /// Whether READY is to have the options of its tasks, because the pool is another program.
    pub(crate) report_tasks: bool,
    /// Added to the points by which the kernel's OOM killer chooses.
    pub(crate) oom_score_adj: i16,
    /// Leave the limit on core dumps as it is.
    pub(crate) core_dumps: bool,
    /// It runs one attempt, so that what limits the attempt can limit it for good.
    pub(crate) runs_once: bool,
}

/// A function of this program, as its distance from a known one, and its arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HookCall {
    pub(crate) offset: u64,
    pub(crate) args: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    pub(crate) build: u64,
    pub(crate) settings: WorkerSettings,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    pub(crate) build: u64,
    /// If the pool asked for them: the tasks of the worker's program whose registration has
    /// options.
    pub(crate) tasks: Vec<TaskDefaults>,
}

/// The options of a task's registration, for calls that do not have them: those that
/// [`Request::fill`](crate::request::Request::fill) fills in.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskDefaults {
    pub(crate) name: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) limits: AttemptLimits,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) priority: Option<i32>,
    pub(crate) retries: Option<u32>,
    pub(crate) retry: Option<RetryLine>,
    pub(crate) labels: Vec<Box<str>>,
}

impl TaskDefaults {
    pub(crate) fn new(name: &str, options: Options) -> Self {
        Self {
            name: name.to_owned(),
            timeout: options.timeout,
            queue_timeout: options.queue_timeout,
            limits: options.limits(),
            sandbox: options.sandbox,
            priority: options.priority,
            retries: options.retries,
            retry: options.retry.map(Into::into),
            labels: options.labels,
        }
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options {
            timeout: self.timeout,
            queue_timeout: self.queue_timeout,
            sandbox: self.sandbox.clone(),
            priority: self.priority,
            retries: self.retries,
            retry: self.retry.map(Into::into),
            labels: self.labels.clone(),
            ..Options::default()
        };
        options.set_limits(self.limits);
        options
    }
}

/// A [`Retry`], which has no form of its own without names of fields.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RetryLine {
    base: Duration,
    cap: Duration,
    within: Option<Duration>,
}

impl From<Retry> for RetryLine {
    fn from(retry: Retry) -> Self {
        Self {
            base: retry.base,
            cap: retry.cap,
            within: retry.within,
        }
    }
}

impl From<RetryLine> for Retry {
    fn from(line: RetryLine) -> Self {
        let mut retry = Self::exponential(line.base, line.cap);
        retry.within = line.within;
        retry
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StartFailed {
    pub(crate) message: String,
}

/// What stands before the arguments of a call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CallMeta<'a> {
    #[serde(borrow)]
    pub(crate) target: RunTarget<'a>,
    pub(crate) attempt: u32,
    pub(crate) codec: Codec,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limits: AttemptLimits,
    /// The sandbox that the worker has, or takes on before the attempt.
    pub(crate) sandbox: Option<Sandbox>,
    /// Whether to say when the attempt begins.
    pub(crate) tell_start: bool,
    /// The tick of a schedule that the call is for.
    pub(crate) tick: Option<SystemTime>,
    /// Number of the call where it was made, if that is another pool.
    pub(crate) number: Option<u64>,
    /// The job that the call is an attempt of.
    pub(crate) job: Option<Cow<'a, JobContext>>,
    /// The trace that the call belongs to.
    #[serde(deserialize_with = "TraceParent::read_field")]
    pub(crate) traceparent: Option<TraceParent>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum RunTarget<'a> {
    /// A registered task.
    Task(#[serde(borrow)] Cow<'a, str>),
    /// A function, as its distance from a known one. Honoured only between processes of one build,
    /// on the private socket pair: never from another host.
    Function(u64),
    /// A function by its place in the list of those that other hosts may ask for.
    Listed(u32),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CancelFrame {
    pub(crate) reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PanicNote {
    pub(crate) message: String,
    pub(crate) location: String,
}

/// What a worker says from its signal handler. Fixed size, so that it can be written there: the id
/// of the attempt that the thread was running stands in the frame; this byte, the number of the
/// signal as another, and 16 bytes of the thread's name are the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CrashNote {
    Signal = 0,
    StackOverflow = 1,
    OutOfMemory = 2,
}

impl CrashNote {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Signal, Self::StackOverflow, Self::OutOfMemory]
            .into_iter()
            .find(|words| *words as u8 == byte)
    }
}
