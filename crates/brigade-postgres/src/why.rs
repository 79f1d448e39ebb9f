//! Why a job does not run, by what the hand-out looks at (`schema/why.sql`).

use std::time::{Duration, SystemTime};

use tokio_postgres::Row;

use super::database::{Database, Statement};
use super::look::{state_of, unserved};
use super::schema::ASKED_WITHIN;
use super::settle::number_of;
use super::sql_error::unreadable;
use crate::error::Error;
use crate::job::{AttemptRecord, JobId, JobState};
use brigade_core::why::{Blocker, Explanation};

const WHY: Statement = Statement::read(
    "look why a job does not run",
    "select * from brigade.why($1) where queue is not null",
);

/// What of a job decides; its columns are those of `brigade.why`.
struct BlockerFacts {
    queue: String,
    state: JobState,
    due_at: Option<SystemTime>,
    holder: Option<String>,
    lease_left: Duration,
    cancel: Option<String>,
    reason: Option<String>,
    last_record: Option<String>,
    key: Option<String>,
    key_job: Option<(i64, JobState)>,
    parents_left: u64,
    unsettled: Vec<i64>,
    before: u64,
    is_paused: bool,
    limits: Option<String>,
    partition: Option<String>,
    is_served: bool,
}

impl BlockerFacts {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let left: Option<i64> = row.try_get("lease_left_ms")?;
        let state = |number: i16| state_of(number).unwrap_or(JobState::Dead);
        let key_state: Option<i16> = row.try_get("key_state")?;
        let key_job: Option<i64> = row.try_get("key_job")?;
        let parents_left: Option<i32> = row.try_get("parents_left")?;
        let before: Option<i64> = row.try_get("before")?;
        Ok(Self {
            queue: row.try_get("queue")?,
            state: state(row.try_get("state")?),
            due_at: row.try_get("due_at")?,
            holder: row.try_get("holder")?,
            lease_left: Duration::from_millis(u64::try_from(left.unwrap_or(0)).unwrap_or(0)),
            cancel: row.try_get("cancel")?,
            reason: row.try_get("reason")?,
            last_record: row.try_get("last_record")?,
            key: row.try_get("key")?,
            key_job: key_job.zip(key_state.map(state)),
            parents_left: u64::from(parents_left.unwrap_or(0).unsigned_abs()),
            unsettled: row
                .try_get::<_, Option<_>>("unsettled")?
                .unwrap_or_default(),
            before: before.unwrap_or(0).unsigned_abs(),
            is_paused: row.try_get::<_, Option<_>>("paused")?.unwrap_or(false),
            limits: row.try_get("limits")?,
            partition: row.try_get("partition")?,
            is_served: row.try_get("is_served")?,
        })
    }

    /// What this state of the job means.
    fn blockers_of_state(&self) -> Vec<Blocker> {
        match self.state {
            JobState::Leased => vec![Blocker::Running {
                holder: self.holder.clone().unwrap_or_default(),
                lease_left: self.lease_left,
                cancel: self.cancel.clone(),
            }],
            JobState::Done | JobState::Dead | JobState::Cancelled => vec![Blocker::Ended {
                reason: self.reason.clone(),
            }],
            JobState::Scheduled | JobState::Retrying => vec![Blocker::NotDue {
                due: self.due_at.unwrap_or(SystemTime::UNIX_EPOCH),
                last: self.last_reason(),
            }],
            JobState::Blocked if self.parents_left > 0 => vec![Blocker::Flow {
                unsettled: self.parents_left,
                jobs: self.unsettled.iter().map(job_id).collect(),
            }],
            JobState::Blocked => self.key_blocker().into_iter().collect(),
            JobState::Ready => Vec::new(),
        }
    }

    fn key_blocker(&self) -> Option<Blocker> {
        let (job, state) = self.key_job.as_ref()?;
        Some(Blocker::Key {
            key: self.key.clone()?,
            job: job_id(job),
            state: *state,
        })
    }

    fn last_reason(&self) -> Option<String> {
        let record: AttemptRecord = serde_json::from_str(self.last_record.as_ref()?).ok()?;
        Some(record.reason)
    }
}

fn job_id(number: &i64) -> JobId {
    JobId::new(number.to_string())
}

impl Database {
    pub(super) async fn why(&self, id: &JobId) -> Result<Option<Explanation>, Error> {
        let Some(row) = self.row(WHY, &[&number_of(id)]).await? else {
            return Ok(None);
        };
        let facts = BlockerFacts::read(&row).map_err(|_| unreadable(WHY.what))?;
        let mut reasons = facts.blockers_of_state();
        if let (JobState::Ready, Some(limits)) = (facts.state, &facts.limits) {
            let partition = facts.partition.as_deref().unwrap_or_default();
            let blockers = self.limit_blockers(&facts.queue, limits, partition);
            reasons.extend(blockers.await?);
        }
        if facts.state != JobState::Leased && !facts.state.is_terminal() {
            if facts.before > 0 {
                reasons.push(Blocker::Behind { jobs: facts.before });
            }
            let times: i32 = row.try_get("unserved").unwrap_or(0);
            let since = row.try_get("unserved_at").unwrap_or(None);
            let given_back = unserved(times.unsigned_abs(), since);
            reasons.extend(given_back.map(|given_back| Blocker::Unserved { given_back }));
            if facts.is_paused {
                reasons.push(Blocker::Paused);
            }
            if !facts.is_served {
                reasons.push(Blocker::NoConsumer {
                    since: ASKED_WITHIN,
                });
            }
        }
        let BlockerFacts { queue, state, .. } = facts;
        Ok(Some(Explanation::new(id.clone(), queue, state, reasons)))
    }
}
