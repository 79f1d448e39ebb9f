//! The span of an attempt on its way between the dispatcher and the shell: plain data, and what the
//! shell does with it. See `spans`.

use tracing::Span;

use super::super::ids::CallId;
use crate::traceparent::TraceParent;
use brigade_core::span::{AttemptEnd, AttemptSpan};

/// What the span of an attempt is to say from its start.
pub(in super::super) struct SpanRequest {
    /// The span that made the call, for its first attempt.
    pub(super) caller: Span,
    pub(super) task: String,
    pub(super) attempt: u32,
    pub(super) call: u64,
    pub(super) label: Option<Box<str>>,
    pub(super) traceparent: Option<TraceParent>,
}

/// The span of an attempt, and its context for the worker.
pub(in super::super) struct StartedSpan {
    pub(super) span: Span,
    pub(super) traceparent: Option<TraceParent>,
}

/// A span to record and to drop.
pub(in super::super) struct EndedSpan {
    pub(super) call: CallId,
    pub(super) span: Span,
    /// How the attempt ended, if that is to be recorded.
    pub(super) end: Option<AttemptEnd>,
}

impl SpanRequest {
    /// Makes the span.
    pub(in super::super) fn begin(self) -> StartedSpan {
        let facts = AttemptSpan {
            task: &self.task,
            attempt: self.attempt,
            job: None,
            call: Some(self.call),
            label: self.label.as_deref(),
            traceparent: self.traceparent.as_ref(),
            is_first: self.attempt == 1,
        };
        let span = facts.begin(&self.caller);
        let traceparent = brigade_core::span::traceparent_of(&span);
        StartedSpan { span, traceparent }
    }
}

impl EndedSpan {
    /// Records how the attempt ended, and ends the span.
    pub(in super::super) fn end(self) {
        if let Some(end) = self.end {
            end.record(&self.span);
        }
    }
}
