//! Traces in OpenTelemetry's terms: the feature `otel`.
//!
//! `tracing-opentelemetry` keeps the context of each span. This reads it, and sets parents and
//! links that came from other processes as a [`TraceParent`].

use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::traceparent::TraceParent;

/// The context of the current span, or the one that OpenTelemetry itself has for this thread.
pub(super) fn current() -> Option<TraceParent> {
    of_context(&Span::current().context()).or_else(|| of_context(&Context::current()))
}

pub(super) fn traceparent_of(span: &Span) -> Option<TraceParent> {
    of_context(&span.context())
}

/// The span becomes a child of one of another process, or of one that has ended.
pub(super) fn set_parent(span: &Span, parent: &TraceParent) {
    if let Some(parent) = span_context(parent) {
        // Without a layer of OpenTelemetry there is nothing to set.
        span.set_parent(Context::new().with_remote_span_context(parent))
            .ok();
    }
}

pub(super) fn link(span: &Span, to: &TraceParent) {
    if let Some(to) = span_context(to) {
        span.add_link(to);
    }
}

fn of_context(context: &Context) -> Option<TraceParent> {
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return None;
    }
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags());
    format!("00-{trace}-{id}-{:02x}", flags.to_u8())
        .parse()
        .ok()
}

fn span_context(parent: &TraceParent) -> Option<SpanContext> {
    Some(SpanContext::new(
        TraceId::from_hex(parent.trace_id()).ok()?,
        SpanId::from_hex(parent.span_id()).ok()?,
        TraceFlags::new(u8::from_str_radix(parent.flags(), 16).ok()?),
        true,
        TraceState::default(),
    ))
}
