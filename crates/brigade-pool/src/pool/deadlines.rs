//! What falls due when. O(log n); one task sleeps until the first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ids::CallId;
#[cfg(feature = "remote")]
use super::ids::WorkerId;

/// Longer than any process runs: `Duration::MAX` is a common way to say never, and no clock can add
/// it.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The moment this long after another.
pub(super) fn after(moment: Instant, time: Duration) -> Instant {
    moment + time.min(NEVER)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DueEvent {
    /// A call waited too long.
    QueueTimeout(CallId),
    /// An attempt ran too long.
    RunTimeout(CallId),
    /// A delayed call may be queued.
    Delay(CallId),
    /// Workers may be started again.
    Restart,
    /// Time to look after the workers, planned for this moment.
    Check(Instant),
    /// This host has been away for too long.
    #[cfg(feature = "remote")]
    HostLost(WorkerId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DueKey(Instant, u64);

impl DueKey {
    pub(super) fn at(self) -> Instant {
        self.0
    }
}

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    due: BTreeMap<DueKey, DueEvent>,
    count: u64,
    /// When the clock wakes up next.
    awake_at: Option<Instant>,
    /// Set when something falls due before that, so that the clock must be woken.
    pub(super) hurried: bool,
}

impl Deadlines {
    pub(super) fn insert(&mut self, at: Instant, due: DueEvent) -> DueKey {
        self.count += 1;
        let key = DueKey(at, self.count);
        self.hurried |= self.awake_at.is_none_or(|awake_at| at < awake_at);
        self.due.insert(key, due);
        key
    }

    pub(super) fn remove(&mut self, key: DueKey) {
        self.due.remove(&key);
    }

    /// The first, for the clock, which wakes up then, even if that one is gone by then: deadlines
    /// that come and go before do not wake it.
    pub(super) fn awake_at(&mut self) -> Option<Instant> {
        self.awake_at = self.first();
        self.awake_at
    }

    fn first(&self) -> Option<Instant> {
        self.due.first_key_value().map(|(key, _)| key.0)
    }

    /// Whether none of them is one of a call or a host.
    #[cfg(test)]
    pub(super) fn are_of_pool(&self) -> bool {
        let is_of_pool = |due: &DueEvent| matches!(due, DueEvent::Check(_) | DueEvent::Restart);
        self.due.values().all(is_of_pool)
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<DueEvent> {
        if self.first()? > now {
            return None;
        }
        self.due.pop_first().map(|(_, due)| due)
    }
}
