//! Connections whose handshake is under way, and which of them end when there are too many.
//!
//! There is a limit for all of them together and one for each origin. At the limit the oldest
//! connection ends, but only after a grace period that is long enough for any honest peer. Until
//! then further connections wait in the kernel, and those of an origin at its limit are refused. So
//! neither idle connections nor a flood of new ones can keep others out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::peer::PeerOrigin;

pub(super) struct PendingConnections {
    max: usize,
    max_of_one: usize,
    grace: Duration,
    next: u64,
    /// The oldest first.
    waiting: VecDeque<PendingConnection>,
}

struct PendingConnection {
    number: u64,
    origin: PeerOrigin,
    since: Instant,
    go: CancellationToken,
}

/// Permission for one handshake.
pub(super) struct HandshakePermit {
    pub(super) number: u64,
    /// Cancelled when it has to end.
    pub(super) go: CancellationToken,
}

impl PendingConnections {
    pub(super) fn new(max: usize, max_of_one: usize, grace: Duration) -> Self {
        Self {
            max: max.max(1),
            max_of_one: max_of_one.max(1),
            grace,
            next: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Since when, or from when on, the oldest may end to make room. `None` if there is room.
    pub(super) fn room_at(&self) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        (self.waiting.len() >= self.max).then(|| oldest.since + self.grace)
    }

    /// Ends the oldest, if its grace period is over.
    pub(super) fn make_room(&mut self, now: Instant) {
        if self
            .waiting
            .front()
            .is_some_and(|oldest| oldest.since + self.grace <= now)
            && let Some(oldest) = self.waiting.pop_front()
        {
            oldest.go.cancel();
        }
    }

    /// `None` if this origin is at its limit.
    pub(super) fn admit(&mut self, origin: PeerOrigin, now: Instant) -> Option<HandshakePermit> {
        if self.waiting.len() >= self.max {
            self.make_room(now);
        }
        let of_one = self
            .waiting
            .iter()
            .filter(|waiting| waiting.origin == origin)
            .count();
        if of_one >= self.max_of_one {
            let oldest = self
                .waiting
                .iter()
                .position(|waiting| waiting.origin == origin)?;
            if self.waiting[oldest].since + self.grace > now {
                return None;
            }
            self.waiting.remove(oldest)?.go.cancel();
        }
        let (number, go) = (self.next, CancellationToken::new());
        self.next += 1;
        self.waiting.push_back(PendingConnection {
            number,
            origin,
            since: now,
            go: go.clone(),
        });
        Some(HandshakePermit { number, go })
    }

    /// Its handshake has ended.
    pub(super) fn leave(&mut self, number: u64) {
        self.waiting.retain(|waiting| waiting.number != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(200);

    fn from(last: u8) -> PeerOrigin {
        PeerOrigin::V4([10, 0, 0, last])
    }

    #[test]
    fn the_oldest_goes_but_not_before_its_time() {
        let (mut pending, start) = (PendingConnections::new(2, 2, GRACE), Instant::now());
        let first = pending.admit(from(1), start).unwrap();
        assert_eq!(pending.room_at(), None);
        let second = pending.admit(from(2), start).unwrap();
        assert_eq!(pending.room_at(), Some(start + GRACE));
        pending.make_room(start);
        assert!(!first.go.is_cancelled());
        pending.make_room(start + GRACE);
        assert!(first.go.is_cancelled() && !second.go.is_cancelled());
        assert_eq!(pending.room_at(), None);
    }

    #[test]
    fn one_origin_takes_nothing_from_the_others() {
        let (mut pending, start) = (PendingConnections::new(4, 2, GRACE), Instant::now());
        let first = pending.admit(from(1), start).unwrap();
        let second = pending.admit(from(1), start).unwrap();
        assert!(pending.admit(from(1), start).is_none());
        let other = pending.admit(from(2), start).unwrap();
        assert!(pending.admit(from(1), start + GRACE).is_some());
        assert!(first.go.is_cancelled() && !second.go.is_cancelled() && !other.go.is_cancelled());
        pending.leave(second.number);
        assert!(pending.admit(from(1), start + GRACE).is_some());
    }
}
