//! Storing jobs: published, confirmed, and their queues declared when they are not there.
//!
//! [`Storage`] owns the connection that publishes, and knows declared queues and the broker's
//! limits. It knows nothing of leases and of calls; both of these store by it. A message that comes
//! back as unroutable has its queue declared and is published again, [`ROUNDS_MAX`] times at most.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, stream};
use lapin::types::ShortString;
use tokio::time::{Instant, sleep};

use super::fault::AmqpFault;
use super::fit::fitted;
use super::link::Link;
use super::message::{self, Envelope};
use super::publisher::{ConfirmPublisher, Message, PublishRequest, Published};
use super::rabbitmq_3_10::LeaderProbe;
use super::topology::{DELAY_MAX, QueueKind, Topology};
use super::url::RabbitMqConfig;
use super::values::new_id;
use crate::error::Error;
use crate::job::Job;
use crate::policy::PAYLOAD_BYTES_MAX;
use crate::shutdown::Scope;
use crate::sync::lock;
use brigade_core::store::PushOutcome;

/// A person may delete a queue between its declaration and what is put there, but not again and
/// again.
const ROUNDS_MAX: u32 = 4;
/// Queues to which messages are stored at the same time.
const QUEUES_AT_ONCE: usize = 64;
const DECLINED_PAUSE: Duration = Duration::from_millis(150);

/// Messages for one queue, and their places among those that are stored together.
type Batch = Vec<(usize, Arc<Message>)>;

/// Where jobs, and calls that wait, are stored.
pub(super) struct Storage {
    pub(super) config: Arc<RabbitMqConfig>,
    /// The connection that publishes.
    pub(super) out: Link,
    pub(super) scope: Scope,
    pub(super) topology: Topology,
    probe: LeaderProbe,
    publisher: ConfirmPublisher,
    /// For queues whose confirms may take their time.
    slow_publisher: ConfirmPublisher,
    /// The broker's `max_message_size`, once it has named it, and on which connection.
    learnt_size: Mutex<(u64, usize)>,
}

