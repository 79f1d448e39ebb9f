//! Spans of `tracing`: one for each push and each attempt, one around the task's code in its
//! worker, and one for a request to a server that pushes or calls. `docs/tracing.md` has the table
//! of their names and fields.
//!
//! The code that pushes or dispatches makes the span, gives its context to what runs next, and
//! records how it ended. Where no subscriber wants spans of the target `brigade` at the level INFO,
//! each function here is one look at a number.
//!
//! Across processes a trace travels as a [`TraceParent`]. The contexts of spans are
//! OpenTelemetry's, so without the feature `otel` spans of one process have no parents in another,
//! and a traceparent is passed on as it came.

#[cfg(feature = "otel")]
mod otel;

use tracing::field::{Empty, display};
use tracing::{Level, Span, info_span};

use crate::attempt_report::AttemptReport;
use crate::error::Error;
use crate::job::{Job, JobId};
use crate::outcome::CallError;
use crate::traceparent::TraceParent;
use crate::traceparent::ambient::AmbientTrace;

/// Without OpenTelemetry no span has a context that another process could use.
#[cfg(not(feature = "otel"))]
mod otel {
    use tracing::Span;

    use crate::traceparent::TraceParent;

    pub(super) fn current() -> Option<TraceParent> {
        None
    }

    pub(super) fn traceparent_of(_: &Span) -> Option<TraceParent> {
        None
    }

    pub(super) fn set_parent(_: &Span, _: &TraceParent) {}

    pub(super) fn link(_: &Span, _: &TraceParent) {}
}

/// What stands for a broker or a pool in `messaging.system`.
const SYSTEM: &str = "brigade";

/// Whether a subscriber wants spans of attempts.
pub fn is_wanted() -> bool {
    tracing::span_enabled!(target: "brigade", Level::INFO)
}

/// The trace that code of the caller belongs to: that of its span, or of the attempt that it is
/// part of.
pub fn current() -> Option<TraceParent> {
    otel::current().or_else(AmbientTrace::current)
}

/// The context of a span for what it causes in other processes; `None` without OpenTelemetry.
pub fn traceparent_of(span: &Span) -> Option<TraceParent> {
    if span.is_disabled() {
        return None;
    }
    otel::traceparent_of(span)
}

/// The span of a request to a server that pushes jobs or makes calls. `given` is the trace that the
/// request says it belongs to. Pass [`traceparent_of`] this span on in its place.
pub fn request(method: &str, route: &str, given: Option<&TraceParent>) -> Span {
    let span = info_span!(
        target: "brigade",
        parent: None,
        "brigade.request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        "http.request.method" = method,
        "http.route" = route,
        "http.response.status_code" = Empty,
    );
    if let Some(given) = given.filter(|_| !span.is_disabled()) {
        otel::set_parent(&span, given);
    }
    span
}

/// How a request was answered, for its span.
pub fn record_response(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span around a push. The jobs belong to it from now on. A trace that was given with all of
/// them is its parent; where jobs were given several, each keeps its own.
pub fn push(jobs: &mut [Job]) -> Span {
    let span = new_push(jobs);
    let given = jobs.first().and_then(|job| job.options.traceparent.clone());
    let is_one = jobs.iter().all(|job| job.options.traceparent == given);
    if let Some(given) = given.as_ref().filter(|_| is_one) {
        otel::set_parent(&span, given);
    }
    let own = traceparent_of(&span);
    if let Some(parent) = own.as_ref().filter(|_| is_one) {
        for job in jobs {
            job.options.traceparent = Some(parent.clone());
        }
    } else if let Some(parent) = own.or_else(current) {
        for job in jobs {
            job.options
                .traceparent
                .get_or_insert_with(|| parent.clone());
        }
    }
    span
}

fn new_push(jobs: &[Job]) -> Span {
    let Some(first) = jobs.first() else {
        return Span::none();
    };
    let span = info_span!(
        target: "brigade",
        "brigade.push",
        otel.name = %format_args!("push {}", first.queue),
        otel.kind = "producer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        messaging.system = SYSTEM,
        "messaging.operation.name" = "push",
        "messaging.operation.type" = "send",
        "messaging.destination.name" = &*first.queue,
        "messaging.batch.message_count" = jobs.len(),
        "messaging.message.id" = Empty,
        brigade.task = first.task.as_deref(),
        "error.type" = Empty,
    );
    span
}

/// How a push ended: the id of the job if it was one, or the error.
pub fn record_pushed(span: &Span, pushed: Result<Option<&JobId>, &Error>) {
    match pushed {
        Ok(Some(id)) => {
            span.record("messaging.message.id", id.as_str());
        }
        Ok(None) => {}
        Err(error) => record_error(span, &format!("{:?}", error.kind()), &error.to_string()),
    }
}

/// What the span of an attempt says from its start.
pub struct AttemptSpan<'a> {
    /// Name of the task.
    pub task: &'a str,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The job and its queue; `None` for a call in a pool.
    pub job: Option<(&'a str, &'a str)>,
    /// Number of the call in its pool.
    pub call: Option<u64>,
    /// The label of the call or job.
    pub label: Option<&'a str>,
    /// The trace that the call or job belongs to.
    pub traceparent: Option<&'a TraceParent>,
    /// Whether it is the first attempt, which is a child of the span that pushed or called. Later
    /// ones are traces of their own with a link to that span.
    pub is_first: bool,
}

