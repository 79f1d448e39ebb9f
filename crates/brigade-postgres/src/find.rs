//! Finding jobs: pages of a filter, by the indexes that fit it.
//!
//! A page is found in two steps. First the ids of candidates, in order and after the place that was
//! asked for, by queue and state (`schema/find.sql`). Then the candidates are read and the other
//! conditions are checked. A page without other conditions takes the candidates as they are; with
//! them, at most [`JobFilter::READ_MAX`] candidates are read for one page.

use std::time::{Duration, Instant};

use tokio_postgres::Row;

use super::changes::code;
use super::database::{Database, Statement};
use super::look::info;
use super::settle::number_of;
use super::sql_error::unreadable;
use crate::error::{Error, ErrorKind};
use crate::job::{JobId, JobInfo};
use brigade_core::store::{JobFilter, JobPage};

const CANDIDATES: Statement = Statement::read(
    "look for jobs",
    "select brigade.candidates($1, $2, $3, $4, $5)",
);
/// Conditions that exclude what [`JobFilter::matches`] would, as far as the server can tell. The
/// ids are an array: of a join with a list of them, the server would read all jobs for each.
const MATCHING: Statement = Statement::read(
    "list jobs",
    "select * from (select j.*, sum(octet_length(j.payload) + coalesce(octet_length(j.result), 0)) \
        over (order by nth rows between unbounded preceding and 1 preceding) as bytes_before from \
        (select *, array_position($1::bigint[], id) as nth from brigade.all_jobs where id = any($1)) j \
        where ($2::text is null or j.task = $2) and not ($10 and j.task is not null) and ($3::text is \
        null or j.key = $3) and ($4::text is null or strpos(j.payload, $4) > 0) and ($5::text is null \
        or strpos(j.options, $5) > 0) and ($6::timestamptz is null or j.pushed_at >= $6) and \
        ($7::timestamptz is null or j.pushed_at <= $7)) matching where coalesce(bytes_before, 0) <= $9 \
        order by nth limit $8",
);
/// Candidates that are looked for at once.
const BATCH: usize = 1_000;
/// The same for a text in payloads, which may be large.
const TEXT_BATCH: usize = 100;
/// Jobs that are read at once, for the same reason.
const READ_BATCH: usize = 100;
/// A page of a filter that reads jobs ends after this time, even if it is not full.
const PAGE_TIME: Duration = Duration::from_millis(250);

impl Database {
    pub(super) async fn jobs(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        let first = if filter.newest_first { i64::MAX } else { 0 };
        let mut after = filter.after.as_ref().map_or(first, number_of);
        if after < 0 {
            let text = "list jobs after an id that is none of this broker's: they are numbers";
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        let (mut jobs, mut read, mut bytes) = (Vec::new(), 0, 0);
        let (batch, began) = (batch_of(filter), Instant::now());
        while jobs.len() < filter.limit && read < JobFilter::READ_MAX.max(filter.limit) {
            let ids = self.candidates(filter, after, batch).await?;
            let Some(last) = ids.last().copied() else {
                return Ok(JobPage { jobs, next: None });
            };
            read += ids.len();
            let added = self.add_matching(filter, &ids, &mut jobs, &mut bytes);
            after = added.await?;
            if after == last && ids.len() < batch {
                return Ok(JobPage { jobs, next: None });
            }
            let is_large = bytes > JobFilter::PAGE_BYTES_MAX;
            if is_large || filter.reads_jobs() && began.elapsed() >= PAGE_TIME {
                break;
            }
        }
        let next = Some(JobId::new(after.to_string()));
        Ok(JobPage { jobs, next })
    }

    /// The first ids of the queue and the state, in order; also of jobs that other conditions
    /// exclude.
    async fn candidates(
        &self,
        filter: &JobFilter,
        after: i64,
        most: usize,
    ) -> Result<Vec<i64>, Error> {
        let state = filter.state.map(|state| i32::from(code(state)));
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let queue = filter.queue.as_deref();
        let row = self
            .row(
                CANDIDATES,
                &[&queue, &state, &after, &filter.newest_first, &most],
            )
            .await?;
        row.and_then(|row| row.try_get(0).ok())
            .ok_or_else(|| unreadable(CANDIDATES.what))
    }

    /// Adds the first of these jobs that meet all conditions, in their order, until there are
    /// enough of them or of their bytes. Gives the last one that was decided on.
    async fn add_matching(
        &self,
        filter: &JobFilter,
        ids: &[i64],
        jobs: &mut Vec<JobInfo>,
        bytes: &mut usize,
    ) -> Result<i64, Error> {
        let mut last = 0;
        // The server cannot decide on all of these.
        let is_decided_here = filter.reason.is_some() || filter.label.is_some();
        for ids in ids.chunks(READ_BATCH) {
            let room = filter.limit - jobs.len();
            if *bytes > JobFilter::PAGE_BYTES_MAX {
                break;
            }
            let most = if is_decided_here { ids.len() } else { room };
            let rows = self.matching(filter, ids, most, *bytes).await?;
            for row in &rows {
                if jobs.len() == filter.limit {
                    return Ok(last);
                }
                last = row.try_get("id").map_err(|_| unreadable(MATCHING.what))?;
                let job = info(row);
                *bytes += job.bytes();
                jobs.extend(Some(job).filter(|job| filter.matches(job)));
            }
            let is_large = *bytes > JobFilter::PAGE_BYTES_MAX;
            if is_large || rows.len() == most && most < ids.len() {
                return Ok(last);
            }
            last = ids.last().copied().unwrap_or(last);
            if jobs.len() == filter.limit {
                break;
            }
        }
        Ok(last)
    }

    async fn matching(
        &self,
        filter: &JobFilter,
        ids: &[i64],
        most: usize,
        bytes: usize,
    ) -> Result<Vec<Row>, Error> {
        let label = filter.label.as_ref().map(serde_json::to_string).transpose();
        let label =
            label.map_err(|e| Error::new(ErrorKind::Encode, "write a label").with_source(e))?;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let bytes_left = i64::try_from(JobFilter::PAGE_BYTES_MAX.saturating_sub(bytes));
        let bytes_left = bytes_left.unwrap_or(i64::MAX);
        let JobFilter {
            task,
            no_task,
            key,
            text,
            pushed_from,
            pushed_until,
            ..
        } = filter;
        let (task, key, text) = (task.as_deref(), key.as_deref(), text.as_deref());
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 10] = [
            &ids,
            &task,
            &key,
            &text,
            &label,
            pushed_from,
            // What is pushed at that moment to the microsecond is decided on afterwards.
            pushed_until,
            &most,
            &bytes_left,
            no_task,
        ];
        self.rows(MATCHING, &values).await
    }
}

/// Candidates that are looked for at once.
fn batch_of(filter: &JobFilter) -> usize {
    match (filter.reads_jobs(), &filter.text) {
        (false, _) => filter.limit.clamp(1, BATCH),
        (true, None) => BATCH,
        (true, Some(_)) => TEXT_BATCH,
    }
}
