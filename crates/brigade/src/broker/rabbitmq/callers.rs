//! Those who wait for what this process holds: they are told that it has begun, how far it is, and
//! what came of it.
//!
//! An answer is confirmed to be in its caller's queue before its delivery is acked, so a crash in
//! between has the call run once more, and never leaves it without an answer. One that the broker
//! does not take, because it is too large, is replaced by a small one that says so.
//!
//! An answer that comes back because its caller's queue does not exist is sent again, with pauses
//! that grow, for [`Place::answer_timeout`]: after a restart of the server this process may be
//! connected again before its caller is. Then the answer is dropped with a warning and its request
//! is acked. Later answers to the same queue are sent once each, until one of them arrives or the
//! connection is made anew, so that a caller that is gone does not hold up others with all its
//! requests.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::oneshot;

use super::calls::{BEGUN, ERROR, PROGRESS, TELL};
use super::checks::ANSWER;
use super::fault::Fault;
use super::fit::fitted;
use super::held::{Grip, Held};
use super::link::Line;
use super::message::{Envelope, has_caller, is_ours, text_of};
use super::outbox::{Outbox, Owner, Parcel};
use super::publish::Message;
use super::recent::Recent;
use super::settle::Ends;
use super::tap::Tap;
use super::topology::Spot;
use super::url::Place;
use super::{PAYLOAD_BYTES_MAX, RabbitMqCore};
use crate::broker::{Answer, Ending};
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, JobId};
use crate::outcome::{CallError, Cancelled};
use crate::progress::Progress;
use crate::sync::lock;

/// Before a returned answer is sent again; doubled each time.
const RETURNED_PAUSE: Duration = Duration::from_millis(20);
const RETURNED_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Queues that are remembered as gone.
const GONE_MAX: usize = 1024;
/// An answer without a value that is no larger is not replaced by a smaller one.
const REFUSAL_BYTES_MAX: usize = 1024;

/// Answers on their way to callers.
pub(super) struct Callers {
    pub(super) outbox: Outbox,
}

/// Whose answers they are, for the one who publishes them.
pub(super) struct Answers {
    /// Queues of callers that an answer has waited for in vain.
    gone: Mutex<Recent<ShortString>>,
    /// How long an answer waits for its caller's queue.
    patience: Duration,
    pub(super) core: OnceLock<Weak<RabbitMqCore>>,
}

impl Answers {
    pub(super) fn new(place: &Place) -> Self {
        Self {
            gone: Mutex::new(Recent::new(GONE_MAX)),
            patience: place.answer_timeout,
            core: OnceLock::new(),
        }
    }

    /// Whether an answer that was returned may still arrive.
    fn may_arrive(&self, parcel: &Parcel) -> bool {
        !lock(&self.gone).contains(&parcel.key)
            && parcel
                .returned_since
                .is_none_or(|since| since.elapsed() < self.patience)
    }

    /// Nothing more is done for an answer: its caller's queue does not exist.
    fn give_up(&self, mut parcel: Parcel) {
        let is_new = lock(&self.gone).insert(parcel.key.clone());
        let caller = parcel.key.as_str();
        if is_new {
            tracing::warn!(
                caller,
                waited = ?parcel.returned_since.map(|since| since.elapsed()),
                "an answer is dropped: its caller's queue (reply_to) does not exist; look whether \
                    the caller ended before its answer came"
            );
        } else {
            tracing::debug!(caller, "an answer is dropped: its caller's queue is gone");
        }
        parcel.done();
    }
}

impl Owner for Answers {
    // What answers go to comes but once.
    const ADDRESSES: bool = false;

    async fn prepare(&self, _: &Line) -> Result<(), Fault> {
        // The server may have been restarted: their callers may be back soon.
        lock(&self.gone).clear();
        Ok(())
    }

    async fn address(&self, _: &Line, _: &ShortString) -> Result<(), Fault> {
        Ok(())
    }

    fn detour(&self, parcel: Parcel) -> Option<Parcel> {
        match self.core.get().and_then(Weak::upgrade) {
            Some(core) => core.detour(parcel),
            None => Some(parcel),
        }
    }

    fn on_confirmed(&self, parcel: &Parcel) {
        lock(&self.gone).remove(&parcel.key);
    }

