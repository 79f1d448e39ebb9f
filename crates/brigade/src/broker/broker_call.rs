//! Calls at a broker: [`Broker::call`], and what stands behind their handles.
//!
//! A broker that delivers answers itself gets the call as a [`DirectCall`]. At every other one a
//! call is a job whose result is kept and waited for (`called`). Both give a future of the result,
//! which [`BrokerCall`] drives: every waiter polls it, and its waker wakes all who wait.

use std::future::{poll_fn, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{Broker, Queue, ToJob};
use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::call::Call;
use crate::call_handle::{CallHandle, RunningCall};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::outcome::CallError;
use crate::place::Place;
use crate::policy::{RESULT_KEPT, check_job, check_name};
use crate::progress::Progress;
use crate::shutdown::Scope;
use crate::store::{CallCounts, CallResult, CallTransport, CallerLink, DirectCall};
use crate::sync::lock;
use brigade_core::span;

impl Broker {
    /// Has a task run by whichever consumer takes it; awaited, it gives the result. It waits in its
    /// queue for as long as its [queue timeout](Call::queue_timeout) allows. If a job with its
    /// unique key exists already, the call waits for that job's result and never cancels it.
    ///
    /// # Errors
    ///
    /// The handle gives what became of the call. At a broker that keeps results as jobs (SQLite,
    /// Redis), the call fails when the job has become a dead letter: with the outcome of its last
    /// attempt (`Failed`, `Panicked`, `Crashed`, `TimedOut`), or with `Failed` and the reason if
    /// another cause made it one. The job stays as a dead letter. `TimedOut` if it waited for
    /// longer than its queue timeout. `Rejected` if the broker could not carry it; where that error
    /// [is uncertain](Error::is_uncertain), it may have run.
    pub fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T> {
        self.call_in(None, call)
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

    /// Makes a call through this queue, or that of its task.
    fn call_in<T>(&self, queue: Option<&str>, mut call: Call<T>) -> CallHandle<T> {
        // Of the caller, not of the job.
        let (queue_timeout, waits_out_passes) = call
            .request
            .options
            .as_mut()
            .map_or((None, false), |options| {
                (options.queue_timeout.take(), options.waits_out_passes)
            });
        let mut job = match self.call_to_job(queue, call) {
            Ok(job) => job,
            Err(error) => return CallHandle::rejected(error),
        };
        let caller = Arc::<CallerLink>::default();
        let result = match self.transport() {
            Some(transport) => {
                let span = span::push(std::slice::from_mut(&mut job));
                span.in_scope(|| {
                    transport.call(DirectCall {
                        job,
                        queue_timeout,
                        waits_out_passes,
                        caller: Arc::clone(&caller),
                    })
                })
            }
            None => self.call_by_job(job, queue_timeout, &caller),
        };
        CallHandle::new(Arc::new(BrokerCall::new(result, caller)), Codec::Json)
    }

    fn call_to_job<T>(&self, queue: Option<&str>, call: Call<T>) -> Result<Job, Error> {
        let mut job = call.to_job()?;
        if let Some(queue) = queue {
            check_name("queue", queue)?;
            job.queue = queue.into();
        }
        let can = self.capabilities();
        check_job(&job, can.payload_bytes_max)?;
        can.check(&job)?;
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
    pub fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T> {
        self.broker().call_in(Some(self.name()), call)
    }
}

impl Place for Broker {
    fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T> {
        Self::call(self, call)
    }
}

impl Place for Queue {
    fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T> {
        Self::call(self, call)
    }
}

/// A call at a broker, as its handle sees it.
struct BrokerCall {
    state: Mutex<BrokerCallState>,
    /// Tasks that wait for anything of the call.
    waiters: Arc<Waiters>,
    caller: Arc<CallerLink>,
}

struct BrokerCallState {
    /// Gives the outcome; dropped, it cancels the call. `None` once the call has ended or was
    /// abandoned.
    result: Option<CallResult>,
    outcome: Option<Result<Bytes, CallError>>,
    receipt: Option<StopReceipt>,
    cancelled_at: Option<Instant>,
}

impl BrokerCall {
    fn new(result: CallResult, caller: Arc<CallerLink>) -> Self {
        let state = BrokerCallState {
            result: Some(result),
            outcome: None,
            receipt: None,
            cancelled_at: None,
        };
        Self {
            state: Mutex::new(state),
            waiters: Arc::default(),
            caller,
        }
    }

    /// Lets the call go on. Returns whether it has ended.
    fn drive(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(result) = &mut state.result else {
            return true;
        };
        let waker = Waker::from(Arc::clone(&self.waiters));
        let Poll::Ready(outcome) = result.as_mut().poll(&mut Context::from_waker(&waker)) else {
            return false;
        };
        state.result = None;
        let stored = self.caller.receipt().filter(|_| outcome.is_err()).cloned();
        state.receipt = stored.or_else(|| receipt_of(outcome.as_ref().err()?, state.cancelled_at));
        if let Some(report) = outcome.as_ref().err().and_then(CallError::report) {
            self.caller.set_report(Box::new(report.clone()));
        }
        state.outcome = Some(outcome);
        drop(state);
        self.caller.end();
        self.waiters.wake_by_ref();
        true
    }

    fn drive_for(&self, cx: &mut Context<'_>) -> bool {
        self.waiters.add(cx.waker());
        self.drive()
    }
}

impl RunningCall for BrokerCall {
    fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CallError>> {
        self.drive_for(cx);
        match lock(&self.state).outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }

    fn is_finished(&self) -> bool {
        // Nothing else may have looked since it ended.
        if Scope::current().is_some() {
            return self.drive();
        }
        lock(&self.state).result.is_none()
    }

    fn cancel(&self, reason: &str) {
        lock(&self.state)
            .cancelled_at
            .get_or_insert_with(Instant::now);
        self.caller.cancel(reason.to_owned());
        // So that the cancel is on its way although nothing is awaited.
        if Scope::current().is_some() {
            self.drive();
        }
    }

    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<Option<StopReceipt>> {
        match self.drive_for(cx) {
            true => Poll::Ready(lock(&self.state).receipt.clone()),
            false => Poll::Pending,
        }
    }

    fn poll_progress(&self, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        self.drive_for(cx);
        self.caller.poll_progress(cx)
    }

    fn abandon(&self) {
        // A cancel that is under way is seen through by the task that awaits it.
        if self.caller.is_cancelled() {
            return;
        }
        let result = lock(&self.state).result.take();
        drop(result);
        self.caller.end();
    }

    fn report(&self) -> Option<Box<AttemptReport>> {
        self.caller.last_report().cloned().map(Box::new)
    }

    fn detach(self: Arc<Self>) {
        // Streams of its progress and cancels that are awaited end with it, as with a handle.
        if let Some(scope) = Scope::current() {
            scope.spawn(async move {
                poll_fn(|cx| self.poll_stopped(cx)).await;
            });
        }
    }
}

/// The receipt of a stop of which only the outcome is known, as far as that does: its time is that
/// of the caller.
fn receipt_of(error: &CallError, cancelled_at: Option<Instant>) -> Option<StopReceipt> {
    let CallError::Cancelled(cancelled) = error else {
        return None;
    };
    let step = cancelled.report.as_ref()?.step?;
    Some(StopReceipt::new(step, cancelled_at?.elapsed()))
}

/// The wakers of all tasks that wait for a call.
#[derive(Default)]
struct Waiters(Mutex<Vec<Waker>>);

impl Waiters {
    fn add(&self, waker: &Waker) {
        let mut wakers = lock(&self.0);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let wakers = std::mem::take(&mut *lock(&self.0));
        wakers.into_iter().for_each(Waker::wake);
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
    let (mut answer, receiver) = oneshot::channel();
    scope.spawn(async move {
        tokio::select! {
            outcome = waiting => drop(answer.send(outcome)),
            // The caller is gone, and the future is dropped, which cancels the job.
            () = answer.closed() => {}
        }
    });
    let ended = || {
        Error::new(
            ErrorKind::Closed,
            "wait for a result: the runtime has ended",
        )
    };
    Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(ended().into())) })
}

#[cfg(test)]
mod tests {
    use brigade_core::store::{
        Capabilities, JobStore, LeaseRequest, Leased, PushOutcome, Reply, Settled, Settlement,
    };

    use super::*;
    use crate::clock::Clock;
    use crate::schedule::{Schedule, Scheduled};

    /// A store that has calls and schedules and nothing else. What it lacks never reaches it.
    struct Plain;

    impl JobStore for Plain {
        fn capabilities(&self) -> Capabilities {
            Capabilities {
                answers: true,
                schedules: true,
                ..Capabilities::minimal()
            }
        }

        fn push(&self, _: Vec<Job>) -> Reply<'_, Vec<PushOutcome>> {
            unreachable!("a test pushed a job that was to be refused")
        }

        fn lease(&self, _: LeaseRequest) -> Reply<'_, Vec<Leased>> {
            unreachable!("no test leases")
        }

        fn settle(&self, _: Vec<Arc<Settlement>>) -> Reply<'_, Vec<Result<Settled, Error>>> {
            unreachable!("no test settles")
        }

        fn purge<'a>(&'a self, _: &'a str) -> Reply<'a, u64> {
            unreachable!("no test purges")
        }

        fn schedule<'a>(&'a self, _: &'a Schedule) -> Reply<'a, Scheduled> {
            unreachable!("a test stored a schedule that was to be refused")
        }

        fn calls(self: Arc<Self>) -> Option<Arc<dyn CallTransport>> {
            Some(self)
        }
    }

    impl CallTransport for Plain {
        fn call(self: Arc<Self>, _: DirectCall) -> CallResult {
            unreachable!("a test made a call that was to be refused")
        }

        fn report_progress(&self, _: &crate::job::JobId, _: i64, _: Progress) {}

        fn counts(&self) -> CallCounts {
            CallCounts::default()
        }
    }

    fn broker() -> Broker {
        Broker::from_store(Arc::new(Plain), Clock::default())
    }

    #[tokio::test]
    async fn a_direct_call_that_asks_for_what_the_broker_lacks_is_unsupported() {
        let call = || Call::<()>::json("report", &[(); 0]);
        for call in [
            call().unique("once"),
            call().key("customer"),
            call().priority(1),
        ] {
            let refused = broker().call(call).await.unwrap_err();
            let CallError::Rejected(error) = refused else {
                panic!("{refused:?}")
            };
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }

    #[tokio::test]
    async fn a_schedule_that_asks_for_what_the_broker_lacks_is_unsupported() {
        let job = || Job::new("reports", None, "[]");
        for job in [
            job().unique("once"),
            job().key("customer"),
            job().priority(1),
        ] {
            let schedule = Schedule::every("nightly", Duration::from_secs(60), job).unwrap();
            let error = broker().schedule(schedule).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }
}
