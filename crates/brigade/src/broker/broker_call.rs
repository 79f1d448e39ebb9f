//! [`BrokerCall`]: a call that was made at a broker.
//!
//! A broker that delivers answers itself gets the call as a [`DirectCall`]. At every other one a
//! call is a job whose result is kept and waited for (`called`).

use std::fmt;
use std::future::{Future, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{Broker, Queue, ToJob};
use crate::call::Call;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::outcome::CallError;
use crate::policy::{RESULT_KEPT, check_job, check_name};
use crate::progress::Progress;
use crate::shutdown::Scope;
use crate::store::{CallCounts, CallResult, CallTransport, CallerLink, DirectCall};

/// A call that was made at a broker: a future of its result. It is on its way whether or not it is
/// awaited; dropping it cancels it, [`detach`](BrokerCall::detach) lets it run on.
///
/// # Cancel safety
///
/// Await `&mut calling` in a `select!`: dropping the reference loses nothing. Dropping the whole
/// cancels the call, by a task of the runtime. In a program that ends at that moment the task may
/// not get to it: the call is run then, and its answer is nobody's.
#[must_use = "dropping it cancels the call; detach it to let it run on"]
pub struct BrokerCall<T> {
    result: CallResult,
    caller: Arc<CallerLink>,
    output: PhantomData<fn() -> T>,
}

impl Broker {
    /// Has a task run by whichever worker takes it; awaited, it gives the result. It waits in its
    /// queue for a worker for as long as its [queue timeout](Call::queue_timeout) says. Where a job
    /// with its unique key is there already, that one's result is waited for, and that one is
    /// never cancelled.
    ///
    /// # Errors
    ///
    /// What became of it. A broker that keeps results as jobs (SQLite, Redis) gives `Failed` with
    /// the reason of the last attempt if it ended among the dead letters. `TimedOut` if it waited
    /// for longer than its queue timeout. `Rejected` if the broker could not carry it; where that
    /// error [is uncertain](Error::is_uncertain), it may have run.
    pub fn call<T: DeserializeOwned>(&self, call: Call<T>) -> BrokerCall<T> {
        let caller = Arc::<CallerLink>::default();
        let (queue_timeout, waits_out_passes) = {
            let options = call.request.options();
            (options.queue_timeout, options.waits_out_passes)
        };
        self.begin_call(
            queue_timeout,
            waits_out_passes,
            caller,
            self.call_to_job(call),
        )
    }

    fn begin_call<T>(
        &self,
        queue_timeout: Option<Duration>,
        waits_out_passes: bool,
        caller: Arc<CallerLink>,
        job: Result<Job, Error>,
    ) -> BrokerCall<T> {
        let result = match job {
            Err(error) => Box::pin(ready(Err(CallError::Rejected(error)))),
            Ok(job) => match self.transport() {
                Some(transport) => transport.call(DirectCall {
                    job,
                    queue_timeout,
                    waits_out_passes,
                    caller: Arc::clone(&caller),
                }),
                None => self.call_by_job(job, queue_timeout, &caller),
            },
        };
        BrokerCall {
            result,
            caller,
            output: PhantomData,
        }
    }

    /// What the calls of this connection came to, at a broker that
    /// [answers](crate::Capabilities::answers); elsewhere all zero.
    pub fn call_counts(&self) -> CallCounts {
        self.transport()
            .map_or_else(CallCounts::default, |transport| transport.counts())
    }

    fn transport(&self) -> Option<Arc<dyn CallTransport>> {
        Arc::clone(self.store()).calls()
    }

    fn call_to_job<T>(&self, call: Call<T>) -> Result<Job, Error> {
        let job = call.to_job()?;
        check_job(&job, self.capabilities().payload_bytes_max)?;
        Ok(job)
    }

    fn call_by_job(
        &self,
        mut job: Job,
        wait: Option<Duration>,
        caller: &Arc<CallerLink>,
    ) -> CallResult {
        job.options.keep.get_or_insert(RESULT_KEPT);
        let (broker, caller) = (self.clone(), Arc::clone(caller));
        let waiting = async move {
            let pushing = broker.clone();
            let result: Box<RawValue> = broker
                .result_of(async move { pushing.push(job).await }, wait, &caller)
                .await?;
            Ok(Bytes::from(Box::<str>::from(result).into_string()))
        };
        begun(Box::pin(waiting))
    }
}

impl Queue {
    /// As [`Broker::call`], through this queue instead of the task's own.
    ///
    /// # Errors
    ///
    /// As [`Broker::call`].
    pub fn call<T: DeserializeOwned>(&self, call: Call<T>) -> BrokerCall<T> {
        let (queue_timeout, waits_out_passes) = {
            let options = call.request.options();
            (options.queue_timeout, options.waits_out_passes)
        };
        let to_queue = |mut job: Job| {
            job.queue = self.name().into();
            check_name("queue", &job.queue).map(|()| job)
        };
        let broker = self.broker();
        let job = broker.call_to_job(call).and_then(to_queue);
        broker.begin_call(queue_timeout, waits_out_passes, Arc::default(), job)
    }
}

impl<T> BrokerCall<T> {
    /// What the running task tells with [`Context::progress`](crate::Context::progress), in order;
    /// ends with the call. Of what nobody reads, the newest 64 are kept. Brokers that keep results
    /// as jobs (SQLite, Redis) tell none.
    pub fn progress(&self) -> CallProgress {
        CallProgress(Arc::clone(&self.caller))
    }

    /// Asks for the call to be stopped, wherever it is; await it to know what came of that:
    /// [`CallError::Cancelled`] with the reason and, if it ran in a pool, with how it was stopped;
    /// or its result, if that came first. A second time does nothing.
    pub fn cancel(&self, reason: impl Into<String>) {
        self.caller.cancel(reason.into());
    }

    /// Lets the call run on without its caller.
    pub fn detach(self) {
        if let Some(scope) = Scope::current() {
            scope.spawn(async move { drop(self.result.await) });
        }
    }
}

impl<T: DeserializeOwned> Future for BrokerCall<T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(self.result.as_mut().poll(context));
        self.caller.end();
        Poll::Ready(outcome.and_then(|json| Ok(Codec::Json.decode(&json)?)))
    }
}

impl<T> fmt::Debug for BrokerCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerCall").finish_non_exhaustive()
    }
}

/// Begins it now: its first step is taken here, the others by a task.
fn begun(mut waiting: CallResult) -> CallResult {
    let Some(scope) = Scope::current() else {
        return waiting;
    };
    if let Poll::Ready(outcome) = waiting
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        return Box::pin(ready(outcome));
    }
    let (mut teller, told) = oneshot::channel();
    scope.spawn(async move {
        tokio::select! {
            outcome = waiting => drop(teller.send(outcome)),
            // Nobody waits any more, and what waits here is dropped, which cancels the job.
            () = teller.closed() => {}
        }
    });
    let ended = || {
        Error::new(
            ErrorKind::Closed,
            "wait for a result: the runtime has ended",
        )
    };
    Box::pin(async move { told.await.unwrap_or_else(|_| Err(ended().into())) })
}

/// Progress of one call, see [`BrokerCall::progress`]. Several of one call share it between them.
pub struct CallProgress(Arc<CallerLink>);

impl CallProgress {
    /// The next progress; `None` when the call has ended and was awaited. Cancel safe.
    pub async fn next(&mut self) -> Option<Progress> {
        self.0.next_progress().await
    }
}

impl fmt::Debug for CallProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallProgress").finish_non_exhaustive()
    }
}
