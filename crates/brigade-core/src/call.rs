//! [`Call`]: a request that has been described and not yet made.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address;
use crate::codec::Codec;
use crate::context::{Context, Sink};
use crate::error::Error;
use crate::job_context::JobContext;
use crate::outcome::CallError;
use crate::registry::{self, Invoke, TaskEntry};
use crate::retry::Retry;
use crate::task::{Args, Function, Invocation, Returned, invoke_function};
use crate::traceparent::TraceParent;

/// A described call of a task: `add(3, 4)` with its options. Hand it to a place, `pool.call(..)`,
/// which runs it.
#[must_use = "a call does nothing until a pool or a broker is given it"]
pub struct Call<T> {
    #[doc(hidden)]
    pub request: Request,
    output: PhantomData<fn() -> T>,
}

/// Arguments that are not encoded yet. Their format depends on where the call goes: a pool takes
/// that of the task, a broker takes JSON.
pub trait UnencodedArgs: Send {
    fn encode_as(&self, codec: Codec) -> Result<Vec<u8>, Error>;
}

impl<A: Args> UnencodedArgs for A {
    fn encode_as(&self, codec: Codec) -> Result<Vec<u8>, Error> {
        self.encode(codec)
    }
}

/// A call without its type.
pub struct Request {
    pub target: CallTarget,
    pub codec: Codec,
    /// The arguments, unless they are in `args`; why they could not be encoded, otherwise, which is
    /// the error of the call when it is made.
    pub payload: Result<Bytes, Error>,
    /// The arguments, as long as they are not encoded.
    pub args: Option<Box<dyn UnencodedArgs>>,
    pub options: Option<Box<CallOptions>>,
    pub signature: Option<fn() -> &'static str>,
    /// The queue of the task, if it is not its name.
    pub queue: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub enum CallTarget {
    Task { name: Cow<'static, str> },
    Function { offset: u64, name: &'static str },
}

/// The options of a call. `None`: what the task's registration says where the call runs, and
/// otherwise what the field's setter says is the default.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    pub timeout: Option<Duration>,
    pub queue_timeout: Option<Duration>,
    pub memory: Option<u64>,
    pub priority: Option<i32>,
    pub retries: Option<u32>,
    pub retry: Option<Retry>,
    pub delay: Option<Duration>,
    pub label: Option<Box<str>>,
    pub capture_bytes: Option<usize>,
    pub alone: bool,
    /// In a worker that has run nothing yet.
    pub fresh: bool,
    pub key: Option<Box<str>>,
    pub unique: Option<Box<str>>,
    pub unique_for: Option<Duration>,
    pub partition: Option<Box<str>>,
    pub keep: Option<Duration>,
    /// The tick of a schedule that it is for.
    pub tick: Option<SystemTime>,
    /// The trace that it belongs to.
    pub traceparent: Option<TraceParent>,
    /// At a broker: offered again while every worker passes.
    pub waits_out_passes: bool,
    /// What its worker must have been given.
    pub labels: Vec<Box<str>>,
    /// The call of another pool that it is an attempt of.
    pub origin: Option<RemoteAttempt>,
    /// The job that it is an attempt of.
    pub job: Option<Arc<JobContext>>,
}

/// An attempt, as the pool knows it that asked for it.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAttempt {
    pub call: u64,
    pub attempt: u32,
}

static DEFAULT_OPTIONS: CallOptions = CallOptions {
    timeout: None,
    queue_timeout: None,
    memory: None,
    priority: None,
    retries: None,
    retry: None,
    delay: None,
    label: None,
    capture_bytes: None,
    alone: false,
    fresh: false,
    key: None,
    unique: None,
    unique_for: None,
    partition: None,
    keep: None,
    tick: None,
    traceparent: None,
    waits_out_passes: false,
    labels: Vec::new(),
    origin: None,
    job: None,
};

impl Request {
    pub fn options(&self) -> &CallOptions {
        self.options.as_deref().unwrap_or(&DEFAULT_OPTIONS)
    }

    /// Encodes the arguments in the request's own format, if that was not done before.
    pub fn encode(&mut self) {
        if let Some(args) = self.args.take() {
            self.payload = args.encode_as(self.codec).map(Into::into);
        }
    }

