//! [`Queue`]: one queue of a broker, by name.
//!
//! A `Queue` is a broker handle and a name. The broker owns the jobs, the pause and the limits.
//! Making a `Queue` sends nothing and declares nothing.
//!
//! Invariants: a request for jobs, a pause, a limit or a purge checks the name first, and a push
//! checks it with the rest of the job. [`Queue::take`] delivers at most once, [`Queue::lease`] at
//! least once.
//!
//! It runs no jobs and keeps no list of queues: see `Broker::consumer` and `Broker::queues`.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Broker, Lease, TakenJob};
use crate::clock::FAR;
use crate::codec::Codec;
use crate::error::Error;
use crate::job::{Job, JobId};
use crate::limits::Limits;
use crate::policy::check_name;
use crate::store::{DeliveryMode, LeaseRequest, Queues};

/// A named list of jobs at a broker. Cheap to clone.
///
/// ```
/// use std::time::Duration;
///
/// use brigade::Broker;
/// use serde_json::{Value, json};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}/jobs.db", directory.path().display());
/// let emails = Broker::connect(&url).await?.queue("emails");
/// emails.push(&json!({"to": "ann@example.org"})).await?;
/// // At most once: a job that was taken is gone from the queue.
/// let job = emails.take(Duration::ZERO).await?.expect("there is one");
/// assert_eq!(job.payload::<Value>()?["to"], "ann@example.org");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    broker: Broker,
    name: Box<str>,
}

impl Broker {
    /// A queue by name; it need not be declared.
    pub fn queue(&self, name: impl Into<Box<str>>) -> Queue {
        Queue {
            broker: self.clone(),
            name: name.into(),
        }
    }
}

impl Queue {
    pub(super) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Describes a job of this queue with any serde value as its payload, to be given options and
    /// pushed.
    ///
    /// # Errors
    ///
    /// `Encode` if the value is no JSON.
    pub fn job(&self, payload: &(impl Serialize + ?Sized)) -> Result<Job, Error> {
        Ok(Job::new(
            self.name.clone(),
            None,
            Codec::json_text(payload)?,
        ))
    }

    /// Pushes any serde value as JSON and returns when it is safe.
    ///
    /// # Errors
    ///
    /// As [`Broker::push`], and `Encode` for a value that JSON has no form of.
    pub async fn push(&self, payload: &(impl Serialize + ?Sized)) -> Result<JobId, Error> {
        let pushed = self.broker.push(self.job(payload)?).await?;
        Ok(pushed.id().clone())
    }

    /// The next job, removed from the queue at that moment: at most once. `None` if none comes
    /// within `wait`.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    ///
    /// # Cancel safety
    ///
    /// None: a job that is on its way when the future is dropped is gone. Where that matters,
    /// lease.
    pub async fn take(&self, wait: Duration) -> Result<Option<TakenJob>, Error> {
        let taken = self.request(DeliveryMode::Take, wait).await?;
        Ok(taken.map(|lease| TakenJob(lease.leased)))
    }

    /// The next job on a lease of this time: at least once. `None` if none comes within `wait`.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    ///
    /// # Cancel safety
    ///
    /// A job that is on its way when the future is dropped is given back when its lease runs out.
    pub async fn lease(&self, time: Duration, wait: Duration) -> Result<Option<Lease>, Error> {
        self.request(DeliveryMode::Lease(time), wait).await
    }

    async fn request(&self, mode: DeliveryMode, wait: Duration) -> Result<Option<Lease>, Error> {
        let request = LeaseRequest {
            queues: Queues::one(self.checked_name()?),
            max: 1,
            mode,
            wait: wait.min(FAR),
            enough: CancellationToken::new(),
        };
        Ok(self.broker.lease(request).await?.pop())
    }

    fn checked_name(&self) -> Result<&str, Error> {
        check_name("queue", &self.name).map(|()| &*self.name)
    }

    /// Pauses the queue: every consumer gets nothing more of it until it is resumed.
    ///
    /// # Errors
    ///
    /// `Unsupported` at a broker without [`pauses`](crate::Capabilities::pauses).
    pub async fn pause(&self) -> Result<(), Error> {
        self.broker.store().pause(self.checked_name()?).await
    }

    /// Ends a pause.
    ///
    /// # Errors
    ///
    /// As [`pause`](Queue::pause).
    pub async fn resume(&self) -> Result<(), Error> {
        self.broker.store().resume(self.checked_name()?).await
    }

    /// Limits how much of it runs and starts at once, for the consumers of all hosts together, in
    /// place of the limits it had. It applies to jobs that are handed out from now on.
    ///
    /// # Errors
    ///
    /// `BadOption` for limits that no job could pass, `Unsupported` at a broker without
    /// [`limits`](crate::Capabilities::limits).
    pub async fn limit(&self, limits: Limits) -> Result<(), Error> {
        limits.check()?;
        self.broker
            .store()
            .limit(self.checked_name()?, Some(limits))
            .await
    }

    /// Removes its limits.
    ///
    /// # Errors
    ///
    /// As [`limit`](Queue::limit).
    pub async fn unlimit(&self) -> Result<(), Error> {
        self.broker.store().limit(self.checked_name()?, None).await
    }

    /// Removes every job that waits. Returns how many.
    ///
    /// # Errors
    ///
    /// [Errors of the broker](crate::Broker#errors-of-a-broker).
    pub async fn purge(&self) -> Result<u64, Error> {
        self.broker.store().purge(self.checked_name()?).await
    }
}
