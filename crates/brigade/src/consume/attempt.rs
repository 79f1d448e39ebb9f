//! One job from its lease to its settlement.

use std::convert::Infallible;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::ending::{Ended, Why, ending_of};
use super::{Consumer, PAUSE, Served};
use crate::broker::{Answer, Backend, Ending, Leased, Settled, Settlement};
use crate::call::Call;
use crate::clock::BootTime;
use crate::codec::Codec;
use crate::context::Sink;
use crate::error::{Error, ErrorKind};
use crate::job::JobId;
use crate::outcome::{CallError, Cancelled, Failure};
use crate::pool::{Handle, ProgressStream};
use crate::progress::Progress;
use crate::shutdown::Scope;
use crate::sync::lock;

/// So often it is looked whether a lease can still be trusted: no timer of a process runs while its host is suspended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A job in our hands.
pub(super) struct Held {
    pub(super) id: JobId,
    pub(super) token: i64,
    /// Until when the lease can be trusted unless it is renewed.
    pub(super) until: BootTime,
    /// Cancelled when the attempt is to be stopped; `why` says why.
    stop: CancellationToken,
    why: Why,
}

/// An attempt on its way.
enum Attempt {
    InPool(Handle<Box<RawValue>>),
    Here(Box<Call<Box<RawValue>>>),
    Refused(Error),
}

/// Tells the caller of a call what its attempt tells, from this process.
struct Teller {
    backend: Arc<dyn Backend>,
    id: JobId,
    token: i64,
}

impl Sink for Teller {
    fn progress(&self, _call: u64, fraction: f64, codec: Codec, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        self.backend.tell(&self.id, self.token, Progress { fraction, codec, payload });
    }
}

