//! What a worker process said of its end, kept until it is reaped.

use super::super::super::ids::CallId;
use crate::wire::{CrashNote, PanicNote};

/// What is known of how a worker ends, besides what the kernel says.
#[derive(Default)]
pub(super) struct FinalReports {
    pub(super) crash_note: Option<(CallId, CrashNote)>,
    /// Name of the thread whose signal handler sent the note.
    pub(super) thread: Option<String>,
    /// The signal that it dies of, as the note says.
    pub(super) signal: Option<i32>,
    /// What kept it from running when it was to be ended.
    pub(super) stopped_by: Option<String>,
    pub(super) panic: Option<(CallId, PanicNote)>,
    /// How it broke its link.
    pub(super) broken: Option<String>,
    /// Breaking its link meant closing a channel and nothing worse.
    pub(super) closed: bool,
}
