//! The broker in between: RabbitMQ, 3.10 or newer.
//!
//! From below: `url`, `reach` (opening a connection), `fault` (what errors mean), `link` (a
//! connection that is made again), `publisher`, `message` (a job as a message), `topology`. On
//! these the parts that own their state:
//!
//! | part | owns |
//! |---|---|
//! | [`Storage`] (`store`) | the connection that publishes, publishers, what is known of queues |
//! | [`Consumers`] | what takes from queues: `queue_consumer`, `queue_groups`, `channels` |
//! | [`Leases`] | leases (`lease_table`), and what waits for news of them |
//! | [`Calls`] | calls from here that wait for their answers |
//! | [`Answers`] | answers from here on their way to their callers |
//! | [`ServedQueues`] (`control`) | the queues whose cancels are heard |
//!
//! [`RabbitMqCore`] joins them: `lease` hands out, `settle`, `callers` and `pass` end leases,
//! `refresh` keeps what is held for long. `consumer_channel` is a channel that deliveries come by,
//! with its acks.
//!
//! Two connections: one publishes, the other takes and acks. The broker stops reading from a
//! connection that publishes while it is short of memory or disk, and acks are what relieves it.
//!
//! What always holds:
//!
//! - A push counts when the broker has confirmed it; a settlement when what becomes of the job is
//!   confirmed, and the ack of its delivery heard.
//! - A lease is a delivery of one channel and ends with it: no token outlives its connection. One
//!   that grows old is exchanged for a fresh one (`refresh`).
//! - Nothing is counted by the broker's own counters of deliveries: attempts are in headers of
//!   ours, and what is given back is a new message.

mod answers;
mod callers;
mod calls;
mod channels;
mod check;
mod checks;
mod consumer_channel;
mod consumers;
mod control;
mod fault;
mod fit;
mod foreign;
mod headers;
mod incoming;
mod lease;
mod lease_table;
mod leases;
mod link;
mod management;
mod message;
mod pass;
mod pause;
mod publisher;
mod queue_consumer;
mod queue_groups;
mod rabbitmq_3_10;
mod reach;
mod recent;
mod refresh;
mod reload_lock;
mod requests;
mod settle;
mod store;
mod topology;
mod url;
mod values;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use self::answers::Answers;
use self::calls::Calls;
use self::consumers::Consumers;
use self::control::ServedQueues;
use self::leases::Leases;
use self::link::Link;
use self::refresh::RefreshQueues;
use self::store::Storage;
use self::url::RabbitMqConfig;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::finding::Finding;
use crate::job::{Job, JobId};
use crate::policy::PAYLOAD_BYTES_MAX;
use crate::progress::Progress;
use crate::shutdown::Scope;
use brigade_core::store::{
    CallCounts, CallResult, CallTransport, CancelRequest, Capabilities, DirectCall, JobStore,
    LeaseRequest, Leased, PushOutcome, ReloadGuard, ReloadLock, Reply, Settled, Settlement,
};
use brigade_core::{
    clock, codec, error, finding, job, outcome, policy, progress, registry, retry, sync,
    traceparent,
};
use brigade_runtime::shutdown;

/// What is looked at may have changed in any case after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// For what is being put elsewhere when the broker is dropped.
const MOVING_TIMEOUT: Duration = Duration::from_secs(1);

struct RabbitMq(Arc<RabbitMqCore>);

/// What its tasks share.
struct RabbitMqCore {
    config: Arc<RabbitMqConfig>,
    scope: Scope,
    /// In the names of its consumers.
    id: String,
    /// What publishes, and what is known of queues.
    storage: Arc<Storage>,
    /// What takes and acks.
    consume_link: Link,
    /// Calls from here.
    calls: OnceLock<Arc<Calls>>,
    /// Answers from here.
    answers: Arc<Answers>,
    /// Whose cancels are heard.
    served: Arc<ServedQueues>,
    refresh_queues: RefreshQueues,
    /// The broker's `consumer_timeout` in milliseconds, once it has named it.
    learnt_timeout: AtomicU64,
    consumers: Consumers,
    leases: Leases,
    /// Messages that are being put elsewhere.
    moving: TaskTracker,
    clock: Clock,
}

