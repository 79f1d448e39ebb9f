//! The call that a job asks for.

use serde_json::value::RawValue;

use super::consumer::RunningConsumer;
use super::held::LOSSES_BESIDE_OTHERS;
use crate::call::Call;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::job_context::JobContext;
use crate::registry::{self, TaskEntry};
use crate::store::Leased;
use brigade_core::policy::RetryPolicy;
use brigade_pool::Pool;

impl RunningConsumer {
    /// The task that a job asks for, by its name or by its queue.
    pub(super) fn task_of<'a>(&'a self, job: &'a Job) -> Option<&'a str> {
        job.task
            .as_deref()
            .or_else(|| self.tasks.get(&job.queue).copied())
    }

    /// The retry policy of the registration of a job's task. A task of another program
    /// ([`Builder::program`](crate::Builder::program)) has none here, even if this program has a
    /// task of that name.
    pub(super) fn retries_of(&self, job: &Job) -> RetryPolicy {
        let is_ours = self.pool.as_ref().is_none_or(Pool::runs_own_program);
        self.task_of(job)
            .filter(|_| is_ours)
            .and_then(registry::find)
            .map_or_else(RetryPolicy::default, TaskEntry::policy)
    }

    /// The call that a job asks for.
    pub(super) fn call_of(&self, leased: &Leased) -> Result<Call<Box<RawValue>>, Error> {
        let job = &leased.job;
        let Some(task) = self.task_of(job).map(str::to_owned) else {
            let text = format!(
                "run a job of queue {:?}: no task of this program serves it (#[task(queue = ..)])",
                job.queue
            );
            return Err(Error::new(ErrorKind::UnknownTask, text));
        };
        let entry = registry::find(&task);
        let payload = job.payload.trim();
        // Arguments are an array; plain data of another shape is the one argument.
        let arguments = if payload.starts_with('[') {
            payload.to_owned()
        } else {
            format!("[{payload}]")
        };
        let mut call =
            Call::of_json_text(task, arguments).for_job(job_context(leased)?, &job.options);
        if let Some(limits) = self.limits.get(&job.queue) {
            let options = call.request.options.get_or_insert_default();
            options.default_limits = *limits;
        }
        // A pool does that for what it runs.
        if let Some(entry) = entry.filter(|_| self.pool.is_none()) {
            call.request.fill(|| entry.call_options());
        }
        if self.pool.is_none()
            && let Some(sandbox) = &call.request.options().sandbox
        {
            let text = format!(
                "run a job in the sandbox {sandbox} within this process, which has none: run it in \
                    worker processes, which is the default (without Consumer::in_process)"
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        // A job that ended a worker or a consumer runs alone in a fresh worker: it can hurt no
        // other job, and no earlier attempt can be at fault.
        let is_suspect = leased.crashed > 0 || leased.lost >= LOSSES_BESIDE_OTHERS;
        Ok(if is_suspect {
            call.alone_in_a_fresh_worker()
        } else {
            call
        })
    }
}

/// The facts of a job that its attempt gets. They stand before the arguments, which have a limit of
/// their own.
pub(super) fn job_context(leased: &Leased) -> Result<JobContext, Error> {
    let (options, owned) = (&leased.job.options, |text: &Option<Box<str>>| {
        text.as_deref().map(str::to_owned)
    });
    let bytes = [&options.key, &options.label]
        .into_iter()
        .flatten()
        .map(|text| text.len())
        .sum::<usize>();
    if bytes > JOB_BYTES_MAX {
        let text = format!(
            "run a job whose key and label have {bytes} bytes: {JOB_BYTES_MAX} are allowed"
        );
        return Err(Error::new(ErrorKind::BadOption, text));
    }
    Ok(JobContext {
        id: leased.id.to_string(),
        queue: leased.job.queue.to_string(),
        key: owned(&options.key),
        label: owned(&options.label),
        attempt: leased.attempt,
        history: leased.attempt - 1 + leased.lost,
        traceparent: options.traceparent.clone(),
    })
}

const JOB_BYTES_MAX: usize = 32 << 10;
