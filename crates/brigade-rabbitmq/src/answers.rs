//! Answers on their way to callers, and calls that go on to another worker.
//!
//! An answer that comes back because its caller's queue does not exist is sent again, with pauses
//! that grow, for the `response_timeout` of the URL: after a restart of the server this process may
//! be connected again before its caller is. Then the answer is dropped with a warning and its
//! request is acked. Later answers to the same queue are sent once each, until one of them arrives
//! or the connection is made again, so that a caller that is gone does not delay others with all
//! its requests.
//!
//! An answer that the broker does not take, because it is too large, is replaced by a small one
//! that says so.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::{Instant, sleep};

use super::checks::ANSWER;
use super::fault::AmqpFault;
use super::fit::fitted;
use super::message::{has_caller, is_ours};
use super::publisher::{ConfirmPublisher, Message, PublishPolicy, PublishRequest, Published};
use super::recent::Recent;
use super::store::Storage;
use super::values::{BEGUN, ERROR, PROGRESS, TELL, header, table, text, text_of};
use crate::error::{Error, ErrorKind};
use crate::policy::PAYLOAD_BYTES_MAX;
use crate::progress::Progress;
use crate::sync::lock;
use brigade_core::store::Answer;

/// Before a returned answer is sent again; doubled each time.
const RETURNED_PAUSE: Duration = Duration::from_millis(20);
const RETURNED_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Before a call is sent on again that could not be stored.
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// Queues that are remembered as gone.
const GONE_MAX: usize = 1024;
/// An answer without a value that is no larger is not replaced by a smaller one.
const REFUSAL_BYTES_MAX: usize = 1024;

/// Gives answers, and sends calls on.
pub(super) struct Answers {
    publisher: ConfirmPublisher,
    storage: Arc<Storage>,
    /// Queues of callers that an answer has waited for in vain, and on which connection.
    gone: Mutex<Recent<(Option<u64>, ShortString), GONE_MAX>>,
}

impl Answers {
    pub(super) fn start(storage: &Arc<Storage>) -> Arc<Self> {
        let Storage {
            config, out, scope, ..
        } = &**storage;
        Arc::new(Self {
            publisher: ConfirmPublisher::start(config, out, scope),
            storage: Arc::clone(storage),
            gone: Mutex::default(),
        })
    }

    /// Reports to a caller that a worker has its call, if it wants to know.
    pub(super) fn report_begun(&self, asked: &BasicProperties) {
        if wants(asked).is_some_and(|wants| wants == BEGUN) {
            let headers = table([(BEGUN, AMQPValue::Boolean(true))]);
            self.send_unless_full(reply(asked, headers, Bytes::new()));
        }
    }

    /// Reports to a caller how far its call is, if it wants to know.
    pub(super) fn report_progress(&self, asked: &BasicProperties, progress: Progress) {
        if wants(asked).is_some() {
            // As text, which every client can read: some have no doubles in headers.
            let headers = table([(PROGRESS, text(&progress.fraction.to_string()))]);
            self.send_unless_full(reply(asked, headers, progress.payload));
        }
    }

    fn send_unless_full(&self, request: Option<PublishRequest>) {
        let bytes_max = self.storage.payload_bytes_max();
        let request = request.filter(|one| one.message.body.len() <= bytes_max);
        let Some(mut request) = request else { return };
        request.policy = PublishPolicy::optional();
        if self.publisher.try_send(request).is_err() {
            tracing::debug!(
                "progress of a call was not sent: too many messages wait for the \
                    broker"
            );
        }
    }

    /// Gives an answer; returns when the broker has confirmed that it is in its caller's queue, or
    /// nothing more can be done for it; `Closed` if the broker was dropped before.
    pub(super) async fn give(
        &self,
        asked: &BasicProperties,
        outcome: Result<&str, Answer>,
    ) -> Result<(), Error> {
        match answer(asked, outcome, self.storage.payload_bytes_max()) {
            Some(request) => self.deliver(request).await,
            // The request names no queue for it.
            None => Ok(()),
        }
    }

