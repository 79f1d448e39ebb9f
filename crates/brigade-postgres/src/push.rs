//! Pushing: what several callers push at about the same time is stored by one call, each push whole
//! or not at all.
//!
//! The rules are in `schema/push.sql`, for this library and for applications alike; here jobs
//! become arrays. A push that the database refuses makes the whole call fail, so the pushes of that
//! call are then made one by one, and each gets its own answer.

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::column::SparseColumn;
use super::database::{Database, Statement, millis};
use super::sql_error::{FLOW_DUPLICATE, code_of, message_of, unreadable};
use crate::error::{Error, ErrorKind};
use crate::job::{DependentKind, Job, JobId};
use brigade_core::options::Options;
use brigade_core::store::PushOutcome;

const PUSH: Statement = Statement::write(
    "push",
    "select ids, is_new from brigade.push_many($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
        $13, $14, $15, false)",
);

/// Pushes, or settlements, of a call that failed, which are then tried one by one.
pub(super) const ALONE_AT_ONCE: usize = 4;

/// What a job costs besides its payload, in bytes of arguments that are stored in that time.
const JOB_WEIGHT: usize = 500;

/// For how much of a call these jobs are.
pub(super) fn weight_of(jobs: &[Job]) -> usize {
    let bytes = jobs.iter().map(|job| job.payload.len() + JOB_WEIGHT);
    bytes.sum()
}

/// Jobs as `brigade.push_many` takes them: an element of each array for each job.
#[derive(Default)]
pub(super) struct PushColumns<'a> {
    queues: Vec<&'a str>,
    tasks: SparseColumn<&'a str>,
    payloads: Vec<&'a str>,
    options: SparseColumn<String>,
    priorities: SparseColumn<i32>,
    dues: SparseColumn<SystemTime>,
    delays: SparseColumn<i64>,
    withins: SparseColumn<i64>,
    keeps: SparseColumn<i64>,
    keys: SparseColumn<&'a str>,
    partitions: SparseColumn<&'a str>,
    uniques: SparseColumn<&'a str>,
    unique_fors: SparseColumn<i64>,
    dependents: SparseColumn<i32>,
    kinds: SparseColumn<&'static str>,
}

impl<'a> PushColumns<'a> {
    /// `first`: how many jobs of other pushes stand before those of this one.
    pub(super) fn add(&mut self, job: &'a Job, first: usize) -> Result<(), Error> {
        let options = &job.options;
        let time = |time: Option<Duration>| time.map(millis);
        self.queues.push(&job.queue);
        self.tasks.push(job.task.as_deref());
        self.payloads.push(&job.payload);
        self.options.push(text_of(options)?);
        self.priorities.push(options.priority);
        self.dues.push(options.at);
        self.delays.push(time(options.delay));
        self.withins.push(time(options.retry().within));
        self.keeps.push(time(options.keep));
        self.keys.push(options.key.as_deref());
        self.partitions.push(options.partition.as_deref());
        self.uniques.push(options.unique.as_deref());
        self.unique_fors.push(time(options.unique_for));
        let link = job.link.as_ref();
        let dependent = link.and_then(|link| link.dependent);
        let place = |dependent: usize| i32::try_from(first + dependent + 1).unwrap_or(i32::MAX);
        self.dependents.push(dependent.map(place));
        let kind = link.and_then(|link| link.dependent_kind);
        self.kinds.push(kind.map(DependentKind::name));
        Ok(())
    }

    /// In the order of the function's parameters.
    pub(super) fn values(&self) -> [&(dyn ToSql + Sync); 15] {
        [
            &self.queues,
            &self.tasks,
            &self.payloads,
            &self.options,
            &self.priorities,
            &self.dues,
            &self.delays,
            &self.withins,
            &self.keeps,
            &self.keys,
            &self.partitions,
            &self.uniques,
            &self.unique_fors,
            &self.dependents,
            &self.kinds,
        ]
    }
}

pub(super) fn text_of(options: &Options) -> Result<Option<String>, Error> {
    if *options == Options::default() {
        return Ok(None);
    }
    let text = serde_json::to_string(options);
    text.map(Some)
        .map_err(|e| Error::new(ErrorKind::Encode, "write a job's options").with_source(e))
}

/// Names the job that has the unique key.
fn flow_error(error: Error) -> Error {
    match code_of(&error) {
        Some(FLOW_DUPLICATE) => {
            let text = format!("push a flow: {}", message_of(&error));
            Error::new(ErrorKind::Duplicate, text)
        }
        _ => error,
    }
}

impl Database {
    /// One call for all these pushes; to each its answer. Waiting consumers are not woken by it.
    pub(super) async fn push_together(
        &self,
        pushes: &[Vec<Job>],
    ) -> Vec<Result<Vec<PushOutcome>, Error>> {
        let error = match self.push_at_once(pushes).await {
            Ok(outcomes) => {
                let mut outcomes = outcomes.into_iter();
                return pushes
                    .iter()
                    .map(|jobs| Ok(outcomes.by_ref().take(jobs.len()).collect()))
                    .collect();
            }
            Err(error) => error,
        };
        if pushes.len() == 1 || error.is_uncertain() || error.kind() == ErrorKind::Unreachable {
            return pushes.iter().map(|_| Err(error.copy())).collect();
        }
        // One of them is refused, or waits for a transaction of an application.
        let until = Instant::now() + self.pool.connector.config.answer_timeout;
        let mut answers = Vec::with_capacity(pushes.len());
        for few in pushes.chunks(ALONE_AT_ONCE) {
            if error.kind() == ErrorKind::Timeout && Instant::now() >= until {
                answers.extend(few.iter().map(|_| Err(error.copy())));
            } else {
                let alone = |push| self.push_at_once(std::slice::from_ref(push));
                answers.extend(join_all(few.iter().map(alone)).await);
            }
        }
        answers
    }

    async fn push_at_once(&self, pushes: &[Vec<Job>]) -> Result<Vec<PushOutcome>, Error> {
        let (mut columns, mut first) = (PushColumns::default(), 0);
        for jobs in pushes {
            jobs.iter().try_for_each(|job| columns.add(job, first))?;
            first += jobs.len();
        }
        let row = self
            .row(PUSH, &columns.values())
            .await
            .map_err(flow_error)?;
        outcomes_of(row.as_ref(), first).ok_or_else(|| unreadable("push").uncertain())
    }
}

/// The outcomes of so many jobs, from the arrays that a function gave.
pub(super) fn outcomes_of(row: Option<&Row>, count: usize) -> Option<Vec<PushOutcome>> {
    let ids: Vec<i64> = row?.try_get(0).ok()?;
    let is_new: Vec<bool> = row?.try_get(1).ok()?;
    let outcome = |(id, is_new): (i64, bool)| {
        let id = JobId::new(id.to_string());
        if is_new {
            PushOutcome::New(id)
        } else {
            PushOutcome::Duplicate(id)
        }
    };
    let is_whole = ids.len() == count && is_new.len() == count;
    is_whole.then(|| ids.into_iter().zip(is_new).map(outcome).collect())
}
