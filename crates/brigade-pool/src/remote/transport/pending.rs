//! Who is in the middle of a handshake, and who has to go when there are too many.
//!
//! All of them together have a limit, and those of one origin have one. At the limit the oldest
//! goes, but nobody before a grace period, in which an honest peer has long proved itself: until
//! then further connections wait in the kernel, and those of an origin that has its share are
//! refused. So idle connections cannot keep others out, and neither can a flood of fresh ones.

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

/// A place in the crowd.
pub(super) struct HandshakePermit {
    pub(super) number: u64,
    /// Cancelled when it has to go.
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

    /// From when on there is room for one more, which may be long ago.
    pub(super) fn room_at(&self) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        (self.waiting.len() >= self.max).then(|| oldest.since + self.grace)
    }

    /// Sends the oldest away, if it had its time.
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

    /// `None` if this origin has its share.
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
        let (mut crowd, start) = (PendingConnections::new(2, 2, GRACE), Instant::now());
        let first = crowd.admit(from(1), start).unwrap();
        assert_eq!(crowd.room_at(), None);
        let second = crowd.admit(from(2), start).unwrap();
        assert_eq!(crowd.room_at(), Some(start + GRACE));
        crowd.make_room(start);
        assert!(!first.go.is_cancelled());
        crowd.make_room(start + GRACE);
        assert!(first.go.is_cancelled() && !second.go.is_cancelled());
        assert_eq!(crowd.room_at(), None);
    }

    #[test]
    fn one_origin_takes_nothing_from_the_others() {
        let (mut crowd, start) = (PendingConnections::new(4, 2, GRACE), Instant::now());
        let first = crowd.admit(from(1), start).unwrap();
        let second = crowd.admit(from(1), start).unwrap();
        assert!(crowd.admit(from(1), start).is_none());
        let other = crowd.admit(from(2), start).unwrap();
        assert!(crowd.admit(from(1), start + GRACE).is_some());
        assert!(first.go.is_cancelled() && !second.go.is_cancelled() && !other.go.is_cancelled());
        crowd.leave(second.number);
        assert!(crowd.admit(from(1), start + GRACE).is_some());
    }
}
