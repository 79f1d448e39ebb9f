//! The caller's side of one call.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lapin::types::ShortString;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::control;
use super::{Calls, Outcome};
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled, TimedOut};
use crate::sync::lock;
use brigade_core::store::CallerLink;

/// How long a caller that cancelled waits for the worker to say what it stopped: longer than the
/// kill ladder by default.
const CANCELLED_WITHIN: Duration = Duration::from_secs(15);

/// Who waits for one answer. Dropping it ends the call.
pub(super) struct Waiting {
    pub(super) calls: Arc<Calls>,
    pub(super) number: u64,
    pub(super) queue: ShortString,
}

impl Waiting {
    pub(super) async fn answer(
        self,
        mut told: oneshot::Receiver<Outcome>,
        until: Option<(Duration, Instant)>,
        caller: &CallerLink,
    ) -> Result<Bytes, CallError> {
        tokio::select! {
            biased;
            outcome = &mut told => return outcome.unwrap_or_else(|_| Err(dropped())),
            late = self.waited_for_too_long(until) => return Err(late),
            reason = caller.cancelled() => self.cancel(reason),
        }
        tokio::select! {
            biased;
            outcome = &mut told => outcome.unwrap_or_else(|_| Err(dropped())),
            // It was waiting, or the worker is gone. If a worker takes it later, its answer is
            // dropped.
            () = sleep(CANCELLED_WITHIN) => Err(self.cancelled(caller)),
            () = self.did_not_begin(), if until.is_some() => Err(self.cancelled(caller)),
        }
    }

    fn cancelled(&self, caller: &CallerLink) -> CallError {
        CallError::Cancelled(Cancelled::without_report(caller.reason()))
    }

    /// Ends when the call has waited for its worker for too long.
    async fn waited_for_too_long(&self, until: Option<(Duration, Instant)>) -> CallError {
        let Some((wait, until)) = until else {
            return pending().await;
        };
        sleep_until(until).await;
        if self.has_begun() {
            return pending().await;
        }
        let nobody = self.calls.nobody_serves(&self.queue).await;
        if self.has_begun() {
            return pending().await;
        }
        CallError::TimedOut(if nobody {
            TimedOut::NoWorker(wait)
        } else {
            TimedOut::Queue(wait)
        })
    }

    /// Ends at once if no worker has said that it has the call.
    async fn did_not_begin(&self) {
        if self.has_begun() {
            pending::<()>().await;
        }
    }

    fn has_begun(&self) -> bool {
        lock(&self.calls.open)
            .get(&self.number)
            .is_none_or(|open| open.begun)
    }

    fn cancel(&self, reason: &str) {
        let until = Instant::now() + self.calls.config.answer_timeout;
        let id = self.calls.id_of(self.number);
        let cancel = control::cancel(&self.queue, &id, reason).give_up_at(until);
        if self.calls.publisher.try_send(cancel).is_err() {
            tracing::warn!("could not cancel a call: too many messages wait for the broker");
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if lock(&self.calls.open).remove(&self.number).is_some() {
            self.cancel("its caller went away");
        }
    }
}

fn dropped() -> CallError {
    Error::new(
        ErrorKind::Closed,
        "wait for the answer of a call: the broker was dropped",
    )
    .into()
}
