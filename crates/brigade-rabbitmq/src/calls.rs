//! Calls from this process: requests out, answers in.
//!
//! All calls of a broker share one queue for their answers, distinguished by correlation ids. The
//! queue has a name of its own and is durable, neither exclusive nor RabbitMQ's direct reply-to:
//! both of those are gone with the connection, and the answers with them, while this one waits for
//! us to be back; unused for [`ANSWERS_EXPIRE`](listening), the broker removes it. Answers are
//! acked, so one that was on its way when a connection broke comes again.
//!
//! Requests and answers are transient: written to disk, a call costs the broker twice as much. So a
//! restart of the broker loses them, and then every call that was sent ends as uncertain, also one
//! whose confirm has not come: it may have run, and its answer been lost, and its worker would drop
//! the same request. A restart is distinguished from a connection that broke by a transient message
//! in a durable queue of ours that has no consumer (`alive`): after a restart it is gone.
//! With `calls=durable` all is persistent and outlives it.
//!
//! | part | owns |
//! |---|---|
//! | `open_calls` | the calls that have not ended; a call ends when its entry is taken out |
//! | `listening` | the queue of answers, and how a restart is noticed |
//! | [`Calls`] | the publisher of requests |
//! | [`PendingCall`] | the caller's side of one call |

mod listening;
mod open_calls;

use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use self::listening::AnswerListener;
use self::open_calls::{CallOutcome, OpenCalls};
use super::control;
use super::link::Link;
use super::message::Envelope;
use super::publisher::{
    ConfirmPublisher, Message, MessageOwner, PublishPolicy, PublishRequest, Published,
};
use super::store::Storage;
use super::topology::QueueKind;
use super::values::{BEGUN, TELL, WAITS, random_id, text};
use crate::clock::FAR;
use crate::error::{Error, ErrorKind};
use crate::job::JobId;
use crate::outcome::{CallError, Cancelled, TimedOut};
use brigade_core::store::{CallCounts, CallResult, CallerLink, DirectCall};

/// How long a caller that cancelled waits for the worker to say what it stopped: longer than the
/// kill ladder by default.
const CANCELLED_WITHIN: Duration = Duration::from_secs(15);

pub(super) struct Calls {
    storage: Arc<Storage>,
    open: Arc<OpenCalls>,
    listener: Arc<AnswerListener>,
    publisher: ConfirmPublisher,
}

impl Calls {
    /// With the link that takes answers. It starts with the first call: a program that makes none
    /// needs no queue.
    pub(super) fn start(storage: &Arc<Storage>, link: &Link) -> Arc<Self> {
        let Storage {
            config, out, scope, ..
        } = &**storage;
        let id = random_id();
        let open = Arc::new(OpenCalls::new(&id));
        let listener = Arc::new(AnswerListener::new(&id, &open, config, link));
        // What a restart took is to be noticed on each connection.
        let preparing = Arc::clone(&listener);
        let prepare = move |connection| Arc::clone(&preparing).prepare(connection).boxed();
        let publisher =
            ConfirmPublisher::start_prepared(Some(Box::new(prepare)), config, out, scope);
        let calls = Arc::new(Self {
            storage: Arc::clone(storage),
            open: Arc::clone(&open),
            listener: Arc::clone(&listener),
            publisher,
        });
        scope.spawn_until_closed(listener.listen());
        let until = scope.clone();
        scope.spawn(async move {
            until.closed().await;
            open.fail(|_| true, || dropped("make a call").uncertain());
        });
        calls
    }

    pub(super) fn counts(&self) -> CallCounts {
        self.open.counts()
    }

    /// Makes a call; the request is on its way when this returns.
    pub(super) fn call(self: &Arc<Self>, call: DirectCall) -> CallResult {
        let until = call
            .queue_timeout
            .map(|wait| (wait, Instant::now() + wait.min(FAR)));
        let (number, answered) = self.open.begin(&call.caller);
        let message = self.message(&call, number);
        let (target, message) = match message {
            Ok(message) => message,
            Err(error) => {
                // Nothing of it has left.
                self.open.forget(number);
                return Box::pin(ready(Err(error.into())));
            }
        };
        let queue = QueueKind::Jobs(call.job.queue.clone());
        let pending = PendingCall {
            queue: self.storage.topology.name(&queue),
            calls: Arc::clone(self),
            number,
        };
        let left = if let QueueKind::Later(..) = target {
            let storage = Arc::clone(&self.storage);
            self.store(number, false, async move {
                storage.store_one((target, message)).await
            });
            None
        } else {
            let config = &self.storage.config;
            let mode = if config.durable_calls { 2 } else { 1 };
            let properties = message.properties.with_delivery_mode(mode);
            let message = Message {
                properties,
                ..message
            };
            let policy = PublishPolicy {
                expires_at: until.map(|(_, until)| until),
                owner: Some((Arc::clone(self) as _, number)),
                ..PublishPolicy::until(Instant::now() + config.answer_timeout)
            };
            let request = PublishRequest::new(message, policy);
            self.publisher.try_send(request).err()
        };
        Box::pin(async move {
            if let Some(request) = left {
                pending.calls.publisher.send(*request).await;
            }
            pending.answer(answered, until, &call.caller).await
        })
    }

