//! What a cancel came to.

use std::time::Duration;

use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::job::JobState;

/// What [`Broker::cancel`](crate::Broker::cancel) came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CancelOutcome {
    /// It was waiting, and is cancelled.
    Cancelled,
    /// It is leased: its holder has been asked to stop it, and hears of it within a second, at the
    /// latest when it extends its lease.
    Asked,
    /// There is no such job, or it had ended.
    Nothing,
}

/// What [`Broker::stop`](crate::Broker::stop) came to.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Stopped {
    /// Where the job ended: [`Cancelled`](JobState::Cancelled), or another state if it came to its
    /// own end first. `None` if it was done and not kept.
    pub state: Option<JobState>,
    /// How its attempt was stopped, and how long that took its holder; `None` if nothing had to be
    /// stopped by force of a holder that tells.
    pub receipt: Option<StopReceipt>,
    /// What its attempt was like, if it was stopped in a pool.
    pub report: Option<Box<AttemptReport>>,
    /// From the request until the end was known here.
    #[serde(serialize_with = "crate::codec::seconds::serialize")]
    pub took: Duration,
}
