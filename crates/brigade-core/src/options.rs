//! [`Options`]: what a request says besides its task and its arguments, for calls and jobs alike.
//!
//! Both types set them by the same methods (the macro `option_setters`); `policy::admission` checks
//! them before a pool or a broker takes the request. What a request does not say, the task's
//! registration says where it runs, and otherwise the default of the setter holds.
//!
//! Stores keep the options of a job as JSON in the form that this module gives them. Fields that
//! only a pool knows are not part of it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};

use crate::attempt_limits::AttemptLimits;
use crate::clock::FAR;
use crate::retry::Retry;
use crate::sandbox::Sandbox;
use crate::tick::Tick;
use crate::traceparent::TraceParent;

/// What a request says besides its task and its arguments. Each field is described at the setter of
/// its name, on [`Call`](crate::Call) or [`Job`](crate::Job).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// See [`Job::priority`](crate::Job::priority).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// See [`Job::retries`](crate::Job::retries).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// See [`Job::retry`](crate::Job::retry).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// See [`Job::delay`](crate::Job::delay).
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "bounded_time"
    )]
    pub delay: Option<Duration>,
    /// See [`Job::at`](crate::Job::at).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<SystemTime>,
    /// See [`Job::key`](crate::Job::key).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Box<str>>,
    /// See [`Job::partition`](crate::Job::partition).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<Box<str>>,
    /// See [`Job::unique`](crate::Job::unique).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<Box<str>>,
    /// See [`Job::unique_for`](crate::Job::unique_for).
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "bounded_time"
    )]
    pub unique_for: Option<Duration>,
    /// See [`Job::timeout`](crate::Job::timeout).
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "bounded_time"
    )]
    pub timeout: Option<Duration>,
    /// See [`Job::memory`](crate::Job::memory).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// See [`Job::address_space`](crate::Job::address_space).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_space: Option<u64>,
    /// See [`Job::cpu`](crate::Job::cpu).
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "bounded_time"
    )]
    pub cpu: Option<Duration>,
    /// See [`Job::files`](crate::Job::files).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// See [`Job::processes`](crate::Job::processes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// See [`Job::file_size`](crate::Job::file_size).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size: Option<u64>,
    /// See [`Job::sandbox`](crate::Job::sandbox).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// See [`Job::label`](crate::Job::label).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Box<str>>,
    /// See [`Job::keep`](crate::Job::keep).
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "bounded_time"
    )]
    pub keep: Option<Duration>,
    /// The tick of a schedule that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tick: Option<Tick>,
    /// See [`Job::traceparent`](crate::Job::traceparent).
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "TraceParent::read_field"
    )]
    pub traceparent: Option<TraceParent>,
    /// See [`Call::queue_timeout`](crate::Call::queue_timeout).
    #[serde(skip)]
    pub queue_timeout: Option<Duration>,
    /// See [`Call::wait_out_passes`](crate::Call::wait_out_passes).
    #[serde(skip)]
    pub waits_out_passes: bool,
    /// See [`Call::labels`](crate::Call::labels).
    #[serde(skip)]
    pub labels: Vec<Box<str>>,
    /// See [`Call::capture`](crate::Call::capture).
    #[serde(skip)]
    pub capture_bytes: Option<usize>,
    /// See [`Call::alone`](crate::Call::alone).
    #[serde(skip)]
    pub alone: bool,
    /// Limits for what neither it nor its task's registration says.
    #[serde(skip)]
    pub default_limits: AttemptLimits,
}

/// The options of a request that says nothing.
pub(crate) static NO_OPTIONS: Options = Options {
    priority: None,
    retries: None,
    retry: None,
    delay: None,
    at: None,
    key: None,
    partition: None,
    unique: None,
    unique_for: None,
    timeout: None,
    memory: None,
    address_space: None,
    cpu: None,
    files: None,
    processes: None,
    file_size: None,
    sandbox: None,
    label: None,
    keep: None,
    tick: None,
    traceparent: None,
    queue_timeout: None,
    waits_out_passes: false,
    labels: Vec::new(),
    capture_bytes: None,
    alone: false,
    default_limits: NO_LIMITS,
};

const NO_LIMITS: AttemptLimits = AttemptLimits {
    memory: None,
    address_space: None,
    cpu: None,
    files: None,
    processes: None,
    file_size: None,
};

impl Options {
    /// The priority, 0 by default.
    pub fn priority(&self) -> i32 {
        self.priority.unwrap_or(0)
    }

    /// The number of retries, 0 by default.
    pub fn retries(&self) -> u32 {
        self.retries.unwrap_or(0)
    }

    /// The pauses between attempts.
    pub fn retry(&self) -> Retry {
        self.retry.unwrap_or_default()
    }

    /// What an attempt may use.
    pub fn limits(&self) -> AttemptLimits {
        AttemptLimits {
            memory: self.memory,
            address_space: self.address_space,
            cpu: self.cpu,
            files: self.files,
            processes: self.processes,
            file_size: self.file_size,
        }
    }

