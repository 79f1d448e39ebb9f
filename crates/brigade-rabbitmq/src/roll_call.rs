//! Live consumers: the broker keeps no list of them, so each process that has any answers when it
//! is asked.
//!
//! One fanout exchange of the vhost, `brigade.consumers`. Every process that has announced a
//! consumer has an exclusive queue at it. A question is published there, its body the namespace of
//! the URL, with a queue for the answers; each process of that namespace answers with its consumers
//! as JSON. The process that asks gathers answers for [`ANSWERED_WITHIN`]: a process that is busy
//! for longer than that is not listed. What is announced is kept by its process alone, so it is
//! gone with that. Questions and answers have a publisher of their own, on the connection that
//! publishes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Consumer, ExchangeKind};
use tokio::time::{Instant, timeout_at};

use super::fault::AmqpFault;
use super::intake::Intake;
use super::link::LiveConnection;
use super::publisher::{ConfirmPublisher, Message, PublishPolicy, PublishRequest};
use super::values::random_id;
use crate::error::{Error, ErrorKind};
use crate::sync::lock;
use brigade_core::store::LiveConsumer;

const EXCHANGE: &str = "brigade.consumers";
/// How long answers are gathered.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);
/// The most consumers that are listed.
const LISTED_MAX: usize = 10_000;
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Consumers of this process that are remembered.
const ANNOUNCED_MAX: usize = 1000;
const WHAT: &str = "list consumers";

/// The consumers that this process has announced, and its answers.
pub(super) struct RollCall {
    intake: Arc<Intake>,
    /// Each until the moment until which it is known to live.
    announced: Mutex<HashMap<String, (LiveConsumer, Instant)>>,
    /// Questions are answered.
    is_answering: AtomicBool,
    publisher: OnceLock<ConfirmPublisher>,
}

impl RollCall {
    pub(super) fn new(intake: &Arc<Intake>) -> Arc<Self> {
        Arc::new(Self {
            intake: Arc::clone(intake),
            announced: Mutex::default(),
            is_answering: AtomicBool::new(false),
            publisher: OnceLock::new(),
        })
    }

    /// Notes a consumer of this process, and answers questions from now on.
    pub(super) fn announce(self: &Arc<Self>, consumer: &LiveConsumer, lasts: Duration) {
        let now = Instant::now();
        let mut announced = lock(&self.announced);
        announced.retain(|_, (_, until)| *until > now);
        if let Some(until) = now.checked_add(lasts)
            && announced.len() < ANNOUNCED_MAX
        {
            announced.insert(consumer.id.clone(), (consumer.clone(), until));
        }
        drop(announced);
        if !self.is_answering.swap(true, Ordering::Relaxed) {
            let own = Arc::clone(self);
            let scope = &self.intake.scope;
            scope.spawn_until_closed(async move { own.answer_questions().await });
        }
    }

    pub(super) fn retire(&self, id: &str) {
        lock(&self.announced).remove(id);
    }

    fn living(&self) -> Vec<LiveConsumer> {
        let now = Instant::now();
        let announced = lock(&self.announced);
        let living = announced.values().filter(|(_, until)| *until > now);
        living.map(|(consumer, _)| consumer.clone()).collect()
    }

    fn publisher(&self) -> &ConfirmPublisher {
        let Intake {
            config, storage, ..
        } = &*self.intake;
        self.publisher
            .get_or_init(|| ConfirmPublisher::start(config, &storage.out, &storage.scope))
    }

    /// Answers for as long as the broker is there.
    async fn answer_questions(&self) {
        let answer = async |connection: LiveConnection| {
            let (channel, queue, mut questions) = own_queue(&connection).await?;
            connection
                .bind(&channel, &queue, EXCHANGE, "".into())
                .await?;
            while let Some(question) = questions.next().await {
                self.answer(&question?);
            }
            Err(gone())
        };
        let link = &self.intake.link;
        link.on_each_connection("answer who consumes", answer, |_| {})
            .await;
    }

    fn answer(&self, question: &Delivery) {
        let asked = &question.properties;
        let Some(queue) = asked.reply_to().clone() else {
            return;
        };
        let living = self.living();
        let is_ours = question.data == self.intake.config.namespace.as_bytes();
        if !is_ours || living.is_empty() {
            return;
        }
        let Ok(body) = serde_json::to_vec(&living) else {
            return;
        };
        let answer = request(queue, body, BasicProperties::default());
        if self.publisher().try_send(answer).is_err() {
            tracing::debug!("could not answer who consumes: too many messages wait");
        }
    }

    /// The consumers of all processes that answer in time.
    pub(super) async fn ask(&self) -> Result<Vec<LiveConsumer>, Error> {
        let broken = |fault: AmqpFault| fault.into_error(WHAT);
        let connection = self.intake.link.connection().await.map_err(broken)?;
        let (channel, queue, mut answers) = own_queue(&connection).await.map_err(broken)?;
        let properties = BasicProperties::default().with_reply_to(queue);
        let namespace = self.intake.config.namespace.as_bytes().to_vec();
        let mut question = request("".into(), namespace, properties);
        question.exchange = EXCHANGE.into();
        let published = self.publisher().publish_all([question]).await;
        for published in published {
            published.into_result(WHAT)?;
        }
        let until = Instant::now() + ANSWERED_WITHIN;
        let mut found: HashMap<String, LiveConsumer> = HashMap::new();
        while found.len() < LISTED_MAX
            && let Ok(Some(answer)) = timeout_at(until, answers.next()).await
        {
            let answer = answer.map_err(|error| broken(error.into()))?;
            if answer.data.len() > ANSWER_BYTES_MAX {
                continue;
            }
            // Those that a later version of this library wrote may be unreadable.
            let living = serde_json::from_slice::<Vec<LiveConsumer>>(&answer.data);
            let living = living.unwrap_or_default().into_iter();
            found.extend(living.map(|consumer| (consumer.id.clone(), consumer)));
        }
        // With its consumer the queue goes.
        drop(connection.cancel(&channel, answers.tag()).await);
        let mut found: Vec<LiveConsumer> = found.into_values().collect();
        found.sort_by(|one, other| one.id.cmp(&other.id));
        found.truncate(LISTED_MAX);
        Ok(found)
    }
}

fn gone() -> AmqpFault {
    AmqpFault::new(ErrorKind::Unreachable, "its queue is gone")
}

/// A message that is lost if no queue takes it in time.
fn request(queue: ShortString, body: Vec<u8>, properties: BasicProperties) -> PublishRequest {
    let message = Message {
        queue,
        body: body.into(),
        properties: properties.with_message_id(random_id().as_str().into()),
    };
    let policy = PublishPolicy {
        give_up_at: Some(Instant::now() + ANSWERED_WITHIN),
        ..PublishPolicy::optional()
    };
    PublishRequest::new(message, policy)
}

/// The exchange, made if it is not there, and a queue of this process with a consumer of it.
async fn own_queue(
    connection: &LiveConnection,
) -> Result<(Channel, ShortString, Consumer), AmqpFault> {
    let channel = connection.channel().await?;
    connection
        .declare_exchange(&channel, EXCHANGE, ExchangeKind::Fanout)
        .await?;
    let (queue, consumer) = connection.own_queue(&channel).await?;
    Ok((channel, queue, consumer))
}
