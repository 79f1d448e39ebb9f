//! When the next tick of any schedule is due, as the server was last asked.

use std::time::{Duration, Instant};

/// So often it is asked at least when the next tick is: another process may have brought a
/// schedule.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What was last learned of the next tick.
pub(super) struct NextTick {
    asked: Instant,
    /// How far a test had moved the clock.
    moved: (Duration, i64),
    /// In how long it was.
    next: Option<Duration>,
}

impl NextTick {
    pub(super) fn new(moved: (Duration, i64), next: Option<Duration>) -> Self {
        Self {
            asked: Instant::now(),
            moved,
            next,
        }
    }

    /// In how long the next tick is; `None` if the server has to be asked again.
    #[expect(
        clippy::option_option,
        reason = "whether it is known, and whether there is a tick"
    )]
    pub(super) fn due_in(&self, moved: (Duration, i64)) -> Option<Option<Duration>> {
        let is_fresh = self.moved == moved
            && self.asked.elapsed() < self.next.unwrap_or(ASK_EVERY).min(ASK_EVERY);
        is_fresh.then(|| {
            self.next
                .map(|next| next.saturating_sub(self.asked.elapsed()))
        })
    }
}
