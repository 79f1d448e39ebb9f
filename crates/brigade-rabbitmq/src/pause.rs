//! Pauses before something that failed is tried again: they grow, so that nothing fails five times
//! a second for ever, and each is drawn at random from its upper half, so that processes that
//! failed together do not come back together.

use std::time::Duration;

use super::fault::AmqpFault;
use crate::retry::Retry;

/// After the first failure.
const FIRST: Duration = Duration::from_millis(200);
/// A broker that was away is used soon after it is back.
const LONGEST: Duration = Duration::from_secs(1);
/// After the broker refused: a person has to change something.
const FIRST_REFUSED: Duration = Duration::from_secs(2);
const LONGEST_REFUSED: Duration = Duration::from_secs(15);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Pauses(u32);

impl Pauses {
    /// The pause after one more failure.
    pub(super) fn after(&mut self, fault: &AmqpFault) -> Duration {
        self.0 = self.0.saturating_add(1);
        let (first, longest) = if fault.is_lasting() {
            (FIRST_REFUSED, LONGEST_REFUSED)
        } else {
            (FIRST, LONGEST)
        };
        Retry::exponential(first, longest).pause_after(self.0)
    }

    /// It went well.
    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn pauses_grow_to_a_bound_which_is_longer_for_what_was_refused() {
        let longest = |fault: &AmqpFault| {
            let mut pauses = Pauses::default();
            (0..50)
                .map(|_| pauses.after(fault))
                .max()
                .unwrap_or_default()
        };
        let refused = AmqpFault::new(ErrorKind::Refused, "no");
        assert!((LONGEST / 2..=LONGEST).contains(&longest(&AmqpFault::timeout())));
        assert!((LONGEST_REFUSED / 2..=LONGEST_REFUSED).contains(&longest(&refused)));
        let mut pauses = Pauses::default();
        pauses.after(&refused);
        pauses.reset();
        assert!(pauses.after(&AmqpFault::timeout()) <= FIRST);
    }
}
