//! The consumer: lease -> attempt in a pool -> settlement. The only module that knows both brokers
//! and pools.
//!
//! `consumer` is one that runs, and the story of its life. `announce` shows that it is alive. `leases` leases while there is room
//! (prefetch), renews, and hears of cancels; `attempt` is one leased job until its settlement,
//! `here` its attempt in this process; `disposition` says what becomes of a job, `settling` tells the
//! broker; `turns` which queue is asked first; `control` what a handle tells; `reload` how workers
//! take turns to load.
//!
//! A lease is renewed only while its attempt is in the pool's hands: waiting for a worker, or
//! running in one that lives; and while the broker is being told how it ended. A parent that dies
//! renews nothing more. Attempts in this process have threads of their own, so that renewals depend
//! on no code of users.

mod announce;
mod attempt;
mod consumer;
mod control;
mod disposition;
mod handler;
mod here;
mod leases;
mod reload;
mod settling;
mod turns;

use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use self::consumer::Running;
use self::control::Control;
use self::handler::Handler;
use crate::broker::Broker;
use crate::call::Call;
use crate::clock::FAR;
use crate::error::Error;
use crate::job::JobId;
use crate::registry;
use crate::retry::jitter;
use crate::stop;
use crate::task::Function;
use brigade_pool::Pool;

pub use control::{ConsumerHandle, ConsumerStats};
pub use handler::{HandlerEnd, HandlerStop, LeasedJob};

/// Serves tasks from a broker, see [`Broker::consumer`].
///
/// ```no_run
/// # use brigade::{Broker, Pool, task};
/// # #[task] fn hello(name: String) -> String { name }
/// # async fn run() -> Result<(), brigade::Error> {
/// let (broker, pool) = (Broker::connect("sqlite:jobs.db").await?, Pool::builder().start().await?);
/// broker.consumer().task(hello).weighted("mails", 3).weighted("reports", 1).on(&pool).run_until(brigade::stop_signal()).await?;
/// # Ok(()) }
/// ```
#[must_use = "a worker does nothing until it runs"]
pub struct Consumer {
    broker: Broker,
    place: Place,
    queues: Vec<Box<str>>,
    weighted: Vec<(Box<str>, u32)>,
    prefetch: usize,
    lease: Duration,
    drain: Duration,
    until: Until,
    unserved_timeout: Duration,
    losses_max: u32,
    abort_after: Duration,
    version: Option<String>,
    on_settled: Option<OnSettled>,
    control: Arc<Control>,
    /// What `task` was given that is none.
    wrong: Option<Error>,
}

/// Where attempts run.
#[derive(Clone)]
enum Place {
    /// In processes of a pool that the worker starts and ends.
    OwnPool,
    Pool(Pool),
    InProcess,
    /// As tasks of this runtime, by a handler.
    Handler(Handler),
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

/// An attempt that was settled, see [`Consumer::on_settled`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettledAttempt {
    /// Its job.
    pub id: JobId,
    /// Its number, from 1.
    pub attempt: u32,
    /// Whether the settlement counts. If not, the job is another consumer's by now.
    pub accepted: bool,
}

/// What is called after each settlement.
type OnSettled = Arc<dyn Fn(&SettledAttempt) + Send + Sync>;

/// After a broker's error, and before a job that nobody could take is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a job is offered to other consumers when none that got it could run it.
const UNSERVED_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// A job whose holders fell silent so often is set aside.
const LOSSES_MAX: u32 = 5;
/// Of the version of a program.
const VERSION_BYTES_MAX: usize = 100;
/// How long a handler may take to end once it was asked to.
const ABORT_AFTER: Duration = Duration::from_secs(5);

/// [`PAUSE`], a little different each time: consumers that were disturbed together do not come back
/// together.
fn pause() -> Duration {
    PAUSE.mul_f64(jitter(0.5))
}

impl Broker {
    /// A worker that serves this broker's jobs.
    pub fn consumer(&self) -> Consumer {
        Consumer {
            broker: self.clone(),
            place: Place::OwnPool,
            queues: Vec::new(),
            weighted: Vec::new(),
            prefetch: 0,
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            until: Until::Told,
            unserved_timeout: UNSERVED_TIMEOUT,
            losses_max: LOSSES_MAX,
            abort_after: ABORT_AFTER,
            version: None,
            on_settled: None,
            control: Arc::default(),
            wrong: None,
        }
    }
}

impl Consumer {
    /// Serves this queue in strict order: of the queues that are named so, a later one gives jobs
    /// only while those before it have none to hand out, and all that take turns come after them.
    /// Default: the queues of all tasks of this program, in equal turns.
    pub fn queue(mut self, name: impl Into<Box<str>>) -> Self {
        self.queues.push(name.into());
        self
    }