impl AttemptSpan<'_> {
    /// The span. `caller` is that of the caller in this process.
    pub fn begin(&self, caller: &Span) -> Span {
        let parent = if self.is_first && (cfg!(not(feature = "otel")) || self.traceparent.is_none())
        {
            caller.id()
        } else {
            None
        };
        let span = info_span!(
            target: "brigade",
            parent: parent,
            "brigade.attempt",
            otel.name = Empty,
            otel.kind = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
            messaging.system = Empty,
            "messaging.operation.name" = Empty,
            "messaging.operation.type" = Empty,
            "messaging.destination.name" = Empty,
            "messaging.message.id" = Empty,
            brigade.task = self.task,
            brigade.call = self.call,
            brigade.attempt = self.attempt,
            brigade.label = self.label,
            brigade.outcome = Empty,
            brigade.worker.number = Empty,
            brigade.worker.pid = Empty,
            brigade.worker.host = Empty,
            brigade.exit = Empty,
            "error.type" = Empty,
        );
        if span.is_disabled() {
            return span;
        }
        match self.job {
            Some((id, queue)) => {
                span.record("otel.name", display(format_args!("process {queue}")));
                span.record("otel.kind", "consumer");
                span.record("messaging.system", SYSTEM);
                span.record("messaging.operation.name", "process");
                span.record("messaging.operation.type", "process");
                span.record("messaging.destination.name", queue);
                span.record("messaging.message.id", id);
            }
            None => {
                span.record("otel.name", display(format_args!("call {}", self.task)));
                span.record("otel.kind", "client");
            }
        }
        match self.traceparent {
            Some(parent) if self.is_first => otel::set_parent(&span, parent),
            Some(parent) => otel::link(&span, parent),
            None => {}
        }
        span
    }
}

/// How an attempt ended, for its span.
#[derive(Debug)]
pub struct AttemptEnd {
    outcome: &'static str,
    reason: Option<String>,
    exit: Option<String>,
    worker: Option<(u32, u32, Option<String>)>,
}

impl AttemptEnd {
    /// It ended so. The report is that of an attempt that returned or failed.
    pub fn of(error: Option<&CallError>, report: Option<&AttemptReport>) -> Self {
        let report = error.and_then(CallError::report).or(report);
        Self {
            outcome: error.map_or("done", CallError::outcome),
            reason: error.map(CallError::reason),
            exit: report.and_then(|report| Some(report.exit?.to_string())),
            worker: report.map(|report| (report.worker, report.pid, report.host.clone())),
        }
    }

    /// It was given back, and this is no error.
    pub fn given_back(outcome: &'static str) -> Self {
        Self {
            outcome,
            reason: None,
            exit: None,
            worker: None,
        }
    }

    /// Records it.
    pub fn record(&self, span: &Span) {
        span.record("brigade.outcome", self.outcome);
        if let Some((number, pid, host)) = &self.worker {
            span.record("brigade.worker.number", number);
            span.record("brigade.worker.pid", pid);
            span.record("brigade.worker.host", host.as_deref());
        }
        span.record("brigade.exit", self.exit.as_deref());
        if let Some(reason) = &self.reason {
            record_error(span, self.outcome, reason);
        }
    }
}

/// The span around a task's code, in the worker that runs it.
pub struct RunSpan<'a> {
    /// Name of the task.
    pub task: &'a str,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The job and its queue.
    pub job: Option<(&'a str, &'a str)>,
    /// Number of the call in its pool.
    pub call: u64,
    /// Number of this worker.
    pub worker: u32,
    /// The attempt's span.
    pub traceparent: Option<&'a TraceParent>,
}

impl RunSpan<'_> {
    /// The span, a child of the attempt's span in the process that dispatched it.
    pub fn begin(&self) -> Span {
        let span = info_span!(
            target: "brigade",
            parent: None,
            "brigade.run",
            otel.name = %format_args!("run {}", self.task),
            otel.kind = "server",
            otel.status_code = Empty,
            otel.status_description = Empty,
            brigade.task = self.task,
            brigade.call = self.call,
            brigade.attempt = self.attempt,
            brigade.job = self.job.map(|(id, _)| id),
            brigade.queue = self.job.map(|(_, queue)| queue),
            brigade.worker.number = self.worker,
            brigade.outcome = Empty,
            "error.type" = Empty,
        );
        if let Some(parent) = self.traceparent.filter(|_| !span.is_disabled()) {
            otel::set_parent(&span, parent);
        }
        span
    }
}

/// How the task's code ended, for its span.
pub fn record_run(span: &Span, outcome: &'static str, error: Option<&str>) {
    span.record("brigade.outcome", outcome);
    if let Some(error) = error {
        record_error(span, outcome, error);
    }
}

fn record_error(span: &Span, kind: &str, text: &str) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", text);
}

#[cfg(test)]
mod tests;
