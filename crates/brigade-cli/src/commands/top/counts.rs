//! How many jobs of a queue are in which states.

use brigade::{JobState, QueueCounts};

/// States of jobs that a consumer would take.
pub(super) const WAITING: [JobState; 1] = [JobState::Ready];
/// States of jobs that wait for something else: a time, a retry, other jobs.
pub(super) const LATER: [JobState; 3] =
    [JobState::Scheduled, JobState::Retrying, JobState::Blocked];

/// How many jobs of a queue are in these states.
pub(super) fn count(queue: &QueueCounts, states: &[JobState]) -> u64 {
    let of = queue.jobs.iter().filter(|(of, _)| states.contains(of));
    of.fold(0, |sum, (_, count)| sum.saturating_add(*count))
}
