//! The consumer: lease -> attempt in a pool -> settlement. The only module that knows both brokers and pools.
//!
//! `leases` leases while there is room (prefetch), renews, and hears of cancels; `attempt` is one leased job until its settlement;
//! `ending` says what becomes of a job, `settling` tells the broker; `turns` which queue is asked first; `control` what a handle
//! tells; `reload` how workers take turns to load; `stop` what ends a worker.
//!
//! A lease is renewed only while its attempt is in the pool's hands: waiting for a worker, or running in one that lives. A parent
//! that dies renews nothing more.

mod attempt;
mod control;
mod ending;
mod leases;
mod reload;
mod settling;
mod stop;
mod turns;

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use self::attempt::Held;
use self::control::Control;
use self::reload::Serving;
use self::settling::Settling;
use self::turns::Turns;
use crate::broker::{Backend, Broker};
use crate::call::Call;
use crate::error::{Error, ErrorKind};
use crate::pool::Pool;
use crate::registry;
use crate::shutdown::Scope;
use crate::task::Function;

pub use control::{WorkerHandle, WorkerStats};
pub use stop::{Interrupts, StopSignal, ctrl_c};

/// Serves tasks from a broker, see [`Broker::worker`].
///
/// ```no_run
/// # use brigade::{Broker, Pool, task};
/// # #[task] fn hello(name: String) -> String { name }
/// # async fn run() -> Result<(), brigade::Error> {
/// let (broker, pool) = (Broker::connect("sqlite:jobs.db").await?, Pool::builder().start().await?);
/// broker.worker().task(hello).weighted("mails", 3).weighted("reports", 1).on(&pool).run_until(brigade::ctrl_c()).await?;
/// # Ok(()) }
/// ```
#[must_use = "a worker does nothing until it runs"]
pub struct Worker {
    broker: Broker,
    pool: Option<Pool>,
    queues: Vec<Box<str>>,
    weighted: Vec<(Box<str>, u32)>,
    prefetch: usize,
    lease: Duration,
    drain: Duration,
    until: Until,
    control: Arc<Control>,
    /// What `task` was given that is none.
    wrong: Option<Error>,
}

/// When a worker ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Never: it must be told.
    Told,
    /// When its queues hold nothing that will still be run.
    Empty,
    /// When its queues hold nothing that is due.
    NothingDue,
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
    /// Attempts that were stopped because somebody cancelled their jobs.
    pub cancelled: u64,
    /// Settlements that came too late, because the lease had run out.
    pub stale: u64,
}

/// After a broker's error, and before a job that nobody could take is tried again.
const PAUSE: Duration = Duration::from_millis(200);

impl Broker {
    /// A worker that serves this broker's jobs.
    pub fn worker(&self) -> Worker {
        Worker {
            broker: self.clone(),
            pool: None,
            queues: Vec::new(),
            weighted: Vec::new(),
            prefetch: 0,
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            until: Until::Told,
            control: Arc::default(),
            wrong: None,
        }
    }
}

impl Worker {
    /// Serves this queue in strict order: of the queues that are named so, a later one gives jobs only while those before it have none to hand out, and
    /// all that take turns come after them. Default: the queues of all tasks of this program, in equal turns.
    pub fn queue(mut self, name: impl Into<Box<str>>) -> Self {
        self.queues.push(name.into());
        self
    }

    /// Serves this queue in turn with the others that take turns: where all have jobs, each gives by its weight, at least 1. One that is empty
    /// holds up no other. Those of [`task`](Worker::task) have weight 1; those of [`queue`](Worker::queue) come before them.
    pub fn weighted(mut self, name: impl Into<Box<str>>, weight: u32) -> Self {
        self.weighted.push((name.into(), weight));
        self
    }

    /// Serves the queue of this task: `broker.worker().task(hello)`. Several tasks take equal turns, whatever their order here, as with
    /// [`weighted`](Worker::weighted) and weight 1. Where the order is to count, name the queues: [`queue`](Worker::queue).
    pub fn task<A, R, F: Function<A, Output = Call<R>>>(mut self, task: F) -> Self {
        // The type says which function it is.
        let _: F = task;
        match registry::of_function(std::any::type_name::<F>()) {
            Ok(entry) => self.weighted.extend(entry.queues().map(|queue| (queue.into(), 1))),
            Err(error) => self.wrong = Some(error),
        }
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

    /// Ends by itself when the queues hold nothing that will still be run, by anybody, and what was leased is settled. Jobs that wait for
    /// their time or a retry, and paused queues, are waited for.
    pub fn until_empty(mut self) -> Self {
        self.until = Until::Empty;
        self
    }

    /// As [`until_empty`](Worker::until_empty), without waiting for what is not due.
    pub(crate) fn until_nothing_is_due(mut self) -> Self {
        self.until = Until::NothingDue;
        self
    }

    /// To tell the worker what to do while it runs.
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle(Arc::clone(&self.control))
    }

