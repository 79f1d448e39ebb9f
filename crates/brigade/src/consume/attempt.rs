//! One job from its lease to its settlement.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ending::{Ended, Why, ending_of};
use super::{Consumer, PAUSE, Served};
use crate::broker::{Ending, Leased, Settled, Settlement};
use crate::call::Call;
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled, Failure};
use crate::shutdown::Scope;
use crate::sync::lock;

/// A job in our hands.
pub(super) struct Held {
    pub(super) id: crate::JobId,
    pub(super) token: i64,
    /// Cancelled when the attempt is to be stopped; `why` says why.
    stop: CancellationToken,
    why: Why,
}

impl Consumer {
    /// Takes a job into our hands.
    pub(super) fn attend(self: &Arc<Self>, scope: &Scope, leased: Leased, permit: OwnedSemaphorePermit) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let stop = CancellationToken::new();
        {
            let mut held = lock(&self.held);
            held.insert(number, Held { id: leased.id.clone(), token: leased.token, stop: stop.clone(), why: Why::No });
            self.control.set_held(held.len());
        }
        let consumer = Arc::clone(self);
        scope.spawn(async move {
            let ended = match consumer.call_of(&leased) {
                Ok(call) => consumer.run(call, &stop, number).await,
                Err(error) => Ended { outcome: Err(CallError::Rejected(error)), receipt: None },
            };
            let why = consumer.let_go(number);
            consumer.settle(&leased, ending_of(ended, why)).await;
            drop(permit);
        });
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

    async fn run(&self, call: Call<Box<RawValue>>, stop: &CancellationToken, number: u64) -> Ended {
        let Some(pool) = &self.pool else {
            let guarded = AssertUnwindSafe(call.run_here()).catch_unwind();
            let outcome = tokio::select! {
                outcome = guarded => outcome.unwrap_or_else(|_| Err(CallError::Failed(Box::new(Failure::new("it panicked"))))),
                () = stop.cancelled() => Err(CallError::Cancelled(Cancelled::without_certificate("stopped at its next await"))),
            };
            return Ended { outcome, receipt: None };
        };
        let mut handle = pool.call(call);
        tokio::select! {
            outcome = &mut handle => return Ended { outcome, receipt: None },
            () = stop.cancelled() => {}
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

    async fn settle(&self, leased: &Leased, ending: Option<Ending>) {
        let Some(ending) = ending else { return self.control.count(|served| &mut served.stale) };
        let count: fn(&mut Served) -> &mut u64 = match &ending {
            Ending::Ack(_) => |served| &mut served.done,
            Ending::GiveBack { .. } => |served| &mut served.given_back,
            Ending::Cancelled { .. } => |served| &mut served.cancelled,
            _ => |served| &mut served.failed,
        };
        let settlement = Settlement { id: leased.id.clone(), token: leased.token, ending };
        match self.settle_all(vec![settlement]).await.as_deref() {
            Some([Settled::Accepted(_)]) => self.control.count(count),
            _ => self.control.count(|served| &mut served.stale),
        }
    }

    /// A settlement that does not come through is tried for as long as the lease can hold.
    pub(super) async fn settle_all(&self, settlements: Vec<Settlement>) -> Option<Vec<Settled>> {
        let settling = async {
            loop {
                match self.backend.settle(settlements.clone()).await {
                    Ok(settled) => return settled,
                    Err(error) => tracing::warn!(%error, jobs = settlements.len(), "could not settle; trying again"),
                }
                sleep(PAUSE).await;
            }
        };
        timeout(self.lease, settling).await.ok()
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
