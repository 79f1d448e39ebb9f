//! Finding jobs: pages of a filter, by the indexes that fit it.
//!
//! A page is found in two steps. First the ids of candidates, in order and after the place that was
//! asked for: those of a queue and a state are ranges of partial indexes, which are merged. Then
//! the candidates are read and the other conditions are checked by one statement. A page without
//! other conditions takes the candidates as they are; with them, at most [`JobFilter::READ_MAX`]
//! candidates are read for one page.
//!
//! Ready jobs are indexed by priority, so the ids of one queue are merged from those of each of its
//! priorities. Where no index has the order of the ids (ready or waiting jobs of all queues, very
//! many priorities), a part of the table is read first, since what is common is found there soon;
//! only then all entries of the index are, of which the first ids are kept.

use std::time::{Duration, Instant};

use rusqlite::types::ToSql;
use rusqlite::{Row, params};

use super::budget::limit_of;
use super::look::{COLUMNS, info};
use super::store::{Store, code, row_id, wall_millis};
use crate::error::{Error, ErrorKind};
use crate::job::{JobId, JobInfo, JobState};
use brigade_core::store::{JobFilter, JobPage};

/// Candidates that are looked for at once.
const BATCH: usize = 1_000;
/// The same for a text in payloads.
const TEXT_BATCH: usize = 100;
/// A page of a filter that reads jobs ends after this time, even if it is not full.
const PAGE_TIME: Duration = Duration::from_millis(250);
/// Priorities of a queue whose jobs are looked for one by one.
const PRIORITIES_MAX: usize = 50;
/// Rows of the table that are read before the whole of an index is.
const ROWS_FIRST: usize = 5_000;

/// A place in the list of all jobs, and the direction from there.
#[derive(Clone, Copy)]
struct Position {
    after: i64,
    newest_first: bool,
}

impl Position {
    fn of(filter: &JobFilter) -> Result<Self, Error> {
        let first = if filter.newest_first { i64::MAX } else { 0 };
        let after = filter.after.as_ref().map_or(first, row_id);
        if after < 0 {
            return Err(Error::new(
                ErrorKind::BadOption,
                "list jobs after an id that is none of this broker's: they are numbers",
            ));
        }
        Ok(Self {
            after,
            newest_first: filter.newest_first,
        })
    }

    /// The condition on ids, of which `?1` is the place.
    fn condition(self) -> &'static str {
        if self.newest_first {
            "id < ?1"
        } else {
            "id > ?1"
        }
    }

    fn order(self) -> &'static str {
        if self.newest_first {
            " ORDER BY id DESC"
        } else {
            " ORDER BY id"
        }
    }

    fn sort(self, ids: &mut Vec<i64>, most: usize) {
        ids.sort_unstable();
        if self.newest_first {
            ids.reverse();
        }
        ids.truncate(most);
    }
}