impl Consumer {
    /// Takes a job into our hands and has its attempt begin: here, so that attempts stand in the pool's queue in the order of their leases.
    pub(super) fn attend(self: &Arc<Self>, scope: &Scope, leased: Leased, permit: OwnedSemaphorePermit) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let stop = CancellationToken::new();
        {
            let until = leased.since.later(self.trusted());
            let mut held = lock(&self.held);
            held.insert(number, Held { id: leased.id.clone(), token: leased.token, until, stop: stop.clone(), why: Why::No });
            self.control.set_held(held.len());
        }
        let attempt = match (self.call_of(&leased), &self.pool) {
            (Ok(call), Some(pool)) => Attempt::InPool(pool.call(call)),
            (Ok(call), None) => Attempt::Here(Box::new(call)),
            (Err(error), _) => Attempt::Refused(error),
        };
        let (consumer, unsettled) = (Arc::clone(self), self.control.begin());
        scope.spawn(async move {
            let ended = consumer.run(attempt, &leased, &stop, number).await;
            let why = consumer.let_go(number);
            let answer = ended.outcome.as_ref().err().filter(|_| leased.is_call).map(|error| Box::new(Answer::of(error)));
            consumer.settle(&leased, ending_of(ended, why, consumer.pass_pause()), answer, permit).await;
            drop(unsettled);
        });
    }

    /// How long a lease can be trusted after it was asked for. The rest is for what it takes to stop an attempt, so that nothing of it runs
    /// beside the next one.
    pub(super) fn trusted(&self) -> Duration {
        self.lease * 5 / 6
    }

    fn let_go(&self, number: u64) -> Why {
        let mut held = lock(&self.held);
        let why = held.remove(&number).map_or(Why::No, |held| held.why);
        self.control.set_held(held.len());
        why
    }

    /// The call that a job asks for.
    fn call_of(&self, leased: &Leased) -> Result<Call<Box<RawValue>>, Error> {
        let job = &leased.job;
        let task = match &job.task {
            Some(task) => task.to_string(),
            None => match self.tasks.get(&job.queue) {
                Some(task) => (*task).to_owned(),
                None => {
                    let text = format!("run a job of queue {:?}: no task of this program serves it (#[task(queue = ..)])", job.queue);
                    return Err(Error::new(ErrorKind::UnknownTask, text));
                }
            },
        };
        let payload = job.payload.trim();
        // Arguments are an array; plain data of another shape is the one argument.
        let arguments = if payload.starts_with('[') { payload.to_owned() } else { format!("[{payload}]") };
        let mut call = Call::of_json_text(task, arguments);
        if let Some(timeout) = job.options.timeout {
            call = call.timeout(timeout);
        }
        if let Some(memory) = job.options.memory {
            call = call.memory(memory);
        }
        if let Some(label) = &job.options.label {
            call = call.label(label.clone());
        }
        if let Some(tick) = &job.options.tick {
            call = call.for_tick(tick.at);
        }
        // What took a worker down can hurt nothing else, and nothing that ran before can be at fault.
        Ok(if leased.crashed > 0 { call.alone_in_a_fresh_worker() } else { call })
    }

    async fn run(&self, attempt: Attempt, leased: &Leased, stop: &CancellationToken, number: u64) -> Ended {
        let mut handle = match attempt {
            Attempt::InPool(handle) => handle,
            Attempt::Refused(error) => return Ended { outcome: Err(CallError::Rejected(error)), receipt: None },
            Attempt::Here(call) => {
                let sink = leased.is_call.then(|| self.teller(leased));
                let guarded = AssertUnwindSafe(call.run_here_telling(sink)).catch_unwind();
                let outcome = tokio::select! {
                    biased;
                    outcome = guarded => outcome.unwrap_or_else(|_| Err(CallError::Failed(Box::new(Failure::new("it panicked"))))),
                    () = self.stopped(number, stop) => Err(CallError::Cancelled(Cancelled::without_certificate("stopped at its next await"))),
                };
                return Ended { outcome, receipt: None };
            }
        };
        let progress = handle.progress();
        tokio::select! {
            // In this order, so that what an attempt told last is told before its end.
            biased;
            never = self.tell(leased, progress), if leased.is_call => match never {},
            outcome = &mut handle => return Ended { outcome, receipt: None },
            () = self.stopped(number, stop) => {}
        }
        let why = lock(&self.held).get(&number).map_or(Why::No, |held| held.why.clone());
        let receipt = handle.cancel(&why.reason());
        let outcome = tokio::select! {
            outcome = &mut handle => outcome,
            () = self.control.killing.cancelled() => {
                handle.hurry();
                handle.await
            }
        };
        Ended { outcome, receipt: receipt.await }
    }

    /// Tells the caller of a call what its attempt tells.
    async fn tell(&self, leased: &Leased, mut progress: ProgressStream) -> Infallible {
        while let Some(progress) = progress.next().await {
            self.backend.tell(&leased.id, leased.token, progress);
        }
        pending().await
    }

    fn teller(&self, leased: &Leased) -> Arc<dyn Sink> {
        Arc::new(Teller { backend: Arc::clone(&self.backend), id: leased.id.clone(), token: leased.token })
    }

    /// Before a job that was passed is handed out again: a worker that passes everything must not spin.
    fn pass_pause(&self) -> Duration {
        if self.backend.capabilities().passes { Duration::ZERO } else { PAUSE }
    }

    /// Waits until an attempt is to be stopped: it was told so, or its lease could not be renewed and is about to be another's.
    async fn stopped(&self, number: u64, stop: &CancellationToken) {
        loop {
            let until = lock(&self.held).get(&number).map(|held| held.until);
            let Some(until) = until else { return };
            let left = until.left();
            if left.is_zero() {
                return self.stop(number, Why::Lost);
            }
            if stop.run_until_cancelled(sleep(left.min(LOOK_EVERY))).await.is_none() {
                return;
            }
        }
    }

    async fn settle(&self, leased: &Leased, ending: Option<Ending>, answer: Option<Box<Answer>>, permit: OwnedSemaphorePermit) {
        let Some(ending) = ending else { return self.control.count(|served| &mut served.stale) };
        let count: fn(&mut Served) -> &mut u64 = match &ending {
            Ending::Ack(_) => |served| &mut served.done,
            Ending::GiveBack { .. } => |served| &mut served.given_back,
            Ending::Cancelled { .. } => |served| &mut served.cancelled,
            _ => |served| &mut served.failed,
        };
        let settlement = Settlement { id: leased.id.clone(), token: leased.token, ending, answer };
        match self.settling.settle(settlement, Some(permit)).await {
            Some(Settled::Accepted(_)) => self.control.count(count),
            _ => self.control.count(|served| &mut served.stale),
        }
    }

    /// Has an attempt stopped; the first reason counts.
    pub(super) fn stop(&self, number: u64, why: Why) {
        if let Some(held) = lock(&self.held).get_mut(&number)
            && held.why == Why::No
        {
            held.why = why;
            held.stop.cancel();
        }
    }
}
