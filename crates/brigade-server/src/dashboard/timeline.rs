//! The life of a job: its story in order, and a bar with its durations to scale.
//!
//! The story has the push, each attempt of the history with its report, and the end or what comes
//! next. The bar is the time from the push to the end, or to now. An attempt is drawn from its
//! report's wall time; one without a report has no beginning, so it is in the story and not in the
//! bar.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use brigade::{AttemptKind, AttemptRecord, JobInfo, JobState};

use super::ansi;
use super::words::{ShownTime, bytes, span};

/// One moment of the story.
pub(super) struct StoryEvent {
    /// The class, and the icon, of its state.
    pub(super) class: &'static str,
    pub(super) icon: &'static str,
    pub(super) what: String,
    pub(super) at: Option<ShownTime>,
    /// How long it took, or after what time it came.
    pub(super) took: String,
    pub(super) text: String,
    pub(super) report: Option<ReportView>,
}

/// What is known of an attempt.
pub(super) struct ReportView {
    pub(super) costs: Vec<(&'static str, String)>,
    /// The end of its output, as HTML.
    pub(super) output: String,
    pub(super) is_open: bool,
}

/// A part of the bar.
struct BarPart {
    class: &'static str,
    from: SystemTime,
    until: SystemTime,
    title: String,
}

/// The story and the bar.
pub(super) struct Timeline {
    pub(super) events: Vec<StoryEvent>,
    pub(super) bar: String,
    /// From the push to the end, or to now.
    pub(super) whole: String,
    pub(super) is_over: bool,
}

impl Timeline {
    pub(super) fn new(job: &JobInfo, now: SystemTime) -> Self {
        let mut events = vec![pushed(job, now)];
        let mut parts = Vec::new();
        let newest = job.history.len().saturating_sub(1);
        for (place, record) in job.history.iter().enumerate() {
            let began = began(record);
            if let Some(began) = began {
                parts.push(BarPart {
                    class: class_of(record.kind),
                    from: began,
                    until: record.at,
                    title: format!(
                        "attempt {}: {}",
                        record.attempt,
                        span(length(began, record.at))
                    ),
                });
            }
            events.push(attempted(record, began, now, place == newest));
        }
        events.extend(now_or_end(job, now));
        if let (JobState::Leased, Some(since)) = (job.state, job.leased_at) {
            let title = format!("running for {}", span(length(since, now)));
            parts.push(BarPart {
                class: "run",
                from: since,
                until: now,
                title,
            });
        }
        let end = job.ended_at.unwrap_or(now);
        Self {
            events,
            bar: bar(job, &parts, end),
            whole: span(length(job.pushed_at, end)),
            is_over: job.ended_at.is_some(),
        }
    }
}

fn length(from: SystemTime, until: SystemTime) -> Duration {
    until.duration_since(from).unwrap_or_default()
}

fn began(record: &AttemptRecord) -> Option<SystemTime> {
    record.at.checked_sub(record.report.as_ref()?.cost.wall)
}

fn pushed(job: &JobInfo, now: SystemTime) -> StoryEvent {
    let mut text = Vec::new();
    if let Some(tick) = &job.tick {
        text.push(format!("by the schedule {}", tick.schedule));
    }
    if let Some(delay) = job.options.delay {
        text.push(format!("with a delay of {}", span(delay)));
    }
    if job.parents.is_some() {
        text.push("as a part of a flow".to_owned());
    }
    StoryEvent {
        class: "ready",
        icon: "ready",
        what: "Pushed".to_owned(),
        at: Some(ShownTime::new(job.pushed_at, now)),
        took: String::new(),
        text: text.join(", "),
        report: None,
    }
}

fn class_of(kind: AttemptKind) -> &'static str {
    match kind {
        AttemptKind::Failed => "failed",
        AttemptKind::Crashed => "crashed",
        AttemptKind::SetAside => "dead",
        AttemptKind::Done => "done",
        _ => "other",
    }
}

fn attempted(
    record: &AttemptRecord,
    began: Option<SystemTime>,
    now: SystemTime,
    is_newest: bool,
) -> StoryEvent {
    let (class, icon, how) = match record.kind {
        AttemptKind::Failed => ("failed", "dead", "failed"),
        AttemptKind::Crashed => ("crashed", "dead", "crashed"),
        AttemptKind::Interrupted => ("cancelled", "blocked", "was interrupted, without charge"),
        AttemptKind::Passed => ("cancelled", "ready", "was passed on, without charge"),
        AttemptKind::Cancelled => ("cancelled", "cancelled", "was stopped"),
        AttemptKind::SetAside => ("dead", "dead", "was set aside"),
        AttemptKind::Unserved => (
            "cancelled",
            "ready",
            "was given back: its consumer cannot run it",
        ),
        AttemptKind::Done => ("done", "done", "ended well"),
        _ => ("cancelled", "ready", "ended"),
    };
    let mut text = ansi::plain(&record.reason);
    if let Some(stop) = &record.stop {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&stop.to_string());
    }
    StoryEvent {
        class,
        icon,
        what: format!("Attempt {} {how}", record.attempt),
        at: Some(ShownTime::new(record.at, now)),
        took: began.map_or_else(String::new, |began| {
            format!("after {}", span(length(began, record.at)))
        }),
        text,
        report: report_view(record, is_newest),
    }
}