impl Store<'_> {
    pub(super) fn jobs(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        let mut position = Position::of(filter)?;
        let (mut jobs, mut read, mut bytes) = (Vec::new(), 0, 0);
        let (batch, began) = (batch_of(filter), Instant::now());
        while jobs.len() < filter.limit && read < JobFilter::READ_MAX.max(filter.limit) {
            let ids = self.candidates(filter, position, batch)?;
            let Some(last) = ids.last().copied() else {
                return Ok(JobPage { jobs, next: None });
            };
            read += ids.len();
            position.after = last;
            let room = filter.limit - jobs.len();
            let found = self.matching(filter, &ids, room.saturating_add(1), &mut bytes)?;
            let is_large = bytes > JobFilter::PAGE_BYTES_MAX;
            let is_full = is_large || found.len() > room;
            jobs.extend(found.into_iter().take(room));
            if let (true, Some(job)) = (is_full, jobs.last()) {
                position.after = row_id(&job.id);
            } else if ids.len() < batch {
                return Ok(JobPage { jobs, next: None });
            }
            if is_large || filter.reads_jobs() && began.elapsed() >= PAGE_TIME {
                break;
            }
        }
        Ok(JobPage {
            jobs,
            next: Some(JobId::new(position.after.to_string())),
        })
    }

    /// The first of these jobs that meet all conditions, in their order, until the bytes of the
    /// page are too many. No more are read: a job may be large.
    fn matching(
        &self,
        filter: &JobFilter,
        ids: &[i64],
        most: usize,
        bytes: &mut usize,
    ) -> Result<Vec<JobInfo>, Error> {
        let list = serde_json::to_string(ids)
            .map_err(|e| Error::new(ErrorKind::Encode, "write a list of ids").with_source(e))?;
        let from = filter.pushed_from.map(wall_millis);
        // Of the millisecond that the time is in, each job is decided on below.
        let until = filter.pushed_until.map(wall_millis);
        // What other programs wrote as options may be no JSON.
        let label = "CASE WHEN json_valid(options) THEN options ->> 'label' END = ?";
        let conditions = [
            ("task = ?", value_of(&filter.task)),
            (label, value_of(&filter.label)),
            ("key = ?", value_of(&filter.key)),
            ("instr(payload, ?) > 0", value_of(&filter.text)),
            ("pushed_at >= ?", value_of(&from)),
            ("pushed_at <= ?", value_of(&until)),
        ];
        // In the order of the list.
        let mut sql = format!(
            "SELECT {COLUMNS} FROM (SELECT value AS wanted FROM json_each(?1)) CROSS JOIN \
                brigade_jobs WHERE brigade_jobs.id = wanted"
        );
        let mut values: Vec<&dyn ToSql> = vec![&list];
        for (condition, value) in conditions {
            let Some(value) = value else { continue };
            values.push(value);
            let condition = condition.replace('?', &format!("?{}", values.len()));
            sql.push_str(" AND ");
            sql.push_str(&condition);
        }
        if filter.no_task {
            sql.push_str(" AND task IS NULL");
        }
        let mut jobs = Vec::new();
        self.rows_while("list jobs", &sql, &values, |row| {
            let job = info(row)?;
            if filter.matches(&job) {
                *bytes += job.bytes();
                jobs.push(job);
            }
            Ok(jobs.len() < most && *bytes <= JobFilter::PAGE_BYTES_MAX)
        })?;
        Ok(jobs)
    }

    /// The first ids of the queue and the state, in order; also of jobs that other conditions
    /// exclude.
    fn candidates(
        &self,
        filter: &JobFilter,
        position: Position,
        most: usize,
    ) -> Result<Vec<i64>, Error> {
        let Some(queue) = filter.queue.as_deref() else {
            return match filter.state {
                None => self.ids("WHERE true", position, most, &[]),
                Some(state) => self.ids_in_state(state, position, most),
            };
        };
        let of_queue = |from: &str| self.ids(from, position, most, &[&queue]);
        let states = filter
            .state
            .map_or(JobState::ALL.to_vec(), |state| vec![state]);
        let mut ids = Vec::new();
        for state in states {
            ids.extend(match state {
                JobState::Ready => self.ready_ids(queue, position, most)?,
                JobState::Leased => {
                    of_queue("INDEXED BY brigade_jobs_leased WHERE state = 3 AND queue = ?3")?
                }
                JobState::Scheduled | JobState::Blocked | JobState::Retrying => {
                    of_queue(&waiting(state, " AND queue = ?3"))?
                }
                JobState::Done | JobState::Dead | JobState::Cancelled => of_queue(&format!(
                    "INDEXED BY brigade_jobs_ended_in WHERE state >= 5 AND state = {} AND queue = \
                        ?3",
                    code(state)
                ))?,
            });
        }
        position.sort(&mut ids, most);
        Ok(ids)
    }

    /// Of all queues.
    fn ids_in_state(
        &self,
        state: JobState,
        position: Position,
        most: usize,
    ) -> Result<Vec<i64>, Error> {
        let index = match state {
            JobState::Done | JobState::Dead | JobState::Cancelled => {
                let from = format!(
                    "INDEXED BY brigade_jobs_ended WHERE state >= 5 AND state = {}",
                    code(state)
                );
                return self.ids(&from, position, most, &[]);
            }
            JobState::Leased => "INDEXED BY brigade_jobs_leased WHERE state = 3".to_owned(),
            JobState::Ready => "INDEXED BY brigade_jobs_ready WHERE state = 0".to_owned(),
            JobState::Scheduled | JobState::Blocked | JobState::Retrying => waiting(state, ""),
        };
        if state != JobState::Leased
            && let Some(ids) = self.ids_nearby(state, position, most)?
        {
            return Ok(ids);
        }
        self.ids(&index, position, most, &[])
    }

    /// Those among the next rows of the table, unless there may be more behind them.
    fn ids_nearby(
        &self,
        state: JobState,
        position: Position,
        most: usize,
    ) -> Result<Option<Vec<i64>>, Error> {
        let (condition, order) = (position.condition(), position.order());
        let sql = format!("SELECT id, state FROM brigade_jobs WHERE {condition} {order} LIMIT ?2");
        let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let values = params![position.after, limit_of(ROWS_FIRST)];
        let rows = self.rows("look for jobs", &sql, values, read)?;
        let is_all = rows.len() < ROWS_FIRST;
        let in_state = rows.iter().filter(|(_, other)| *other == code(state));
        let ids: Vec<i64> = in_state.map(|(id, _)| *id).take(most).collect();
        Ok((is_all || ids.len() == most).then_some(ids))
    }

    /// Of one queue.
    fn ready_ids(&self, queue: &str, position: Position, most: usize) -> Result<Vec<i64>, Error> {
        let ready = "INDEXED BY brigade_jobs_ready WHERE state = 0 AND queue = ?3";
        let priorities = self.priorities(queue)?;
        if priorities.len() > PRIORITIES_MAX {
            return self.ids(ready, position, most, &[&queue]);
        }
        let mut ids = Vec::new();
        for priority in priorities {
            let from = format!("{ready} AND priority = ?4");
            ids.extend(self.ids(&from, position, most, &[&queue, &priority])?);
        }
        position.sort(&mut ids, most);
        Ok(ids)
    }

    /// Those of the ready jobs of a queue, one more than [`PRIORITIES_MAX`] at most.
    fn priorities(&self, queue: &str) -> Result<Vec<i64>, Error> {
        // From each to the next by the index, without looking at the jobs.
        let sql = "WITH RECURSIVE known (priority) AS (
                     SELECT max(priority) FROM brigade_jobs INDEXED BY brigade_jobs_ready WHERE \
                     state = 0 AND queue = ?1
                     UNION ALL
                     SELECT (SELECT max(priority) FROM brigade_jobs INDEXED BY brigade_jobs_ready \
                     WHERE state = 0 AND queue = ?1 AND priority < known.priority)
                       FROM known WHERE known.priority IS NOT NULL)
                   SELECT priority FROM known WHERE priority IS NOT NULL LIMIT ?2";
        let values = params![queue, limit_of(PRIORITIES_MAX + 1)];
        self.rows("list priorities", sql, values, |row| row.get(0))
    }

    /// The first ids of a part of the table; `more` are the values from `?3` on.
    fn ids(
        &self,
        from: &str,
        position: Position,
        most: usize,
        more: &[&dyn ToSql],
    ) -> Result<Vec<i64>, Error> {
        let (condition, order) = (position.condition(), position.order());
        let sql = format!("SELECT id FROM brigade_jobs {from} AND {condition} {order} LIMIT ?2");
        let most = limit_of(most);
        let mut values: Vec<&dyn ToSql> = vec![&position.after, &most];
        values.extend(more);
        self.rows("look for jobs", &sql, &values, |row| row.get(0))
    }
}

/// The jobs that wait in this state, by their index.
fn waiting(state: JobState, more: &str) -> String {
    let state = code(state);
    format!("INDEXED BY brigade_jobs_waiting WHERE state IN (1, 2, 4) AND state = {state}{more}")
}

/// Candidates that are looked for at once.
fn batch_of(filter: &JobFilter) -> usize {
    match (filter.reads_jobs(), &filter.text) {
        (false, _) => filter.limit.clamp(1, BATCH),
        (true, None) => BATCH,
        // Payloads are read, which may be large.
        (true, Some(_)) => TEXT_BATCH,
    }
}

fn value_of<T: ToSql>(value: &Option<T>) -> Option<&dyn ToSql> {
    value.as_ref().map(|value| value as &dyn ToSql)
}