    /// Sends a call to another worker, as safe as it was; returns as [`give`](Self::give) does.
    pub(super) async fn send_on(
        &self,
        message: Message,
        delivery_mode: Option<u8>,
    ) -> Result<(), Error> {
        let mut message = fitted(message, self.storage.out.frame_max());
        message.properties =
            std::mem::take(&mut message.properties).with_delivery_mode(delivery_mode.unwrap_or(1));
        let request = PublishRequest::new(message, PublishPolicy::default());
        self.deliver(request).await
    }

    /// Publishes an answer, or a call that goes on, until the broker has it, or what goes in its
    /// place, or nothing more can be done for it.
    async fn deliver(&self, mut request: PublishRequest) -> Result<(), Error> {
        let mut returned_since = None;
        loop {
            let message = Arc::clone(&request.message);
            let is_call = has_caller(&message.properties);
            let instead = match self.publish(request.again()).await {
                Published::Safe => {
                    lock(&self.gone).remove(&self.on_this_connection(&message.queue));
                    return Ok(());
                }
                Published::Failed { fault, .. } if fault.kind() == ErrorKind::Closed => {
                    return Err(dropped());
                }
                Published::Unroutable => {
                    let waited = returned_since.get_or_insert_with(Instant::now).elapsed();
                    if self.is_patient(&message.queue, waited) {
                        // As long again as it has waited so far.
                        sleep(waited.clamp(RETURNED_PAUSE, RETURNED_PAUSE_MAX)).await;
                        continue;
                    }
                    if is_call {
                        let why = format!("the queue {:?} is gone", message.queue);
                        rejection(&message, ErrorKind::Unreachable, &why)
                    } else {
                        self.drop_answer(&message.queue, waited);
                        None
                    }
                }
                outcome => {
                    let fault = match outcome {
                        Published::Failed { fault, .. } => fault,
                        _ => AmqpFault::declined(),
                    };
                    self.storage.learn_size(&fault);
                    if is_call {
                        rejection(&message, fault.kind(), &fault.to_string())
                    } else {
                        refusal(&request, &fault)
                    }
                }
            };
            let Some(instead) = instead else {
                return Ok(());
            };
            (request, returned_since) = (instead, None);
        }
    }

    /// Publishes a message; a call whose queue may stand still until the broker has it, or says
    /// that it will not take it.
    async fn publish(&self, request: PublishRequest) -> Published {
        if !self.storage.goes_alone(&request.message) {
            let outcome = self.publisher.publish_all([request]).await.pop();
            return outcome.unwrap_or(Published::Safe);
        }
        loop {
            let stored = self.storage.store_request(request.again()).await;
            let is_over = match &stored {
                Published::Safe | Published::Declined => true,
                Published::Failed { fault, .. } => fault.is_lasting(),
                Published::Unroutable => false,
            };
            if is_over {
                return stored;
            }
            // No other code sends this call again.
            let queue = request.message.queue.as_str();
            tracing::warn!(outcome = ?stored, queue, "a call could not go on; trying again");
            sleep(STORE_PAUSE).await;
        }
    }

    fn on_this_connection(&self, queue: &ShortString) -> (Option<u64>, ShortString) {
        (self.storage.out.number(), queue.clone())
    }

    /// Whether what came back from this queue waits for it for longer.
    fn is_patient(&self, queue: &ShortString, waited: Duration) -> bool {
        waited < self.storage.config.answer_timeout
            && !lock(&self.gone).contains(&self.on_this_connection(queue))
    }

    fn drop_answer(&self, queue: &ShortString, waited: Duration) {
        let caller = queue.as_str();
        if lock(&self.gone).insert(self.on_this_connection(queue)) {
            tracing::warn!(
                caller,
                ?waited,
                "an answer is dropped: its caller's queue (reply_to) does not exist; look whether \
                    the caller ended before its answer came"
            );
        } else {
            tracing::debug!(caller, "an answer is dropped: its caller's queue is gone");
        }
    }
}