    /// The arguments as a JSON array.
    ///
    /// # Errors
    ///
    /// `Encode` if JSON has no form of them.
    pub fn json(&self) -> Result<Box<str>, Error> {
        let unreadable = "write arguments as JSON";
        let bytes = match (&self.args, &self.payload) {
            (Some(args), _) => args.encode_as(Codec::Json)?,
            (None, Ok(payload)) if self.codec == Codec::Json => payload.to_vec(),
            (None, Ok(_)) => return Err(Error::new(crate::ErrorKind::Encode, unreadable)),
            (None, Err(error)) => return Err(error.copy()),
        };
        String::from_utf8(bytes)
            .map(Into::into)
            .map_err(|e| Error::new(crate::ErrorKind::Encode, unreadable).with_source(e))
    }

    /// What the call does not say, the task's registration says here, where it is to run. Nothing
    /// else decides that, wherever the call comes from: from another program or language, from a
    /// queue, from another host, whose pool decides over retries and where it waits.
    pub fn fill(&mut self, task: &TaskEntry) {
        // A caller who has the task's code has said all of it with the call.
        if self.queue.is_some() {
            return;
        }
        let Some(of_task) = task.call_options() else {
            return;
        };
        let options = self.options.get_or_insert_default();
        options.timeout = options.timeout.or(of_task.timeout);
        options.memory = options.memory.or(of_task.memory);
        if options.origin.is_some() {
            return;
        }
        options.queue_timeout = options.queue_timeout.or(of_task.queue_timeout);
        options.priority = options.priority.or(of_task.priority);
        options.retries = options.retries.or(of_task.retries);
        options.retry = options.retry.or(of_task.retry);
        if options.labels.is_empty() {
            options.labels = of_task.labels;
        }
    }

    /// Number of the attempt that is the given one of this call, from 1: a job may have had others
    /// before.
    pub fn attempt(&self, of_call: u32) -> u32 {
        self.options()
            .job
            .as_ref()
            .map_or(of_call, |job| job.nth(of_call))
    }

    pub fn task_name(&self) -> &str {
        match &self.target {
            CallTarget::Task { name } => name,
            CallTarget::Function { name, .. } => name,
        }
    }
}

impl<T: DeserializeOwned> Call<T> {
    /// A call of a named task whose arguments and result are `T`'s and `args`' own JSON: for
    /// callers that know a task only by its name. `args` is a JSON array, one element per argument.
    pub fn json(name: impl Into<Cow<'static, str>>, args: &(impl Serialize + ?Sized)) -> Self {
        let payload = Codec::Json.encode(args);
        Self::of_request(
            CallTarget::Task { name: name.into() },
            Codec::Json,
            payload,
            None,
        )
    }

    /// A call of a function item or a capture-free closure of this program, which needs no
    /// registration.
    ///
    /// It runs only in workers that are the same build of the same program. See
    /// `Pool::run`.
    pub fn of<F, A>(function: F, args: &A) -> Self
    where
        A: Args,
        F: Function<A, Output = T>,
        T: Serialize,
    {
        Self::of_with(Codec::default(), function, args)
    }

    /// As [`Call::of`], with arguments and result as JSON.
    pub fn of_json<F, A>(function: F, args: &A) -> Self
    where
        A: Args,
        F: Function<A, Output = T>,
        T: Serialize,
    {
        Self::of_with(Codec::Json, function, args)
    }

    fn of_with<F, A>(codec: Codec, function: F, args: &A) -> Self
    where
        A: Args,
        F: Function<A, Output = T>,
        T: Serialize,
    {
        // The function has no state: its type says all about it. This also refuses, at compile
        // time, one that has.
        let _: F = address::stateless::<F>();
        let _ = function;
        let invoke: Invoke = invoke_function::<F, A>;
        let offset = address::offset_of(invoke as *const ());
        let name = std::any::type_name::<F>();
        let payload = offset.as_ref().map_or_else(
            |error| Err(Error::new(error.kind(), error.to_string())),
            |_| args.encode(codec),
        );
        Self::of_request(
            CallTarget::Function {
                offset: offset.unwrap_or(0),
                name,
            },
            codec,
            payload,
            None,
        )
    }

    #[doc(hidden)]
    pub fn named<A: Args>(
        name: &'static str,
        codec: Codec,
        args: A,
        signature: Option<fn() -> &'static str>,
    ) -> Self {
        let name = Cow::Borrowed(name);
        let mut call =
            Self::of_request(CallTarget::Task { name }, codec, Ok(Vec::new()), signature);
        call.request.args = Some(Box::new(args));
        call
    }

