//! Moments as the API writes them: RFC 3339 in UTC, to the millisecond.

use std::time::SystemTime;

/// A moment. One that the format cannot have is the nearest that it can.
pub(crate) fn rfc3339(moment: SystemTime) -> String {
    let nearest = || match moment < SystemTime::UNIX_EPOCH {
        true => jiff::Timestamp::MIN,
        false => jiff::Timestamp::MAX,
    };
    let moment = jiff::Timestamp::try_from(moment).unwrap_or_else(|_| nearest());
    format!("{moment:.3}")
}
