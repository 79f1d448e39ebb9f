//! The consumer: lease -> attempt in a pool -> settlement. The only module that knows both brokers and pools.
//!
//! One task leases while there is room (prefetch), one task per leased job runs and settles it, one task renews the leases of what
//! runs. A lease is renewed only while its attempt is in the pool's hands: waiting for a worker, or running in one that lives. A parent
//! that dies renews nothing more.
//!
//! Each ending of an attempt becomes one settlement, in [`ending_of`]; nothing else decides over a job.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker::{Account, Backend, Broker, Ending, LeaseAsk, Leased, Settled, Settlement, Terms};
use crate::call::Call;
use crate::certificate::Certificate;
use crate::error::{Error, ErrorKind};
use crate::job::AttemptKind;
use crate::outcome::{CallError, Cancelled, Failure, RetryAdvice, TimedOut};
use crate::pool::Pool;
use crate::registry;
use crate::shutdown::Scope;
use crate::sync::lock;

/// Serves tasks from a broker, see [`Broker::worker`].
#[must_use = "a worker does nothing until it runs"]
pub struct Worker {
    broker: Broker,
    pool: Option<Pool>,
    queues: Vec<Box<str>>,
    prefetch: usize,
    lease: Duration,
    drain: Duration,
    until_empty: bool,
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// Jobs that ended well.
    pub done: u64,
    /// Attempts that did not, and were charged to their jobs.
    pub failed: u64,
    /// Jobs that were given back, uncharged.
    pub given_back: u64,
    /// Settlements that came too late, because the lease had run out.
    pub stale: u64,
}

/// After a broker's error, and before a job that nobody could take is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// One wait for jobs; then it is looked whether to stop.
const LEASE_WAIT: Duration = Duration::from_secs(5);

impl Broker {
    /// A worker that serves this broker's jobs.
    pub fn worker(&self) -> Worker {
        Worker {
            broker: self.clone(),
            pool: None,
            queues: Vec::new(),
            prefetch: 0,
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            until_empty: false,
        }
    }
}

impl Worker {
    /// Serves this queue; once per queue, looked through in this order. Default: the queues of all tasks of this program.
    pub fn queue(mut self, name: impl Into<Box<str>>) -> Self {
        self.queues.push(name.into());
        self
    }

    /// Runs the attempts in this pool's processes, where each can be stopped and none can hurt this one.
    pub fn on(mut self, pool: &Pool) -> Self {
        self.pool = Some(pool.clone());
        self
    }

    /// Runs the attempts in this very process: faster for tiny tasks, and all that `on` protects from is lost. A task that hangs
    /// cannot be stopped, one that crashes takes this process with it. The default, if no pool is given.
    pub fn in_process(mut self) -> Self {
        self.pool = None;
        self
    }

    /// The most jobs held at once. Default: twice the pool's slots; 1 in process.
    pub fn prefetch(mut self, jobs: usize) -> Self {
        self.prefetch = jobs.max(1);
        self
    }

    /// How long a lease runs; it is renewed three times in that time. Default: 30 s; at least 1 s.
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time.max(Duration::from_secs(1));
        self
    }

    /// How long running attempts may take to finish when the worker stops; then they are stopped and their jobs given back. Default:
    /// 30 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// Ends by itself when the queues are empty and what was leased is settled.
    pub fn until_empty(mut self) -> Self {
        self.until_empty = true;
        self
    }

    /// Serves until `stop` resolves (a signal, a channel), then drains.
    ///
    /// # Errors
    ///
    /// `BadOption` without any queue, `Unsupported` outside of a runtime. Errors of the broker are waited out and logged: serving goes
    /// on when it is back.
    pub async fn run_until<S>(self, stop: impl Future<Output = S>) -> Result<Served, Error> {
        let scope = Scope::current().ok_or_else(|| Error::new(ErrorKind::Unsupported, "serve outside of an async runtime (tokio)"))?;
        let consumer = Arc::new(Consumer::new(self)?);
        let stopping = CancellationToken::new();
        let renewing = Arc::clone(&consumer);
        let renewed = CancellationToken::new();
        let renew_until = renewed.clone();
        scope.spawn(async move {
            renew_until.run_until_cancelled(renewing.renew()).await;
        });
        tokio::select! {
            () = consumer.lease_loop(&scope, &stopping) => {}
            _ = stop => {}
        }
        stopping.cancel();
        consumer.drain().await;
        renewed.cancel();
        scope.close();
        scope.ended().await;
        Ok(*lock(&consumer.served))
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("queues", &self.queues).field("prefetch", &self.prefetch).finish_non_exhaustive()
    }
}

struct Consumer {
    backend: Arc<dyn Backend>,
    options: Worker,
    /// The task that runs a queue's plain jobs.
    tasks: HashMap<Box<str>, &'static str>,
    prefetch: usize,
    room: Arc<Semaphore>,
    held: Mutex<HashMap<i64, Held>>,
    numbers: std::sync::atomic::AtomicI64,
    served: Mutex<Served>,
}

