//! The calls that run now, for the monitor.

use super::super::monitor_line::{MonitorLine, MonitoredCall};
use super::Core;
use super::call_entry::Phase;

impl Core {
    /// The calls that run, by their workers; the first
    /// [`CALLS_MAX`](MonitorLine::CALLS_MAX) of them.
    pub(in super::super) fn running_calls(&self) -> Vec<MonitoredCall> {
        let slots = self.workers.iter().flatten();
        let calls = slots.flat_map(|slot| slot.running.iter().copied());
        let monitored = |call| {
            let entry = self.entry(call);
            let Phase::Running { worker, since, .. } = entry.phase else {
                return None;
            };
            let progress = entry.progress.as_ref().map(|(part, text)| {
                let end = text.floor_char_boundary(MonitorLine::PROGRESS_BYTES_MAX);
                (*part, text[..end].to_owned())
            });
            Some(MonitoredCall {
                number: call.number(),
                task: entry.request.task_name().to_owned(),
                worker: worker.number,
                attempt: entry.attempt,
                seconds: self.now.saturating_duration_since(since).as_secs_f64(),
                progress,
            })
        };
        calls
            .take(MonitorLine::CALLS_MAX)
            .filter_map(monitored)
            .collect()
    }
}
