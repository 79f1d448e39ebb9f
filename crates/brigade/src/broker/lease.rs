//! [`Lease`] and [`TakenJob`]: a job that was handed out, and how its holder settles it.
//!
//! The broker owns the lease and decides when it has run out. A `Lease` is the job as it was handed
//! out plus the token of this hand-out; a `TakenJob` is only the job, which has left the queue.
//!
//! Invariants: each settlement carries the token, so the first one that ends the lease counts and
//! later ones, also those of clones, are answered as stale. A settlement that fails leaves the
//! lease running, unless its error is uncertain.
//!
//! Dropping a lease sends nothing: the job comes back when the lease runs out. Nothing here extends
//! leases or stops attempts by itself; consumers do that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cancels;
use crate::attempt_report::StopReceipt;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, JobId};
use crate::outcome::RetryAdvice;
use crate::store::{CancelRequest, Disposition, JobStore, Leased, Settled, Settlement};
use crate::traceparent::TraceParent;
use brigade_core::Tick;
use brigade_core::policy::RetryPolicy;

/// A job that was taken: handed out and gone.
#[derive(Clone, Debug)]
pub struct TakenJob(pub(super) Leased);

impl TakenJob {
    /// Its id.
    pub fn id(&self) -> &JobId {
        &self.0.id
    }

    /// The tick it was pushed for, if a schedule did.
    pub fn tick(&self) -> Option<&Tick> {
        self.0.job.options.tick.as_ref()
    }

    /// Its payload, JSON text.
    pub fn json(&self) -> &str {
        &self.0.job.payload
    }

    /// Its payload.
    ///
    /// # Errors
    ///
    /// `Decode` if it is not a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Codec::Json.decode(self.0.job.payload.as_bytes())
    }
}

/// A job on a lease. Settle it; one that is dropped comes back when the lease runs out. A clone is
/// the same lease, kept to settle it once more if the broker could not be reached: only the first
/// settlement counts.
///
/// ```
/// use std::time::Duration;
///
/// use brigade::{Broker, Settled};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}/jobs.db", directory.path().display());
/// let emails = Broker::connect(&url).await?.queue("emails");
/// emails.push("ann@example.org").await?;
/// // At least once: the job comes back if this process dies before it is settled.
/// let lease = emails.lease(Duration::from_secs(30), Duration::ZERO).await?.expect("there is one");
/// assert_eq!(lease.payload::<String>()?, "ann@example.org");
/// assert_eq!(lease.ack().await?, Settled::Accepted(None));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a lease that is not settled runs out"]
pub struct Lease {
    pub(super) cancels: Arc<Cancels>,
    pub(super) leased: Leased,
}

impl Lease {
    /// The job's id.
    pub fn id(&self) -> &JobId {
        &self.leased.id
    }

    /// Names this lease among all leases of the job, for [`Broker::settle`](crate::Broker::settle).
    pub fn token(&self) -> i64 {
        self.leased.token
    }

    /// Number of this attempt, from 1; passes and interruptions do not count.
    pub fn attempt(&self) -> u32 {
        self.leased.attempt
    }

    /// The tick it was pushed for, if a schedule did.
    pub fn tick(&self) -> Option<&Tick> {
        self.leased.job.options.tick.as_ref()
    }

    /// The payload, JSON text.
    pub fn json(&self) -> &str {
        &self.leased.job.payload
    }

    /// The queue it came from.
    pub fn queue(&self) -> &str {
        &self.leased.job.queue
    }

    /// The task that it asks for, if it does.
    pub fn task(&self) -> Option<&str> {
        self.leased.job.task.as_deref()
    }

    /// How long this attempt may run: for the holder to keep.
    pub fn timeout(&self) -> Option<Duration> {
        self.leased.job.options.timeout
    }

    /// Bytes of memory that this attempt may use: for the holder to keep.
    pub fn memory(&self) -> Option<u64> {
        self.leased.job.options.memory
    }

    /// Its priority.
    pub fn priority(&self) -> i32 {
        self.leased.job.options.priority()
    }

    /// Its key.
    pub fn key(&self) -> Option<&str> {
        self.leased.job.options.key.as_deref()
    }

    /// Its name for people.
    pub fn label(&self) -> Option<&str> {
        self.leased.job.options.label.as_deref()
    }

    /// The trace that it belongs to.
    pub fn traceparent(&self) -> Option<&TraceParent> {
        self.leased.job.options.traceparent.as_ref()
    }

    /// Attempts after the first that its failures may cost; 0 if the job does not set it.
    pub fn retries(&self) -> u32 {
        self.leased.job.options.retries()
    }

    /// Leases of it before this one whose holder died or hung without settling. The job may be what
    /// kills its holders.
    pub fn lost(&self) -> u32 {
        self.leased.lost
    }

    /// Attempts before this one that ended their worker process.
    pub fn crashed(&self) -> u32 {
        self.leased.crashed
    }