/// A job in our hands.
struct Held {
    id: crate::JobId,
    token: i64,
    account: Account,
    /// Cancelled with the reason in `why` when the attempt is to be stopped.
    stop: CancellationToken,
    why: Stop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stop {
    /// Nobody asked for one.
    No,
    /// Somebody cancelled the job.
    Cancel(String),
    /// The lease is lost: what comes out does not count.
    Lost,
    /// This worker is ending.
    Shutdown,
}

impl Consumer {
    fn new(mut options: Worker) -> Result<Self, Error> {
        let tasks: HashMap<Box<str>, &'static str> = registry::table()?.values().map(|task| (task.queue.into(), task.name)).collect();
        if options.queues.is_empty() {
            options.queues = tasks.keys().cloned().collect();
            options.queues.sort();
        }
        if options.queues.is_empty() {
            return Err(Error::new(ErrorKind::BadOption, "serve without a queue: name one, or define a #[task]"));
        }
        let slots = options.pool.as_ref().map_or(1, |pool| 2 * pool.slots());
        let prefetch = if options.prefetch == 0 { slots } else { options.prefetch };
        Ok(Self {
            backend: options.broker.backend(),
            options,
            tasks,
            prefetch,
            room: Arc::new(Semaphore::new(prefetch)),
            held: Mutex::default(),
            numbers: std::sync::atomic::AtomicI64::new(0),
            served: Mutex::default(),
        })
    }

