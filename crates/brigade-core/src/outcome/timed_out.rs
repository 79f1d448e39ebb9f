//! [`TimedOut`]: the time that was over.

use std::time::Duration;

use crate::attempt_report::{AttemptOutcome, AttemptReport};

/// Which clock ran out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TimedOut {
    /// It waited for a worker for longer than its queue timeout; it never ran.
    Queue(Duration),
    /// The same, at a broker, and at the end of that time no worker was there at all.
    NoWorker(Duration),
    /// It ran for longer than its timeout and was stopped.
    Run(Box<AttemptReport>),
    /// It used more CPU time than it may and was stopped.
    Cpu(Box<AttemptReport>),
}

impl TimedOut {
    /// Of an attempt that was stopped because a time was over.
    #[doc(hidden)]
    pub fn of_report(report: Box<AttemptReport>) -> Self {
        match report.ended {
            AttemptOutcome::OverLimit => Self::Cpu(report),
            _ => Self::Run(report),
        }
    }
}