    /// The request, and where it goes.
    fn message(&self, call: &DirectCall, number: u64) -> Result<(QueueKind, Message), Error> {
        self.storage.topology.check_name(&call.job.queue)?;
        let id = self.open.id_of(number);
        let mut envelope = Envelope::new(JobId::new(id.as_str()), call.job.clone());
        let mut headers = FieldTable::default();
        if call.queue_timeout.is_some() {
            headers.insert(TELL.into(), text(BEGUN));
        }
        if call.waits_out_passes {
            headers.insert(WAITS.into(), AMQPValue::Boolean(true));
        }
        envelope.properties = BasicProperties::default()
            .with_correlation_id(id.into())
            .with_reply_to(self.listener.answers.clone());
        if !headers.inner().is_empty() {
            envelope.properties = std::mem::take(&mut envelope.properties).with_headers(headers);
        }
        let delay = call.job.options.delay.unwrap_or_default();
        self.storage.message(envelope, delay)
    }

    /// Stores a request as a job is stored, which declares its queue.
    fn store_request(&self, number: u64, request: PublishRequest) {
        let (storage, was_sent) = (Arc::clone(&self.storage), request.tries > 0);
        self.store(number, was_sent, async move {
            storage.store_request(request).await
        });
    }

    /// Ends the call of this number if its request cannot be stored.
    fn store(
        &self,
        number: u64,
        was_sent: bool,
        storing: impl Future<Output = Published> + Send + 'static,
    ) {
        let open = Arc::clone(&self.open);
        self.storage.scope.spawn_until_closed(async move {
            if let Err(error) = storing.await.into_result("make a call") {
                let error = if was_sent { error.uncertain() } else { error };
                open.end(number, Err(error.into()));
            }
        });
    }

    /// Whether no worker serves a queue, as far as is known.
    async fn is_unserved(&self, queue: &ShortString) -> bool {
        let asking = async {
            let connection = self.listener.link.connection().await?;
            let channel = connection.channel().await?;
            connection.consumer_count(&channel, queue).await
        };
        asking.await.is_ok_and(|count| count == 0)
    }
}

impl MessageOwner for Calls {
    fn before_send(&self, number: u64, request: PublishRequest) -> Option<PublishRequest> {
        // A call that has ended meanwhile is not made.
        self.open.sent(number)?;
        if self.storage.goes_alone(&request.message) {
            self.store_request(number, request);
            return None;
        }
        Some(request)
    }

    fn on_outcome(&self, number: u64, request: PublishRequest, outcome: Published) {
        match outcome {
            // A call waits for its worker, so there has to be a queue to wait in.
            Published::Unroutable if self.open.sent(number).is_some() => {
                self.store_request(number, request);
            }
            Published::Safe | Published::Unroutable => {}
            other => {
                if let Err(error) = other.into_result("make a call") {
                    self.open.end(number, Err(error.into()));
                }
            }
        }
    }
}

/// A caller that waits for one answer. Dropping it ends the call.
struct PendingCall {
    calls: Arc<Calls>,
    number: u64,
    queue: ShortString,
}

impl PendingCall {
    async fn answer(
        self,
        mut answered: oneshot::Receiver<CallOutcome>,
        until: Option<(Duration, Instant)>,
        caller: &CallerLink,
    ) -> CallOutcome {
        let dropped = |_| Err(dropped("wait for the answer of a call").into());
        tokio::select! {
            biased;
            outcome = &mut answered => return outcome.unwrap_or_else(dropped),
            late = self.waited_for_too_long(until) => return Err(late),
            reason = caller.cancelled() => self.cancel(reason),
        }
        let cancelled = || CallError::Cancelled(Cancelled::without_report(caller.reason()));
        // No worker has said that it has the call.
        let is_waiting = until.is_some() && !self.calls.open.has_begun(self.number);
        tokio::select! {
            biased;
            outcome = &mut answered => outcome.unwrap_or_else(dropped),
            // It was waiting, or the worker is gone. If a worker takes it later, its answer is
            // dropped.
            () = sleep(CANCELLED_WITHIN) => Err(cancelled()),
            () = ready(()), if is_waiting => Err(cancelled()),
        }
    }

    /// Ends when the call has waited for its worker for too long.
    async fn waited_for_too_long(&self, until: Option<(Duration, Instant)>) -> CallError {
        let Some((wait, until)) = until else {
            return pending().await;
        };
        sleep_until(until).await;
        let open = &self.calls.open;
        if open.has_begun(self.number) {
            return pending().await;
        }
        let is_unserved = self.calls.is_unserved(&self.queue).await;
        if open.has_begun(self.number) {
            return pending().await;
        }
        CallError::TimedOut(if is_unserved {
            TimedOut::NoWorker(wait)
        } else {
            TimedOut::Queue(wait)
        })
    }

    fn cancel(&self, reason: &str) {
        let until = Instant::now() + self.calls.storage.config.answer_timeout;
        let id = self.calls.open.id_of(self.number);
        // One that does not get through is as if it was not made.
        let cancel = control::cancel(&self.queue, &id, reason, until);
        if self.calls.publisher.try_send(cancel).is_err() {
            tracing::warn!("could not cancel a call: too many messages wait for the broker");
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if self.calls.open.forget(self.number) {
            self.cancel("its caller went away");
        }
    }
}

fn dropped(what: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("{what}: the broker was dropped"))
}
