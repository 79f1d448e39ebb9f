//! [`AnsweredAttempt`]: what is kept of an attempt that its worker answered with a value or a failure.
//!
//! Most callers never ask for the report of such an attempt, so it is made of this when one does.

use crate::attempt_report::{AttemptOutcome, AttemptReport, Cost, LimitHit, MemoryHold};
use crate::request::CallTarget;

/// An attempt that was answered. Its report is made when its caller wants it.
#[derive(Debug)]
pub(crate) struct AnsweredAttempt {
    pub(crate) worker: u32,
    pub(crate) pid: u32,
    pub(crate) host: Option<String>,
    pub(crate) target: CallTarget,
    pub(crate) call: u64,
    pub(crate) number: u32,
    pub(crate) has_failed: bool,
    pub(crate) cost: Cost,
    pub(crate) progress: Option<(f64, String)>,
    pub(crate) limit: Option<LimitHit>,
    pub(crate) memory_hold: Option<MemoryHold>,
}

impl AnsweredAttempt {
    pub(crate) fn report(&self) -> Box<AttemptReport> {
        let ended = if self.has_failed {
            AttemptOutcome::Failed
        } else {
            AttemptOutcome::Returned
        };
        let mut report = AttemptReport::new(self.target.name(), self.number, ended);
        (report.worker, report.pid) = (self.worker, self.pid);
        report.host.clone_from(&self.host);
        report.call = self.call;
        report.cost = self.cost;
        report.progress.clone_from(&self.progress);
        (report.limit, report.memory_hold) = (self.limit, self.memory_hold);
        Box::new(report)
    }
}
