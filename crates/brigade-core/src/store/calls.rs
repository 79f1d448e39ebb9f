//! [`CallTransport`]: calls whose answers a broker delivers itself.
//!
//! A store without one ([`JobStore::calls`](super::JobStore::calls) is `None`) makes a call a job
//! whose result is kept and waited for. Either way a [`CallerLink`] connects the two sides: the
//! caller asks for a cancel, the transport reports progress.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::attempt_report::{AttemptReport, StopReceipt};
use crate::job::{Job, JobId};
use crate::outcome::CallError;
use crate::progress::Progress;
use crate::progress_queue::ProgressQueue;
use crate::sync::lock;

/// The result of a call as JSON.
pub type CallResult = Pin<Box<dyn Future<Output = Result<Bytes, CallError>> + Send>>;

/// Carries calls to consumers and their answers back.
///
/// - A call starts when [`call`](CallTransport::call) is called, not when its future is polled.
/// - Dropping the future cancels the call.
/// - A consumer leases calls as jobs ([`Leased::is_call`](super::Leased::is_call)) and settles them
///   through the store; the settlement carries the answer.
pub trait CallTransport: Send + Sync {
    /// Starts a call.
    fn call(self: Arc<Self>, call: DirectCall) -> CallResult;

    /// Reports the progress of a leased call to its caller. Never waits; progress that cannot be
    /// sent at once is dropped.
    fn report_progress(&self, id: &JobId, token: i64, progress: Progress);

    /// What the calls of this connection came to.
    fn counts(&self) -> CallCounts;
}

/// A call for a [`CallTransport`].
pub struct DirectCall {
    /// The call as a job.
    pub job: Job,
    /// How long it may wait for a consumer.
    pub queue_timeout: Option<Duration>,
    /// It is offered again for as long as every consumer passes it.
    pub waits_out_passes: bool,
    /// The link to the caller.
    pub caller: Arc<CallerLink>,
}

/// Connects a caller with its call while that is under way.
#[derive(Default)]
pub struct CallerLink {
    cancel: CancellationToken,
    reason: OnceLock<String>,
    report: OnceLock<Box<AttemptReport>>,
    receipt: OnceLock<StopReceipt>,
    progress: Mutex<CallerProgress>,
}

/// What the caller has not read yet.
#[derive(Default)]
struct CallerProgress {
    queue: ProgressQueue,
    has_ended: bool,
}

/// What the calls of one connection came to, see
/// `Broker::call_counts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls that have not ended.
    pub open: usize,
    /// Answers to calls that had ended before: the caller had given up, or had an answer already.
    pub late: u64,
    /// Answers to calls that this connection never made.
    pub foreign: u64,
}

impl CallerLink {
    /// Waits until the caller asks for a cancel, and gives its reason. Cancel safe.
    pub async fn cancelled(&self) -> &str {
        self.cancel.cancelled().await;
        self.reason()
    }

    /// The reason of the cancel; empty without one.
    pub fn reason(&self) -> &str {
        self.reason.get().map_or("", String::as_str)
    }

    /// Reports progress. Of progress that is not read, the newest 64 are kept.
    pub fn report(&self, progress: Progress) {
        let readers = lock(&self.progress).queue.push(progress);
        readers.into_iter().for_each(Waker::wake);
    }

    /// Sets the report of the attempt that ended the call. Only the first time counts.
    pub fn set_report(&self, report: Box<AttemptReport>) {
        self.report.set(report).ok();
    }

    /// The report of the attempt that ended the call, if its transport knows it.
    #[doc(hidden)]
    pub fn last_report(&self) -> Option<&AttemptReport> {
        self.report.get().map(|report| &**report)
    }

    /// Sets how the call was stopped. Only the first time counts.
    pub fn set_receipt(&self, receipt: StopReceipt) {
        self.receipt.set(receipt).ok();
    }

    /// How the call was stopped, if that is known apart from its outcome.
    #[doc(hidden)]
    pub fn receipt(&self) -> Option<&StopReceipt> {
        self.receipt.get()
    }

    /// Asks for a cancel. Only the first time counts.
    #[doc(hidden)]
    pub fn cancel(&self, reason: String) {
        if self.reason.set(reason).is_ok() {
            self.cancel.cancel();
        }
    }

    /// Whether the caller has asked for a cancel.
    #[doc(hidden)]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The call has ended: no progress follows.
    #[doc(hidden)]
    pub fn end(&self) {
        let readers = {
            let mut progress = lock(&self.progress);
            progress.has_ended = true;
            progress.queue.take_readers()
        };
        readers.into_iter().for_each(Waker::wake);
    }

    /// The next progress; `None` when the call has ended.
    #[doc(hidden)]
    pub fn poll_progress(&self, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        let mut progress = lock(&self.progress);
        let has_ended = progress.has_ended;
        progress.queue.poll(has_ended, cx.waker())
    }
}
