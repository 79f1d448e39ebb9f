//! The consumer: lease -> attempt in a pool -> settlement. The only module that knows both brokers
//! and pools.
//!
//! [`Consumer`] collects the `settings`; `consumer` is a running one, with its life in order;
//! `announce` shows that it is alive. `leases` leases while there is room (prefetch), renews, and
//! looks for cancels; `attempt` is one leased job until its settlement, `job_call` the call that it
//! asks for, `here` its attempt in this process, `handler` its attempt by a handler; `disposition`
//! decides what becomes of a job, `settling` delivers that to the broker; `turns` chooses the queue
//! that is asked first; `control` is the consumer's handle; `reload` lets consumers reload one
//! after the other.
//!
//! The consumer renews a lease only while its attempt waits in the pool or runs in a living worker,
//! and while it settles the job. A consumer that dies renews nothing. Attempts in this process have
//! threads of their own, so that user code cannot block renewals.

mod announce;
mod attempt;
mod consumer;
mod control;
mod disposition;
mod handler;
mod held;
mod here;
mod job_call;
mod leases;
mod panic_text;
mod pause;
mod reload;
mod served;
mod serving;
mod settings;
mod settling;
mod turns;

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use self::consumer::Running;
use self::handler::Handler;
use self::settings::{ConsumerPlace, ConsumerSettings, Until};
use crate::broker::Broker;
use crate::call::Call;
use crate::clock::FAR;
use crate::error::Error;
use crate::registry;
use crate::stop;
use brigade_core::{AttemptLimits, Function};
use brigade_pool::Pool;

pub use control::{ConsumerHandle, ConsumerStats};
pub use handler::{HandlerEnd, HandlerStop, LeasedJob};
pub use served::{Served, SettledAttempt};

/// Takes jobs from queues of a broker, runs and settles them: [`Broker::consumer`]. Unless
/// [`in_process`](Consumer::in_process) is said, each attempt runs in a worker process.
///
/// ```standalone_crate
/// use brigade::{Broker, task};
///
/// #[task]
/// fn greet(name: String) {
///     println!("hello {name}");
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}/jobs.db", directory.path().display());
/// let broker = Broker::connect(&url).await?;
/// broker.push(greet("Ann".to_owned())).await?;
/// let served = broker.consumer().task(greet).in_process().run_until_empty().await?;
/// assert_eq!(served.done, 1);
/// # Ok(()) }
/// ```
#[must_use = "a consumer does nothing until it runs"]
pub struct Consumer(ConsumerSettings);

/// How long a job is offered to other consumers when none that got it could run it.
const UNSERVED_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// A job that lost so many holders becomes a dead letter.
const LOSSES_MAX: u32 = 5;
/// Of the version of a program.
const VERSION_BYTES_MAX: usize = 100;
/// How long a handler may take to end once it was asked to.
const ABORT_AFTER: Duration = Duration::from_secs(5);

impl Broker {
    /// A consumer of this broker's jobs.
    pub fn consumer(&self) -> Consumer {
        Consumer(ConsumerSettings {
            broker: self.clone(),
            place: ConsumerPlace::OwnPool,
            queues: Vec::new(),
            weighted: Vec::new(),
            prefetch: 0,
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            until: Until::Told,
            unserved_timeout: UNSERVED_TIMEOUT,
            losses_max: LOSSES_MAX,
            limits: HashMap::new(),
            abort_after: ABORT_AFTER,
            version: None,
            on_settled: None,
            control: Arc::default(),
            wrong: None,
        })
    }
}

impl Consumer {
    /// Serves this queue in strict order: of the queues given here, a later one is asked only while
    /// those before it have no job to hand out. Queues that take turns come after all of them.
    /// Default: the queues of all tasks of this program, in equal turns.
    pub fn queue(mut self, name: impl Into<Box<str>>) -> Self {
        self.0.queues.push(name.into());
        self
    }

    /// Serves this queue in turn with the others that take turns: while all have jobs, the consumer
    /// takes from each by its weight, at least 1. An empty queue delays no other. Queues of
    /// [`task`](Consumer::task) have weight 1; those of [`queue`](Consumer::queue) come first.
    pub fn weighted(mut self, name: impl Into<Box<str>>, weight: u32) -> Self {
        self.0.weighted.push((name.into(), weight));
        self
    }

