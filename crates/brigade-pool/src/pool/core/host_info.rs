//! What the dispatcher knows of a remote host: what it says of itself, and how fast it answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::deadlines::DueKey;
use crate::registry;
use crate::request::{CallTarget, Request};
use crate::retry::Retry;
use crate::wire::remote::{RandomId, ahead_max};

/// Attempts that take longer than this gain nothing by being sent ahead.
const AHEAD_MICROS: u32 = 2000;
/// Answers by which it is known how long attempts take.
const AHEAD_ANSWERS_MIN: u32 = 32;

/// What a host says of itself when it joins.
#[derive(Debug)]
pub(in super::super) struct HostInfo {
    pub(in super::super) session: RandomId,
    /// As what it proved itself, for people.
    pub(in super::super) identity: Box<str>,
    pub(in super::super) name: Box<str>,
    pub(in super::super) pid: u32,
    pub(in super::super) slots: u32,
    pub(in super::super) labels: Vec<Box<str>>,
    /// Whether it runs plain functions of this build.
    pub(in super::super) functions: bool,
    /// The tasks that it has.
    pub(in super::super) tasks: HashMap<Box<str>, TaskFacts>,
}

/// What a host says of a task.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct TaskFacts {
    pub(in super::super) idempotent: bool,
    pub(in super::super) retries: Option<u32>,
    pub(in super::super) retry: Option<Retry>,
}

/// A remote host among the workers.
pub(super) struct HostState {
    pub(super) info: Arc<HostInfo>,
    pub(super) pace: AnswerPace,
    /// Until when it may be away, while its connection is down.
    pub(super) away: Option<DueKey>,
}

/// How fast a host answers.
#[derive(Debug, Default)]
pub(super) struct AnswerPace {
    /// The last round trip; 0 while none was measured.
    pub(super) latency_micros: u32,
    /// How many answers came, and how long attempts took of late, the round trip included.
    answers: u32,
    usual_micros: u32,
}

impl HostInfo {
    pub(super) fn can_run(&self, request: &Request) -> bool {
        let is_known = match &request.target {
            CallTarget::Task { name } => self.tasks.contains_key(&**name),
            CallTarget::Function { name, .. } => {
                self.functions && registry::function_number(name).is_some()
            }
        };
        let has_label = |label| self.labels.contains(label);
        is_known && request.options().labels.iter().all(has_label)
    }

    /// Fills in what a call does not say of retries from the task's registration there. The host
    /// fills in the rest itself.
    pub(super) fn fill(&self, request: &mut Request) {
        let CallTarget::Task { name } = &request.target else {
            return;
        };
        let Some(task) = self.tasks.get(&**name).filter(|task| {
            request.queue.is_none() && (task.retries.is_some() || task.retry.is_some())
        }) else {
            return;
        };
        let options = request.options.get_or_insert_default();
        options.retries = options.retries.or(task.retries);
        options.retry = options.retry.or(task.retry);
    }

    /// Whether the call may run twice, as the host or this program knows its task.
    pub(super) fn may_run_twice(&self, request: &Request) -> bool {
        match &request.target {
            CallTarget::Task { name } => {
                let there = self.tasks.get(&**name).is_some_and(|task| task.idempotent);
                there || registry::find(name).is_some_and(|task| task.idempotent)
            }
            CallTarget::Function { .. } => false,
        }
    }
}

impl AnswerPace {
    pub(super) fn latency(&self) -> Option<Duration> {
        let micros = self.latency_micros;
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    /// Notes how long an attempt took.
    pub(super) fn note_answer(&mut self, wall: Duration) {
        let micros = u32::try_from(wall.as_micros()).unwrap_or(u32::MAX);
        self.answers = self.answers.saturating_add(1);
        self.usual_micros = self.usual_micros - self.usual_micros / 8 + micros / 8;
    }

    /// A call that was sent ahead of its turn came back: nothing more is sent ahead until it is
    /// known how long attempts take.
    pub(super) fn note_return(&mut self) {
        self.answers = 0;
    }

    /// How many calls a host may be sent beyond its slots, so that it has the next ones when some
    /// end. Only where attempts are so short that the round trip counts, and the host gives back
    /// what it cannot begin soon. The longer they take, and the longer what was sent ahead waits
    /// there, the fewer.
    pub(super) fn ahead(&self, slots: u32) -> u32 {
        if self.answers < AHEAD_ANSWERS_MIN {
            return 0;
        }
        let usual = self.usual_micros.saturating_sub(self.latency_micros);
        let most = AHEAD_MICROS.max(self.latency_micros.saturating_mul(2));
        let left = u64::from(most.saturating_sub(usual));
        let share = left * u64::from(ahead_max(slots)) / u64::from(most);
        u32::try_from(share).expect("invariant: a part of a small number is small")
    }

    /// At least 1; one more for each doubling of the round trip.
    pub(super) fn distance(&self) -> u8 {
        let doublings = u32::BITS - (self.latency_micros / 64).leading_zeros();
        u8::try_from(1 + doublings).unwrap_or(u8::MAX)
    }
}
