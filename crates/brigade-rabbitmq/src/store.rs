//! Storing jobs: published, confirmed, and their queues declared when they are not there.
//!
//! [`Storage`] owns the connection that publishes, and what is known of queues and of the broker's
//! limits. It knows nothing of leases and of calls; both of these store by it. A message that comes
//! back as unroutable has its queue declared and is published again, [`ROUNDS_MAX`] times at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::future::join;
use tokio::time::{Instant, sleep};

use super::fault::Fault;
use super::fit::fitted;
use super::link::Link;
use super::message::{self, Envelope};
use super::publisher::{ConfirmPublisher, Message, Published};
use super::rabbitmq_3_10::LeaderProbe;
use super::topology::{DELAY_MAX, QueueKind, Topology};
use super::url::RabbitMqConfig;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::policy::PAYLOAD_BYTES_MAX;
use crate::shutdown::Scope;
use crate::sync::lock;
use brigade_core::store::PushOutcome;

/// A person may delete a queue between its declaration and what is put there, but not again and
/// again.
const ROUNDS_MAX: usize = 4;
const DECLINED_PAUSE: Duration = Duration::from_millis(150);

/// Where jobs, and calls that wait, are stored.
pub(super) struct Storage {
    pub(super) config: Arc<RabbitMqConfig>,
    /// The connection that publishes.
    pub(super) out: Link,
    pub(super) scope: Scope,
    pub(super) topology: Topology,
    pub(super) probe: LeaderProbe,
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
            probe: LeaderProbe::new(&out),
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
        let (generation, bytes) = *lock(&self.learnt_size);
        if Some(generation) == self.out.generation() {
            bytes
        } else {
            PAYLOAD_BYTES_MAX
        }
    }

    /// The broker refused a message: if because of its size, larger ones need not be sent.
    pub(super) fn learn_size(&self, fault: &Fault) {
        if let (Some(bytes), Some(generation)) = (fault.message_bytes_max(), self.out.generation())
        {
            *lock(&self.learnt_size) = (generation, bytes.min(PAYLOAD_BYTES_MAX));
        }
    }

    /// Pushes jobs in this order.
    pub(super) async fn push(&self, jobs: Vec<Job>) -> Result<Vec<PushOutcome>, Error> {
        let mut ids = Vec::with_capacity(jobs.len());
        let mut messages = Vec::with_capacity(jobs.len());
        for job in jobs {
            self.check(&job)?;
            let delay = match job.options.at {
                Some(at) => at.duration_since(SystemTime::now()).unwrap_or_default(),
                None => job.options.delay.unwrap_or_default(),
            };
            let envelope = Envelope::new(message::new_id(), job);
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

    /// What this broker cannot do is refused before anything is stored.
    pub(super) fn check(&self, job: &Job) -> Result<(), Error> {
        let options = &job.options;
        self.topology.check_name(&job.queue)?;
        let lacks = [
            (options.key.is_some(), "keys"),
            (options.unique.is_some(), "unique keys"),
            (options.keep.is_some(), "jobs and results that are kept"),
            (job.link.is_some(), "flows"),
            (
                options.priority != 0 && self.config.priority_max().is_none(),
                "priorities; ?priorities=9 in its URL gives its queues some",
            ),
        ];
        if let Some((_, what)) = lacks.iter().find(|(is_asked, _)| *is_asked) {
            let text = format!("push to {:?}: RabbitMQ has no {what}", job.queue);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let max = self.config.priority_max().unwrap_or(0);
        if !(0..=i32::from(max)).contains(&options.priority) {
            let text = format!(
                "push to {:?}: a priority is from 0 to {max}, and this one is {}",
                job.queue, options.priority
            );
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        Ok(())
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
            let message = envelope.write(&self.topology.name(&target), None)?;
            return Ok((target, message));
        }
        if delay > DELAY_MAX {
            envelope.due = SystemTime::now().checked_add(delay);
        }
        let delay = delay.min(DELAY_MAX);
        let target = QueueKind::Later(queue, delay);
        let message = envelope.write(&self.topology.name(&target), Some(delay))?;
        Ok((target, message))
    }

    /// A job for the queue of dead letters.
    pub(super) fn dead_letter(
        &self,
        queue: &str,
        why: &str,
        message: Message,
    ) -> Result<(QueueKind, Message), Error> {
        let target = QueueKind::Dead(queue.into());
        let message = message::dead_letter(queue, &self.topology.name(&target), why, message)?;
        Ok((target, message))
    }

    /// Removes what waits in a queue; what is not due yet stays.
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

    /// Stores messages in this order; one answer for each.
    pub(super) async fn store(&self, messages: Vec<(QueueKind, Message)>) -> Vec<Published> {
        let frame_max = self.out.frame_max();
        let fitted = |message| Arc::new(fitted(message, frame_max));
        let routed: Vec<(QueueKind, Arc<Message>)> = messages
            .into_iter()
            .map(|(target, message)| (target, fitted(message)))
            .collect();
        let mut outcomes: Vec<Published> = vec![Published::Unroutable; routed.len()];
        for round in 0..ROUNDS_MAX {
            let is_open =
                |n: &usize| matches!(outcomes[*n], Published::Unroutable | Published::Declined);
            let todo: Vec<usize> = (0..routed.len()).filter(is_open).collect();
            if todo.is_empty() {
                break;
            }
            if todo
                .iter()
                .any(|n| matches!(outcomes[*n], Published::Declined))
            {
                // A quorum queue declines until it has a leader, which takes a moment after its
                // declaration.
                sleep(DECLINED_PAUSE * u32::try_from(round).unwrap_or(1)).await;
            }
            let declared = self.declare_all(&routed, &outcomes, &todo, round).await;
            let firsts = self.publish_firsts(&routed, &todo, &declared).await;
            let rest = note_firsts(&routed, &mut outcomes, todo, &declared, &firsts);
            self.publish_rest(&routed, &mut outcomes, rest).await;
        }
        outcomes
    }

    /// Declares what these messages need; why a queue cannot be.
    async fn declare_all<'a>(
        &self,
        routed: &'a [(QueueKind, Arc<Message>)],
        outcomes: &[Published],
        todo: &[usize],
        round: usize,
    ) -> HashMap<&'a QueueKind, Option<Fault>> {
        let mut declared = HashMap::new();
        for target in todo.iter().map(|n| &routed[*n].0) {
            if declared.contains_key(target) {
                continue;
            }
            // What came back has no queue; queues of delays have to be declared in time when they
            // are needed.
            let declaring = if round == 0 || !came_back(outcomes, routed, target) {
                self.topology.prepare(target).await
            } else {
                self.topology.forget(target);
                self.topology.declare(target).await
            };
            declared.insert(target, declaring.err());
        }
        declared
    }

    /// Publishes these, those that are not due by the publisher that may take its time.
    async fn publish_rest(
        &self,
        routed: &[(QueueKind, Arc<Message>)],
        outcomes: &mut [Published],
        rest: Vec<usize>,
    ) {
        let until = Instant::now() + self.config.answer_timeout;
        let is_later = |n: &usize| matches!(routed[*n].0, QueueKind::Later(..));
        let (later, now): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(is_later);
        let messages = |places: &[usize]| {
            let messages = places.iter().map(|n| Arc::clone(&routed[*n].1));
            messages.collect::<Vec<Arc<Message>>>()
        };
        let publishing = join(
            self.publisher.publish(messages(&now), until),
            self.slow_publisher.publish(messages(&later), until),
        );
        let (published, published_later) = publishing.await;
        let places = now.into_iter().chain(later);
        let all = places.zip(published.into_iter().chain(published_later));
        all.for_each(|(n, outcome)| outcomes[n] = outcome);
    }
}

/// Notes the outcomes of those that are over; gives the others.
fn note_firsts(
    routed: &[(QueueKind, Arc<Message>)],
    outcomes: &mut [Published],
    todo: Vec<usize>,
    declared: &HashMap<&QueueKind, Option<Fault>>,
    firsts: &HashMap<&QueueKind, (usize, Published)>,
) -> Vec<usize> {
    let mut rest = Vec::with_capacity(todo.len());
    for n in todo {
        let target = &routed[n].0;
        match (declared.get(target), firsts.get(target)) {
            (Some(Some(fault)), _) => outcomes[n] = Published::failed(fault, false),
            (_, Some((first, outcome))) if *first == n => outcomes[n] = outcome.clone(),
            (_, Some((_, outcome))) if !matches!(outcome, Published::Safe) => {
                outcomes[n] = outcome.clone().not_sent()
            }
            _ => rest.push(n),
        }
    }
    rest
}

/// Whether something for this queue came back.
fn came_back(
    outcomes: &[Published],
    routed: &[(QueueKind, Arc<Message>)],
    target: &QueueKind,
) -> bool {
    outcomes
        .iter()
        .zip(routed)
        .any(|(outcome, (to, _))| to == target && matches!(outcome, Published::Unroutable))
}
