//! The kinds of queues, their names, and how they are declared.
//!
//! | queue | what it is |
//! |---|---|
//! | `{ns}.{queue}` | the jobs. Declared as any client does it; one that is there already is used as it is |
//! | `{ns}.{queue}.dead` | dead letters, with `brigade-queue` and `brigade-reason` |
//! | `{ns}.{queue}.delay.{ms}` | jobs that are not due: each expires after its own time, at most these milliseconds, and goes back to `{ns}.{queue}` |
//! | `{ns}.{queue}.held.{id}` | what one process holds for long (`refresh`); if that is gone, it goes back to `{ns}.{queue}` |
//!
//! The broker looks only at the head of a queue for expired messages, so jobs of different delays
//! must not share a queue. Each class of delays, an eighth of an octave wide, has a queue of its
//! own, in which a job waits for another one by an eighth of its delay at most. The broker deletes
//! it when no job can be left in it. These queues, and those of held jobs, are quorum queues: only
//! quorum queues hand on expired messages so that a crash of the broker loses none
//! (`x-dead-letter-strategy: at-least-once`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::Channel;
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::time::Instant;

use super::fault::AmqpFault;
use super::link::{Link, LiveConnection};
use super::rabbitmq_3_10::until_registered;
use super::url::{QueueType, RabbitMqConfig};
use super::values::{millis, table, text, whole};
use crate::error::{Error, ErrorKind};
use crate::sync::lock;

/// The longest delay at the broker. A job that is due later comes back and is stored there again.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How much longer than its longest delay a queue of a class lives after it was last declared.
const DELAY_MARGIN: Duration = Duration::from_secs(60 * 60);
/// A queue of a class that was declared no longer ago than this need not be declared again before
/// something is put there.
const DECLARED_FOR: Duration = Duration::from_secs(10 * 60);
/// A copy of a held job reaches its holder at once. If the holder is gone, the copy goes back to
/// its queue after this time.
const HELD_FOR: Duration = Duration::from_secs(5);
/// With the first try of what may hang.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// How often the broker hands out a message of a quorum queue.
const DELIVERY_LIMIT: u64 = 1_000_000;
/// Quorum queues that are known; beyond that all are forgotten, and declared again when they are
/// used.
const KNOWN_MAX: usize = 16_384;
/// Channels that are kept for declarations.
const IDLE_MAX: usize = 8;
/// Dead letters that are kept; then the oldest go.
const DEAD_MAX: u64 = 100_000;
/// Below the 255 bytes of a name, with the longest suffix.
const NAME_BYTES_MAX: usize = 255 - ".held.0123456789abcdef".len();

/// A queue, by the name that its user gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum QueueKind {
    Jobs(Box<str>),
    Dead(Box<str>),
    /// Not before this time has passed, `DELAY_MAX` at most.
    Later(Box<str>, Duration),
    /// What a channel of this name holds for long.
    Refresh(Box<str>, Box<str>),
}

impl QueueKind {
    /// Only this store uses it, and its messages go back to their queue when their time is over.
    fn is_temporary(&self) -> bool {
        matches!(self, Self::Later(..) | Self::Refresh(..))
    }
}

/// A queue that is there.
pub(super) struct FoundQueue {
    /// How many messages wait in it.
    pub(super) message_count: u32,
    /// What the broker says of its arguments, if it has others than we declare.
    pub(super) difference: Option<AmqpFault>,
}

pub(super) struct Topology {
    config: Arc<RabbitMqConfig>,
    link: Link,
    /// Channels by which queues were declared, for the next ones: with their connections.
    idle: Mutex<Vec<(u64, Channel)>>,
    /// The quorum queues that were put to use: when each was last declared, and on which
    /// connection.
    declared: Mutex<HashMap<ShortString, (Instant, u64)>>,
}

impl Topology {
    pub(super) fn new(config: &Arc<RabbitMqConfig>, link: &Link) -> Self {
        Self {
            config: Arc::clone(config),
            link: link.clone(),
            idle: Mutex::default(),
            declared: Mutex::default(),
        }
    }