impl Storage {
    pub(super) fn start(config: &Arc<RabbitMqConfig>, out: Link, scope: &Scope) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::clone(config),
            topology: Topology::new(config, &out),
            probe: LeaderProbe::new(config, &out, scope),
            publisher: ConfirmPublisher::start(config, &out, scope),
            slow_publisher: ConfirmPublisher::start(config, &out, scope),
            learnt_size: Mutex::new((0, PAYLOAD_BYTES_MAX)),
            out,
            scope: scope.clone(),
        })
    }

    /// The largest body that is worth sending: the broker may have named a smaller one on this
    /// connection.
    pub(super) fn payload_bytes_max(&self) -> usize {
        let (number, bytes) = *lock(&self.learnt_size);
        if Some(number) == self.out.number() {
            bytes
        } else {
            PAYLOAD_BYTES_MAX
        }
    }

    /// The broker refused a message: if because of its size, larger ones need not be sent.
    pub(super) fn learn_size(&self, fault: &AmqpFault) {
        if let (Some(bytes), Some(number)) = (fault.message_bytes_max(), self.out.number()) {
            *lock(&self.learnt_size) = (number, bytes.min(PAYLOAD_BYTES_MAX));
        }
    }

    /// Pushes jobs in this order.
    pub(super) async fn push(&self, jobs: Vec<Job>) -> Result<Vec<PushOutcome>, Error> {
        let mut ids = Vec::with_capacity(jobs.len());
        let mut messages = Vec::with_capacity(jobs.len());
        for job in jobs {
            self.topology.check_name(&job.queue)?;
            let delay = match job.options.at {
                Some(at) => at.duration_since(SystemTime::now()).unwrap_or_default(),
                None => job.options.delay.unwrap_or_default(),
            };
            let envelope = Envelope::new(new_id(), job);
            ids.push(envelope.id.clone());
            messages.push(self.message(envelope, delay)?);
        }
        let stored = self.store(messages).await;
        let some = stored.iter().any(|one| matches!(one, Published::Safe));
        for one in stored {
            // The broker takes messages one by one: of a batch, a part may be there.
            one.into_result("push")
                .map_err(|error| if some { error.uncertain() } else { error })?;
        }
        Ok(ids.into_iter().map(PushOutcome::New).collect())
    }

    /// Where a job goes that is due after this time, and as what.
    pub(super) fn message(
        &self,
        mut envelope: Envelope,
        delay: Duration,
    ) -> Result<(QueueKind, Message), Error> {
        let queue = envelope.job.queue.clone();
        // The broker counts milliseconds.
        if delay < Duration::from_millis(1) {
            let target = QueueKind::Jobs(queue);
            let message = envelope.write(self.topology.name(&target))?;
            return Ok((target, message));
        }
        if delay > DELAY_MAX {
            envelope.due = SystemTime::now().checked_add(delay);
        }
        let delay = delay.min(DELAY_MAX);
        let target = QueueKind::Later(queue, delay);
        let message = envelope.write(self.topology.name(&target))?;
        let expiration = delay.as_millis().to_string().into();
        let properties = message.properties.with_expiration(expiration);
        Ok((
            target,
            Message {
                properties,
                ..message
            },
        ))
    }

    /// A job for the queue of dead letters.
    pub(super) fn dead_letter(
        &self,
        queue: &str,
        why: &str,
        message: Message,
    ) -> (QueueKind, Message) {
        let target = QueueKind::Dead(queue.into());
        let message = message::dead_letter(queue, self.topology.name(&target), why, message);
        (target, message)
    }

    /// Removes the waiting jobs of a queue; jobs that are not due yet stay.
    pub(super) async fn purge(&self, queue: &str) -> Result<u64, Error> {
        self.topology.check_name(queue)?;
        self.topology
            .purge(&QueueKind::Jobs(queue.into()))
            .await
            .map_err(|fault| fault.into_error("purge a queue"))
    }

    /// Publishes messages to queues that are there; one outcome for each.
    pub(super) async fn publish_slowly(&self, messages: Vec<Message>) -> Vec<Published> {
        let frame_max = self.out.frame_max();
        let fitted = messages
            .into_iter()
            .map(|one| Arc::new(fitted(one, frame_max)));
        let until = Instant::now() + self.config.answer_timeout;
        self.slow_publisher.publish(fitted.collect(), until).await
    }

    /// Stores messages; one answer for each. Those of one queue in this order.
    pub(super) async fn store(&self, messages: Vec<(QueueKind, Message)>) -> Vec<Published> {
        let frame_max = self.out.frame_max();
        let mut outcomes = vec![Published::Unroutable; messages.len()];
        let mut queues: BTreeMap<ShortString, (QueueKind, Batch)> = BTreeMap::new();
        for (place, (kind, message)) in messages.into_iter().enumerate() {
            let queue = queues.entry(message.queue.clone());
            let (_, batch) = queue.or_insert_with(|| (kind, Batch::new()));
            batch.push((place, Arc::new(fitted(message, frame_max))));
        }
        let storing = queues.into_values();
        let storing = storing.map(|(kind, batch)| self.store_batch(kind, batch));
        let mut storing = stream::iter(storing).buffer_unordered(QUEUES_AT_ONCE);
        while let Some(stored) = storing.next().await {
            for (place, outcome) in stored {
                outcomes[place] = outcome;
            }
        }
        outcomes
    }

    /// Stores what goes to one queue; the outcomes, with the places of their messages.
    async fn store_batch(&self, kind: QueueKind, mut open: Batch) -> Vec<(usize, Published)> {
        let mut stored = Vec::with_capacity(open.len());
        let mut is_missing = false;
        for round in 1..=ROUNDS_MAX {
            // A message that came back has no queue; queues of delays have to be declared in time
            // when they are needed.
            let declared = if is_missing {
                self.topology.forget(&kind);
                self.topology.declare(&kind).await
            } else {
                self.topology.prepare(&kind).await
            };
            let outcomes = match declared {
                Err(fault) => vec![Published::failed(&fault, false); open.len()],
                Ok(()) => {
                    let messages = open.iter().map(|(_, message)| Arc::clone(message));
                    self.publish(&kind, messages.collect()).await
                }
            };
            let is_over = |outcome: &Published| match outcome {
                Published::Unroutable | Published::Declined => round == ROUNDS_MAX,
                Published::Safe | Published::Failed { .. } => true,
            };
            is_missing = outcomes
                .iter()
                .any(|one| matches!(one, Published::Unroutable));
            let is_declined = outcomes
                .iter()
                .any(|one| matches!(one, Published::Declined));
            let mut again = Batch::new();
            for ((place, message), outcome) in open.into_iter().zip(outcomes) {
                if is_over(&outcome) {
                    stored.push((place, outcome));
                } else {
                    again.push((place, message));
                }
            }
            open = again;
            if open.is_empty() {
                break;
            }
            if is_declined {
                // A quorum queue declines until it has a leader, which takes a moment after its
                // declaration.
                sleep(DECLINED_PAUSE * round).await;
            }
        }
        stored
    }

    /// Publishes messages to one queue that is there; one outcome for each.
    async fn publish(&self, kind: &QueueKind, messages: Vec<Arc<Message>>) -> Vec<Published> {
        // Those that are not due may take their time.
        let publisher = match kind {
            QueueKind::Later(..) => &self.slow_publisher,
            _ => &self.publisher,
        };
        if self.topology.is_quorum(kind) {
            return self.probe.publish_all(publisher, messages).await;
        }
        let until = Instant::now() + self.config.answer_timeout;
        publisher.publish(messages, until).await
    }

    /// Whether this is a call whose queue may stand still, and with it all that is published with
    /// the call.
    pub(super) fn goes_alone(&self, message: &Message) -> bool {
        self.probe.holds_back(message)
    }

    fn kind_of(&self, message: &Message) -> QueueKind {
        QueueKind::Jobs(self.config.queue_of(message.queue.as_str()).into())
    }

    /// Stores a call as a job is stored.
    pub(super) async fn store_request(&self, mut request: PublishRequest) -> Published {
        request.set_expiration();
        let message = Arc::unwrap_or_clone(request.message);
        self.store_one((self.kind_of(&message), message)).await
    }

    /// Stores a message.
    pub(super) async fn store_one(&self, message: (QueueKind, Message)) -> Published {
        let outcome = self.store(vec![message]).await.pop();
        outcome.unwrap_or(Published::Safe)
    }
}