    /// Sets what an attempt may use.
    pub fn set_limits(&mut self, limits: AttemptLimits) {
        self.memory = limits.memory;
        self.address_space = limits.address_space;
        self.cpu = limits.cpu;
        self.files = limits.files;
        self.processes = limits.processes;
        self.file_size = limits.file_size;
    }

    /// With no time longer than [`FAR`]: nothing overflows that is computed with them, here or at a
    /// broker. When a job is due stays what it is: admission refuses what is too far away.
    #[must_use]
    pub fn bounded(self) -> Self {
        let time = |time: Option<Duration>| time.map(|time| time.min(FAR));
        Self {
            retry: self.retry.map(|retry| Retry {
                base: retry.base.min(FAR),
                cap: retry.cap.min(FAR),
                within: time(retry.within),
            }),
            unique_for: time(self.unique_for),
            timeout: time(self.timeout),
            cpu: time(self.cpu),
            keep: time(self.keep),
            ..self
        }
    }

    /// The options of the job that a call is pushed as: without those that only a pool knows.
    #[must_use]
    pub(crate) fn of_job(self) -> Self {
        Self {
            queue_timeout: None,
            waits_out_passes: false,
            labels: Vec::new(),
            capture_bytes: None,
            alone: false,
            default_limits: NO_LIMITS,
            ..self
        }
        .bounded()
    }

    /// The options of the call that runs one attempt of a job: what else the job says is its
    /// broker's to do.
    #[doc(hidden)]
    #[must_use]
    pub fn of_attempt(&self) -> Self {
        let mut options = Self {
            timeout: self.timeout,
            sandbox: self.sandbox.clone(),
            label: self.label.clone(),
            traceparent: self.traceparent.clone(),
            retries: Some(0),
            ..Self::default()
        };
        options.set_limits(self.limits());
        options
    }
}

/// A time of at most [`FAR`]: other programs write options too.
fn bounded_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Option::<Duration>::deserialize(deserializer).map(|time| time.map(|time| time.min(FAR)))
}

