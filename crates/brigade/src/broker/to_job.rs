//! What can be pushed: jobs, and calls of tasks.

use crate::call::{Call, CallOptions, Target};
use crate::error::{Error, ErrorKind};
use crate::job::{Job, JobOptions};
#[cfg(feature = "sqlite")]
use crate::store::PushOutcome;

/// What can be pushed: a [`Job`], or a [`Call`] of a task.
pub trait ToJob {
    /// What it gives when it is done; any JSON for a plain job.
    type Output;

    /// The job.
    ///
    /// # Errors
    ///
    /// `Encode` if the arguments are no JSON, `Unsupported` for a function without a name and for
    /// options that only a pool has.
    fn to_job(self) -> Result<Job, Error>;

    /// Pushes it within a transaction of the application's own, in the job file that is its
    /// database: the job is there if the transaction is committed, and never was if it is not.
    /// Workers are woken by the commit.
    ///
    /// The file must have been opened once with [`Broker::connect`](crate::Broker::connect), as
    /// `sqlite:app.db?shared=true` if the application's tables were there first.
    ///
    /// ```
    /// # use brigade::{Broker, ToJob as _, task};
    /// # #[task] fn welcome(name: String) {}
    /// # async fn example(broker: Broker) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut app = brigade::rusqlite::Connection::open("app.db")?;
    /// let tx = app.transaction()?;
    /// tx.execute("INSERT INTO customers (name) VALUES (?1)", ["Ada"])?;
    /// welcome("Ada".to_owned()).push_in(&tx)?;
    /// tx.commit()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Broker::push`](crate::Broker::push), and `Unsupported` if the file has no jobs or is of
    /// another version. Then nothing was added to the transaction.
    #[cfg(feature = "sqlite")]
    fn push_in(self, transaction: &rusqlite::Connection) -> Result<PushOutcome, Error>
    where
        Self: Sized,
    {
        super::sqlite::push_in(transaction, &self.to_job()?)
    }
}

impl ToJob for Job {
    type Output = serde_json::Value;

    fn to_job(self) -> Result<Job, Error> {
        Ok(self)
    }
}

impl<T> ToJob for Call<T> {
    type Output = T;

    fn to_job(self) -> Result<Job, Error> {
        let request = self.request;
        let Target::Task { name } = &request.target else {
            let text =
                "push a function without a name: other builds could not run it; make it a #[task]";
            return Err(Error::new(ErrorKind::Unsupported, text));
        };
        let options = request.options();
        if options.capture_bytes.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "push a call with captured output: only a pool's handle can give it",
            ));
        }
        let queue = request.queue.unwrap_or(name);
        let mut job = Job::new(queue, Some((**name).into()), "");
        let CallOptions {
            timeout,
            memory,
            priority,
            retries,
            retry,
            delay,
            label,
            key,
            unique,
            unique_for,
            partition,
            keep,
            traceparent,
            ..
        } = options.clone();
        job.options = JobOptions {
            priority: priority.unwrap_or(0),
            retries,
            retry,
            delay,
            key,
            partition,
            unique,
            unique_for,
            timeout,
            memory,
            label,
            keep,
            traceparent,
            ..JobOptions::default()
        }
        .bounded();
        let payload = request.payload?;
        let json = request
            .to_json
            .map_or_else(|| Ok(payload.to_vec()), |to_json| to_json(&payload))?;
        job.payload = String::from_utf8(json)
            .map_err(|e| Error::new(ErrorKind::Encode, "write arguments as JSON").with_source(e))?
            .into();
        Ok(job)
    }
}
