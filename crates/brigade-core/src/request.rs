//! [`Request`]: a call without its type, as pools and brokers handle it.
//!
//! It holds what a caller says: the target, the arguments and the [`Options`]. What the call is an
//! attempt of ([`AttemptOf`]) is set by consumers and pools, never by users. [`Request::fill`] adds
//! what the task's registration in this program says.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::args::Args;
use crate::codec::Codec;
use crate::error::Error;
use crate::job_context::JobContext;
use crate::options::{NO_OPTIONS, Options};
use crate::span;

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
    pub options: Option<Box<Options>>,
    pub attempt_of: Option<Box<AttemptOf>>,
    pub signature: Option<fn() -> &'static str>,
    /// The queue of the task, if it is not its name.
    pub queue: Option<&'static str>,
    /// The span that made the call, until its first attempt has begun. Set only where spans of
    /// attempts are wanted; without a span then for later attempts.
    pub caller: Option<Box<tracing::Span>>,
}

#[derive(Clone, Debug)]
pub enum CallTarget {
    Task { name: Cow<'static, str> },
    Function { offset: u64, name: &'static str },
}

impl CallTarget {
    /// The name of the task, or the type name of the function.
    pub fn name(&self) -> &str {
        match self {
            Self::Task { name } => name,
            Self::Function { name, .. } => name,
        }
    }
}

/// An attempt, as the pool knows it that asked for it.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAttempt {
    pub call: u64,
    pub attempt: u32,
}

/// What a call is an attempt of, where its caller is a consumer or another pool.
#[derive(Clone, Debug, Default)]
pub struct AttemptOf {
    /// The call of another pool.
    pub call: Option<RemoteAttempt>,
    /// The job.
    pub job: Option<Arc<JobContext>>,
    /// The tick of a schedule that the job was pushed for.
    pub tick: Option<SystemTime>,
    /// It runs in a worker that has run nothing yet.
    pub fresh: bool,
}

impl AttemptOf {
    /// Whether its span is made elsewhere: by the consumer, or by the other pool.
    fn has_span(&self) -> bool {
        self.job.is_some() || self.call.is_some()
    }
}

static NO_ATTEMPT: AttemptOf = AttemptOf {
    call: None,
    job: None,
    tick: None,
    fresh: false,
};

impl Request {
    pub fn options(&self) -> &Options {
        self.options.as_deref().unwrap_or(&NO_OPTIONS)
    }

    /// What the call is an attempt of.
    pub fn attempt_of(&self) -> &AttemptOf {
        self.attempt_of.as_deref().unwrap_or(&NO_ATTEMPT)
    }

    /// Encodes the arguments in the request's own format, if that was not done before.
    pub fn encode(&mut self) {
        if let Some(args) = self.args.take() {
            self.payload = args.encode_as(self.codec).map(Into::into);
        }
    }

    /// The call is made now, by this code: it belongs to the trace of that. What is the attempt of
    /// a job, or of another pool's call, has its trace and its span already.
    pub fn note_caller(&mut self) {
        if self.attempt_of.as_ref().is_some_and(|of| of.has_span()) {
            return;
        }
        if self.options().traceparent.is_none()
            && let Some(parent) = span::current()
        {
            self.options.get_or_insert_default().traceparent = Some(parent);
        }
        if span::is_wanted() {
            // With OpenTelemetry the parent is set by the context of the caller's span, which may
            // end before the attempt begins.
            let has_context = cfg!(feature = "otel") && self.options().traceparent.is_some();
            let caller = if has_context {
                tracing::Span::none()
            } else {
                tracing::Span::current()
            };
            self.caller = Some(Box::new(caller));
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

    /// Fills in what the call does not say from the options of the task's registration here, where
    /// it is to run. This is the one place that does so, wherever the call comes from: another
    /// program or language, a queue, or another host, whose pool decides over retries and where the
    /// call waits.
    pub fn fill(&mut self, of_task: impl FnOnce() -> Options) {
        // A caller that has the task's code has set all of it with the call.
        if self.queue.is_some() {
            return;
        }
        let of_task = of_task();
        if of_task == NO_OPTIONS {
            return;
        }
        let of_another_pool = self.attempt_of().call.is_some();
        let options = self.options.get_or_insert_default();
        options.timeout = options.timeout.or(of_task.timeout);
        options.set_limits(options.limits().or(of_task.limits()));
        options.sandbox = options.sandbox.take().or(of_task.sandbox);
        if of_another_pool {
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
        self.attempt_of()
            .job
            .as_ref()
            .map_or(of_call, |job| job.nth(of_call))
    }

    pub fn task_name(&self) -> &str {
        self.target.name()
    }
}
