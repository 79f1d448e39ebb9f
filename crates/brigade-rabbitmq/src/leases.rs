//! The leases of this process, and the messages that it settled lately.
//!
//! A lease is a delivery of one channel. `refresh` may exchange it for another delivery of the same
//! message. The token of a lease ends with the channel, with the lease's time, or with its
//! settlement; each later use of it is stale. The broker gives a delivery to another consumer as
//! soon as its channel is gone, so a token of that channel must never count again.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::consumer_channel::Delivery;
use super::message::Envelope;
use super::recent::Recent;
use super::values::str_of;
use crate::clock::later;
use crate::job::JobId;
use crate::sync::lock;
use brigade_core::store::CancelRequest;

/// Marks of settled messages that are remembered, in case the broker brings one again: an ack that
/// was on its way when it died.
const MARKS_MAX: usize = 100_000;
/// Cancels of calls that are remembered, in case the call comes later.
const CANCELLED_MAX: usize = 1_000;
/// Messages that went back; beyond that all are forgotten, and count as lost when they come again.
const RETURNED_MAX: usize = 10_000;
/// Lost leases whose holders have not heard of it.
const LOST_MAX: usize = 10_000;

/// The leases of this process: the table, and who waits for new and lost ones.
#[derive(Default)]
pub(super) struct Leases {
    table: Mutex<LeaseTable>,
    /// A lease was added.
    added: Notify,
    /// A lease was lost, or its call cancelled.
    lost: Notify,
    /// A settlement has ended.
    finished: Notify,
    tokens: AtomicI64,
}

/// A leased job, with the delivery that it came by.
#[derive(Clone)]
pub(super) struct HeldDelivery {
    pub(super) delivery: Delivery,
    pub(super) envelope: Arc<Envelope>,
    pub(super) until: Instant,
}

impl HeldDelivery {
    /// Whether its holder may still end or extend it.
    fn is_good(&self, id: &JobId, now: Instant) -> bool {
        self.envelope.id == *id && self.until > now && self.delivery.is_alive()
    }
}

/// An id and a number: what no other message has.
pub(super) type MessageMark = (JobId, u64);

/// What this process knows of a message that the broker brings.
pub(super) enum KnownMessage {
    New,
    /// A holder whose channel broke is settling it, or another message is being put in its place.
    BeingSettled,
    /// It was settled here, or is held: one of two that a push left whose confirm was lost, or one
    /// whose ack was.
    Copy,
}

#[derive(Default)]
pub(super) struct LeaseTable {
    held: HashMap<i64, HeldDelivery>,
    marks: HashMap<MessageMark, i64>,
    /// Marks of messages that are being settled.
    settling: HashMap<MessageMark, usize>,
    settled: Recent<MessageMark, MARKS_MAX>,
    /// Whose deliveries are being exchanged.
    refreshing: HashSet<i64>,
    lost: VecDeque<CancelRequest>,
    /// Messages that went back from here in good order, and how often.
    returned: HashMap<MessageMark, u32>,
    /// Calls that are to be cancelled and were not here then: by correlation id, with
    /// the reason.
    cancelled: VecDeque<(String, String)>,
}

impl LeaseTable {
    /// Lets go of it, if its token is good.
    pub(super) fn let_go(&mut self, id: &JobId, token: i64, now: Instant) -> Option<HeldDelivery> {
        self.lost.retain(|lost| lost.token != token);
        self.held.get(&token).filter(|held| held.is_good(id, now))?;
        self.begin(token)
    }

    /// Lets go of it. It is being settled from now on, until [`finish`](Leases::finish).
    fn begin(&mut self, token: i64) -> Option<HeldDelivery> {
        let held = self.remove(token)?;
        self.begin_settling(held.envelope.mark());
        Some(held)
    }

    /// The message with this mark is being settled, or another one is put in its place, until
    /// [`finish`](Leases::finish).
    pub(super) fn begin_settling(&mut self, mark: Option<MessageMark>) {
        if let Some(mark) = mark {
            *self.settling.entry(mark).or_default() += 1;
        }
    }

    fn remove(&mut self, token: i64) -> Option<HeldDelivery> {
        let held = self.held.remove(&token)?;
        // A copy of the same message may be another lease by now.
        if let Some(mark) = held
            .envelope
            .mark()
            .filter(|mark| self.marks.get(mark) == Some(&token))
        {
            self.marks.remove(&mark);
        }
        Some(held)
    }

    /// Whether it counts for longer.
    pub(super) fn extend(&mut self, id: &JobId, token: i64, now: Instant, time: Duration) -> bool {
        let held = self
            .held
            .get_mut(&token)
            .filter(|held| held.is_good(id, now));
        held.map(|held| held.until = later(now, time)).is_some()
    }