    /// A call whose arguments are a JSON array already.
    #[doc(hidden)]
    pub fn of_json_text(name: String, arguments: String) -> Self {
        Self::of_request(
            CallTarget::Task { name: name.into() },
            Codec::Json,
            Ok(arguments.into_bytes()),
            None,
        )
    }

    fn of_request(
        target: CallTarget,
        codec: Codec,
        payload: Result<Vec<u8>, Error>,
        signature: Option<fn() -> &'static str>,
    ) -> Self {
        let payload = payload.map(Into::into);
        let request = Request {
            target,
            codec,
            payload,
            options: None,
            signature,
            args: None,
            queue: None,
        };
        Self {
            request,
            output: PhantomData,
        }
    }

    /// Runs the call here, in the caller's own process, without limits: for unit tests of code that
    /// makes calls.
    ///
    /// # Errors
    ///
    /// As a pool would give, except that a crash takes the caller with it and a panic goes through
    /// it.
    pub async fn run_here(self) -> Result<T, CallError> {
        self.run_here_as(None, |_| {}).await
    }

    /// Runs the call here and tells its progress. `begun` is given its context.
    #[doc(hidden)]
    pub async fn run_here_as(
        mut self,
        sink: Option<Arc<dyn Sink>>,
        begun: impl FnOnce(&Context),
    ) -> Result<T, CallError> {
        self.request.encode();
        let number = self.request.attempt(1);
        let payload = self.request.payload?;
        let (invoke, name) = match &self.request.target {
            CallTarget::Task { name } => {
                let entry = registry::named(name)?;
                (entry.invoke, entry.name)
            }
            CallTarget::Function { offset, name } => (address::invoke_at(*offset)?, *name),
        };
        let codec = self.request.codec;
        let mut attempt = Context::attempt_of(0, number, name, codec);
        if let Some(options) = self.request.options {
            (attempt.tick, attempt.job) = (options.tick, options.job);
            attempt.traceparent = options.traceparent;
        }
        attempt.sink = sink.map(|sink| (0, sink));
        let context = attempt.into_context();
        begun(&context);
        let returned = match invoke(context, codec, &payload) {
            Invocation::Now(returned) => returned,
            Invocation::Future(future) => future.await,
        };
        match returned {
            Returned::Done(bytes) => Ok(codec.decode(&bytes)?),
            Returned::Failed(failure) => Err(CallError::Failed(failure)),
            Returned::Passed(reason) => Err(CallError::Passed(vec![reason])),
            Returned::Refused(refused) => Err(refused.0.into_error(name).into()),
        }
    }
}

impl Call<()> {
    /// A call without arguments, for its options.
    #[doc(hidden)]
    pub fn blank(name: &'static str) -> Self {
        Self::of_request(
            CallTarget::Task {
                name: Cow::Borrowed(name),
            },
            Codec::Json,
            Ok(Vec::new()),
            None,
        )
    }
}

impl<T> Call<T> {
    fn set(mut self, set: impl FnOnce(&mut CallOptions)) -> Self {
        set(self.request.options.get_or_insert_default());
        self
    }

    #[doc(hidden)]
    pub fn for_tick(self, at: SystemTime) -> Self {
        self.set(|options| options.tick = Some(at))
    }

    /// Longest time one attempt may run; then it is stopped by the kill ladder. Default: no limit.
    /// Waiting for a worker does not count.
    pub fn timeout(self, run: Duration) -> Self {
        self.set(|options| options.timeout = Some(run))
    }

    /// Longest time the call may wait for its first attempt to begin; then it ends as timed out and
    /// is not run. An attempt that has begun is never stopped by it: bound that with
    /// [`timeout`](Self::timeout). Default: no limit.
    pub fn queue_timeout(self, wait: Duration) -> Self {
        self.set(|options| options.queue_timeout = Some(wait))
    }

    /// Bytes of memory that an attempt may use beyond what its worker used before it, both as
    /// address space and as resident memory. Default: no limit.
    pub fn memory(self, bytes: u64) -> Self {
        self.set(|options| options.memory = Some(bytes))
    }

    /// Calls of a higher priority leave the queue first; within one priority the order is first in,
    /// first out. Default: 0. What runs already is not interrupted.
    pub fn priority(self, priority: i32) -> Self {
        self.set(|options| options.priority = Some(priority))
    }

    /// How often to run the call again when it failed or panicked. Default: 0. See
    /// [`retry`](Call::retry) for the pauses. With at least 1, a call that crashed runs once more,
    /// at once and alone in a fresh worker, which costs no retry; its second crash is its last.
    pub fn retries(self, retries: u32) -> Self {
        self.set(|options| options.retries = Some(retries))
    }