    /// Leases while there is room, until told to stop or, if so asked, until nothing is left.
    async fn lease_loop(self: &Arc<Self>, scope: &Scope, stopping: &CancellationToken) {
        while !stopping.is_cancelled() {
            let Ok(first) = Arc::clone(&self.room).acquire_owned().await else { return };
            let mut permits = vec![first];
            while let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                permits.push(permit);
            }
            let wait = if self.options.until_empty { Duration::ZERO } else { LEASE_WAIT };
            let ask = LeaseAsk { queues: self.options.queues.clone(), max: permits.len(), terms: Terms::Lease(self.options.lease), wait };
            match self.backend.lease(ask).await {
                Ok(leased) if leased.is_empty() && self.options.until_empty => {
                    drop(permits);
                    if self.is_all_empty().await {
                        return;
                    }
                    self.backend.changed().await.ok();
                }
                Ok(leased) => {
                    for (leased, permit) in leased.into_iter().zip(permits) {
                        let consumer = Arc::clone(self);
                        scope.spawn(async move { consumer.attend(leased, permit).await });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not lease; trying again");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Whether the queues hold nothing that will still be run, leased by anybody or waiting for a retry included.
    async fn is_all_empty(&self) -> bool {
        let Ok(queues) = self.options.broker.queues().await else { return false };
        let ours = queues.iter().filter(|counts| self.options.queues.iter().any(|queue| **queue == *counts.queue));
        !ours.flat_map(|counts| &counts.jobs).any(|(state, count)| !state.is_terminal() && *count > 0)
    }

    /// One job from its lease to its settlement.
    async fn attend(self: Arc<Self>, leased: Leased, permit: OwnedSemaphorePermit) {
        let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let stop = CancellationToken::new();
        let account = Account::of(&leased);
        let held = Held { id: leased.id.clone(), token: leased.token, account, stop: stop.clone(), why: Stop::No };
        lock(&self.held).insert(number, held);
        let outcome = match self.call_of(&leased) {
            Ok(call) => self.run(call, &stop, number).await,
            Err(error) => Err(CallError::Rejected(error)),
        };
        let why = lock(&self.held).remove(&number).map_or(Stop::No, |held| held.why);
        self.settle(&leased, ending_of(outcome, why)).await;
        drop(permit);
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
        // What took a worker down runs alone, so that it can hurt nothing else.
        Ok(if leased.crashed > 0 { call.alone() } else { call })
    }

    async fn run(&self, call: Call<Box<RawValue>>, stop: &CancellationToken, number: i64) -> Result<Box<RawValue>, CallError> {
        let Some(pool) = &self.options.pool else {
            let guarded = AssertUnwindSafe(call.run_here()).catch_unwind();
            return tokio::select! {
                outcome = guarded => outcome.unwrap_or_else(|_| Err(CallError::Failed(Box::new(Failure::new("it panicked"))))),
                () = stop.cancelled() => Err(CallError::Cancelled(Cancelled::without_certificate("stopped at its next await"))),
            };
        };
        let mut handle = pool.call(call);
        tokio::select! {
            outcome = &mut handle => return outcome,
            () = stop.cancelled() => {}
        }
        let reason = match lock(&self.held).get(&number).map(|held| held.why.clone()) {
            Some(Stop::Cancel(reason)) => reason,
            Some(Stop::Lost) => "its lease was lost".to_owned(),
            _ => "the worker is ending".to_owned(),
        };
        drop(handle.cancel(&reason));
        handle.await
    }

    async fn settle(&self, leased: &Leased, ending: Option<Ending>) {
        let Some(ending) = ending else {
            lock(&self.served).stale += 1;
            return;
        };
        let count: fn(&mut Served) -> &mut u64 = match &ending {
            Ending::Ack(_) => |served| &mut served.done,
            Ending::GiveBack { .. } => |served| &mut served.given_back,
            _ => |served| &mut served.failed,
        };
        let settlement = leased.settlement(ending);
        // A settlement that does not come through is tried for as long as the lease can hold.
        let settled = timeout(self.options.lease, async {
            loop {
                match self.backend.settle(vec![settlement.clone()]).await {
                    Ok(settled) => return settled,
                    Err(error) => tracing::warn!(%error, job = %settlement.id, "could not settle; trying again"),
                }
                sleep(PAUSE).await;
            }
        })
        .await;
        let mut served = lock(&self.served);
        match settled.as_deref() {
            Ok([Settled::Accepted(_)]) => *count(&mut served) += 1,
            _ => served.stale += 1,
        }
    }

    /// Extends the leases of what is in our hands.
    async fn renew(&self) {
        loop {
            sleep(self.options.lease / 3).await;
            let held: Vec<(i64, Settlement)> = lock(&self.held)
                .iter()
                .map(|(number, held)| {
                    let ending = Ending::Extend(self.options.lease);
                    (*number, Settlement { id: held.id.clone(), token: held.token, account: held.account, ending })
                })
                .collect();
            if held.is_empty() {
                continue;
            }
            let (numbers, settlements): (Vec<i64>, Vec<Settlement>) = held.into_iter().unzip();
            match self.backend.settle(settlements).await {
                Ok(settled) => numbers.into_iter().zip(settled).for_each(|(number, settled)| self.on_renewed(number, settled)),
                Err(error) => tracing::warn!(%error, "could not renew leases"),
            }
        }
    }

    fn on_renewed(&self, number: i64, settled: Settled) {
        match settled {
            Settled::Accepted(None) => {}
            Settled::Accepted(Some(reason)) => self.stop(number, Stop::Cancel(reason)),
            Settled::Stale => self.stop(number, Stop::Lost),
        }
    }

    fn stop(&self, number: i64, why: Stop) {
        if let Some(held) = lock(&self.held).get_mut(&number)
            && held.why == Stop::No
        {
            held.why = why;
            held.stop.cancel();
        }
    }

    /// Lets what runs finish, then stops it.
    async fn drain(&self) {
        let all = u32::try_from(self.prefetch).unwrap_or(u32::MAX);
        if let Ok(permits) = timeout(self.options.drain, self.room.acquire_many(all)).await {
            drop(permits);
            return;
        }
        let running: Vec<i64> = lock(&self.held).keys().copied().collect();
        running.into_iter().for_each(|number| self.stop(number, Stop::Shutdown));
        drop(self.room.acquire_many(all).await);
    }
}

/// What becomes of the job; `None` if its lease is lost and there is nothing to say.
fn ending_of(outcome: Result<Box<RawValue>, CallError>, why: Stop) -> Option<Ending> {
    let fail = |kind, reason: String, certificate: Option<Box<Certificate>>| Ending::Fail {
        kind,
        reason,
        certificate,
        retry_in: None,
        permanent: false,
    };
    let give_back = |kind, reason: String, after| Ending::GiveBack { kind, reason, after };
    let error = match (outcome, why) {
        (_, Stop::Lost) => return None,
        (Ok(result), _) => return Some(Ending::Ack(Some(result.get().into()))),
        (Err(CallError::Cancelled(_)), Stop::Cancel(reason)) => return Some(Ending::Cancelled(reason)),
        (Err(error), _) => error,
    };
    let text = error.to_string();
    Some(match error {
        CallError::Failed(failure) => Ending::Fail {
            kind: AttemptKind::Failed,
            reason: failure.message.clone(),
            certificate: None,
            retry_in: if let RetryAdvice::In(pause) = failure.retry() { Some(pause) } else { None },
            permanent: failure.retry() == RetryAdvice::Permanent,
        },
        CallError::Panicked(certificate) | CallError::TimedOut(TimedOut::Run(certificate)) => {
            fail(AttemptKind::Failed, text, Some(certificate))
        }
        CallError::Crashed(certificate) => fail(AttemptKind::Crashed, text, Some(certificate)),
        CallError::Passed(reasons) => give_back(AttemptKind::Passed, reasons.join("; "), PAUSE),
        CallError::Cancelled(_) | CallError::Lost(_) | CallError::TimedOut(TimedOut::Queue(_)) => {
            give_back(AttemptKind::Interrupted, text, Duration::ZERO)
        }
        CallError::Rejected(error) if matches!(error.kind(), ErrorKind::Closed | ErrorKind::CannotStart | ErrorKind::QueueFull) => {
            give_back(AttemptKind::Interrupted, error.to_string(), PAUSE)
        }
        CallError::Rejected(error) => Ending::DeadLetter(error.to_string()),
    })
}
