//! Moments and times that cannot overflow.
//!
//! Times come from users, files and the network, so every sum of a moment and a time goes through
//! here: one that is too far to be written down is [`FAR`] from now, which no process lives to see.

use std::time::{Duration, Instant};

/// Later than any process runs.
pub(crate) const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The moment after `from` by this time, or [`FAR`] after it if that is sooner.
pub(crate) fn later(from: Instant, by: Duration) -> Instant {
    let by = by.min(FAR);
    // Each half of what cannot be reached is nearer.
    std::iter::successors(Some(by), |by| Some(*by / 2))
        .find_map(|by| from.checked_add(by))
        .unwrap_or(from)
}

/// A moment of the host's boot clock. Unlike `Instant`, it goes on while the host is suspended:
/// leases do so too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(Duration);

impl BootTime {
    pub(crate) fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(Duration::new(
            now.tv_sec.unsigned_abs(),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        ))
    }

    pub(crate) fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// How long it is until then; zero if it is over.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }
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