    /// Serves the queue of this task: `broker.consumer().task(hello)`. Several tasks take equal
    /// turns, whatever their order here, as with [`weighted`](Consumer::weighted) and weight 1. For
    /// a strict order, name the queues: [`queue`](Consumer::queue).
    pub fn task<A, R, F: Function<A, Output = Call<R>>>(mut self, task: F) -> Self {
        // The type says which function it is.
        let _: F = task;
        match registry::of_function(std::any::type_name::<F>()) {
            Ok(entry) => self
                .0
                .weighted
                .extend(entry.queues().map(|queue| (queue.into(), 1))),
            Err(error) => self.0.wrong = Some(error),
        }
        self
    }

    /// Runs the attempts in this pool's worker processes, where each can be stopped and none can
    /// hurt this process. Default: a pool of the consumer's own, with up to one process per CPU,
    /// which ends with the consumer; the program's `main` then begins with [`init`](crate::init),
    /// or is [`#[brigade::main]`](macro@crate::main).
    pub fn on(mut self, pool: &Pool) -> Self {
        self.0.place = ConsumerPlace::Pool(pool.clone());
        self
    }

    /// Runs the attempts in this process, each on a thread that it has to itself and that takes
    /// another attempt after it. This is faster for tiny tasks and gives up the protection of a
    /// pool. An attempt that crashes (a signal, a stack overflow, no memory left) ends this process
    /// and everything in it. An attempt that hangs cannot be stopped: it keeps its lease and its
    /// slot for as long as this process lives. A timeout or a cancel only asks
    /// ([`Context::is_cancelled`](crate::Context::is_cancelled)) and takes effect at the next
    /// await; memory limits are ignored. Leaks and changes of the process stay.
    pub fn in_process(mut self) -> Self {
        self.0.place = ConsumerPlace::InProcess;
        self
    }

