//! The pause of a consumer before it tries again.

use std::time::Duration;

use crate::retry::jitter;

/// The pause after a broker's error, and before a job that the pool did not take is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// [`PAUSE`], a little different each time: consumers that were disturbed together do not come back
/// together.
pub(super) fn pause() -> Duration {
    PAUSE.mul_f64(jitter(0.5))
}
