//! How many workers a pool has: a number, or a range.

use std::ops::{Bound, RangeBounds};

/// How many workers: a number, or a range of them.
pub trait WorkerCount {
    #[doc(hidden)]
    fn bounds(self) -> (usize, Option<usize>);
}

impl WorkerCount for usize {
    fn bounds(self) -> (usize, Option<usize>) {
        (self, Some(self))
    }
}

macro_rules! ranges {
    ($($range:ty),*) => {
        $(impl WorkerCount for $range {
            fn bounds(self) -> (usize, Option<usize>) {
                let start = match self.start_bound() {
                    Bound::Included(start) => *start,
                    Bound::Excluded(start) => start + 1,
                    Bound::Unbounded => 0,
                };
                let end = match self.end_bound() {
                    Bound::Included(end) => Some(*end),
                    Bound::Excluded(end) => Some(end.saturating_sub(1)),
                    Bound::Unbounded => None,
                };
                (start, end)
            }
        })*
    };
}

ranges!(
    std::ops::Range<usize>,
    std::ops::RangeInclusive<usize>,
    std::ops::RangeFrom<usize>,
    std::ops::RangeToInclusive<usize>
);
