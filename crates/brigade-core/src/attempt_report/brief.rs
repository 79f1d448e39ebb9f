//! A report as the history of a job keeps it: JSON without what is empty.

use serde::{Serialize, Serializer};

use super::{AttemptOutcome, AttemptReport, Cost, Exit, LimitHit, MemoryHold, Step};

/// An [`AttemptReport`] that is written without what it has nothing of, and read back as one. Most
/// attempts return, and then most of a report is empty.
#[derive(Serialize)]
pub struct BriefReport<'a> {
    worker: u32,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<&'a str>,
    task: &'a str,
    call: u64,
    attempt: u32,
    ended: &'a AttemptOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<Exit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<Step>,
    cost: Cost,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<&'a (f64, String)>,
    #[serde(skip_serializing_if = "str::is_empty")]
    stderr: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<LimitHit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_hold: Option<MemoryHold>,
}

impl<'a> From<&'a AttemptReport> for BriefReport<'a> {
    fn from(report: &'a AttemptReport) -> Self {
        Self {
            worker: report.worker,
            pid: report.pid,
            host: report.host.as_deref(),
            thread: report.thread.as_deref(),
            task: &report.task,
            call: report.call,
            attempt: report.attempt,
            ended: &report.ended,
            exit: report.exit,
            step: report.step,
            cost: report.cost,
            progress: report.progress.as_ref(),
            stderr: &report.stderr,
            stopped_by: report.stopped_by.as_deref(),
            limit: report.limit,
            memory_hold: report.memory_hold,
        }
    }
}

/// For a field of a record that is JSON.
pub fn serialize<S: Serializer>(
    report: &Option<Box<AttemptReport>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let report = report.as_deref().map(BriefReport::from);
    report.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brief_report_is_short_and_comes_back_equal() {
        let mut report = AttemptReport::new("resize", 2, AttemptOutcome::Returned);
        report.cost.wall = std::time::Duration::from_micros(20);
        let brief = serde_json::to_string(&BriefReport::from(&report)).unwrap();
        assert!(brief.len() < 150, "{brief}");
        let back: AttemptReport = serde_json::from_str(&brief).unwrap();
        let whole = |report: &AttemptReport| serde_json::to_string(report).unwrap();
        assert_eq!(whole(&back), whole(&report));
        report.exit = Some(Exit::Signal(6));
        report.limit = Some(LimitHit::Memory {
            allowed: 1 << 20,
            used: 2 << 20,
        });
        report.memory_hold = Some(MemoryHold::ControlGroupV1);
        report.stderr = "the end".to_owned();
        report.progress = Some((0.5, "half".to_owned()));
        let brief = serde_json::to_string(&BriefReport::from(&report)).unwrap();
        let back: AttemptReport = serde_json::from_str(&brief).unwrap();
        assert_eq!(whole(&back), whole(&report));
    }
}