    fn on_returned(&self, mut parcel: Parcel, may_pause: bool) -> Option<Parcel> {
        if may_pause && self.may_arrive(&parcel) {
            let waited = parcel
                .returned_since
                .map_or(Duration::ZERO, |since| since.elapsed());
            // As long again as it has waited so far.
            return Some(parcel.after(waited.clamp(RETURNED_PAUSE, RETURNED_PAUSE_MAX)));
        }
        if has_caller(&parcel.properties) {
            // A call that was to go on, and its queue is not there any more.
            let text = format!(
                "give a call to another worker: the queue {:?} is gone",
                parcel.key.as_str()
            );
            let refused = Err(Answer::rejected(ErrorKind::Unreachable, text));
            if let Some(instead) = answer(&parcel.properties, refused, PAYLOAD_BYTES_MAX) {
                return Some(instead.instead_of(&mut parcel));
            }
        }
        self.give_up(parcel);
        None
    }

    fn on_failed(&self, mut parcel: Parcel, fault: &Fault, _: bool) -> Option<Parcel> {
        let is_too_large = fault.kind() == ErrorKind::TooLarge;
        // Until there is a connection again, or room for it.
        if fault.is_lost() || parcel.tries == 0 && !is_too_large {
            return Some(parcel);
        }
        if let Some(core) = self.core.get().and_then(Weak::upgrade) {
            core.learn_size(fault);
        }
        let instead = if has_caller(&parcel.properties) {
            // A call that was to go on.
            let text = format!("give a call to another worker: {fault}");
            answer(
                &parcel.properties,
                Err(Answer::rejected(fault.kind(), text)),
                PAYLOAD_BYTES_MAX,
            )
        } else {
            refusal(&parcel, fault)
        };
        if let Some(instead) = instead {
            return Some(instead.instead_of(&mut parcel));
        }
        tracing::warn!(%fault, caller = parcel.key.as_str(), "an answer could not be given");
        parcel.done();
        None
    }
}

/// Who asked, as far as a request says.
fn reply(asked: &BasicProperties, headers: FieldTable, body: Bytes) -> Option<Parcel> {
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
    let is_direct = is_direct(queue.as_str());
    let parcel = Parcel::to(queue, body, properties);
    Some(if is_direct { parcel.optional() } else { parcel })
}

/// What a caller is told instead of an answer that the broker does not take; `None` if that was as
/// small as this, or need not be told.
fn refusal(parcel: &Parcel, fault: &Fault) -> Option<Parcel> {
    let has = |name: &str| {
        parcel
            .properties
            .headers()
            .as_ref()
            .is_some_and(|headers| headers.contains_key(name))
    };
    let is_small = has(ERROR) && parcel.body_bytes() <= REFUSAL_BYTES_MAX;
    if has(PROGRESS) || has(BEGUN) || is_small {
        return None;
    }
    let mut headers = FieldTable::default();
    headers.insert(ERROR.into(), AMQPValue::LongString("rejected".into()));
    let text = format!("return a result of {} bytes: {fault}", parcel.body_bytes());
    let body = serde_json::to_vec(&Answer::rejected(fault.kind(), text)).unwrap_or_default();
    let properties = parcel
        .properties
        .clone()
        .with_headers(headers)
        .with_type(ANSWER.into());
    let instead = Parcel::to(parcel.key.clone(), body.into(), properties);
    Some(if parcel.is_optional() {
        instead.optional()
    } else {
        instead
    })
}

/// The broker hands these straight to their callers, and says of each that there is no such queue.
fn is_direct(queue: &str) -> bool {
    queue.starts_with("amq.rabbitmq.reply-to.")
}

