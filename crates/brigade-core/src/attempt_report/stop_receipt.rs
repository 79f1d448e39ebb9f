//! [`StopReceipt`]: what a stop did and when, by the [`Step`] of the kill ladder that did it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A step of the kill ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// It had not started, so nothing had to be stopped.
    NotStarted,
    /// It was asked and stopped by itself; its worker lives on.
    Asked,
    /// SIGTERM ended its process tree.
    Terminated,
    /// SIGKILL ended its process tree.
    Killed,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "it had not started",
            Self::Asked => "stopped when asked",
            Self::Terminated => "stopped by SIGTERM",
            Self::Killed => "stopped by SIGKILL",
        })
    }
}

/// What a stop did and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StopReceipt {
    /// The step that did it.
    pub step: Step,
    /// When nothing of the attempt was left.
    pub at: std::time::SystemTime,
    /// From the request to that moment.
    #[serde(with = "crate::codec::seconds")]
    pub took: Duration,
}

impl StopReceipt {
    /// A receipt of this moment, for a holder of a lease that has its own way to stop what it runs.
    pub fn new(step: Step, took: Duration) -> Self {
        Self {
            step,
            at: std::time::SystemTime::now(),
            took,
        }
    }
}

impl fmt::Display for StopReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:.1?}", self.step, self.took)
    }
}