    /// Serves this queue in turn with the others that take turns: where all have jobs, each gives
    /// by its weight, at least 1. One that is empty holds up no other. Those of
    /// [`task`](Consumer::task) have weight 1; those of [`queue`](Consumer::queue) come before them.
    pub fn weighted(mut self, name: impl Into<Box<str>>, weight: u32) -> Self {
        self.weighted.push((name.into(), weight));
        self
    }

    /// Serves the queue of this task: `broker.consumer().task(hello)`. Several tasks take equal
    /// turns, whatever their order here, as with [`weighted`](Consumer::weighted) and weight 1. Where
    /// the order is to count, name the queues: [`queue`](Consumer::queue).
    pub fn task<A, R, F: Function<A, Output = Call<R>>>(mut self, task: F) -> Self {
        // The type says which function it is.
        let _: F = task;
        match registry::of_function(std::any::type_name::<F>()) {
            Ok(entry) => self
                .weighted
                .extend(entry.queues().map(|queue| (queue.into(), 1))),
            Err(error) => self.wrong = Some(error),
        }
        self
    }

    /// Runs the attempts in this pool's processes, where each can be stopped and none can hurt this
    /// one. Default: a pool of the worker's own, with up to one process per CPU, which ends with
    /// the worker; the program's `main` begins with [`init`](crate::init) then, or is
    /// [`#[brigade::main]`](macro@crate::main).
    pub fn on(mut self, pool: &Pool) -> Self {
        self.place = Place::Pool(pool.clone());
        self
    }

    /// Runs the attempts in this very process, each on a thread of its own: faster for tiny tasks,
    /// and all that a pool protects from is given up. One that crashes (a signal, a stack overflow,
    /// no memory left) takes this process with it, and with that all that runs beside it. One that
    /// hangs cannot be stopped: it keeps its lease and its place for as long as this process lives.
    /// A timeout or a cancel only asks ([`Context::is_cancelled`](crate::Context::is_cancelled))
    /// and takes effect at the next await; limits of memory are ignored. What it leaks, and what it
    /// changes of the process, stays.
    pub fn in_process(mut self) -> Self {
        self.place = Place::InProcess;
        self
    }

