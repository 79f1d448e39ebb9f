//! Requests and answers on their way to the broker: published without waiting for one another, each
//! kept until the broker has confirmed it, and published again on the next connection if it had
//! not.
//!
//! Pushes go through `publish` instead. A parcel may tell when it is *done*: the broker has
//! confirmed that it is in its queue, or nothing more can be done for it (its caller is gone, the
//! broker refused it). The delivery of a call is acked when its answer is done, so an end of this
//! process before that leaves the call with the broker.
//!
//! A returned parcel is no success, although the broker confirms it too: its owner decides whether
//! it is sent again, at once or after a pause (`Parcel::after`). Parcels that pause are bounded by
//! [`PAUSED_MAX`] and hold up nothing else. lapin hands a returned message to the confirm that
//! comes next, which belongs to its own parcel or an earlier one, so the parcel is found by its
//! content and handled when its own confirm comes.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::poll_fn;
use lapin::message::Delivery;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::fault::Fault;
use super::fit;
use super::link::{Line, Link};
use super::pause::Pauses;
use super::publish::Message;
use super::recent::Recent;
use super::url::{Blocked, Place};
use crate::error::ErrorKind;

/// Parcels that wait to be published; beyond that, whoever has one more waits.
const WAITING_MAX: usize = 1024;
/// Published together, before the confirms are looked at.
const BATCH_MAX: usize = 128;
/// Sent and not confirmed.
const UNCONFIRMED_MAX: usize = 4096;
/// Queues that are known to be there; the oldest are asked for again.
const ADDRESSED_MAX: usize = 4096;
/// Returned parcels that pause before they are sent again. Beyond that, none pauses.
const PAUSED_MAX: usize = 4096;

/// A message on its way.
pub(super) struct Parcel {
    exchange: ShortString,
    pub(super) key: ShortString,
    /// Told if there is no such queue.
    mandatory: bool,
    body: Bytes,
    pub(super) properties: BasicProperties,
    /// Told when it is done.
    done: Option<oneshot::Sender<()>>,
    /// Of no use after this.
    until: Option<Instant>,
    /// By which its owner knows it; zero if it need not.
    pub(super) number: u64,
    /// How often it was published and may have arrived.
    pub(super) tries: u32,
    /// The broker has returned it, and its confirm has not come yet.
    is_returned: bool,
    /// When it was returned for the first time.
    pub(super) returned_since: Option<Instant>,
    /// It is not sent before this.
    not_before: Option<Instant>,
}

impl Parcel {
    /// To a queue, by the default exchange.
    pub(super) fn to(queue: ShortString, body: Bytes, properties: BasicProperties) -> Self {
        Self {
            exchange: "".into(),
            key: queue,
            mandatory: true,
            body,
            properties,
            done: None,
            until: None,
            number: 0,
            tries: 0,
            is_returned: false,
            returned_since: None,
            not_before: None,
        }
    }

    /// Has it wait before it is sent again.
    pub(super) fn after(self, pause: Duration) -> Self {
        Self {
            not_before: Some(Instant::now() + pause),
            ..self
        }
    }

