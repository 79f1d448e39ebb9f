//! [`Stopped`]: the result of a stop.

use std::time::Duration;

use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::job::{AttemptKind, JobInfo, JobState};

/// The result of [`Broker::stop`](crate::Broker::stop).
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Stopped {
    /// Where the job ended: [`Cancelled`](JobState::Cancelled), or another state if it came to its
    /// own end first. `None` if it was done and not kept.
    pub state: Option<JobState>,
    /// How its attempt was stopped, and how long that took its holder; `None` if there was no
    /// attempt to stop, or its holder did not report it.
    pub receipt: Option<StopReceipt>,
    /// The report of its attempt, if it was stopped in a pool.
    pub report: Option<Box<AttemptReport>>,
    /// From the request until the end was known here.
    #[serde(serialize_with = "crate::codec::seconds::serialize")]
    pub took: Duration,
}

/// The report of the attempt that ended a job which is done or dead, if it is known.
pub(super) fn last_report(job: &mut JobInfo) -> Option<Box<AttemptReport>> {
    let last = job.history.last_mut();
    last.filter(|_| matches!(job.state, JobState::Done | JobState::Dead))
        .and_then(|record| record.report.take())
}

/// How the last attempt of a cancelled job was stopped, and its report, as far as they are known.
pub(super) fn last_stop(job: &mut JobInfo) -> (Option<StopReceipt>, Option<Box<AttemptReport>>) {
    let last = job
        .history
        .pop()
        .filter(|record| job.state == JobState::Cancelled && record.kind == AttemptKind::Cancelled);
    last.map_or((None, None), |record| (record.stop, record.report))
}
