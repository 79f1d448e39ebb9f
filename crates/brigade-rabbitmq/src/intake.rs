//! The side of the store that takes messages: what its parts share.
//!
//! [`Intake`] owns the connection that takes and acks, the leases of this process, and the limits
//! of the broker on them. It stores messages by [`Storage`] and answers callers by [`Answers`].
//! Each use of it is in a file of its own: messages that are not handed out (`arrival`), the end of
//! leases (`settle`, `pass`), long leases (`refresh`), consumers of queues
//! (`queue_consumer`, `consumers`, `lease`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::answers::Answers;
use super::channels::SharedChannels;
use super::control::ServedQueues;
use super::fault::AmqpFault;
use super::leases::Leases;
use super::link::Link;
use super::store::Storage;
use super::url::RabbitMqConfig;
use super::values::random_id;
use crate::clock::Clock;
use crate::job::JobId;
use crate::progress::Progress;
use crate::shutdown::Scope;

pub(super) struct Intake {
    pub(super) config: Arc<RabbitMqConfig>,
    pub(super) scope: Scope,
    /// In the names of its consumers.
    pub(super) id: String,
    /// The connection that publishes, and the queues that are known.
    pub(super) storage: Arc<Storage>,
    /// The connection that takes and acks.
    pub(super) link: Link,
    /// Answers from here.
    pub(super) answers: Arc<Answers>,
    /// The queues that are consumed from, whose cancels are heard.
    pub(super) served: ServedQueues,
    /// Channels that queue consumers take by.
    pub(super) channels: SharedChannels,
    /// A queue consumer has something, or cannot have it.
    pub(super) news: Notify,
    pub(super) leases: Leases,
    /// Messages that are on their way to another queue, with their old deliveries.
    pub(super) moving: TaskTracker,
    /// The broker's `consumer_timeout` in milliseconds, once it has named it.
    learnt_timeout: AtomicU64,
    clock: Clock,
}

impl Intake {
    pub(super) fn new(storage: &Arc<Storage>, link: Link, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::clone(&storage.config),
            scope: storage.scope.clone(),
            id: random_id(),
            storage: Arc::clone(storage),
            link,
            answers: Answers::start(storage),
            served: ServedQueues::new(),
            channels: SharedChannels::default(),
            news: Notify::new(),
            leases: Leases::default(),
            moving: TaskTracker::new(),
            learnt_timeout: AtomicU64::new(u64::MAX),
            clock,
        })
    }

    /// As tests have moved the clock.
    pub(super) fn now_after(&self, moment: Instant) -> Instant {
        moment + self.clock.ahead()
    }

    /// How long the broker lets a delivery be held, as far as is known.
    pub(super) fn consumer_timeout(&self) -> Duration {
        let learnt = Duration::from_millis(self.learnt_timeout.load(Ordering::Relaxed));
        self.config.consumer_timeout.min(learnt)
    }

    /// The broker closed a channel. If it did so because of its `consumer_timeout`, and named one
    /// that is shorter than the one that is assumed, the shorter one is assumed from now on.
    pub(super) fn learn(&self, fault: &AmqpFault) {
        let Some(time) = fault.consumer_timeout() else {
            return;
        };
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if self.learnt_timeout.fetch_min(millis, Ordering::Relaxed) > millis
            && time < self.config.consumer_timeout
        {
            tracing::warn!(
                broker = ?time,
                url = ?self.config.consumer_timeout,
                "the consumer_timeout of the broker is shorter than what the URL says: jobs were \
                    taken back; write it into the URL"
            );
        }
    }

    /// Sends a caller the progress of its call, if the caller wants it.
    pub(super) fn report_progress(&self, id: &JobId, token: i64, progress: Progress) {
        let envelope = self.leases.table().envelope(id, token);
        if let Some(envelope) = envelope {
            self.answers.report_progress(&envelope.properties, progress);
        }
    }
}
