//! Moments and times that cannot overflow, and the clock of a broker.
//!
//! Times come from users, files and the network, so every sum of a moment and a time goes through
//! here: one that is too far to be written down is [`FAR`] from now, which no process lives to see.
//!
//! A [`Clock`] belongs to one connection to a broker; its clones share how far it was moved. Time
//! only moves forwards; the wall clock can also be set back, which lets no time pass. [`BootTime`]
//! is of this host and boot only: it is neither stored nor sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Later than any process runs.
pub const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The moment after `from` by this time, or [`FAR`] after it if that is sooner.
pub fn later(from: Instant, by: Duration) -> Instant {
    let by = by.min(FAR);
    // Each half of what cannot be reached is nearer.
    std::iter::successors(Some(by), |by| Some(*by / 2))
        .find_map(|by| from.checked_add(by))
        .unwrap_or(from)
}

/// A moment of the host's boot clock. Unlike `Instant`, it goes on while the host is suspended:
/// leases do so too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// This moment.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(Duration::new(
            now.tv_sec.unsigned_abs(),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        ))
    }

    /// The moment after this one by this time.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// How much time has passed since an earlier moment.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long it is until then; zero if it is over.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }
}

/// The broker's clock, for tests: it can be moved forwards, and everything that waits for a time
/// falls due; and its wall clock can be set, as a person would.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Shifts>);

/// Milliseconds.
#[derive(Debug, Default)]
struct Shifts {
    ahead: AtomicU64,
    wall: AtomicI64,
}

impl Clock {
    /// Moves this broker's time forwards, as this process sees it.
    pub fn advance(&self, by: Duration) {
        let add = |ahead: u64| {
            Some(
                ahead
                    .saturating_add(bounded_millis(by))
                    .min(bounded_millis(FAR)),
            )
        };
        // It is always some.
        self.0
            .ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok();
    }

    /// Sets the wall clock forwards, as this process sees it: no time has passed, so leases stay as
    /// they are.
    pub fn set_forward(&self, by: Duration) {
        self.0
            .wall
            .fetch_add(bounded_millis(by).cast_signed(), Ordering::Relaxed);
    }

    /// Sets the wall clock back, as this process sees it.
    pub fn set_back(&self, by: Duration) {
        self.0
            .wall
            .fetch_sub(bounded_millis(by).cast_signed(), Ordering::Relaxed);
    }

    /// The wall clock, as moved. A store whose time tests may move reads this one.
    pub fn now(&self) -> SystemTime {
        let (now, wall) = (SystemTime::now() + self.ahead(), self.wall_off_millis());
        let set = Duration::from_millis(wall.unsigned_abs());
        let moved = if wall < 0 {
            now.checked_sub(set)
        } else {
            now.checked_add(set)
        };
        moved.unwrap_or(now)
    }

    /// By how much time has been moved forwards; a store adds it to what its own clock says.
    pub fn ahead(&self) -> Duration {
        Duration::from_millis(self.0.ahead.load(Ordering::Relaxed))
    }

    /// How far the wall clock was set, in milliseconds, in addition to [`ahead`](Clock::ahead).
    pub fn wall_off_millis(&self) -> i64 {
        self.0.wall.load(Ordering::Relaxed)
    }
}

/// Milliseconds of a time that is at most [`FAR`].
fn bounded_millis(time: Duration) -> u64 {
    u64::try_from(time.min(FAR).as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_times_do_not_overflow() {
        let now = Instant::now();
        for by in [
            Duration::MAX,
            Duration::MAX / 2,
            Duration::from_secs(u64::MAX),
            FAR,
        ] {
            assert!(later(now, by) > now + Duration::from_secs(3600));
        }
        assert_eq!(
            later(now, Duration::from_secs(5)),
            now + Duration::from_secs(5)
        );
    }

    #[test]
    fn the_boot_clock_saturates() {
        let now = BootTime::now();
        assert!(now.later(Duration::MAX) > now && now.later(Duration::MAX).left() > FAR);
        assert_eq!(now.left(), Duration::ZERO);
    }
}
