//! What can be pushed: jobs, and calls of tasks.

use crate::call::Call;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::options::Options;
use crate::request::CallTarget;

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
        let CallTarget::Task { name } = &request.target else {
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
        let mut job = Job::new(queue, Some((**name).into()), request.json()?);
        job.options = request
            .options
            .map_or_else(Options::default, |options| options.of_job());
        Ok(job)
    }
}