/// The setters that [`Call`](crate::Call) and [`Job`](crate::Job) share, for a type that has
/// `fn set(self, impl FnOnce(&mut Options)) -> Self`.
macro_rules! option_setters {
    () => {
        /// Longest time one attempt may run; then it is stopped by the kill ladder. More than zero.
        /// Default: what the task's registration says, otherwise no limit. Waiting for a worker
        /// does not count.
        pub fn timeout(self, run: Duration) -> Self {
            self.set(|options| options.timeout = Some(run))
        }

        /// Bytes of memory that an attempt may use beyond what its worker used before it, with all
        /// processes that it starts; pages of files, for example code, do not count. A control
        /// group holds it where one can be made, otherwise the pool, which measures the process
        /// tree while it runs: [`AttemptReport::memory_hold`](crate::AttemptReport::memory_hold)
        /// says which. An attempt that wants more has crashed, out of memory. At least 1 MiB.
        /// Default: what the task's registration says, otherwise no limit.
        pub fn memory(self, bytes: u64) -> Self {
            self.set(|options| options.memory = Some(bytes))
        }

        /// Bytes of address space that each process of an attempt may add to what its worker had
        /// before it (`RLIMIT_AS`): a hard limit that costs nothing, but counts what is only
        /// reserved. Programs with a virtual machine (Java, JavaScript, Go), and those that map
        /// large files, reserve much more than they use. An allocation beyond it fails. Not less
        /// than [`memory`](Self::memory). Default: what the task's registration says, otherwise no
        /// limit.
        pub fn address_space(self, bytes: u64) -> Self {
            self.set(|options| options.address_space = Some(bytes))
        }

        /// CPU time that an attempt may use, in user mode and in the kernel, with all processes
        /// that it starts. Then it is stopped by the kill ladder and has timed out
        /// ([`TimedOut::Cpu`](crate::TimedOut::Cpu)). At least 10 ms. Default: what the task's
        /// registration says, otherwise no limit.
        pub fn cpu(self, time: Duration) -> Self {
            self.set(|options| options.cpu = Some(time))
        }

        /// Files, sockets and pipes that each process of an attempt may have open, beyond those
        /// that its worker had before it (`RLIMIT_NOFILE`). Opening one more fails with `EMFILE`,
        /// and the attempt goes on. At least 1. Default: what the task's registration says,
        /// otherwise no limit but the system's.
        pub fn files(self, count: u32) -> Self {
            self.set(|options| options.files = Some(count))
        }

        /// Processes and threads that an attempt may have at once, beyond those that its worker
        /// had before it. In a control group starting one more fails with `EAGAIN`, and the
        /// attempt goes on; otherwise the pool ends an attempt that has more, as crashed. With 0
        /// it can start none. Default: what the task's registration says, otherwise no limit but
        /// the system's.
        pub fn processes(self, count: u32) -> Self {
            self.set(|options| options.processes = Some(count))
        }

        /// Largest size in bytes to which an attempt may write a file (`RLIMIT_FSIZE`). A process
        /// that writes beyond it gets SIGXFSZ: the worker has crashed then. Default: what the
        /// task's registration says, otherwise no limit but the system's.
        pub fn file_size(self, bytes: u64) -> Self {
            self.set(|options| options.file_size = Some(bytes))
        }

        /// What an attempt may do to the rest of the machine. Default: what the task's registration
        /// says, otherwise the pool's or the consumer's (`Builder::sandbox`), otherwise no sandbox.
        ///
        /// It runs in a worker that has this very sandbox, or takes it on with this attempt and
        /// keeps it until it ends; what has no sandbox runs in workers without one. Where the
        /// kernel lacks what the sandbox needs, the call is refused as `Unsupported`, and an
        /// attempt of a job fails as rejected.
        pub fn sandbox(self, sandbox: Sandbox) -> Self {
            self.set(|options| options.sandbox = Some(sandbox))
        }

        /// Requests of a higher priority leave the queue first; within one priority the order is
        /// first in, first out. Default: 0. What runs already is not interrupted.
        pub fn priority(self, priority: i32) -> Self {
            self.set(|options| options.priority = Some(priority))
        }

        /// How often it is run again when it failed or panicked. Default: what the task's
        /// registration says, otherwise 0. See [`retry`](Self::retry) for the pauses.
        ///
        /// A crash costs no retry: what crashed runs once more, at once and alone in a fresh
        /// worker, and its second crash is its last. A call in a pool is repeated after a crash
        /// only with at least one retry.
        pub fn retries(self, retries: u32) -> Self {
            self.set(|options| options.retries = Some(retries))
        }

        /// The pauses between attempts, and until when to try. Default: what the task's
        /// registration says, otherwise the pool's (`Builder::retry`), at a broker
        /// [`Retry::default`]. The time until when to try counts from the call or push.
        pub fn retry(self, retry: Retry) -> Self {
            self.set(|options| options.retry = Some(retry))
        }

        /// Waits this long before the first attempt. Default: none.
        pub fn delay(self, delay: Duration) -> Self {
            self.set(|options| options.delay = Some(delay))
        }

        /// Jobs of one key run strictly in the order of their pushes, one at a time; one that
        /// failed holds the later ones until it is settled for good. A pool refuses it as
        /// `Unsupported`.
        pub fn key(self, key: impl Into<Box<str>>) -> Self {
            self.set(|options| options.key = Some(key.into()))
        }

        /// While a job with this unique key is not settled for good, another push with it gives
        /// that job's id instead. Once it is done, the next push is a new job; where the key is to
        /// outlive success, say [`unique_for`](Self::unique_for). A pool refuses it as
        /// `Unsupported`.
        pub fn unique(self, key: impl Into<Box<str>>) -> Self {
            self.set(|options| options.unique = Some(key.into()))
        }

        /// As [`unique`](Self::unique), and for this long after the push even if the job is settled
        /// before, well or not: "once a day at most". A job that takes longer still holds its key
        /// until it is settled.
        pub fn unique_for(self, key: impl Into<Box<str>>, period: Duration) -> Self {
            self.unique(key)
                .set(|options| options.unique_for = Some(period))
        }

        /// What a job shares a part of its queue's [`Limits`](crate::Limits) with, a tenant for
        /// instance. Default: its key. A pool refuses it as `Unsupported`.
        pub fn partition(self, partition: impl Into<Box<str>>) -> Self {
            self.set(|options| options.partition = Some(partition.into()))
        }

        /// Keeps the job and its result for this long after it is done. Default: it is removed at
        /// once. A pool refuses it as `Unsupported`.
        pub fn keep(self, keep: Duration) -> Self {
            self.set(|options| options.keep = Some(keep))
        }

        /// A name for people, shown in events and logs. Default: none.
        pub fn label(self, label: impl Into<Box<str>>) -> Self {
            self.set(|options| options.label = Some(label.into()))
        }

        /// The trace that it belongs to; [`Context::traceparent`](crate::Context::traceparent) is
        /// the same in each of its attempts, wherever they run. Default: none.
        ///
        /// ```
        /// # use brigade::task;
        /// # #[task] fn add(a: i64, b: i64) -> i64 { a + b }
        /// # fn example() -> Result<(), brigade::Error> {
        /// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        /// let call = add(1, 2).traceparent(header.parse()?);
        /// # drop(call); Ok(()) }
        /// ```
        pub fn traceparent(self, parent: TraceParent) -> Self {
            self.set(|options| options.traceparent = Some(parent))
        }
    };
}

pub(crate) use option_setters;

/// Sets the options that `#[task]` names.
#[derive(Default)]
pub struct OptionsBuilder {
    pub options: Options,
}

impl OptionsBuilder {
    option_setters!();

    /// See [`Call::queue_timeout`](crate::Call::queue_timeout).
    pub fn queue_timeout(self, wait: Duration) -> Self {
        self.set(|options| options.queue_timeout = Some(wait))
    }

    /// See [`Call::labels`](crate::Call::labels).
    pub fn labels<L: Into<Box<str>>>(self, labels: impl IntoIterator<Item = L>) -> Self {
        self.set(|options| options.labels = labels.into_iter().map(Into::into).collect())
    }

    fn set(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(&mut self.options);
        self
    }
}
