//! [`PushOutcome`]: the result of a push.

use crate::job::JobId;

/// The result of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// The job is safe.
    New(JobId),
    /// A job with its unique key is stored already.
    Duplicate(JobId),
}

impl PushOutcome {
    /// The id of the job that is there now.
    pub fn id(&self) -> &JobId {
        match self {
            Self::New(id) | Self::Duplicate(id) => id,
        }
    }
}
