//! Passing: how a job or call that one worker passed reaches another one, without spinning, and
//! without counting as a delivery.
//!
//! The broker does not know of passes. The worker publishes the message again at the end of its
//! queue, with the names of the workers that passed it in its headers, and then acks the old one.
//! Until then it holds the old delivery, so with prefetch 1 it has no room for the new message, and
//! a free worker takes it at once.
//!
//! ```text
//!   taken --- pass, a worker present has not passed ---> published again at once ---> taken by a free worker
//!     |  \--- pass, all present have now passed -------> a new round, after a pause (none, 20 ms, doubled up to 320 ms)
//!     |                                                    after 32 passes and a whole round: over, the caller gets all reasons
//!     \------ comes back to one that passed it, while another could take it ---> forwarded, unrun: at once, then after 10 ms, 20 ms .. 500 ms
//! ```
//!
//! The number of workers present is the queue's number of consumers. A forward is no pass and
//! counts nothing. Its pauses keep a call from circling between the queue and the only free worker,
//! which passed it, while all others are busy.

use std::sync::Arc;
use std::time::Duration;

use lapin::types::{AMQPValue, FieldArray, FieldTable};

use super::consumer_channel::Delivery;
use super::intake::Intake;
use super::message::Envelope;
use super::settle::EndingLease;
use super::topology::QueueKind;
use super::values::{WAITS, header, number_of, read_text, text};
use crate::job::AttemptKind;
use crate::outcome::CallError;
use brigade_core::printable::shorten;
use brigade_core::store::{Answer, Disposition};

const BY: &str = "brigade-passed-by";
const HOPS: &str = "brigade-pass-hops";
const ROUNDS: &str = "brigade-pass-rounds";
const FORWARDS: &str = "brigade-pass-forwards";
const REASONS: &str = "brigade-pass-reasons";

/// So many passes are not yet given up: with three workers that pass at random every other time,
/// one call in four thousand million.
const HOPS_MAX: u32 = 32;
/// The newest are kept; each of them is short.
const REASONS_MAX: usize = 32;
const REASON_BYTES_MAX: usize = 256;
/// Of the workers that passed it in this round, the newest are kept.
const BY_MAX: usize = 256;

/// What a message says of its passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Passes {
    /// In this round.
    by: Vec<String>,
    hops: u32,
    rounds: u32,
    /// Since the last pass.
    forwards: u32,
    reasons: Vec<String>,
    waits: bool,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    /// Published again, after this time.
    Again(Duration),
    /// Everybody passed it, and more than once. The reasons, in order.
    Over(Vec<String>),
}

/// How often all workers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounds {
    One,
    Many,
}

