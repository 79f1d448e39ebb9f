//! Spans of attempts, as far as the dispatcher has to do with them.
//!
//! A span calls code of the program's subscriber, so it is made, recorded and dropped by the shell,
//! never while the dispatcher is locked. An attempt whose span is wanted begins in two steps: a
//! [`Preparation`](super::effects::Preparation) comes out, and the call is sent once its span is
//! there. The span leaves the call's entry with the attempt's end, as an [`EndedSpan`].

use tracing::Span;

use super::super::ids::CallId;
use super::Core;
use super::attempt_span::{EndedSpan, SpanRequest};
use super::effects::{Effects, EndDetails};
use crate::outcome::CallError;
use brigade_core::span::AttemptEnd;

impl Core {
    /// What the span of an attempt is to say that begins now, if it is wanted.
    pub(super) fn span_request(&mut self, call: CallId) -> Option<SpanRequest> {
        let entry = self.entry_mut(call);
        let caller = entry.request.caller.as_mut()?;
        let caller = std::mem::replace(&mut **caller, Span::none());
        let options = entry.request.options();
        Some(SpanRequest {
            caller,
            task: entry.request.task_name().to_owned(),
            attempt: entry.attempt,
            call: call.number(),
            label: options.label.clone(),
            traceparent: options.traceparent.clone(),
        })
    }

    /// The span of a running attempt leaves its call.
    pub(super) fn release_span(&mut self, call: CallId, effects: &mut Effects) {
        let entry = self.entry_mut(call);
        if let Some(started) = entry.span.take() {
            effects.spans.push(EndedSpan {
                call,
                span: started.span,
                end: None,
            });
        }
    }
}

impl Effects {
    /// Notes how an attempt ended whose span was released in this step.
    pub(super) fn note_span_end(&mut self, call: CallId, end: impl FnOnce() -> AttemptEnd) {
        let last = self.spans.last_mut();
        if let Some(ended) = last.filter(|ended| ended.call == call && ended.end.is_none()) {
            ended.end = Some(end());
        }
    }

    /// The end of an attempt, for its span.
    pub(super) fn note_span_error(
        &mut self,
        call: CallId,
        error: Option<&CallError>,
        details: &EndDetails,
    ) {
        self.note_span_end(call, || {
            let report = details.attempt.as_ref().map(|attempt| attempt.report());
            AttemptEnd::of(error, report.as_deref())
        });
    }

    /// Has a span dropped outside of the lock.
    pub(super) fn drop_span(&mut self, call: CallId, span: Span) {
        self.spans.push(EndedSpan {
            call,
            span,
            end: None,
        });
    }
}