    /// Waits until the job is to be cancelled, and returns the reason. It waits while the broker
    /// returns errors.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn cancel_asked(&self) -> String {
        let is_ours = |cancel: &CancelRequest| {
            cancel.id == self.leased.id && cancel.token == self.leased.token
        };
        self.cancels
            .find(
                || true,
                |cancel| is_ours(cancel).then(|| cancel.reason.clone()),
            )
            .await
    }

    /// The payload.
    ///
    /// # Errors
    ///
    /// `Decode` if it is not a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Codec::Json.decode(self.leased.job.payload.as_bytes())
    }

    /// Done.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker); the lease still runs then.
    /// [`Settled::Stale`] is not an error: another holder has the job.
    pub async fn ack(self) -> Result<Settled, Error> {
        self.end(Disposition::ack(None)).await
    }

    /// Done, with a result for callers that wait; kept as long as [`Job::keep`](crate::Job::keep)
    /// says.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack), and `Encode` if JSON has no form of the result: NaN and infinity,
    /// `Some(None)`, keys of maps that are lists or alike.
    pub async fn ack_with(self, result: &(impl Serialize + ?Sized)) -> Result<Settled, Error> {
        self.end(Disposition::ack(Some(Codec::json_text(result)?.into())))
            .await
    }

    /// Failed: tried again by the job's own policy, or set aside when its attempts are used up.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn nack(self, reason: impl fmt::Display) -> Result<Settled, Error> {
        let reason = reason.to_string();
        self.end(Disposition::Fail {
            kind: AttemptKind::Failed,
            reason,
            report: None,
            advice: RetryAdvice::Policy,
            policy: RetryPolicy::default(),
        })
        .await
    }

    /// Failed: if it has attempts left, tried again after this time.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn nack_later(
        self,
        reason: impl fmt::Display,
        after: Duration,
    ) -> Result<Settled, Error> {
        let reason = reason.to_string();
        self.end(Disposition::Fail {
            kind: AttemptKind::Failed,
            reason,
            report: None,
            advice: RetryAdvice::In(after),
            policy: RetryPolicy::default(),
        })
        .await
    }

    /// Given back untouched, for another consumer, without charge.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn pass(self, reason: impl fmt::Display) -> Result<Settled, Error> {
        self.pass_later(reason, Duration::ZERO).await
    }

    /// Given back untouched, without charge, and handed out again only after this time: for a
    /// reason that will not be gone at once.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn pass_later(
        self,
        reason: impl fmt::Display,
        after: Duration,
    ) -> Result<Settled, Error> {
        self.end(Disposition::GiveBack {
            kind: AttemptKind::Passed,
            reason: reason.to_string(),
            after,
        })
        .await
    }

    /// Given back because its attempt was cut short without fault of its own, as when its holder
    /// stops: uncharged, and counted as interrupted.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn give_back(self, reason: impl fmt::Display) -> Result<Settled, Error> {
        self.end(Disposition::GiveBack {
            kind: AttemptKind::Interrupted,
            reason: reason.to_string(),
            after: Duration::ZERO,
        })
        .await
    }

    /// Set aside for a person.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn dead_letter(self, reason: impl fmt::Display) -> Result<Settled, Error> {
        self.end(Disposition::DeadLetter(reason.to_string())).await
    }

    /// Extends the lease to this long from now on. [`Settled::Accepted`] has the reason if the job
    /// is to be cancelled.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn extend(&self, time: Duration) -> Result<Settled, Error> {
        self.settle(Disposition::Extend(time)).await
    }

    /// Ends it as cancelled, as was asked.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn cancelled(self, reason: impl fmt::Display) -> Result<Settled, Error> {
        self.end(Disposition::Cancelled {
            reason: reason.to_string(),
            stop: None,
            report: None,
        })
        .await
    }

    /// Ends it as cancelled, as was asked, with how it was stopped, for
    /// [`Broker::stop`](crate::Broker::stop) and the job's history.
    ///
    /// # Errors
    ///
    /// As [`ack`](Lease::ack).
    pub async fn cancelled_by(
        self,
        reason: impl fmt::Display,
        stop: StopReceipt,
    ) -> Result<Settled, Error> {
        self.end(Disposition::Cancelled {
            reason: reason.to_string(),
            stop: Some(stop),
            report: None,
        })
        .await
    }

    async fn end(self, disposition: Disposition) -> Result<Settled, Error> {
        self.settle(disposition).await
    }

    async fn settle(&self, disposition: Disposition) -> Result<Settled, Error> {
        let Leased { id, token, .. } = &self.leased;
        settle(self.cancels.store(), id, *token, disposition).await
    }
}

/// Settles one lease.
pub(super) async fn settle(
    store: &Arc<dyn JobStore>,
    id: &JobId,
    token: i64,
    disposition: Disposition,
) -> Result<Settled, Error> {
    let settlement = Arc::new(Settlement {
        id: id.clone(),
        token,
        disposition: disposition.bounded(),
        answer: None,
    });
    let mut settled = store.settle(vec![settlement]).await?;
    settled.pop().ok_or_else(|| {
        let text = "settle a job: the store gave no outcome";
        Error::new(ErrorKind::Protocol, text)
    })?
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("job", &self.leased.id)
            .field("attempt", &self.leased.attempt)
            .finish_non_exhaustive()
    }
}
