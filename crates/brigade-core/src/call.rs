//! [`Call`]: a request that has been described and not yet made.
//!
//! A call is a [`Request`] with the type of its result. Its constructors describe tasks by their
//! code, by their name, and functions by their address; its setters write [`Options`]. `run_here`
//! runs it in the caller's own process, which is for unit tests, and for consumers that run tasks
//! in their own process.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address;
use crate::args::Args;
use crate::codec::Codec;
use crate::context::{Context, Sink};
use crate::error::Error;
use crate::function::{Function, invoke_function};
use crate::invocation::{Invocation, Invoke, Returned};
use crate::job_context::JobContext;
use crate::options::{Options, option_setters};
use crate::outcome::CallError;
use crate::registry::{self, TaskEntry};
use crate::request::{AttemptOf, CallTarget, Request};
use crate::retry::Retry;
use crate::sandbox::Sandbox;
use crate::traceparent::TraceParent;
use crate::traceparent::ambient::{AmbientTrace, InTrace};

/// A described call of a task: `add(3, 4)` with its options. Hand it to a [`Place`](crate::Place),
/// `pool.call(..)` or `broker.call(..)`, which runs it, or push it as a job.
///
/// ```standalone_crate
/// use std::time::Duration;
///
/// use brigade::task;
///
/// #[task]
/// fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), brigade::CallError> {
/// let call = add(3, 4)
///     .timeout(Duration::from_secs(5))
///     .retries(2)
///     .label("sum of the month");
/// // A unit test needs no worker.
/// assert_eq!(call.run_here().await?, 7);
/// # Ok(()) }
/// ```
#[must_use = "a call does nothing until a pool or a broker is given it"]
pub struct Call<T> {
    #[doc(hidden)]
    pub request: Request,
    output: PhantomData<fn() -> T>,
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
            attempt_of: None,
            signature,
            args: None,
            queue: None,
            caller: None,
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
    /// Those of a [pool](CallError), and of them `UnknownTask`, `BadArguments` and `Encode` as
    /// [rejections](CallError#rejected-calls). But a crash takes the caller with it, and a panic
    /// goes through it.
    pub async fn run_here(self) -> Result<T, CallError> {
        self.run_here_as(None, |_| {}).await
    }

    /// Runs the call here and reports its progress. `begun` is given its context.
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
        if let Some(of) = self.request.attempt_of {
            (attempt.tick, attempt.job) = (of.tick, of.job);
        }
        let traceparent = self.request.options.and_then(|options| options.traceparent);
        attempt.traceparent.clone_from(&traceparent);
        attempt.sink = sink.map(|sink| (0, sink));
        let context = attempt.into_context();
        begun(&context);
        let invoked = {
            let _trace = AmbientTrace::enter(traceparent.as_ref());
            invoke(context, codec, &payload)
        };
        let returned = match invoked {
            Invocation::Now(returned) => returned,
            Invocation::Future(future) => InTrace::new(future, traceparent).await,
        };
        match returned {
            Returned::Done(bytes) => Ok(codec.decode(&bytes)?),
            Returned::Failed(failure) => Err(CallError::Failed(failure)),
            Returned::Passed(reason) => Err(CallError::Passed(vec![reason])),
            Returned::Refused(refused) => Err(refused.0.into_error(name).into()),
        }
    }
}

/// Options. What a call does not say, the registration of its task says where it runs, and
/// otherwise the default holds.
impl<T> Call<T> {
    option_setters!();

    /// Longest time the call may wait for its first attempt to begin; then it ends as timed out and
    /// is not run. An attempt that has begun is never stopped by it: bound that with
    /// [`timeout`](Self::timeout). Default: no limit. A call that is pushed ignores it: nothing
    /// awaits that.
    pub fn queue_timeout(self, wait: Duration) -> Self {
        self.set(|options| options.queue_timeout = Some(wait))
    }

    /// Runs only where all of these are: labels that a worker host was given
    /// (`brigade::remote::serve(..).labels(["gpu"])`), or the pool's own workers
    /// (`Builder::labels`). Default: anywhere that has the task. A broker ignores it: there the
    /// labels of the task's registration decide.
    pub fn labels<L: Into<Box<str>>>(self, labels: impl IntoIterator<Item = L>) -> Self {
        self.set(|options| options.labels = labels.into_iter().map(Into::into).collect())
    }

    /// Keeps what the attempt writes to its standard output and error, up to this many bytes each,
    /// for [`CallHandle::output`](crate::CallHandle::output), instead of passing it through. What
    /// is over is counted and dropped. The call runs alone in its worker. A broker refuses it as
    /// `Unsupported`.
    pub fn capture(self, bytes_max: usize) -> Self {
        self.set(|options| options.capture_bytes = Some(bytes_max))
    }

    /// For calls at a broker whose workers may pass them on: if all do, the call waits, and is
    /// offered to them again until one takes it or its queue timeout is over. Without it, it ends
    /// with [`CallError::Passed`] once all have passed and some rounds more came to nothing. A pool
    /// ignores it.
    pub fn wait_out_passes(self) -> Self {
        self.set(|options| options.waits_out_passes = true)
    }

    /// Runs alone in its worker even where workers have many slots, so that a stop can hurt no
    /// other call. A broker ignores it.
    pub fn alone(self) -> Self {
        self.set(|options| options.alone = true)
    }

    fn set(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(self.request.options.get_or_insert_default());
        self
    }

    fn set_attempt_of(mut self, set: impl FnOnce(&mut AttemptOf)) -> Self {
        set(self.request.attempt_of.get_or_insert_default());
        self
    }

    /// It is the attempt of a job that has these options, whose broker decides over retries.
    #[doc(hidden)]
    pub fn for_job(mut self, job: JobContext, options: &Options) -> Self {
        self.request.options = Some(Box::new(options.of_attempt()));
        self.set_attempt_of(|of| {
            of.tick = options.tick.as_ref().map(|tick| tick.at);
            of.job = Some(Arc::new(job));
        })
    }

    /// It runs [alone](Call::alone), in a worker that has run nothing before it.
    #[doc(hidden)]
    pub fn alone_in_a_fresh_worker(self) -> Self {
        self.alone().set_attempt_of(|of| of.fresh = true)
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