    /// Whether it is to be sent after this moment.
    fn pauses(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|moment| moment > now)
    }

    /// Gone if nobody takes it.
    pub(super) fn optional(self) -> Self {
        Self {
            mandatory: false,
            ..self
        }
    }

    /// By another exchange than the default one.
    pub(super) fn by(self, exchange: &str) -> Self {
        Self {
            exchange: exchange.into(),
            ..self
        }
    }

    /// Nobody may take it later than this.
    pub(super) fn until(self, until: Option<Instant>) -> Self {
        Self { until, ..self }
    }

    /// What the broker counts is the time from when it has it.
    pub(super) fn expire(&mut self) {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            self.properties =
                std::mem::take(&mut self.properties).with_expiration(left.to_string().into());
        }
    }

    pub(super) fn numbered(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// To send it in another way.
    pub(super) fn message(&self) -> Message {
        Message {
            queue: self.key.clone(),
            body: self.body.clone(),
            properties: self.properties.clone(),
        }
    }

    /// Nothing more is to be done for it.
    pub(super) fn done(&mut self) {
        if let Some(done) = self.done.take() {
            // Who wanted to know may have gone.
            done.send(()).ok();
        }
    }

    /// Tells when it is done.
    pub(super) fn telling(self, done: oneshot::Sender<()>) -> Self {
        Self {
            done: Some(done),
            ..self
        }
    }

    /// Goes in the place of another one: whoever waits for that waits for this.
    pub(super) fn instead_of(self, other: &mut Self) -> Self {
        Self {
            done: other.done.take(),
            ..self
        }
    }

    pub(super) fn is_optional(&self) -> bool {
        !self.mandatory
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether the broker brought it back.
    fn is(&self, returned: &Delivery) -> bool {
        self.key == returned.routing_key
            && self.properties.correlation_id() == returned.properties.correlation_id()
            && self.properties.message_id() == returned.properties.message_id()
    }
}

/// Whose parcels they are.
pub(super) trait Owner: Send + Sync + 'static {
    /// Whether `address` does anything.
    const ADDRESSES: bool;

    /// Runs on each new connection, before anything is published on it.
    fn prepare(&self, line: &Line) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Runs before the first parcel to this queue on a connection, and after one was returned.
    fn address(
        &self,
        line: &Line,
        queue: &ShortString,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Takes a parcel that is not to go with the others, as its queue may stand still; gives it
    /// back if it may go with them.
    fn detour(&self, parcel: Parcel) -> Option<Parcel>;

    /// The broker has it in its queue.
    fn on_confirmed(&self, parcel: &Parcel);

    /// There is no such queue. The parcel to publish next, this one or another in its place, if
    /// any; it may pause if `may_pause`.
    fn on_returned(&self, parcel: Parcel, may_pause: bool) -> Option<Parcel>;

    /// It was not taken, or, if that is uncertain, nobody knows. Given back, it is tried again on
    /// the next connection.
    fn on_failed(&self, parcel: Parcel, fault: &Fault, uncertain: bool) -> Option<Parcel>;
}

/// Where parcels are handed over. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox(mpsc::Sender<Parcel>);

impl Outbox {
    pub(super) fn new() -> (Self, mpsc::Receiver<Parcel>) {
        let (sender, inbox) = mpsc::channel(WAITING_MAX);
        (Self(sender), inbox)
    }

    /// Hands it over now.
    ///
    /// # Errors
    ///
    /// Gives it back if there is no room.
    pub(super) fn try_send(&self, parcel: Parcel) -> Result<(), Box<Parcel>> {
        self.0
            .try_send(parcel)
            .map_err(|left| Box::new(left.into_inner()))
    }

    /// Hands it over when there is room. Nothing happens if the broker was dropped. Cancel safe:
    /// then nothing was handed over.
    pub(super) async fn send(&self, parcel: Parcel) {
        self.0.send(parcel).await.ok();
    }
}

/// Who publishes them.
pub(super) struct Carrier<O> {
    owner: Arc<O>,
    link: Link,
    place: Arc<Place>,
    inbox: mpsc::Receiver<Parcel>,
    /// Goes first, in this order: what was handed over and, as far as is known, not taken.
    again: VecDeque<Parcel>,
    /// So many of these go one at a time: the broker closed the channel because of one of them.
    suspects: usize,
}

impl<O: Owner> Carrier<O> {
    pub(super) fn new(
        owner: Arc<O>,
        link: &Link,
        place: &Arc<Place>,
        inbox: mpsc::Receiver<Parcel>,
    ) -> Self {
        Self {
            owner,
            link: link.clone(),
            place: Arc::clone(place),
            inbox,
            again: VecDeque::new(),
            suspects: 0,
        }
    }

    /// Carries for as long as the broker is there.
    pub(super) async fn run(mut self) {
        let mut pauses = Pauses::default();
        while !(self.inbox.is_closed() && self.inbox.is_empty() && self.again.is_empty()) {
            match self.link.line().await {
                Ok(line) => {
                    let (fault, confirmed) = self.carry_on(&line).await;
                    if confirmed {
                        pauses.reset();
                    }
                    if !line.down.is_cancelled() {
                        tracing::warn!(%fault, "could not publish; trying again");
                        sleep(pauses.after(&fault)).await;
                    }
                }
                Err(fault) if fault.kind() == ErrorKind::Closed => return,
                Err(fault) => self.give_up(&fault),
            }
        }
    }

    /// Tells the owner that there is no way to the broker.
    fn give_up(&mut self, fault: &Fault) {
        while self.again.len() < WAITING_MAX + UNCONFIRMED_MAX
            && let Ok(parcel) = self.inbox.try_recv()
        {
            self.again.push_back(parcel);
        }
        let all = std::mem::take(&mut self.again);
        self.again = all
            .into_iter()
            .filter_map(|parcel| {
                let uncertain = parcel.tries > 0;
                self.owner.on_failed(parcel, fault, uncertain)
            })
            .collect();
    }

    /// Publishes on this connection until it breaks, or the broker closes the channel: why, and
    /// whether anything was confirmed before.
    async fn carry_on(&mut self, line: &Line) -> (Fault, bool) {
        let opening = async {
            self.owner.prepare(line).await?;
            line.confirming_channel().await
        };
        let channel = match opening.await {
            Ok(channel) => channel,
            Err(fault) => {
                if fault.is_lasting() {
                    self.give_up(&fault);
                }
                return (fault, false);
            }
        };
        let sending = self.again.drain(..).collect();
        let suspects = std::mem::take(&mut self.suspects);
        let mut round = Round {
            line,
            channel,
            sending,
            suspects,
            unconfirmed: VecDeque::new(),
            paused: Vec::new(),
            addressed: Recent::new(ADDRESSED_MAX),
            alone: false,
            confirmed: 0,
        };
        let carrying = round.carry(&*self.owner, &self.place, &mut self.inbox);
        let fault = line
            .down
            .run_until_cancelled(carrying)
            .await
            .unwrap_or_else(Fault::timeout);
        let (alone, confirmed) = (round.alone, round.confirmed > 0);
        self.suspects = round.suspects;
        // Those that were sent come first.
        self.again
            .extend(round.unconfirmed.into_iter().map(|(parcel, _)| parcel));
        let sent = self.again.len();
        self.again.extend(round.sending);
        self.again.extend(round.paused);
        if sent > 0 && !line.down.is_cancelled() && !fault.is_lost() {
            if alone {
                if let Some(parcel) = self.again.pop_front() {
                    // What was refused for its size was refused each time.
                    let uncertain = parcel.tries > 1 && fault.kind() != ErrorKind::TooLarge;
                    let instead = self.owner.on_failed(parcel, &fault, uncertain);
                    instead
                        .into_iter()
                        .for_each(|parcel| self.again.push_front(parcel));
                }
            } else {
                self.suspects = sent;
            }
        }
        (fault, confirmed)
    }
}

/// On one channel of one connection.
struct Round<'a> {
    line: &'a Line,
    channel: Channel,
    /// Not sent, as far as is known.
    sending: Vec<Parcel>,
    /// So many of these go one at a time.
    suspects: usize,
    /// What was sent last was, so nothing else is unconfirmed.
    alone: bool,
    /// In the order in which they were sent.
    unconfirmed: VecDeque<(Parcel, PublisherConfirm)>,
    /// Returned parcels that are sent again later.
    paused: Vec<Parcel>,
    /// Queues that are known to be there.
    addressed: Recent<ShortString>,
    /// So many.
    confirmed: u64,
}