    /// `BadOption` for a name that the broker cannot have. If it can, the names of all its
    /// [`QueueKind`]s are valid.
    pub(super) fn check_name(&self, queue: &str) -> Result<(), Error> {
        let name = self.config.name_of(queue);
        if name.len() > NAME_BYTES_MAX {
            let text = format!(
                "name a queue {queue:?}: with its namespace it has more than {NAME_BYTES_MAX} bytes"
            );
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        if name.starts_with("amq.") {
            return Err(Error::new(
                ErrorKind::BadOption,
                "name a queue: those that begin with amq. are the broker's own",
            ));
        }
        Ok(())
    }

    /// The broker's name of it. The user's name was checked ([`check_name`](Self::check_name)).
    pub(super) fn name(&self, target: &QueueKind) -> ShortString {
        let (queue, suffix) = match target {
            QueueKind::Jobs(queue) => (queue, String::new()),
            QueueKind::Dead(queue) => (queue, ".dead".to_owned()),
            QueueKind::Later(queue, delay) => {
                (queue, format!(".delay.{}", class_of(*delay).as_millis()))
            }
            QueueKind::Refresh(queue, id) => (queue, format!(".held.{id}")),
        };
        (self.config.name_of(queue) + &suffix).into()
    }

    /// Sees to it that a quorum queue is there: that a queue of a class of delays lives long
    /// enough. Other queues are declared when something that was published came back.
    pub(super) async fn prepare(&self, target: &QueueKind) -> Result<(), AmqpFault> {
        if !self.is_quorum(target) {
            return Ok(());
        }
        let connection = self.link.connection().await?;
        let declared = lock(&self.declared).get(&self.name(target)).copied();
        match declared {
            Some((at, number)) if number == connection.number && at.elapsed() < DECLARED_FOR => {
                Ok(())
            }
            _ => self.declare(target).await,
        }
    }

    /// Whether it is known to be a quorum queue.
    pub(super) fn is_quorum(&self, target: &QueueKind) -> bool {
        target.is_temporary() || self.config.queues == QueueType::Quorum
    }

    pub(super) async fn declare(&self, target: &QueueKind) -> Result<(), AmqpFault> {
        let name = self.name(target);
        let declaring = |connection: LiveConnection| async move {
            let at = Instant::now();
            self.declare_on(&connection, target)
                .await
                .map(|_| (at, connection.number))
        };
        let (at, number) = self.link.ask(declaring).await?;
        if target.is_temporary() && !lock(&self.declared).contains_key(&name) {
            until_registered().await;
        }
        let mut declared = lock(&self.declared);
        declared.retain(|_, (at, _)| at.elapsed() < DELAY_MARGIN);
        if declared.len() >= KNOWN_MAX {
            declared.clear();
        }
        declared.insert(name, (at, number));
        Ok(())
    }

    /// A queue that came back as unroutable is new when it is declared again.
    pub(super) fn forget(&self, target: &QueueKind) {
        lock(&self.declared).remove(&self.name(target));
    }

    /// Declares a queue; one that is there with other arguments is used as it is.
    pub(super) async fn declare_on(
        &self,
        connection: &LiveConnection,
        target: &QueueKind,
    ) -> Result<FoundQueue, AmqpFault> {
        let name = self.name(target);
        let (ours, any) = (self.arguments(target), FieldTable::default());
        let durable = QueueDeclareOptions::durable();
        let passive = QueueDeclareOptions::default().passive();
        let (difference, message_count) =
            match self.declare_as(connection, &name, durable, ours).await {
                Err(other) if other.kind() == ErrorKind::Unsupported => {
                    let found = self.declare_as(connection, &name, passive, any).await?;
                    (Some(other), found)
                }
                declared => (None, declared?),
            };
        if difference.is_some() {
            tracing::debug!(
                queue = name.as_str(),
                "the queue is there with other arguments; it is used as it is"
            );
        }
        Ok(FoundQueue {
            message_count,
            difference,
        })
    }

    /// By a channel that nothing else uses meanwhile: the broker closes it if the queue is there
    /// with other arguments. Soon after the start of a broker, what is asked of a quorum queue may
    /// hang for half a minute, and be answered at once on another channel.
    async fn declare_as(
        &self,
        connection: &LiveConnection,
        name: &ShortString,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<u32, AmqpFault> {
        let until = Instant::now() + self.config.answer_timeout;
        let mut patience = PATIENCE;
        loop {
            let channel = self.idle_channel(connection).await?;
            let declaring = channel.queue_declare(name.clone(), options, arguments.clone());
            let declared = connection.answer_within(patience, declaring).await;
            if declared.is_ok() {
                self.keep(connection, channel);
            }
            match declared {
                Err(fault)
                    if fault.is_lost()
                        && !connection.down.is_cancelled()
                        && Instant::now() < until =>
                {
                    patience *= 2
                }
                declared => return declared.map(|queue| queue.message_count()),
            }
        }
    }

    /// A channel of this connection that nothing else uses.
    async fn idle_channel(&self, connection: &LiveConnection) -> Result<Channel, AmqpFault> {
        let kept = {
            let mut idle = lock(&self.idle);
            idle.retain(|(number, channel)| {
                *number == connection.number && channel.status().connected()
            });
            idle.pop()
        };
        match kept {
            Some((_, channel)) => Ok(channel),
            None => connection.channel().await,
        }
    }

    fn keep(&self, connection: &LiveConnection, channel: Channel) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push((connection.number, channel));
        }
    }