impl Passes {
    pub(super) fn read(headers: &FieldTable) -> Self {
        let number = |name: &str| {
            let number = number_of(headers, name).and_then(|number| u32::try_from(number).ok());
            number.unwrap_or(0)
        };
        let texts = |name: &str| match headers.inner().get(name) {
            Some(AMQPValue::FieldArray(array)) => {
                let texts = array.as_slice().iter().filter_map(read_text);
                texts.map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        let waits = matches!(headers.inner().get(WAITS), Some(AMQPValue::Boolean(true)));
        Self {
            by: texts(BY),
            hops: number(HOPS),
            rounds: number(ROUNDS),
            forwards: number(FORWARDS),
            reasons: texts(REASONS),
            waits,
        }
    }

    pub(super) fn write(&self, headers: &mut FieldTable) {
        let number = |number: u32| AMQPValue::LongInt(i32::try_from(number).unwrap_or(i32::MAX));
        let texts = |texts: &[String]| {
            let values: Vec<AMQPValue> = texts.iter().map(|one| text(one)).collect();
            AMQPValue::FieldArray(FieldArray::from(values))
        };
        headers.insert(BY.into(), texts(&self.by));
        headers.insert(HOPS.into(), number(self.hops));
        headers.insert(ROUNDS.into(), number(self.rounds));
        headers.insert(FORWARDS.into(), number(self.forwards));
        headers.insert(REASONS.into(), texts(&self.reasons));
    }

    fn of(envelope: &Envelope) -> Self {
        envelope
            .properties
            .headers()
            .as_ref()
            .map(Self::read)
            .unwrap_or_default()
    }

    fn put_on(&self, envelope: &mut Arc<Envelope>) {
        let envelope = Arc::make_mut(envelope);
        let mut headers = envelope.properties.headers().clone().unwrap_or_default();
        self.write(&mut headers);
        envelope.properties = std::mem::take(&mut envelope.properties).with_headers(headers);
    }

    /// Whether this worker has passed it in this round, so that it is worth asking who else is
    /// there.
    pub(super) fn is_by(&self, me: &str) -> bool {
        self.by.iter().any(|by| by == me)
    }

    /// It came to this worker, which passed it before, while so many are present. `None` if it may
    /// as well run it: there is no other to ask.
    pub(super) fn on_return(&mut self, present: usize) -> Option<Duration> {
        if self.by.len() >= present {
            return None;
        }
        self.forwards = self.forwards.saturating_add(1);
        Some(match self.forwards {
            1 => Duration::ZERO,
            more => doubled(10, more - 2, 500),
        })
    }

    /// This worker passes it, while so many are present.
    pub(super) fn on_pass(
        &mut self,
        me: &str,
        reason: &str,
        present: usize,
        rounds: Rounds,
    ) -> Next {
        self.hops = self.hops.saturating_add(1);
        self.forwards = 0;
        if self.reasons.len() == REASONS_MAX {
            self.reasons.remove(0);
        }
        self.reasons
            .push(shorten(reason, REASON_BYTES_MAX).to_owned());
        if !self.is_by(me) {
            if self.by.len() == BY_MAX {
                self.by.remove(0);
            }
            self.by.push(me.to_owned());
        }
        if self.by.len() < present.min(BY_MAX) {
            return Next::Again(Duration::ZERO);
        }
        if (self.hops >= HOPS_MAX || rounds == Rounds::One) && !self.waits {
            return Next::Over(std::mem::take(&mut self.reasons));
        }
        self.rounds = self.rounds.saturating_add(1);
        // In the new round, everybody else is asked first.
        self.by = vec![me.to_owned()];
        Next::Again(match self.rounds {
            1 => Duration::ZERO,
            more => doubled(20, more - 2, 320),
        })
    }
}

impl Intake {
    /// What a worker passed goes on as its passes say. What was fetched by hand has no worker, and
    /// nothing spins with it but that hand.
    pub(super) async fn pass_on(&self, lease: &mut EndingLease) {
        let EndingLease {
            held, settlement, ..
        } = lease;
        let is_call = held.envelope.is_call();
        let Disposition::GiveBack {
            kind,
            reason,
            after,
        } = &settlement.disposition
        else {
            return;
        };
        let (kind, is_unserved) = (*kind, *kind == AttemptKind::Unserved);
        if kind != AttemptKind::Passed && !(is_unserved && is_call) {
            return;
        }
        let Some(me) = self.name_of(&held.delivery) else {
            return;
        };
        let mut passes = Passes::of(&held.envelope);
        let present = self.present(&held.delivery, &held.envelope).await;
        // Who cannot run it now cannot later.
        let rounds = if is_unserved {
            Rounds::One
        } else {
            Rounds::Many
        };
        match passes.on_pass(&me, reason, present, rounds) {
            Next::Again(pause) => {
                let (reason, after) = (reason.clone(), pause.max(*after));
                Arc::make_mut(settlement).disposition = Disposition::GiveBack {
                    kind,
                    reason,
                    after,
                };
                passes.put_on(&mut held.envelope);
            }
            Next::Over(_) if is_unserved && settlement.answer.is_some() => {
                let disposition = Disposition::DeadLetter(reason.clone());
                Arc::make_mut(settlement).disposition = disposition;
            }
            Next::Over(reasons) => {
                let error = CallError::Passed(reasons);
                let settlement = Arc::make_mut(settlement);
                settlement.answer = Some(Box::new(Answer::of(&error)));
                settlement.disposition = Disposition::DeadLetter(error.to_string());
            }
        }
    }

    /// After which time a message goes on to another worker, as the one to whom it came has passed
    /// it; `None` if it stays.
    pub(super) async fn comes_back(
        &self,
        delivery: &Delivery,
        envelope: &mut Arc<Envelope>,
    ) -> Option<Duration> {
        let has_passes = header(&envelope.properties, BY).is_some();
        let me = self.name_of(delivery).filter(|_| has_passes)?;
        let mut passes = Passes::of(envelope);
        if !passes.is_by(&me) {
            return None;
        }
        let pause = passes.on_return(self.present(delivery, envelope).await)?;
        passes.put_on(envelope);
        Some(pause)
    }

    /// The name of this worker in headers: that of its AMQP consumer, as those are what is counted.
    /// `None` for what was fetched by hand.
    fn name_of(&self, delivery: &Delivery) -> Option<String> {
        let number = delivery.subscription()?;
        Some(format!("{}.{number}", self.id))
    }

    /// How many serve its queue; 1 if that is unknown.
    async fn present(&self, delivery: &Delivery, envelope: &Envelope) -> usize {
        let queue = QueueKind::Jobs(envelope.job.queue.clone());
        let queue = self.storage.topology.name(&queue);
        let opened = &delivery.opened;
        let count = opened.connection.consumer_count(&opened.channel, &queue);
        count
            .await
            .map_or(1, |count| usize::try_from(count).unwrap_or(usize::MAX))
    }
}

fn doubled(millis: u64, times: u32, most: u64) -> Duration {
    Duration::from_millis(millis.saturating_mul(1 << times.min(16)).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets these workers pass everything; how long it took, and after how many passes it was over.
    fn all_pass(workers: &[&str]) -> (Duration, usize) {
        let (mut passes, mut time) = (Passes::default(), Duration::ZERO);
        for turn in 0..10_000 {
            // As over the wire.
            let mut headers = FieldTable::default();
            passes.write(&mut headers);
            assert_eq!(Passes::read(&headers), passes);
            match passes.on_pass(
                workers[turn % workers.len()],
                "no",
                workers.len(),
                Rounds::Many,
            ) {
                Next::Again(pause) => time += pause,
                Next::Over(reasons) => {
                    assert_eq!(reasons.len(), REASONS_MAX.min(turn + 1));
                    return (time, turn + 1);
                }
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn a_call_that_all_pass_ends() {
        let (time, passes) = all_pass(&["a"]);
        assert!(
            passes == 32 && time < Duration::from_secs(10),
            "{passes} in {time:?}"
        );
        let (time, passes) = all_pass(&["a", "b", "c"]);
        assert!(
            (32..40).contains(&passes) && time < Duration::from_secs(10),
            "{passes} in {time:?}"
        );
        // Everybody is asked once, however many there are.
        let many: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(all_pass(&many).1, 100);
    }

    #[test]
    fn one_that_waits_never_ends_and_never_spins() {
        let mut passes = Passes {
            waits: true,
            ..Passes::default()
        };
        let mut time = Duration::ZERO;
        for _ in 0..1_000 {
            let Next::Again(pause) = passes.on_pass("a", "no", 1, Rounds::Many) else {
                panic!("it waits")
            };
            time += pause;
        }
        assert!(time > Duration::from_secs(300), "{time:?}");
        assert!(passes.reasons.len() == REASONS_MAX && passes.by.len() == 1);
    }

    #[test]
    fn who_passed_it_gets_it_again_only_when_nobody_else_is_there() {
        let mut passes = Passes::default();
        assert_eq!(
            passes.on_pass("a", "no", 2, Rounds::Many),
            Next::Again(Duration::ZERO)
        );
        assert!(passes.is_by("a") && !passes.is_by("b"));
        let pauses: Vec<u128> = (0..9)
            .filter_map(|_| passes.on_return(2))
            .map(|pause| pause.as_millis())
            .collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 320, 500, 500]);
        // The other one has gone.
        assert_eq!(passes.on_return(1), None);
        // What no worker can run ends with the round.
        assert_eq!(
            passes.clone().on_pass("b", "no", 2, Rounds::One),
            Next::Over(vec!["no".to_owned(); 2])
        );
        // A round is over when all have passed; the next begins with the others.
        assert_eq!(
            passes.on_pass("b", "no", 2, Rounds::Many),
            Next::Again(Duration::ZERO)
        );
        assert!(passes.is_by("b") && !passes.is_by("a"));
    }

    #[test]
    fn headers_of_another_program_are_read_as_far_as_they_go() {
        let mut headers = FieldTable::default();
        headers.insert(BY.into(), AMQPValue::LongInt(3));
        headers.insert(HOPS.into(), AMQPValue::LongInt(-3));
        assert_eq!(Passes::read(&headers), Passes::default());
    }
}