    /// The leases whose deliveries are older than this; they are being exchanged from now on.
    pub(super) fn older_than(&mut self, age: Duration) -> Vec<(i64, HeldDelivery)> {
        let is_old = |held: &HeldDelivery| held.delivery.age() >= age && held.delivery.is_alive();
        let old = self.held.iter();
        let old = old.filter(|(token, held)| is_old(held) && !self.refreshing.contains(token));
        let old: Vec<_> = old.map(|(token, held)| (*token, held.clone())).collect();
        self.refreshing.extend(old.iter().map(|(token, _)| *token));
        old
    }

    /// Gives a lease another delivery; returns the one before. `None` if the lease is over.
    pub(super) fn replace_delivery(
        &mut self,
        token: i64,
        id: &str,
        new: &Delivery,
    ) -> Option<Delivery> {
        let is_it = |held: &&mut HeldDelivery| {
            held.envelope.id.as_str() == id && held.delivery.is_alive() && new.is_alive()
        };
        let held = self.held.get_mut(&token).filter(is_it)?;
        Some(std::mem::replace(&mut held.delivery, new.clone()))
    }

    /// Whether a lease still holds by this delivery.
    pub(super) fn holds(&self, token: i64, delivery: &Delivery) -> bool {
        let held = self.held.get(&token);
        held.is_some_and(|held| held.delivery.is(delivery))
    }

    /// Whether any lease holds by the channel of that number.
    pub(super) fn holds_by(&self, number: u64) -> bool {
        self.held
            .values()
            .any(|held| held.delivery.opened.number == number)
    }

    /// Whether any lease is of this queue.
    pub(super) fn holds_queue(&self, queue: &str) -> bool {
        let mut all = self.held.values();
        all.any(|held| *held.envelope.job.queue == *queue)
    }

    /// It has been tried.
    pub(super) fn refreshed(&mut self, tokens: &[i64]) {
        for token in tokens {
            self.refreshing.remove(token);
        }
    }

