//! Why a job is not running: the code that hands out jobs answers that.
//!
//! The limits of a queue are asked through the same gate as for a hand-out (`limits`), so that the
//! explanation cannot differ from what happens. It is read in one transaction without a lock and
//! shows the moment of that transaction.

use std::time::Duration;

use rusqlite::{Row, params};

use super::look::{state_of, time, unserved};
use super::store::{Store, row_id};
use crate::error::Error;
use crate::job::{AttemptRecord, JobId, JobState, Unserved};
use brigade_core::why::{Blocker, Explanation};

/// What of a job decides.
struct Facts {
    id: i64,
    queue: String,
    state: JobState,
    priority: i64,
    due: i64,
    key: Option<String>,
    partition: Option<String>,
    lease: Option<(String, i64)>,
    cancel: Option<String>,
    reason: Option<String>,
    parents_left: u64,
    history: Option<String>,
    unserved: Option<Unserved>,
}

impl Facts {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let holder: Option<String> = row.get(7)?;
        let until: Option<i64> = row.get(8)?;
        Ok(Self {
            id: row.get(0)?,
            queue: row.get(1)?,
            state: state_of(row.get(2)?).unwrap_or(JobState::Dead),
            priority: row.get(3)?,
            due: row.get(4)?,
            key: row.get(5)?,
            partition: row.get(6)?,
            lease: until.map(|until| (holder.unwrap_or_default(), until)),
            cancel: row.get(9)?,
            reason: row.get(10)?,
            parents_left: row.get(11)?,
            history: row.get(12)?,
            unserved: unserved(row.get(13)?, row.get(14)?),
        })
    }

    fn last_reason(&self) -> Option<String> {
        let history: Vec<AttemptRecord> = self
            .history
            .as_ref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        history.last().map(|record| record.reason.clone())
    }
}

impl Store<'_> {
    pub(super) fn why(&self, id: &JobId) -> Result<Option<Explanation>, Error> {
        let sql = "SELECT id, queue, state, priority, due, key, partition, holder, lease_until, \
            cancel, reason, parents_left, history, unserved, unserved_at
                   FROM brigade_jobs WHERE id = ?1";
        let Some(job) = self.row("look up a job", sql, params![row_id(id)], Facts::read)? else {
            return Ok(None);
        };
        let mut reasons = match job.state {
            JobState::Leased => vec![self.running(&job)],
            JobState::Done | JobState::Dead | JobState::Cancelled => vec![Blocker::Ended {
                reason: job.reason.clone(),
            }],
            JobState::Scheduled | JobState::Retrying => vec![Blocker::NotDue {
                due: time(job.due),
                last: job.last_reason(),
            }],
            JobState::Blocked if job.parents_left > 0 => vec![self.flow(&job)?],
            JobState::Blocked => self.key(&job)?.into_iter().collect(),
            JobState::Ready => self.limits(&job)?,
        };
        if job.state != JobState::Leased && !job.state.is_terminal() {
            reasons.extend(
                job.unserved
                    .map(|given_back| Blocker::Unserved { given_back }),
            );
            if self.settings(&job.queue)?.paused {
                reasons.push(Blocker::Paused);
            }
            if !self.has_consumer(&job.queue)? {
                reasons.push(Blocker::NoConsumer {
                    since: super::asks::ASKED_WITHIN,
                });
            }
        }
        Ok(Some(Explanation::new(
            id.clone(),
            job.queue,
            job.state,
            reasons,
        )))
    }

    fn running(&self, job: &Facts) -> Blocker {
        let (holder, until) = job.lease.clone().unwrap_or_default();
        let lease_left = Duration::from_millis(u64::try_from(until - self.now.boot).unwrap_or(0));
        Blocker::Running {
            holder,
            lease_left,
            cancel: job.cancel.clone(),
        }
    }

    fn key(&self, job: &Facts) -> Result<Option<Blocker>, Error> {
        let Some(key) = &job.key else { return Ok(None) };
        let sql = "SELECT id, state FROM brigade_jobs WHERE queue = ?1 AND key = ?2 AND state < 5 \
            AND id <> ?3 AND (id < ?3 OR state = 3)
                   ORDER BY id LIMIT 1";
        let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let holding = self.row(
            "find what holds a key",
            sql,
            params![job.queue, key, job.id],
            read,
        )?;
        Ok(holding.map(|(id, state)| Blocker::Key {
            key: key.clone(),
            job: JobId::new(id.to_string()),
            state: state_of(state).unwrap_or(JobState::Dead),
        }))
    }

    fn flow(&self, job: &Facts) -> Result<Blocker, Error> {
        let sql =
            "SELECT id FROM brigade_jobs WHERE dependent = ?1 AND state < 5 ORDER BY id LIMIT 10";
        let jobs = self.rows("find what a job comes after", sql, params![job.id], |row| {
            row.get::<_, i64>(0)
        })?;
        Ok(Blocker::Flow {
            unsettled: job.parents_left,
            jobs: jobs
                .into_iter()
                .map(|id| JobId::new(id.to_string()))
                .collect(),
        })
    }

    fn limits(&self, job: &Facts) -> Result<Vec<Blocker>, Error> {
        let limits = self.settings(&job.queue)?.limits;
        let partition = job.partition.as_deref().unwrap_or("");
        let mut reasons = Vec::new();
        if let Some(limits) = &limits {
            let gate = self.gate(&job.queue, limits)?;
            reasons.extend(gate.queue_closed());
            reasons.extend(gate.partition_closed(partition));
        }
        let turns = limits.is_some_and(|limits| limits.turns);
        let sql = "SELECT count(*) FROM brigade_jobs WHERE queue = ?1 AND state = 0 AND (priority \
            > ?2 OR (priority = ?2 AND id < ?3))
                     AND (?4 IS NULL OR partition = ?4)";
        let within = turns.then_some(partition);
        let before = self.row(
            "count jobs before",
            sql,
            params![job.queue, job.priority, job.id, within],
            |row| row.get::<_, u64>(0),
        )?;
        reasons.extend(
            before
                .filter(|jobs| *jobs > 0)
                .map(|jobs| Blocker::Behind { jobs }),
        );
        Ok(reasons)
    }
}