    pub(super) async fn purge(&self, target: &QueueKind) -> Result<u64, AmqpFault> {
        let connection = self.link.connection().await?;
        self.declare_on(&connection, target).await?;
        let channel = connection.channel().await?;
        connection
            .answer(channel.queue_purge(self.name(target), QueuePurgeOptions::default()))
            .await
            .map(u64::from)
    }

    fn arguments(&self, target: &QueueKind) -> FieldTable {
        let kind = self.config.queues;
        let quorum = ("x-queue-type", text("quorum"));
        match target {
            QueueKind::Jobs(queue) => match kind {
                QueueType::Classic => FieldTable::default(),
                QueueType::Priorities(highest) => {
                    table([("x-max-priority", whole(highest.into()))])
                }
                QueueType::Quorum => table([
                    quorum,
                    // With a limit, what goes back keeps its place: without one, or with the
                    // default of 4.0, it goes to the end, or after 20 times to the dead letters.
                    // None of ours comes near this one; what dies with its consumers is counted by
                    // `message`.
                    ("x-delivery-limit", whole(DELIVERY_LIMIT)),
                    // If the broker gives up a job, the job is kept there.
                    ("x-dead-letter-exchange", text("")),
                    (
                        "x-dead-letter-routing-key",
                        text(self.name(&QueueKind::Dead(queue.clone())).as_str()),
                    ),
                ]),
            },
            QueueKind::Dead(_) if kind == QueueType::Quorum => {
                table([quorum, ("x-max-length", whole(DEAD_MAX))])
            }
            QueueKind::Dead(_) => table([("x-max-length", whole(DEAD_MAX))]),
            QueueKind::Later(queue, delay) => {
                self.temporary(queue, class_of(*delay) + DELAY_MARGIN)
            }
            QueueKind::Refresh(queue, _) => {
                let mut arguments = self.temporary(queue, DELAY_MARGIN);
                arguments.insert("x-message-ttl".into(), millis(HELD_FOR));
                arguments
            }
        }
    }

    /// Of a queue of ours that goes when it was not used for so long. What expires there goes back
    /// to the queue of jobs.
    fn temporary(&self, queue: &str, lifetime: Duration) -> FieldTable {
        table([
            ("x-queue-type", text("quorum")),
            ("x-dead-letter-exchange", text("")),
            (
                "x-dead-letter-routing-key",
                text(&self.config.name_of(queue)),
            ),
            ("x-dead-letter-strategy", text("at-least-once")),
            // Without it the broker falls back to at most once.
            ("x-overflow", text("reject-publish")),
            ("x-expires", millis(lifetime)),
        ])
    }
}

/// The class of a delay: the next number of milliseconds of which only the four highest bits are
/// set.
fn class_of(delay: Duration) -> Duration {
    let millis = u64::try_from(delay.min(DELAY_MAX).as_millis())
        .unwrap_or(u64::MAX)
        .max(16);
    let step = 1_u64 << (millis.ilog2() - 3);
    Duration::from_millis(millis.next_multiple_of(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_few_and_no_shorter_than_their_delays() {
        let class =
            |millis| u64::try_from(class_of(Duration::from_millis(millis)).as_millis()).unwrap();
        let mut classes = std::collections::BTreeSet::new();
        for millis in (1..100_000).chain([3_600_000, 86_400_000, 2_592_000_000]) {
            let class = class(millis);
            assert!(
                class >= millis && (class <= millis + millis / 8 + 1 || millis < 16),
                "{millis}: {class}"
            );
            classes.insert(class);
        }
        assert!(classes.len() < 130, "{}", classes.len());
        assert_eq!((class(100), class(1000), class(0)), (104, 1024, 16));
        assert!(class(u64::MAX) < 1 << 32, "the broker counts no further");
    }
}