    /// Runs this code for each job, whatever task it names, in place of the tasks of this program.
    /// The consumer leases, renews, handles cancels and settles. The handler's result decides what
    /// becomes of the job, as for a task: `Ok` is done, with the value as the result; an error is a
    /// failure, unless it is a [`Pass`](crate::Pass), or a [`Failure`](crate::Failure) that is
    /// permanent or sets the pause. A panic is a failure.
    ///
    /// The handler runs in this process, as a task of the runtime: code that computes for long
    /// belongs on [`tokio::task::spawn_blocking`]. A cancel, the job's timeout or the end of the
    /// consumer asks the handler to stop: [`LeasedJob::cancelled`] resolves, and the future is
    /// dropped at its next await after [`abort_after`](Consumer::abort_after). Name the queues with
    /// [`queue`](Consumer::queue) or [`weighted`](Consumer::weighted);
    /// [`prefetch`](Consumer::prefetch) is the number of jobs at once.
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
        self.0.place = ConsumerPlace::Handler(Handler::new(handler));
        self
    }

    /// Calls this after each attempt, when the broker has accepted its settlement, or has refused
    /// it because the lease had ended. It must not block.
    pub fn on_settled(mut self, call: impl Fn(&SettledAttempt) + Send + Sync + 'static) -> Self {
        self.0.on_settled = Some(Arc::new(call));
        self
    }

    /// How long a handler may take to end once it was asked to; then its future is dropped at its
    /// next await. Default: 5 s. The lease is kept for that long; a lost lease leaves it less.
    pub fn abort_after(mut self, time: Duration) -> Self {
        self.0.abort_after = time.min(FAR);
        self
    }

    /// The version of this program, as the list of live consumers shows it
    /// ([`Broker::consumers`]): `.version(env!("CARGO_PKG_VERSION"))`. Default: none. At most
    /// 100 bytes are kept.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        let mut version = version.into();
        version.truncate(version.floor_char_boundary(VERSION_BYTES_MAX));
        self.0.version = Some(version);
        self
    }

    /// The most jobs held at once. Default: twice the pool's slots; 1 in process and for a handler.
    /// At most 1,048,576.
    pub fn prefetch(mut self, jobs: usize) -> Self {
        self.0.prefetch = jobs.max(1);
        self
    }

    /// How long a lease runs; it is renewed three times in that time. Default: 30 s; at least 1 s,
    /// at most 100 years.
    pub fn lease(mut self, time: Duration) -> Self {
        self.0.lease = time.clamp(Duration::from_secs(1), FAR);
        self
    }

    /// How long running attempts may take to finish when the consumer stops; then they are stopped
    /// and their jobs given back. Default: 30 s.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.0.drain = time;
        self
    }

    /// How long a job is given back to other consumers because this program does not know its task
    /// or its arguments do not fit: in a deploy, an old program gets jobs of the new one and the
    /// other way round. The time begins when a first consumer could not run the job. A job that is
    /// given back waits for 1 s, then for twice as long each time, up to 60 s. When the time is
    /// over, the next consumer that cannot run it makes it a dead letter with that reason. Default:
    /// 1 day; with zero it is a dead letter at once. A call over RabbitMQ ends with an error when
    /// all consumers of its queue were asked.
    pub fn unserved_timeout(mut self, time: Duration) -> Self {
        self.0.unserved_timeout = time;
        self
    }

    /// How often a job may lose its holder (the process died or hung) before it becomes a dead
    /// letter, because the job may be what kills its consumers. After the second loss it runs alone
    /// in its consumer, so that it takes no other job with it. An orderly end (a deploy, a lost
    /// host) is not counted. Default: 5; at least 1. RabbitMQ does not distinguish a dead holder
    /// from a lost connection, so ten deliveries without a settlement count as one loss there.
    pub fn losses_max(mut self, times: u32) -> Self {
        self.0.losses_max = times.max(1);
        self
    }

    /// What an attempt of a job of this queue may use, where neither the job nor its task's
    /// registration says so. Default: the pool's ([`Builder::limits`](crate::Builder::limits)).
    /// Limits are held in worker processes only: with them, [`in_process`](Consumer::in_process)
    /// and [`handler`](Consumer::handler) are refused as `Unsupported`.
    ///
    /// ```
    /// # use brigade::{AttemptLimits, Broker};
    /// # fn example(broker: &Broker) {
    /// let small = AttemptLimits::new().memory(128 << 20).files(64);
    /// let consumer = broker.consumer().queue("thumbnails").limits("thumbnails", small);
    /// # drop(consumer); }
    /// ```
    pub fn limits(mut self, queue: impl Into<Box<str>>, limits: AttemptLimits) -> Self {
        self.0.limits.insert(queue.into(), limits);
        self
    }

    /// Ends by itself when the queues have no job that any consumer will still run, and all leases
    /// are settled. It waits for jobs that are not yet due or wait for a retry, also those that
    /// only another program can run, and for paused queues.
    pub fn until_empty(mut self) -> Self {
        self.0.until = Until::Empty;
        self
    }

    /// As [`until_empty`](Consumer::until_empty), without waiting for jobs that are not due.
    pub(crate) fn until_nothing_is_due(mut self) -> Self {
        self.0.until = Until::NothingDue;
        self
    }

    /// A handle that controls the consumer while it runs.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle(Arc::clone(&self.0.control))
    }

    /// [`until_empty`](Consumer::until_empty), and runs.
    ///
    /// # Errors
    ///
    /// As [`run_until`](Consumer::run_until).
    pub async fn run_until_empty(self) -> Result<Served, Error> {
        self.until_empty().run_until(pending::<()>()).await
    }

    /// Serves until `stop` resolves (any future: a channel, a token, or
    /// [`stop_signal()`](crate::stop_signal)). Then it leases nothing more and lets running
    /// attempts finish, within [`drain_timeout`](Consumer::drain_timeout). A second signal after
    /// [`stop_signal()`](crate::stop_signal), or [`ConsumerHandle::kill`], stops them at once. Jobs
    /// whose attempts were stopped are given back, uncharged.
    ///
    /// # Errors
    ///
    /// `BadOption` without any queue; `Unsupported` outside of a runtime, or with
    /// [`until_empty`](Consumer::until_empty) at a broker that does not count jobs
    /// ([`Capabilities::listing`](crate::Capabilities::listing)); those of
    /// [`Builder::start`](crate::Builder::start) if it starts a pool of its own; `Closed` if the
    /// connection to the broker has ended for good. The consumer logs other errors of the broker
    /// and continues when the broker is back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a [`kill`](ConsumerHandle::kill) in the background: the consumer
    /// leases nothing more, stops its attempts and gives their jobs back. If the runtime ends
    /// before that, their leases run out. To let attempts finish, resolve `stop`.
    pub async fn run_until(self, stop: impl Future) -> Result<Served, Error> {
        let control = Arc::clone(&self.0.control);
        let mut running = Running::begin(self.0).await?;
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
            .field("queues", &self.0.queues)
            .field("prefetch", &self.0.prefetch)
            .finish_non_exhaustive()
    }
}