    /// Takes out the leases whose time is over. Those whose channels are over are another's
    /// already, and only go.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<(i64, HeldDelivery)> {
        let over = self.tokens_of(|held| held.until <= now);
        let taken = over.into_iter().filter_map(|token| {
            if !self.held.get(&token)?.delivery.is_alive() {
                self.remove(token);
                return None;
            }
            Some((token, self.begin(token)?))
        });
        taken.collect()
    }

    fn tokens_of(&self, which: impl Fn(&HeldDelivery) -> bool) -> Vec<i64> {
        let all = self.held.iter().filter(|(_, held)| which(held));
        all.map(|(token, _)| *token).collect()
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }

    /// The channel of that number is over: its leases are lost; or those of one queue of it.
    fn lose(&mut self, number: u64, queue: Option<&str>) -> usize {
        let is_lost = |held: &HeldDelivery| {
            held.delivery.opened.number == number
                && queue.is_none_or(|queue| *held.envelope.job.queue == *queue)
        };
        let lost = self.tokens_of(is_lost);
        for token in &lost {
            let Some(held) = self.remove(*token) else {
                continue;
            };
            self.returns(&held.envelope);
            self.ask(CancelRequest {
                id: held.envelope.id.clone(),
                token: *token,
                reason: "its lease was lost with the connection to the broker".to_owned(),
            });
        }
        lost.len()
    }

    /// This message goes back to the broker, whose count of it then says nothing of a holder that
    /// died.
    pub(super) fn returns(&mut self, envelope: &Envelope) {
        if self.returned.len() >= RETURNED_MAX {
            self.returned.clear();
        }
        if let Some(mark) = envelope.mark() {
            *self.returned.entry(mark).or_default() += 1;
        }
    }

    /// How often it went back from here.
    pub(super) fn returned(&self, envelope: &Envelope) -> u32 {
        envelope
            .mark()
            .and_then(|mark| self.returned.get(&mark).copied())
            .unwrap_or(0)
    }

    /// What this lease is of.
    pub(super) fn envelope(&self, id: &JobId, token: i64) -> Option<Arc<Envelope>> {
        self.held
            .get(&token)
            .filter(|held| held.envelope.id == *id)
            .map(|held| Arc::clone(&held.envelope))
    }

    /// A caller cancelled a call. Whether it is held; if not, it may be about to come.
    fn cancel_call(&mut self, correlation_id: &str, reason: String) -> bool {
        let is_it = |held: &HeldDelivery| {
            str_of(held.envelope.properties.correlation_id()) == correlation_id
        };
        let mut all = self.held.iter();
        let Some((token, held)) = all.find(|(_, held)| is_it(held)) else {
            self.cancelled.retain(|(known, _)| known != correlation_id);
            if self.cancelled.len() == CANCELLED_MAX {
                self.cancelled.pop_front();
            }
            self.cancelled
                .push_back((correlation_id.to_owned(), reason));
            return false;
        };
        let (token, id) = (*token, held.envelope.id.clone());
        self.ask(CancelRequest { id, token, reason });
        true
    }

    /// Why this call, which was not handed out, is to be cancelled.
    pub(super) fn take_cancelled(&mut self, envelope: &Envelope) -> Option<String> {
        if self.cancelled.is_empty() {
            return None;
        }
        let id = envelope.properties.correlation_id().as_ref()?;
        let place = self
            .cancelled
            .iter()
            .position(|(known, _)| known == id.as_str())?;
        self.cancelled.remove(place).map(|(_, reason)| reason)
    }

    fn ask(&mut self, asked: CancelRequest) {
        if self.lost.len() == LOST_MAX {
            self.lost.pop_front();
        }
        self.lost.push_back(asked);
    }

    /// Leases whose holders do not know yet that they are lost, or wanted cancelled.
    pub(super) fn lost(&self) -> Vec<CancelRequest> {
        self.lost.iter().cloned().collect()
    }

    /// Whether this message is being settled by a holder whose channel broke.
    pub(super) fn is_being_settled(&self, envelope: &Envelope) -> bool {
        envelope
            .mark()
            .is_some_and(|mark| self.settling.contains_key(&mark))
    }

    /// The message with this mark needs nothing more: it is over, or another one is in its place.
    pub(super) fn settled(&mut self, mark: Option<MessageMark>) {
        if let Some(mark) = mark {
            self.returned.remove(&mark);
            self.settled.insert(mark);
        }
    }

    /// What is known of a message that the broker brings. What is held by a channel that is over
    /// does not count: then it may be the very one.
    pub(super) fn known(&self, envelope: &Envelope) -> KnownMessage {
        let Some(mark) = envelope.mark() else {
            return KnownMessage::New;
        };
        let is_held = || {
            self.held
                .get(self.marks.get(&mark)?)
                .map(|held| held.delivery.is_alive())
        };
        if self.settling.contains_key(&mark) {
            KnownMessage::BeingSettled
        } else if self.settled.contains(&mark) || is_held().unwrap_or(false) {
            KnownMessage::Copy
        } else {
            KnownMessage::New
        }
    }
}

impl Leases {
    pub(super) fn table(&self) -> MutexGuard<'_, LeaseTable> {
        lock(&self.table)
    }

    /// A token that no other lease has.
    pub(super) fn next_token(&self) -> i64 {
        self.tokens.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn hold(&self, token: i64, held: HeldDelivery) {
        let mut table = self.table();
        if let Some(mark) = held.envelope.mark() {
            table.marks.insert(mark, token);
        }
        table.held.insert(token, held);
        drop(table);
        self.added.notify_one();
    }

    /// Returns when a lease was added since the last call.
    pub(super) async fn until_added(&self) {
        self.added.notified().await;
    }

    /// From the call on, not from the first poll.
    pub(super) fn until_lost(&self) -> Notified<'_> {
        self.lost.notified()
    }

    /// The settlement of the message with this mark has ended.
    pub(super) fn finish(&self, mark: Option<MessageMark>) {
        if let Some(mark) = mark
            && let Entry::Occupied(mut count) = self.table().settling.entry(mark)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.finished.notify_waiters();
    }

    /// Returns when no holder is settling this message. Cancel safe.
    pub(super) async fn until_finished(&self, envelope: &Envelope) {
        loop {
            // From here on, not from the first poll.
            let finished = self.finished.notified();
            if !self.table().is_being_settled(envelope) {
                return;
            }
            finished.await;
        }
    }

    /// The leases of the channel of this number are lost; or those of one queue of it.
    pub(super) fn lose(&self, number: u64, queue: Option<&str>) {
        let count = self.table().lose(number, queue);
        if count > 0 {
            tracing::warn!(
                count,
                "leases were lost with a channel; the broker gives their jobs to others"
            );
            self.lost.notify_waiters();
        }
    }

    /// A caller cancelled a call that this process may hold.
    pub(super) fn cancel_call(&self, correlation_id: &str, reason: String) {
        if self.table().cancel_call(correlation_id, reason) {
            self.lost.notify_waiters();
        }
    }
}
