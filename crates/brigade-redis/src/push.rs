//! Pushing.
//!
//! What several callers push at the same time goes in one script (`Batcher`), each push whole or
//! not at all. Plain jobs, which are due now and have to do with no other job, are stored the
//! cheap way. Pushes that are too large for one script take the way of `stage`.

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

use redis::Value;

use super::arguments::{Arguments, millis};
use super::client::RedisClient;
use super::keys::{check_name, id_of, key};
use super::reply::convert;
use super::script_error::{duplicate, is_duplicate};
use super::scripts;
use crate::error::{Error, ErrorKind};
use crate::job::{DependentKind, Job};
use crate::store::PushOutcome;
use brigade_core::options::Options;

/// What the script costs of itself for a job, in bytes of arguments that it reads in that time.
const JOB_WEIGHT: usize = 200;

/// What one caller pushes, as `push.lua` wants it.
pub(super) struct Push {
    jobs: usize,
    /// Whether all are plain: due now, in one queue, and with nothing to do with other jobs.
    is_plain: bool,
    arguments: Arguments,
}

/// What became of a push.
pub(super) enum StoredPush {
    /// The numbers of plain jobs follow this one's.
    From(u64),
    /// Each job's number and whether it is new.
    Each(Vec<(String, u8)>),
}

impl Push {
    fn write(jobs: &[Job]) -> Result<Self, Error> {
        let queue = jobs.first().map(|first| &first.queue);
        let is_now = |job: &Job| {
            job.options.at.is_none() && job.options.delay.is_none() && Some(&job.queue) == queue
        };
        let is_plain = jobs.iter().all(|job| is_now(job) && is_plain(job));
        let mut arguments = Arguments::default();
        for job in jobs {
            if !is_plain {
                write_header(job, &mut arguments);
            }
            write_fields(job, !is_plain, &mut arguments)?;
        }
        Ok(Self {
            jobs: jobs.len(),
            is_plain,
            arguments,
        })
    }

    /// For how much of a script it is.
    pub(super) fn weight(&self) -> usize {
        self.arguments.bytes() + self.jobs * JOB_WEIGHT
    }
}

impl RedisClient {
    /// Checks jobs, the first of which is of this queue, and writes them down.
    pub(super) async fn prepare(&self, queue: &str, jobs: &[Job]) -> Result<Push, Error> {
        self.admit(queue, jobs).await?;
        Push::write(jobs)
    }

