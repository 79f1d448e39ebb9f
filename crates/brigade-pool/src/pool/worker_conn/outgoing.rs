//! An attempt, as its worker is sent it.

use std::borrow::Cow;

use serde::Serialize;

use super::super::ids::CallId;
use crate::request::{CallTarget, Request};
use crate::sandbox::Sandbox;
use crate::traceparent::TraceParent;
use crate::wire;

/// An attempt, as its worker is sent it.
pub(in super::super) struct OutgoingAttempt<'a> {
    pub(in super::super) call: CallId,
    pub(in super::super) request: &'a Request,
    /// From 1.
    pub(in super::super) number: u32,
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "the dispatcher sees to it in our own workers")
    )]
    pub(in super::super) alone: bool,
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "the dispatcher sees to it in our own workers")
    )]
    pub(in super::super) fresh: bool,
    /// Whether the worker is to say when the attempt begins.
    pub(in super::super) tell_start: bool,
    /// Whether all slots of the worker are taken.
    #[cfg_attr(
        not(feature = "remote"),
        expect(dead_code, reason = "only remote hosts are given more")
    )]
    pub(in super::super) is_ahead: bool,
    /// The sandbox that it runs in.
    pub(in super::super) sandbox: Option<&'a Sandbox>,
    /// The trace that the attempt belongs to.
    pub(in super::super) traceparent: Option<&'a TraceParent>,
}

/// Longest name of a task.
pub(in super::super) const TASK_NAME_BYTES_MAX: usize = 256;

/// What a request asks for, as it travels.
pub(super) fn target_of(request: &Request) -> wire::RunTarget<'_> {
    match &request.target {
        CallTarget::Task { name } => wire::RunTarget::Task(Cow::Borrowed(name)),
        CallTarget::Function { offset, .. } => wire::RunTarget::Function(*offset),
    }
}

/// What stands before the arguments of a call: in the space that is there, unless it is long: it
/// carries a job or a sandbox, whose texts are of any length.
pub(super) fn written<'a>(
    meta: &impl Serialize,
    is_long: bool,
    space: &'a mut [u8],
) -> Cow<'a, [u8]> {
    if is_long {
        return Cow::Owned(postcard::to_stdvec(meta).expect("flat types of our own always encode"));
    }
    Cow::Borrowed(postcard::to_slice(meta, space).expect("task names are checked to be short"))
}