    /// [`until_empty`](Worker::until_empty), and runs.
    ///
    /// # Errors
    ///
    /// As [`run_until`](Worker::run_until).
    pub async fn run_until_empty(self) -> Result<Served, Error> {
        self.until_empty().run_until(pending::<()>()).await
    }

    /// Serves until `stop` comes (any future: a channel, a token; or [`ctrl_c()`](ctrl_c)), then takes nothing new and lets what runs
    /// finish, within [`drain_timeout`](Worker::drain_timeout). With [`ctrl_c()`](ctrl_c), a second signal ends that at once; so does
    /// [`WorkerHandle::kill`]. What is stopped is given back, uncharged.
    ///
    /// # Errors
    ///
    /// `BadOption` without any queue, `Unsupported` outside of a runtime, and for a worker that is to end when its queues are empty at a broker
    /// that does not count jobs ([`Capabilities::listing`](crate::Capabilities::listing)), `Closed` if the connection to the broker has ended for good. Other
    /// errors of the broker are waited out and logged: serving goes on when it is back.
    ///
    /// # Cancel safety
    ///
    /// None: what runs when the future is dropped goes on without its lease being renewed. End it with `stop`.
    pub async fn run_until(self, stop: impl StopSignal) -> Result<Served, Error> {
        let scope = Scope::current().ok_or_else(|| Error::new(ErrorKind::Unsupported, "serve outside of an async runtime (tokio)"))?;
        if self.until != Until::Told && !self.broker.capabilities().listing {
            let text = "serve until the queues are empty: this broker does not tell what is left in them";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let handle = self.handle();
        let consumer = Arc::new(Consumer::new(self, &scope)?);
        let ended = CancellationToken::new();
        let beside = [Arc::clone(&consumer).renew().left_future(), Arc::clone(&consumer).hear_of_cancels().right_future()];
        for task in beside {
            let ended = ended.clone();
            scope.spawn(async move {
                ended.run_until_cancelled(task).await;
            });
        }
        let alive = CancellationToken::new();
        let _serves_no_longer = alive.clone().drop_guard();
        let (tell, served) = oneshot::channel();
        let serving = serve(Arc::clone(&consumer), scope.clone());
        // A task of its own: whoever awaits this may be a thread beside the runtime's, which would be woken for each lease.
        scope.spawn(async move {
            if let Some(served) = alive.run_until_cancelled(serving).await {
                tell.send(served).ok();
            }
        });
        let served = tokio::select! {
            biased;
            error = stop.tell(&handle) => return Err(error),
            served = served => served.map_err(|_| Error::new(ErrorKind::Closed, "serve in a runtime that has ended"))?,
        };
        ended.cancel();
        scope.close();
        scope.ended().await;
        served.map(|()| consumer.control.served())
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("queues", &self.queues).field("prefetch", &self.prefetch).finish_non_exhaustive()
    }
}

/// Leases and drains.
async fn serve(consumer: Arc<Consumer>, scope: Scope) -> Result<(), Error> {
    let leased = consumer.lease_on(&scope).await;
    consumer.drain().await;
    leased
}

/// A worker that runs.
struct Consumer {
    broker: Broker,
    backend: Arc<dyn Backend>,
    pool: Option<Pool>,
    /// The task that runs a queue's plain jobs.
    tasks: HashMap<Box<str>, &'static str>,
    turns: Mutex<Turns>,
    prefetch: usize,
    lease: Duration,
    drain: Duration,
    until: Until,
    room: Arc<Semaphore>,
    held: Mutex<HashMap<u64, Held>>,
    numbers: AtomicU64,
    settling: Settling,
    control: Arc<Control>,
}

impl Consumer {
    fn new(mut worker: Worker, scope: &Scope) -> Result<Self, Error> {
        if let Some(error) = worker.wrong {
            return Err(error);
        }
        let tasks = registry::by_queue()?;
        if worker.queues.is_empty() && worker.weighted.is_empty() {
            worker.weighted = tasks.keys().map(|queue| (queue.clone(), 1)).collect();
            worker.weighted.sort();
        }
        if worker.queues.is_empty() && worker.weighted.is_empty() {
            return Err(Error::new(ErrorKind::BadOption, "serve without a queue: name one, or define a #[task]"));
        }
        let turns = Turns::new(worker.queues, worker.weighted);
        worker.control.serve(Serving::of(&worker.broker, turns.all().names().to_vec()));
        let slots = worker.pool.as_ref().map_or(1, |pool| 2 * pool.slots());
        let prefetch = if worker.prefetch == 0 { slots } else { worker.prefetch };
        let backend = worker.broker.backend();
        Ok(Self {
            settling: Settling::new(scope, Arc::clone(&backend), worker.lease),
            backend,
            broker: worker.broker,
            pool: worker.pool,
            tasks,
            turns: Mutex::new(turns),
            prefetch,
            lease: worker.lease,
            drain: worker.drain,
            until: worker.until,
            room: Arc::new(Semaphore::new(prefetch)),
            held: Mutex::default(),
            numbers: AtomicU64::new(0),
            control: worker.control,
        })
    }
}