fn report_view(record: &AttemptRecord, is_open: bool) -> Option<ReportView> {
    let report = record.report.as_deref()?;
    let mut costs = vec![("ended", report.ended.to_string())];
    if let Some(exit) = report.exit {
        costs.push(("exit", exit.to_string()));
    }
    if let Some(step) = report.step {
        costs.push(("stopped", step.to_string()));
    }
    costs.push(("wall time", span(report.cost.wall)));
    costs.extend(report.cost.cpu.map(|cpu| ("CPU time", span(cpu))));
    costs.extend(
        report
            .cost
            .memory_peak
            .map(|peak| ("peak memory", bytes(peak))),
    );
    if let Some((share, text)) = &report.progress {
        let percent = (share.clamp(0.0, 1.0) * 100.0).round();
        costs.push(("last progress", format!("{percent} % {text}")));
    }
    if report.pid != 0 {
        costs.push(("worker", format!("{}, pid {}", report.worker, report.pid)));
    }
    costs.extend(report.thread.clone().map(|thread| ("thread", thread)));
    costs.extend(report.host.clone().map(|host| ("host", host)));
    costs.extend(report.stopped_by.clone().map(|by| ("held by", by)));
    Some(ReportView {
        costs,
        output: ansi::html(&report.stderr),
        is_open,
    })
}

/// What it waits for, or how it ended.
fn now_or_end(job: &JobInfo, now: SystemTime) -> Option<StoryEvent> {
    let moment = |at: Option<SystemTime>| at.map(|at| ShownTime::new(at, now));
    let after = |at: Option<SystemTime>| {
        let took = at.map(|at| span(length(job.pushed_at, at)));
        took.map_or_else(String::new, |took| format!("{took} after the push"))
    };
    // The last attempt has said it already.
    let last = job.history.last().map(|record| record.reason.as_str());
    let reason = job.reason.as_deref().filter(|reason| Some(*reason) != last);
    let reason = reason.map(ansi::plain).unwrap_or_default();
    let event =
        |class, what: &str, at: Option<SystemTime>, took: String, text: String| StoryEvent {
            class,
            icon: class,
            what: what.to_owned(),
            at: moment(at),
            took,
            text,
            report: None,
        };
    let end = job.ended_at;
    Some(match job.state {
        JobState::Done => event("done", "Done", end, after(end), String::new()),
        JobState::Dead => event("dead", "Dead letter", end, after(end), reason),
        JobState::Cancelled => event("cancelled", "Cancelled", end, after(end), reason),
        JobState::Leased => {
            let holder = job
                .holder
                .as_ref()
                .map(|holder| format!("held by {holder}"));
            let text = holder.unwrap_or_default();
            event("running", "Running", job.leased_at, String::new(), text)
        }
        JobState::Scheduled => event("scheduled", "Due", job.due_at, String::new(), String::new()),
        JobState::Retrying => event(
            "retrying",
            "Next attempt",
            job.due_at,
            String::new(),
            String::new(),
        ),
        JobState::Ready | JobState::Blocked => return None,
    })
}

/// The bar: all of its time, the attempts in it to scale.
fn bar(job: &JobInfo, parts: &[BarPart], end: SystemTime) -> String {
    const WIDTH: f64 = 1000.0;
    let whole = length(job.pushed_at, end).as_secs_f64().max(0.001);
    let place = |at: SystemTime| length(job.pushed_at, at).as_secs_f64() / whole * WIDTH;
    let mut svg = format!(
        "<svg class=\"track\" viewBox=\"0 0 {WIDTH} 28\" preserveAspectRatio=\"none\" \
            role=\"img\" aria-label=\"its attempts on the time from push to end\">"
    );
    for part in parts {
        let from = place(part.from).min(WIDTH - 3.0);
        // Short attempts stay visible.
        let width = (place(part.until) - from).clamp(3.0, WIDTH - from);
        _ = write!(
            svg,
            "<rect class=\"{}\" x=\"{from:.1}\" y=\"0\" width=\"{width:.1}\" height=\"28\">\
                <title>{}</title></rect>",
            part.class, part.title
        );
    }
    let mark = match job.state {
        JobState::Done => "done",
        JobState::Dead => "dead",
        JobState::Cancelled => "other",
        _ => "",
    };
    if !mark.is_empty() {
        _ = write!(
            svg,
            "<rect class=\"{mark}\" x=\"{}\" y=\"0\" width=\"4\" height=\"28\"/>",
            WIDTH - 4.0
        );
    }
    svg.push_str("</svg>");
    svg
}
