//! The RabbitMQ store: durable jobs, and calls with answers, on RabbitMQ 3.10 or newer.
//!
//! The lower modules know nothing of jobs: `url`, `reach` (opens a connection), `fault` (what
//! errors mean), `link` (a connection that is made again), `publisher`, `message` (a job as a
//! message), `topology` (queues and their arguments). The parts above them own their state:
//!
//! | part | owns |
//! |---|---|
//! | `store` | the connection that publishes, the publishers, the queues that are known |
//! | `answers` | answers from this process until they are in their callers' queues |
//! | `intake` | the connection that takes and acks, and the leases of this process |
//! | `consumers` | the consumers of queues: `queue_consumer`, `queue_groups` |
//! | `refresh` | the queues for deliveries that are held for long |
//! | `calls` | calls from this process that wait for their answers |
//! | `control` | the queues whose cancels this process receives |
//! | `roll_call` | the live consumers of this process, and who asks for those of all |
//!
//! `RabbitMq` joins them. `lease` hands out jobs, `arrival` handles messages that are not handed
//! out, `settle` and `pass` end leases.
//!
//! There are two connections: one publishes, the other takes and acks. The broker stops reading
//! from a connection that publishes while it is short of memory or disk, and acks relieve it.
//!
//! Invariants:
//!
//! - A push counts when the broker has confirmed it. A settlement counts when the message that
//!   follows from it is confirmed, and the broker has read the ack of its delivery.
//! - A lease is a delivery of one channel and ends with it: no token outlives its connection.
//!   `refresh` exchanges the delivery of a lease that grows old.
//! - Attempts are counted in headers of ours, not by the broker's counters of deliveries; a job
//!   that is given back is a new message.

mod answers;
mod arrival;
mod calls;
mod channels;
mod check;
mod checks;
mod consume;
mod consumer_channel;
mod consumers;
mod control;
mod fault;
mod fit;
mod foreign;
mod incoming;
mod intake;
mod lease;
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
mod roll_call;
mod settle;
mod store;
mod subscriptions;
mod topology;
mod url;
mod values;

use std::future::ready;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use self::calls::Calls;
use self::consumers::Consumers;
use self::intake::Intake;
use self::link::Link;
use self::refresh::Refresher;
use self::roll_call::RollCall;
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
    LeaseRequest, Leased, LiveConsumer, PushOutcome, ReloadGuard, ReloadLock, Reply, Settled,
    Settlement,
};
use brigade_core::{
    clock, codec, error, finding, job, outcome, policy, progress, registry, retry, sync,
    traceparent,
};
use brigade_runtime::shutdown;

/// `changed` returns after this time in any case.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a dropped broker waits for messages that are on their way to another queue.
const MOVING_TIMEOUT: Duration = Duration::from_secs(1);

struct RabbitMq {
    intake: Arc<Intake>,
    consumers: Arc<Consumers>,
    calls: OnceLock<Arc<Calls>>,
    roll_call: Arc<RollCall>,
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
    let link = Link::connect(&config, "take", &scope).await?;
    let storage = Storage::start(&config, out, &scope);
    let intake = Intake::new(&storage, link, clock);
    Refresher::start(&intake);
    let hearing = Arc::clone(&intake);
    scope.spawn_until_closed(async move {
        let on_cancel = |id: &str, reason| hearing.leases.cancel_call(id, reason);
        hearing.served.hear(&hearing.link, on_cancel).await;
    });
    Ok(Arc::new(RabbitMq {
        consumers: Consumers::start(&intake),
        roll_call: RollCall::new(&intake),
        intake,
        calls: OnceLock::new(),
    }))
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let intake = Arc::clone(&self.intake);
        intake.moving.close();
        if intake.moving.is_empty() {
            return intake.scope.close();
        }
        // A message that is stored in another queue, and whose delivery is not acked yet, would be
        // there twice.
        let scope = intake.scope.clone();
        scope.spawn(async move {
            timeout(MOVING_TIMEOUT, intake.moving.wait()).await.ok();
            intake.scope.close();
        });
    }
}

impl JobStore for RabbitMq {
    fn capabilities(&self) -> Capabilities {
        let priority_max = self.intake.config.priority_max();
        Capabilities {
            durable: true,
            scheduling: true,
            priorities: priority_max.is_some(),
            answers: true,
            passes: true,
            consumers: true,
            priority_range: (0, priority_max.unwrap_or(0).into()),
            dead_queues: true,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            ..Capabilities::minimal()
        }
    }

    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>> {
        Box::pin(self.intake.storage.push(jobs))
    }

    fn lease(&self, ask: LeaseRequest) -> Reply<'_, Vec<Leased>> {
        Box::pin(self.consumers.lease(ask))
    }

    fn settle(&self, settlements: Vec<Arc<Settlement>>) -> Reply<'_, Vec<Result<Settled, Error>>> {
        Box::pin(self.intake.settle(settlements))
    }

    fn purge<'a>(&'a self, queue: &'a str) -> Reply<'a, u64> {
        Box::pin(self.intake.storage.purge(queue))
    }

    fn cancel_requests(&self) -> Reply<'_, Vec<CancelRequest>> {
        Box::pin(async { Ok(self.intake.leases.table().lost()) })
    }

    fn announce_consumer<'a>(
        &'a self,
        consumer: &'a LiveConsumer,
        lasts: Duration,
    ) -> Reply<'a, ()> {
        self.roll_call.announce(consumer, lasts);
        Box::pin(ready(Ok(())))
    }

    fn retire_consumer<'a>(&'a self, consumer: &'a LiveConsumer) -> Reply<'a, ()> {
        self.roll_call.retire(&consumer.id);
        Box::pin(ready(Ok(())))
    }

    fn consumers(&self) -> Reply<'_, Vec<LiveConsumer>> {
        Box::pin(self.roll_call.ask())
    }

    fn check(&self) -> Reply<'_, Vec<Finding>> {
        Box::pin(check::check(&self.intake))
    }

    fn changed(&self) -> Reply<'_, ()> {
        // From the call on, not from the first poll.
        let lost = self.intake.leases.until_lost();
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
        let Intake { storage, link, .. } = &*self.intake;
        let calls = self.calls.get_or_init(|| Calls::start(storage, link));
        calls.call(call)
    }

    fn report_progress(&self, id: &JobId, token: i64, progress: Progress) {
        self.intake.report_progress(id, token, progress);
    }

    fn counts(&self) -> CallCounts {
        let calls = self.calls.get();
        calls.map(|calls| calls.counts()).unwrap_or_default()
    }
}

impl ReloadLock for RabbitMq {
    fn lock<'a>(&'a self, queue: &'a str) -> Reply<'a, ReloadGuard> {
        Box::pin(self.intake.reload_lock(queue))
    }
}
