//! Jobs that a consumer holds, and why it stops their attempts.

use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use crate::clock::BootTime;
use crate::progress::Progress;
use crate::store::{Leased, RunningJob};
use brigade_core::printable::shorten;

/// A job that lost so many holders runs alone in its consumer.
pub(super) const LOSSES_BESIDE_OTHERS: u32 = 2;

/// A job that the consumer holds.
pub(super) struct HeldJob {
    pub(super) leased: Arc<Leased>,
    /// When it came, by the wall clock.
    pub(super) since: SystemTime,
    /// The last progress of its attempt, as the list of live consumers shows it.
    pub(super) progress: Option<ShownProgress>,
    /// Until when the lease can be trusted unless it is renewed.
    pub(super) until: BootTime,
    /// Its attempt has ended, and its settlement is under way.
    pub(super) is_ended: bool,
    /// Cancelled when the attempt is to be stopped; `why` says why.
    pub(super) stop: CancellationToken,
    /// Cancelled when the lease is over: the job may be another's.
    pub(super) lost: CancellationToken,
    pub(super) why: Why,
}

impl HeldJob {
    /// How the list of live consumers shows it.
    pub(super) fn running(&self) -> RunningJob {
        let (leased, task) = (&self.leased, self.leased.job.task.as_deref());
        let mut running = RunningJob::new(
            leased.id.clone(),
            &*leased.job.queue,
            task.map(Into::into),
            leased.attempt,
        );
        running.since = self.since;
        running.progress = self
            .progress
            .as_ref()
            .map(|shown| (shown.fraction, shown.text.as_ref().into()));
        running
    }
}

/// What of a progress the list of live consumers shows. A task may attach much more.
pub(super) struct ShownProgress {
    fraction: f64,
    text: Box<str>,
}

impl ShownProgress {
    pub(super) fn of(progress: &Progress) -> Self {
        let text = progress.payload::<String>().unwrap_or_default();
        Self {
            fraction: progress.fraction,
            text: shorten(&text, RunningJob::PROGRESS_TEXT_BYTES_MAX).into(),
        }
    }
}

/// Why an attempt is to be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is no request.
    No,
    /// The job was cancelled.
    Cancel(String),
    /// The lease is lost: what comes out does not count.
    Lost,
    /// This consumer is ending.
    Shutdown,
}

impl Why {
    /// For the attempt.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Cancel(reason) => reason,
            Self::Lost => "its lease was lost".to_owned(),
            Self::No | Self::Shutdown => "its consumer is ending".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    #[test]
    fn of_a_large_progress_only_the_shown_beginning_is_kept() {
        let text = "é".repeat(20_000);
        let progress = Progress {
            fraction: 0.5,
            codec: Codec::Json,
            payload: serde_json::to_vec(&text).unwrap().into(),
        };
        let shown = ShownProgress::of(&progress);
        assert!(shown.text.len() <= RunningJob::PROGRESS_TEXT_BYTES_MAX);
        assert!(!shown.text.is_empty() && text.starts_with(&*shown.text));
    }
}