impl Round<'_> {
    /// Nothing is lost when this is dropped at an await: what is under way is in `self`.
    async fn carry<O: Owner>(
        &mut self,
        owner: &O,
        place: &Place,
        inbox: &mut mpsc::Receiver<Parcel>,
    ) -> Fault {
        loop {
            let next = self.resume_paused();
            if !self.sending.is_empty()
                && (self.suspects == 0 && !self.alone || self.unconfirmed.is_empty())
                && let Err(fault) = self.send(owner, place).await
            {
                return fault;
            }
            let has_room = self.sending.is_empty() && self.unconfirmed.len() < UNCONFIRMED_MAX;
            tokio::select! {
                confirmed = next_confirm(&mut self.unconfirmed), if !self.unconfirmed.is_empty() => {
                    if let Err(fault) = self.on_confirmed(owner, confirmed) {
                        return fault;
                    }
                }
                count = inbox.recv_many(&mut self.sending, BATCH_MAX), if has_room => {
                    if count == 0 && self.unconfirmed.is_empty() {
                        return Fault::new(ErrorKind::Closed, "the broker was dropped");
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Separates the parcels that pause from those that are to be sent; when the next one is due.
    fn resume_paused(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.paused.extract_if(.., |parcel| !parcel.pauses(now));
        self.sending.extend(due);
        self.paused
            .extend(self.sending.extract_if(.., |parcel| parcel.pauses(now)));
        self.paused.iter().filter_map(|one| one.not_before).min()
    }

    async fn send<O: Owner>(&mut self, owner: &O, place: &Place) -> Result<(), Fault> {
        self.wait_until_free(owner, place).await;
        self.sending = self
            .sending
            .drain(..)
            .filter_map(|parcel| owner.detour(parcel))
            .collect();
        if O::ADDRESSES {
            self.address(owner).await?;
        }
        self.refuse_large(owner);
        let later = if self.suspects > 0 {
            self.sending.split_off(self.sending.len().min(1))
        } else {
            Vec::new()
        };
        self.alone = self.suspects > 0;
        self.suspects = self.suspects.saturating_sub(1);
        self.sending.iter_mut().for_each(|parcel| {
            parcel.tries += 1;
            parcel.not_before = None;
            parcel.expire();
        });
        let publishing = self.sending.iter().map(|parcel| {
            let options = BasicPublishOptions {
                mandatory: parcel.mandatory,
                immediate: false,
            };
            let (exchange, key) = (parcel.exchange.clone(), parcel.key.clone());
            self.channel.basic_publish(
                exchange,
                key,
                options,
                &parcel.body,
                parcel.properties.clone(),
            )
        });
        let sent = begin_all(publishing).await;
        let mut fault = None;
        let mut left = Vec::new();
        for (parcel, sent) in self.sending.drain(..).zip(sent) {
            match sent {
                Ok(confirm) => self.unconfirmed.push_back((parcel, confirm)),
                Err(error) => {
                    fault = Some(Fault::from(error));
                    left.push(parcel);
                }
            }
        }
        left.extend(later);
        self.sending = left;
        fault.map_or(Ok(()), Err)
    }

    /// What does not fit into a frame would end the connection.
    fn refuse_large<O: Owner>(&mut self, owner: &O) {
        let frame_max = self.line.frame_max;
        let mut index = 0;
        while let Some(parcel) = self.sending.get(index) {
            if fit::fits(&parcel.properties, frame_max) {
                index += 1;
                continue;
            }
            let parcel = self.sending.remove(index);
            self.suspects = self
                .suspects
                .saturating_sub(usize::from(index < self.suspects));
            let fault = Fault::over_frame(fit::frame_bytes(&parcel.properties), frame_max);
            let instead = owner.on_failed(parcel, &fault, false);
            self.sending
                .extend(instead.filter(|parcel| fit::fits(&parcel.properties, frame_max)));
        }
    }

    /// Sees to it that their queues are there. What cannot have one is refused, and holds up
    /// nothing else.
    async fn address<O: Owner>(&mut self, owner: &O) -> Result<(), Fault> {
        let mut index = 0;
        while let Some(parcel) = self.sending.get(index) {
            let is_known =
                !parcel.exchange.as_str().is_empty() || self.addressed.contains(&parcel.key);
            let queue = parcel.key.clone();
            if !is_known {
                match owner.address(self.line, &queue).await {
                    Ok(()) => drop(self.addressed.insert(queue)),
                    Err(fault) if fault.is_lasting() => {
                        let parcel = self.sending.remove(index);
                        let uncertain = parcel.tries > 0;
                        drop(owner.on_failed(parcel, &fault, uncertain));
                        self.suspects = self
                            .suspects
                            .saturating_sub(usize::from(index < self.suspects));
                        continue;
                    }
                    Err(fault) => return Err(fault),
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// While the broker takes nothing, those that cannot be kept waiting are told.
    async fn wait_until_free<O: Owner>(&mut self, owner: &O, place: &Place) {
        let mut blocked = self.line.blocked.clone();
        while blocked.borrow().is_some() {
            if place.blocked == Blocked::Wait
                && timeout(place.answer_timeout, blocked.wait_for(Option::is_none))
                    .await
                    .is_ok()
            {
                return;
            }
            let fault = Fault::blocking();
            let all = std::mem::take(&mut self.sending);
            let failed = |parcel: Parcel| {
                let uncertain = parcel.tries > 0;
                owner.on_failed(parcel, &fault, uncertain)
            };
            self.sending = all.into_iter().filter_map(failed).collect();
            if self.sending.is_empty() {
                return;
            }
            blocked.wait_for(Option::is_none).await.ok();
        }
    }

    fn on_confirmed<O: Owner>(
        &mut self,
        owner: &O,
        confirmed: lapin::Result<Confirmation>,
    ) -> Result<(), Fault> {
        let confirmation = confirmed?;
        let Some((mut parcel, _)) = self.unconfirmed.pop_front() else {
            return Ok(());
        };
        let is_nack = confirmation.is_nack();
        self.confirmed += 1;
        if let Some(returned) = confirmation.take_message() {
            // It came before its own confirm, with that of an earlier one or of itself.
            let of = [&mut parcel]
                .into_iter()
                .chain(self.unconfirmed.iter_mut().map(|(parcel, _)| parcel))
                .find(|one| !one.is_returned && one.is(&returned.delivery));
            of.into_iter().for_each(|one| one.is_returned = true);
        }
        if parcel.is_returned {
            self.addressed.remove(&parcel.key);
            self.on_returned(owner, parcel);
        } else if is_nack {
            let fault = Fault::declined();
            // The one that was sent before may be there.
            let uncertain = parcel.tries > 1;
            self.sending
                .extend(owner.on_failed(parcel, &fault, uncertain));
        } else {
            owner.on_confirmed(&parcel);
            parcel.done();
        }
        Ok(())
    }

    fn on_returned<O: Owner>(&mut self, owner: &O, mut parcel: Parcel) {
        parcel.is_returned = false;
        parcel.returned_since.get_or_insert_with(Instant::now);
        // This time it did not arrive.
        parcel.tries = parcel.tries.saturating_sub(1);
        let may_pause = self.paused.len() < PAUSED_MAX;
        self.sending.extend(owner.on_returned(parcel, may_pause));
    }
}

/// Begins all of these in this order, then waits for one after the other: they end in this order
/// too, so most have when the first has.
async fn begin_all<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut begun = Vec::with_capacity(BATCH_MAX);
    for one in all {
        let mut one = Box::pin(one);
        let ended = one.as_mut().now_or_never();
        begun.push((one, ended));
    }
    let mut outputs = Vec::with_capacity(begun.len());
    for (one, ended) in begun {
        outputs.push(match ended {
            Some(output) => output,
            None => one.await,
        });
    }
    outputs
}

/// The confirm of the one that was sent first. Cancel safe.
async fn next_confirm(
    unconfirmed: &mut VecDeque<(Parcel, PublisherConfirm)>,
) -> lapin::Result<Confirmation> {
    poll_fn(|context| match unconfirmed.front_mut() {
        Some((_, confirm)) => Pin::new(confirm).poll(context),
        None => std::task::Poll::Pending,
    })
    .await
}