/// Connects to the servers of a URL.
///
/// # Errors
///
/// Those of `Broker::connect`.
pub async fn connect(url: &str, clock: Clock) -> Result<Arc<dyn JobStore>, Error> {
    let scope = Scope::current().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "open a broker outside of an async runtime (tokio)",
        )
    })?;
    let config = Arc::new(RabbitMqConfig::parse(url)?);
    let out = Link::connect(&config, "publish", &scope).await?;
    let consume_link = Link::connect(&config, "take", &scope).await?;
    let storage = Storage::start(&config, out, &scope);
    let core = Arc::new(RabbitMqCore {
        id: values::random_id(),
        calls: OnceLock::new(),
        answers: Answers::start(&storage),
        served: Arc::default(),
        refresh_queues: RefreshQueues::default(),
        learnt_timeout: AtomicU64::new(u64::MAX),
        storage,
        config,
        scope: scope.clone(),
        consume_link,
        consumers: Consumers::default(),
        leases: Leases::new(),
        moving: TaskTracker::new(),
        clock,
    });
    scope.spawn_until_closed(Arc::clone(&core).watch_leases());
    scope.spawn_until_closed(Arc::clone(&core).tidy());
    let (hearing, served) = (Arc::clone(&core), Arc::clone(&core.served));
    let on_cancel = move |id: &str, reason| hearing.leases.cancel_call(id, reason);
    scope.spawn_until_closed(control::listen(
        served,
        core.consume_link.clone(),
        on_cancel,
    ));
    Ok(Arc::new(RabbitMq(core)))
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let core = Arc::clone(&self.0);
        core.moving.close();
        if core.moving.is_empty() {
            return core.scope.close();
        }
        // A message that has been put elsewhere, and whose delivery is not acked yet, would be
        // there twice.
        let scope = core.scope.clone();
        scope.spawn(async move {
            timeout(MOVING_TIMEOUT, core.moving.wait()).await.ok();
            core.scope.close();
        });
    }
}

impl RabbitMqCore {
    /// As tests have moved the clock.
    fn now_after(&self, moment: Instant) -> Instant {
        moment + self.clock.ahead()
    }
}

impl JobStore for RabbitMq {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            listing: false,
            scheduling: true,
            schedules: false,
            priorities: self.0.config.priority_max().is_some(),
            keys: false,
            unique: false,
            limits: false,
            manager: false,
            consumers: false,
            flows: false,
            results: false,
            answers: true,
            passes: true,
            priority_range: (0, self.0.config.priority_max().unwrap_or(0).into()),
            whole_batches: false,
            keeps_places: false,
            pauses: false,
            cancels: false,
            clock: false,
            dead_queues: true,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }

    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>> {
        Box::pin(async move { self.0.storage.push(jobs).await })
    }

    fn lease(&self, ask: LeaseRequest) -> Reply<'_, Vec<Leased>> {
        Box::pin(async move { self.0.lease(ask).await })
    }

    fn settle(&self, settlements: Vec<Arc<Settlement>>) -> Reply<'_, Vec<Result<Settled, Error>>> {
        Box::pin(async move { self.0.settle(settlements).await })
    }

    fn purge<'a>(&'a self, queue: &'a str) -> Reply<'a, u64> {
        Box::pin(self.0.storage.purge(queue))
    }

    fn cancel_requests(&self) -> Reply<'_, Vec<CancelRequest>> {
        Box::pin(async { Ok(self.0.leases.table().lost()) })
    }

    fn check(&self) -> Reply<'_, Vec<Finding>> {
        Box::pin(check::check(&self.0))
    }

    fn changed(&self) -> Reply<'_, ()> {
        // From the call on, not from the first poll.
        let lost = self.0.leases.until_lost();
        Box::pin(async {
            tokio::select! {
                () = lost => {}
                () = sleep(LOOK_AGAIN) => {}
            }
            Ok(())
        })
    }

    fn calls(self: Arc<Self>) -> Option<Arc<dyn CallTransport>> {
        Some(self)
    }

    fn reload_lock(self: Arc<Self>) -> Option<Arc<dyn ReloadLock>> {
        Some(self)
    }
}

impl CallTransport for RabbitMq {
    fn call(self: Arc<Self>, call: DirectCall) -> CallResult {
        self.0.call(call)
    }

    fn report_progress(&self, id: &JobId, token: i64, progress: Progress) {
        self.0.tell_progress(id, token, progress);
    }

    fn counts(&self) -> CallCounts {
        self.0
            .calls
            .get()
            .map(|calls| calls.counts())
            .unwrap_or_default()
    }
}

impl ReloadLock for RabbitMq {
    fn lock<'a>(&'a self, queue: &'a str) -> Reply<'a, ReloadGuard> {
        Box::pin(self.0.reload_lock(queue))
    }
}
