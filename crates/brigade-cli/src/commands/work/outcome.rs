//! The outcome of one program, and what the consumer's handler returns for it.

use std::time::Duration;

use brigade::{Failure, HandlerEnd, LeasedJob, StopReceipt};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

/// A job that was passed on is not handed out again for this long.
const PASS_PAUSE: Duration = Duration::from_secs(1);

/// How an attempt ended.
pub(super) enum ProgramOutcome {
    Done(Option<Box<RawValue>>),
    Failed(String),
    /// No program can be run for this payload.
    Dead(String),
    Passed(String),
    Cancelled(String, StopReceipt),
    /// Uncharged.
    GivenBack(String),
    /// The lease is lost: there is nothing to settle.
    Lost(String),
}

impl ProgramOutcome {
    /// Why it did not end well.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Done(_) => None,
            Self::Failed(why) | Self::Dead(why) | Self::Passed(why) | Self::Cancelled(why, _) => {
                Some(why)
            }
            Self::GivenBack(why) | Self::Lost(why) => Some(why),
        }
    }

    /// What the handler returns for it.
    pub(super) fn returned(&self) -> Returned {
        match self {
            Self::Done(result) => Ok(result.clone()),
            Self::Failed(why) | Self::Lost(why) => Err(Failure::new(why).into()),
            Self::Dead(why) => Err(HandlerEnd::DeadLetter(why.clone()).into()),
            Self::Passed(why) => Err(HandlerEnd::PassLater(why.clone(), PASS_PAUSE).into()),
            Self::Cancelled(_, receipt) => Err(HandlerEnd::Stopped(receipt.clone()).into()),
            Self::GivenBack(why) => Err(HandlerEnd::GiveBack(why.clone()).into()),
        }
    }
}

/// What a handler returns.
pub(super) type Returned = Result<Option<Box<RawValue>>, Box<dyn std::error::Error + Send + Sync>>;

/// A job to run the program for, and where its handler waits.
pub(super) struct Request {
    pub(super) job: LeasedJob,
    pub(super) reply: oneshot::Sender<Returned>,
}