    /// Checks that jobs may be pushed together, and that their queues are listed.
    pub(super) async fn admit(&self, queue: &str, jobs: &[Job]) -> Result<(), Error> {
        // A script that meets a key of another node ends in the middle.
        if let Some(other) = jobs
            .iter()
            .find(|job| !self.are_together(queue, &job.queue))
        {
            let text = format!(
                "push to queues {:?} and {:?} at once: in this cluster they are in different \
                    slots; push to each for itself, and let the jobs \
                 of a flow share one queue",
                queue, other.queue
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let mut last: Option<&str> = None;
        for job in jobs
            .iter()
            .filter(|job| last.replace(&job.queue) != Some(&*job.queue))
        {
            check_name(&job.queue)?;
            self.list_queue(&job.queue).await?;
        }
        Ok(())
    }

    /// One script for all that is pushed to a queue.
    pub(super) async fn push_together(
        &self,
        queue: &str,
        pushes: &[Push],
    ) -> Vec<Result<StoredPush, Error>> {
        let all = |is_plain| pushes.iter().filter(move |push| push.is_plain == is_plain);
        let mut arguments = Arguments::default();
        arguments.push_number(all(true).map(|push| push.jobs as u64).sum::<u64>());
        all(true).for_each(|push| arguments.append(&push.arguments));
        for push in all(false) {
            arguments.push_number(push.jobs as u64);
            arguments.append(&push.arguments);
        }
        let answers = match self
            .run_for_all("push", scripts::push(), queue, arguments, true)
            .await
        {
            Ok(answers) => answers,
            Err(error) => return pushes.iter().map(|_| Err(error.copy())).collect(),
        };
        let mut answers = answers.into_iter();
        let (first, mut before) = (
            convert::<u64>("push", answers.next().unwrap_or(Value::Nil), true),
            0,
        );
        let stored = pushes.iter().map(|push| {
            if !push.is_plain {
                let stored = convert("push", answers.next().unwrap_or(Value::Nil), true)
                    .map(StoredPush::Each);
                return stored.map_err(|e| {
                    if is_duplicate(&e) {
                        duplicate("push a flow", &e)
                    } else {
                        e
                    }
                });
            }
            let place = before;
            before += push.jobs as u64;
            first.as_ref().map_or_else(
                |error| Err(error.copy()),
                |first| Ok(StoredPush::From(first + place)),
            )
        });
        stored.collect()
    }

    /// The ids that jobs were given.
    pub(super) fn outcomes(jobs: &[Job], stored: StoredPush) -> Vec<PushOutcome> {
        match stored {
            StoredPush::From(first) => (first..)
                .zip(jobs)
                .map(|(number, job)| PushOutcome::New(id_of(&job.queue, &number.to_string())))
                .collect(),
            StoredPush::Each(each) => {
                let outcomes = each.into_iter().zip(jobs).map(|((number, is_new), job)| {
                    let id = id_of(&job.queue, &number);
                    if is_new == 1 {
                        PushOutcome::New(id)
                    } else {
                        PushOutcome::Duplicate(id)
                    }
                });
                outcomes.collect()
            }
        }
    }
}

/// Whether a job has to do with no other, and leaves nothing behind; see `common.lua`.
fn is_plain(job: &Job) -> bool {
    let Options {
        key,
        unique,
        keep,
        retry,
        ..
    } = &job.options;
    job.link.is_none()
        && key.is_none()
        && unique.is_none()
        && keep.is_none()
        && retry.is_none_or(|retry| retry.within.is_none())
}

/// What stands before a job that is not stored as a plain one.
fn write_header(job: &Job, arguments: &mut Arguments) {
    let options = &job.options;
    let link = job.link.clone().unwrap_or_default();
    arguments.push(&key(&job.queue, ""));
    arguments.push_number(
        options
            .at
            .map_or(0, |at| at.duration_since(UNIX_EPOCH).map_or(0, millis)),
    );
    arguments.push_number(if options.at.is_some() {
        0
    } else {
        options.delay.map_or(0, millis)
    });
    arguments.push(options.unique.as_deref().unwrap_or(""));
    arguments.push_number(options.unique_for.map_or(0, millis));
    arguments.push_number(link.dependent.map_or(0, |next| next as u64 + 1));
    arguments.push(link.dependent_kind.map_or("", DependentKind::name));
}

/// The hash of a job, the number of names and values before it, its priority first. `says_plain`:
/// it says so if the job is plain.
pub(super) fn write_fields(
    job: &Job,
    says_plain: bool,
    arguments: &mut Arguments,
) -> Result<(), Error> {
    let fields = fields_of(job, says_plain)?;
    arguments.push_number(2 * fields.len() as u64);
    fields.iter().for_each(|(name, value)| {
        arguments.push(name);
        arguments.push(value);
    });
    Ok(())
}

fn given(text: Option<&str>) -> Option<Cow<'_, str>> {
    text.map(Cow::Borrowed)
}

/// The names and values of a job's hash.
pub(super) fn fields_of(
    job: &Job,
    says_plain: bool,
) -> Result<Vec<(&'static str, Cow<'_, str>)>, Error> {
    let options = &job.options;
    let text = (*options != Options::default())
        .then(|| serde_json::to_string(options))
        .transpose();
    let text =
        text.map_err(|e| Error::new(ErrorKind::Encode, "write a job's options").with_source(e))?;
    let [keep, within] = [options.keep, options.retry().within]
        .map(|time| time.map(|time| millis(time).to_string()));
    let priority = (options.priority() != 0).then(|| options.priority().to_string());
    let fields = [
        ("priority", priority.map(Cow::Owned)),
        (
            "plain",
            (says_plain && is_plain(job)).then_some(Cow::Borrowed("1")),
        ),
        ("payload", Some(Cow::Borrowed(&*job.payload))),
        ("task", given(job.task.as_deref())),
        ("key", given(options.key.as_deref())),
        (
            "partition",
            given(options.partition.as_deref().or(options.key.as_deref())),
        ),
        ("unique_key", given(options.unique.as_deref())),
        ("keep", keep.map(Cow::Owned)),
        ("within", within.map(Cow::Owned)),
        ("options", text.map(Cow::Owned)),
    ];
    Ok(fields
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)))
        .collect())
}