    /// The pauses between attempts, and until when to try. Default: the pool's,
    /// `Builder::retry`; at a broker [`Retry::default`].
    pub fn retry(self, retry: Retry) -> Self {
        self.set(|options| options.retry = Some(retry))
    }

    /// Waits this long before the first attempt. Default: none.
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|options| options.delay = Some(delay))
    }

    /// A name for people, shown in events and logs. Where a call may run is said by
    /// [`labels`](Call::labels).
    pub fn label(self, label: impl Into<Box<str>>) -> Self {
        self.set(|options| options.label = Some(label.into()))
    }

    /// The trace that the call belongs to; [`Context::traceparent`](crate::Context::traceparent) is
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

    /// Runs only where all of these are: labels that a worker host was given
    /// (`brigade::remote::serve(..).labels(["gpu"])`), or the pool's own workers
    /// (`Builder::labels`). Default: anywhere that has the task.
    pub fn labels<L: Into<Box<str>>>(self, labels: impl IntoIterator<Item = L>) -> Self {
        self.set(|options| options.labels = labels.into_iter().map(Into::into).collect())
    }

    /// Keeps what the attempt writes to its standard output and error, up to this many bytes each,
    /// for `CallHandle::output`, instead of passing it through. What is over
    /// is counted and dropped. Such a call runs alone in its worker.
    pub fn capture(self, bytes_max: usize) -> Self {
        self.set(|options| options.capture_bytes = Some(bytes_max))
    }

    /// For jobs at a broker: see [`Job::key`](crate::Job::key). A pool refuses it as `Unsupported`.
    pub fn key(self, key: impl Into<Box<str>>) -> Self {
        self.set(|options| options.key = Some(key.into()))
    }

    /// For jobs at a broker: see [`Job::unique`](crate::Job::unique). A pool refuses it as
    /// `Unsupported`.
    pub fn unique(self, key: impl Into<Box<str>>) -> Self {
        self.set(|options| options.unique = Some(key.into()))
    }

    /// For jobs at a broker: see [`Job::unique_for`](crate::Job::unique_for). A pool refuses it as
    /// `Unsupported`.
    pub fn unique_for(self, key: impl Into<Box<str>>, period: Duration) -> Self {
        self.unique(key)
            .set(|options| options.unique_for = Some(period))
    }

    /// For jobs at a broker: see [`Job::partition`](crate::Job::partition). A pool refuses it as
    /// `Unsupported`.
    pub fn partition(self, partition: impl Into<Box<str>>) -> Self {
        self.set(|options| options.partition = Some(partition.into()))
    }

    /// For jobs at a broker: see [`Job::keep`](crate::Job::keep). A pool refuses it as
    /// `Unsupported`.
    pub fn keep(self, time: Duration) -> Self {
        self.set(|options| options.keep = Some(time))
    }

    /// For calls at a broker whose workers may pass them on: if all do, the call waits, and is
    /// offered to them again until one takes it or its queue timeout is over. Without it, it ends
    /// with [`CallError::Passed`] once all have passed and some rounds more came to nothing. A pool
    /// ignores it.
    pub fn wait_out_passes(self) -> Self {
        self.set(|options| options.waits_out_passes = true)
    }

    /// Runs alone in its worker even where workers have many slots, so that a stop can hurt no
    /// other call.
    pub fn alone(self) -> Self {
        self.set(|options| options.alone = true)
    }

    /// It is an attempt of this job, whose broker decides over retries.
    #[doc(hidden)]
    pub fn for_job(self, job: JobContext) -> Self {
        self.set(|options| {
            options.retries = Some(0);
            options.job = Some(Arc::new(job));
        })
    }

    /// Runs [alone](Call::alone), in a worker that has run nothing before it.
    #[doc(hidden)]
    pub fn alone_in_a_fresh_worker(self) -> Self {
        self.alone().set(|options| options.fresh = true)
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("task", &self.request.task_name())
            .finish_non_exhaustive()
    }
}

/// A call of a task of this program; `#[task]` writes this.
#[doc(hidden)]
pub fn call<A: Args, T: DeserializeOwned>(entry: &'static TaskEntry, args: A) -> Call<T> {
    let mut call = Call::named(entry.name, entry.codec, args, None);
    call.request.queue = Some(entry.queue);
    call
}