    /// Runs this code for each job, whatever task it names, in place of the tasks of this program.
    /// The consumer leases, renews, hears of cancels and settles; what the handler returns decides
    /// what becomes of the job, as for a task: `Ok` is done, with the value as the result; an error
    /// is a failure, unless it is a [`Pass`](crate::Pass), or a [`Failure`](crate::Failure) that is
    /// permanent or asks for a time. A panic is a failure.
    ///
    /// The handler runs in this process, as a task of the runtime: code that computes for long
    /// belongs on [`tokio::task::spawn_blocking`]. Asked to stop by a cancel, by its job's timeout or
    /// by the end of the consumer, it hears of it by [`LeasedJob::cancelled`], and is dropped at its
    /// next await after [`abort_after`](Consumer::abort_after). Name the queues with
    /// [`queue`](Consumer::queue) or [`weighted`](Consumer::weighted); [`prefetch`](Consumer::prefetch)
    /// says how many jobs run at once.
    ///
    /// ```no_run
    /// # use brigade::{Broker, Failure};
    /// # async fn send(to: String) -> Result<(), Failure> { Ok(()) }
    /// # async fn run(broker: Broker) -> Result<(), brigade::Error> {
    /// broker.consumer()
    ///     .queue("emails")
    ///     .prefetch(10)
    ///     .handler(|job| async move {
    ///         let to: String = job.payload().map_err(Failure::permanent)?;
    ///         send(to).await
    ///     })
    ///     .run_until(brigade::stop_signal())
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn handler<H, F, T, E>(mut self, handler: H) -> Self
    where
        H: Fn(LeasedJob) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: serde::Serialize,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.place = Place::Handler(Handler::new(handler));
        self
    }

    /// Calls this after each attempt, once the broker has its end, or has refused it because the
    /// lease was over by then. It must not block.
    pub fn on_settled(mut self, call: impl Fn(&SettledAttempt) + Send + Sync + 'static) -> Self {
        self.on_settled = Some(Arc::new(call));
        self
    }

    /// How long a handler may take to end once it was asked to; then its future is dropped at its
    /// next await. Default: 5 s. The lease is kept for that long; a lost lease leaves it less.
    pub fn abort_after(mut self, time: Duration) -> Self {
        self.abort_after = time.min(FAR);
        self
    }

    /// The version of this program, as the list of live consumers shows it
    /// ([`Broker::consumers`]): `.version(env!("CARGO_PKG_VERSION"))`. Default: none. At most
    /// 100 bytes are kept.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        let mut version = version.into();
        version.truncate(version.floor_char_boundary(VERSION_BYTES_MAX));
        self.version = Some(version);
        self
    }

    /// The most jobs held at once. Default: twice the pool's slots; 1 in process and for a handler. At most
    /// 1,048,576.
    pub fn prefetch(mut self, jobs: usize) -> Self {
        self.prefetch = jobs.max(1);
        self
    }

    /// How long a lease runs; it is renewed three times in that time. Default: 30 s; at least 1 s,
    /// at most 100 years.
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time.clamp(Duration::from_secs(1), FAR);
        self
    }

    /// How long running attempts may take to finish when the worker stops; then they are stopped
    /// and their jobs given back. Default: 30 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// How long a job is given back, for other consumers to take, because this program does not
    /// know its task or its arguments do not fit: in a deploy, an old program meets jobs of the new
    /// one and the other way round. The time begins when a first consumer could not run it. A job
    /// that is given back waits for 1 s, then for twice as long each time, up to 60 s. When the
    /// time is over, the next consumer that cannot run it makes it a dead letter that says so.
    /// Default: 1 day; with zero it is a dead letter at once. The caller of a call over RabbitMQ is
    /// told once all workers of its queue were asked.
    pub fn unserved_timeout(mut self, time: Duration) -> Self {
        self.unserved_timeout = time;
        self
    }

    /// How often the holder of a job may fall silent, its process dead or hung, until the job is a
    /// dead letter: it may be what kills its consumers. After the second time it runs with nothing
    /// beside it, so that it takes no other job along. What ends in good order (a deploy, a lost
    /// host) is not counted. Default: 5; at least 1. On RabbitMQ, whose servers do not tell a dead
    /// holder from a lost connection, ten deliveries that nobody settled count as one loss.
    pub fn losses_max(mut self, times: u32) -> Self {
        self.losses_max = times.max(1);
        self
    }

    /// Ends by itself when the queues hold nothing that will still be run, by anybody, and what was
    /// leased is settled. Jobs that wait for their time or a retry, also those that only another
    /// program can run, and paused queues, are waited for.
    pub fn until_empty(mut self) -> Self {
        self.until = Until::Empty;
        self
    }

    /// As [`until_empty`](Consumer::until_empty), without waiting for what is not due.
    pub(crate) fn until_nothing_is_due(mut self) -> Self {
        self.until = Until::NothingDue;
        self
    }

    /// To tell the worker what to do while it runs.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle(Arc::clone(&self.control))
    }

    /// [`until_empty`](Consumer::until_empty), and runs.
    ///
    /// # Errors
    ///
    /// As [`run_until`](Consumer::run_until).
    pub async fn run_until_empty(self) -> Result<Served, Error> {
        self.until_empty().run_until(pending::<()>()).await
    }

    /// Serves until `stop` comes (any future: a channel, a token; or
    /// [`stop_signal()`](crate::stop_signal)), then takes nothing new and lets what runs finish,
    /// within [`drain_timeout`](Consumer::drain_timeout). The second signal after
    /// [`stop_signal()`](crate::stop_signal) ends that at once; so does [`ConsumerHandle::kill`].
    /// What is stopped is given back, uncharged.
    ///
    /// # Errors
    ///
    /// `BadOption` without any queue, `Unsupported` outside of a runtime, and for a worker that is
    /// to end when its queues are empty at a broker that does not count jobs
    /// ([`Capabilities::listing`](crate::Capabilities::listing)), those of
    /// [`Builder::start`](crate::Builder::start) if it starts a pool of its own, `Closed` if the
    /// connection to the broker has ended for good. Other errors of the broker are waited out and
    /// logged: serving goes on when it is back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a [`kill`](ConsumerHandle::kill) in the background: nothing more is
    /// leased, attempts are stopped and their jobs given back. Where the runtime ends before that
    /// is done, their leases run out. To let attempts finish, end it with `stop`.
    pub async fn run_until(self, stop: impl Future) -> Result<Served, Error> {
        let control = Arc::clone(&self.control);
        let mut running = Running::begin(self).await?;
        let told = async {
            stop.await;
            control.draining.cancel();
            stop::second_signal().await;
            tracing::info!("a second signal: what runs is killed and given back");
            control.kill();
            pending().await
        };
        tokio::select! {
            biased;
            never = told => never,
            served = running.ended() => served,
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("queues", &self.queues)
            .field("prefetch", &self.prefetch)
            .finish_non_exhaustive()
    }
}