/// The answer to the caller of a call that cannot go on.
fn rejection(call: &Message, kind: ErrorKind, why: &str) -> Option<PublishRequest> {
    let text = format!("give a call to another worker: {why}");
    let rejected = Err(Answer::rejected(kind, text));
    answer(&call.properties, rejected, PAYLOAD_BYTES_MAX)
}

/// Who asked, as far as a request says.
fn reply(asked: &BasicProperties, headers: FieldTable, body: Bytes) -> Option<PublishRequest> {
    let queue = asked
        .reply_to()
        .clone()
        .filter(|queue| !queue.as_str().is_empty())?;
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type(ANSWER.into());
    // As safe as the request was.
    if let Some(mode) = asked.delivery_mode() {
        properties = properties.with_delivery_mode(*mode);
    }
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    if let Some(id) = asked.correlation_id() {
        properties = properties.with_correlation_id(id.clone());
    }
    // Direct reply-to: the broker hands these straight to their callers, and returns each of them
    // as unroutable.
    let is_direct = queue.as_str().starts_with("amq.rabbitmq.reply-to.");
    let policy = PublishPolicy {
        is_optional: is_direct,
        ..PublishPolicy::default()
    };
    let message = Message {
        queue,
        body,
        properties,
    };
    Some(PublishRequest::new(message, policy))
}

/// The answer in place of one that the broker does not take; `None` if that was as small as this,
/// or was no answer.
fn refusal(request: &PublishRequest, fault: &AmqpFault) -> Option<PublishRequest> {
    let Message {
        queue,
        body,
        properties,
    } = &*request.message;
    let has = |name| header(properties, name).is_some();
    let is_small = has(ERROR) && body.len() <= REFUSAL_BYTES_MAX;
    if has(PROGRESS) || has(BEGUN) || is_small {
        let caller = queue.as_str();
        tracing::warn!(%fault, caller, "an answer could not be given");
        return None;
    }
    let why = format!("return a result of {} bytes: {fault}", body.len());
    // With what it has of the request.
    let asked = properties.clone().with_reply_to(queue.clone());
    let refused = Err(Answer::rejected(fault.kind(), why));
    answer(&asked, refused, PAYLOAD_BYTES_MAX)
}

/// The answer to a request; `None` if the request names no queue for it.
fn answer(
    asked: &BasicProperties,
    outcome: Result<&str, Answer>,
    bytes_max: usize,
) -> Option<PublishRequest> {
    let outcome = outcome.and_then(|result| {
        let bytes = result.len();
        let why = || format!("return a result: it has {bytes} bytes and {bytes_max} are allowed");
        if bytes <= bytes_max {
            Ok(result)
        } else {
            Err(Answer::rejected(ErrorKind::TooLarge, why()))
        }
    });
    let mut headers = FieldTable::default();
    let body = match outcome {
        Ok(result) => result.as_bytes().to_vec(),
        Err(answer) => {
            headers.insert(ERROR.into(), text(answer.kind.as_str()));
            // What it is made of has names for keys.
            let body = serde_json::to_vec(&answer).unwrap_or_default();
            if body.len() <= bytes_max {
                body
            } else {
                serde_json::to_vec(&answer.shortened()).unwrap_or_default()
            }
        }
    };
    reply(asked, headers, body.into())
}

/// What a request wants to get before its answer.
fn wants(asked: &BasicProperties) -> Option<String> {
    let said = asked.headers().as_ref();
    let said = said.and_then(|headers| text_of(headers, TELL));
    said.or_else(|| is_ours(asked).then(|| PROGRESS.to_owned()))
}

pub(super) fn dropped() -> Error {
    Error::new(ErrorKind::Closed, "settle: the broker was dropped").uncertain()
}
