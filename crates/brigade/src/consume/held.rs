//! Jobs that a consumer holds, and why it stops their attempts.

use tokio_util::sync::CancellationToken;

use crate::clock::BootTime;
use crate::job::JobId;

/// A job that lost so many holders runs alone in its consumer.
pub(super) const LOSSES_BESIDE_OTHERS: u32 = 2;

/// A job that the consumer holds.
pub(super) struct HeldJob {
    pub(super) id: JobId,
    pub(super) token: i64,
    pub(super) queue: Box<str>,
    /// Until when the lease can be trusted unless it is renewed.
    pub(super) until: BootTime,
    /// Its attempt has ended, and its settlement is under way.
    pub(super) is_ended: bool,
    /// Cancelled when the attempt is to be stopped; `why` says why.
    pub(super) stop: CancellationToken,
    /// Cancelled when the lease is over: the job may be another's.
    pub(super) lost: CancellationToken,
    pub(super) why: Why,
}

/// Why an attempt is to be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is no request.
    No,
    /// The job was cancelled.
    Cancel(String),
    /// The lease is lost: what comes out does not count.
    Lost,
    /// This consumer is ending.
    Shutdown,
}

impl Why {
    /// For the attempt.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Cancel(reason) => reason,
            Self::Lost => "its lease was lost".to_owned(),
            Self::No | Self::Shutdown => "its consumer is ending".to_owned(),
        }
    }
}