fn answer(
    asked: &BasicProperties,
    outcome: Result<Box<str>, Answer>,
    bytes_max: usize,
) -> Option<Parcel> {
    let outcome = outcome.and_then(|result| {
        let bytes = result.len();
        let text = || format!("return a result: it has {bytes} bytes and {bytes_max} are allowed");
        if bytes <= bytes_max {
            Ok(result)
        } else {
            Err(Answer::rejected(ErrorKind::TooLarge, text()))
        }
    });
    let mut headers = FieldTable::default();
    let body = match outcome {
        Ok(result) => result.into_string().into_bytes(),
        Err(answer) => {
            headers.insert(
                ERROR.into(),
                AMQPValue::LongString(answer.kind.as_str().into()),
            );
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

/// What a request wants to be told before its answer.
fn wants(asked: &BasicProperties) -> Option<String> {
    let said = asked
        .headers()
        .as_ref()
        .and_then(|headers| text_of(headers, TELL));
    said.or_else(|| is_ours(asked).then(|| PROGRESS.to_owned()))
}

impl RabbitMqCore {
    /// Tells a caller that its call is in somebody's hands, if it wants to know.
    pub(super) fn tell_begun(&self, asked: &BasicProperties) {
        if wants(asked).is_some_and(|wants| wants == BEGUN) {
            let mut headers = FieldTable::default();
            headers.insert(BEGUN.into(), AMQPValue::Boolean(true));
            self.tell_caller(reply(asked, headers, Bytes::new()));
        }
    }

    /// Tells a caller how far its call is, if it wants to know.
    pub(super) fn tell_progress(&self, id: &JobId, token: i64, progress: Progress) {
        let Some(envelope) = lock(&self.hands).envelope(id, token) else {
            return;
        };
        if wants(&envelope.properties).is_some() {
            let mut headers = FieldTable::default();
            // As text, which every client can read: some have no doubles in headers.
            headers.insert(
                PROGRESS.into(),
                AMQPValue::LongString(progress.fraction.to_string().into()),
            );
            self.tell_caller(reply(&envelope.properties, headers, progress.payload));
        }
    }

    fn tell_caller(&self, parcel: Option<Parcel>) {
        let Some(parcel) = parcel.filter(|parcel| parcel.body_bytes() <= self.payload_bytes_max())
        else {
            return;
        };
        if self.callers.outbox.try_send(parcel.optional()).is_err() {
            tracing::debug!(
                "a caller was not told of its call's progress: too many messages wait for the \
                    broker"
            );
        }
    }

    /// Gives an answer; returns when the broker has confirmed that it is in its caller's queue, or
    /// nothing more can be done for it.
    ///
    /// # Errors
    ///
    /// If the broker was dropped before.
    async fn give_answer(
        &self,
        asked: &BasicProperties,
        outcome: Result<Box<str>, Answer>,
    ) -> Result<(), Error> {
        match answer(asked, outcome, self.payload_bytes_max()) {
            Some(parcel) => self.send(parcel).await,
            None => Ok(()),
        }
    }

    /// As [`give_answer`](Self::give_answer).
    async fn send(&self, parcel: Parcel) -> Result<(), Error> {
        self.hand_over(parcel).await.await.map_err(|_| dropped())
    }

    /// Hands it over; what is returned tells when it is done.
    async fn hand_over(&self, parcel: Parcel) -> oneshot::Receiver<()> {
        let (tell, done) = oneshot::channel();
        self.callers.outbox.send(parcel.telling(tell)).await;
        done
    }

    /// Ends the leases of calls that gave a value; one answer for each.
    pub(super) async fn end_answered(
        &self,
        answered: Vec<(Held, Option<Box<str>>)>,
    ) -> Vec<Result<(), Error>> {
        let mut under_way = Vec::with_capacity(answered.len());
        let bytes_max = self.payload_bytes_max();
        for (held, result) in answered {
            let done = match answer(
                &held.envelope.properties,
                Ok(result.unwrap_or_else(|| "null".into())),
                bytes_max,
            ) {
                Some(parcel) => Some(self.hand_over(parcel).await),
                None => None,
            };
            under_way.push((held, done));
        }
        // Each is acked as soon as its own answer is confirmed; those that come together share one round
        // trip (`acks`).
        let ending = under_way.into_iter().map(async |(held, done)| {
            if let Some(done) = done {
                done.await.map_err(|_| dropped())?;
            }
            self.ack(&held)
                .await
                .map_err(|fault| fault.into_error("settle").uncertain())
        });
        join_all(ending).await
    }

    /// Ends a lease of a call.
    pub(super) async fn end_call(&self, mut ends: Ends) -> Result<(), Error> {
        self.pass_on(&mut ends).await;
        let (token, held, ending, answer) = ends;
        let rejected = |reason: &str| Answer::rejected(ErrorKind::Unsupported, reason);
        let outcome = match &ending {
            Ending::Ack(result) => Ok(result.clone().unwrap_or_else(|| "null".into())),
            Ending::Cancelled { reason, report, .. } => {
                let cancelled = Cancelled {
                    reason: reason.clone(),
                    report: report.clone(),
                };
                Err(Answer::of(&CallError::Cancelled(cancelled)))
            }
            Ending::DeadLetter(reason) => {
                Err(answer.map_or_else(|| rejected(reason), |answer| *answer))
            }
            Ending::Fail {
                kind,
                reason,
                policy,
                ..
            } => {
                // It was not asked to be run again, and may not be safe to run twice.
                let is_last = *kind == AttemptKind::Crashed
                    && held.envelope.job.options.clone().or(*policy).retries() == 0;
                match self.afterlife(&held.envelope, &ending)? {
                    Some(parcel) if !is_last && !matches!(parcel.0, Spot::Dead(_)) => {
                        return self.call_goes_on(token, held, parcel).await;
                    }
                    _ => Err(answer.map_or_else(|| Answer::failed(reason), |answer| *answer)),
                }
            }
            Ending::GiveBack { .. } | Ending::Extend(_) => {
                let Some(parcel) = self.afterlife(&held.envelope, &ending)? else {
                    return Ok(());
                };
                return self.call_goes_on(token, held, parcel).await;
            }
        };
        self.give_answer(&held.envelope.properties, outcome).await?;
        self.ack(&held)
            .await
            .map_err(|fault| fault.into_error("settle").uncertain())
    }

    /// It goes on as another message.
    async fn call_goes_on(
        &self,
        token: i64,
        held: Held,
        (spot, message): (Spot, Message),
    ) -> Result<(), Error> {
        if let Spot::Later(..) = spot {
            return self.go_on(token, held, (spot, message)).await;
        }
        let mode = held.envelope.properties.delivery_mode().unwrap_or(1);
        let message = fitted(message, self.out.frame_max());
        self.send(Parcel::to(
            message.queue,
            message.body,
            message.properties.with_delivery_mode(mode),
        ))
        .await?;
        self.ack(&held).await.ok();
        Ok(())
    }

    /// The same for one that was not handed out: the longer its delivery is held, the likelier it
    /// comes again when this worker ends.
    pub(super) fn forward_call(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        grip: Grip,
        envelope: &Envelope,
        message: Message,
    ) {
        let (core, tap) = (Arc::clone(self), Arc::clone(tap));
        let mode = envelope.properties.delivery_mode().unwrap_or(1);
        self.scope
            .spawn_until_closed(self.moving.track_future(async move {
                let message = fitted(message, core.out.frame_max());
                let sent = core
                    .send(Parcel::to(
                        message.queue,
                        message.body,
                        message.properties.with_delivery_mode(mode),
                    ))
                    .await;
                core.drop_delivery_if(sent, &tap, &grip).await;
            }));
    }

    /// A message of another program that is no call is answered, so that its caller does not wait
    /// for ever.
    pub(super) fn refuse_call(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        grip: &Grip,
        asked: BasicProperties,
        why: String,
    ) {
        let (core, tap, grip) = (Arc::clone(self), Arc::clone(tap), grip.clone());
        self.scope.spawn_until_closed(async move {
            let answered = core
                .give_answer(&asked, Err(Answer::rejected(ErrorKind::Decode, why)))
                .await;
            core.drop_delivery_if(answered, &tap, &grip).await;
        });
    }

    /// Somebody wants a call cancelled that may be here.
    pub(super) fn on_cancel(&self, correlation_id: &str, reason: String) {
        if lock(&self.hands).cancel_call(correlation_id, reason) {
            self.lost.notify_waiters();
        }
    }

    /// A call that was cancelled before it was handed out is answered instead.
    pub(super) fn end_cancelled(
        self: &Arc<Self>,
        tap: &Arc<Tap>,
        grip: &Grip,
        asked: BasicProperties,
        reason: String,
    ) {
        let (core, tap, grip) = (Arc::clone(self), Arc::clone(tap), grip.clone());
        self.scope.spawn_until_closed(async move {
            let answer = Answer::of(&CallError::Cancelled(Cancelled::without_report(reason)));
            let answered = core.give_answer(&asked, Err(answer)).await;
            core.drop_delivery_if(answered, &tap, &grip).await;
        });
    }

    /// Nobody needs it any more if what was said of it is with the broker.
    async fn drop_delivery_if(&self, done: Result<(), Error>, tap: &Tap, grip: &Grip) {
        if done.is_ok() {
            self.drop_delivery(tap, grip).await;
        }
    }
}

fn dropped() -> Error {
    Error::new(ErrorKind::Closed, "settle: the broker was dropped").uncertain()
}
