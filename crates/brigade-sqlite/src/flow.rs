//! Flows: jobs that wait for others, and the one place where the end of a job reaches its
//! dependents.
//!
//! A job that waits is held with `parents_left` > 0: so many of its parents, the jobs whose
//! `dependent` it is, are not settled for good. The transaction that settles a member counts it and
//! keeps what it leaves in `brigade_parent_results`: its result, if that is handed on, or why it is
//! *missed*, if it ended otherwise than done. When the last one is counted the job goes on, or is a
//! dead letter if one was missed (`finally` goes on in any case). That is an end like any other and
//! reaches the next dependents in turn, in a loop: a flow may be long. What is too long for one
//! transaction is noted and goes on in the next (`flow_ends`).
//!
//! A job that was not run has `missed` > 0 and keeps what was gathered. Retrying the member at
//! fault takes its end back, so that all those behind it wait again (`flow_retries`).
//!
//! An id of a job that waits is greater than those of its parents, and a key's jobs go in the order
//! of their ids, so nothing waits in a circle.

use rusqlite::{Row, params};

use super::flow_retries::MemberLink;
use super::job_change::{Cause, ChangedJob};
use super::look::state_of;
use super::parent_results::{DependencyResult, hands_on};
use super::push::{begins_by, due_of};
use super::store::{Store, millis};
use crate::error::{Error, ErrorKind};
use crate::job::{DependentKind, Job, JobState};
use brigade_core::JobEventKind;
use brigade_core::options::Options;
use brigade_core::store::PushOutcome;

/// A job that ended, as far as others want to know.
pub(super) struct EndedJob {
    pub(super) id: i64,
    queue: String,
    key: Option<String>,
    pub(super) dependent: Option<i64>,
    pub(super) place: Option<i64>,
    parents: i64,
    task: Option<String>,
    pub(super) state: Option<JobState>,
}

impl EndedJob {
    pub(super) const COLUMNS: &str = "id, queue, key, dependent, place, parents, task, state";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            queue: row.get(1)?,
            key: row.get(2)?,
            dependent: row.get(3)?,
            place: row.get(4)?,
            parents: row.get(5)?,
            task: row.get(6)?,
            state: state_of(row.get(7)?),
        })
    }

    pub(super) fn link(&self, dependent: i64) -> MemberLink {
        MemberLink {
            job: self.id,
            dependent,
            place: self.place,
        }
    }

    /// The job for its event.
    pub(super) fn changed(&self, state: Option<JobState>) -> ChangedJob<'_> {
        ChangedJob {
            id: self.id,
            queue: &self.queue,
            task: self.task.as_deref(),
            state,
        }
    }
}

/// A job whose parents are all settled.
pub(super) struct ReadyDependent {
    pub(super) id: i64,
    pub(super) missed: i64,
    pub(super) dependent_kind: DependentKind,
}

impl Store<'_> {
    /// Stores jobs in this order, and how they stand in a flow.
    pub(super) fn push_all(&self, jobs: &[Job]) -> Result<Vec<PushOutcome>, Error> {
        let pushed = jobs
            .iter()
            .map(|job| self.push(job))
            .collect::<Result<Vec<PushOutcome>, Error>>()?;
        let is_flow = jobs.iter().any(|job| job.link.is_some());
        let empty = if is_flow {
            self.join(jobs, &pushed)?
        } else {
            Vec::new()
        };
        for (job, outcome) in jobs.iter().zip(&pushed) {
            self.note_pushed(job, outcome)?;
        }
        // By now each dependent has the number of its parents.
        empty.into_iter().try_for_each(|group| self.go_on(group))?;
        Ok(pushed)
    }

    /// Gives the jobs of a push their places in their flow. Returns those that wait for none.
    fn join(&self, jobs: &[Job], pushed: &[PushOutcome]) -> Result<Vec<ReadyDependent>, Error> {
        let ids: Vec<i64> = pushed
            .iter()
            .map(|pushed| super::store::row_id(pushed.id()))
            .collect();
        let (mut parents, mut empty) = (vec![0_i64; jobs.len()], Vec::new());
        for (position, (job, pushed)) in jobs.iter().zip(pushed).enumerate() {
            if let PushOutcome::Duplicate(id) = pushed {
                let text = format!(
                    "push a flow: job {id} has the unique key of one of its jobs and is not \
                        settled"
                );
                return Err(Error::new(ErrorKind::Duplicate, text));
            }
            let Some(link) = &job.link else { continue };
            let mut place = None;
            if let Some(next) = link.dependent {
                assert!(
                    next > position && next < jobs.len(),
                    "a dependent stands behind its parents"
                );
                place = Some(parents[next]);
                parents[next] += 1;
            }
            let (next, parents_left) = (link.dependent.map(|next| ids[next]), parents[position]);
            let sql = "UPDATE brigade_jobs SET dependent = ?2, place = ?3, dependent_kind = ?4, parents = ?5, \
                parents_left = ?5,
                         due = CASE WHEN ?4 IS NULL THEN due ELSE 0 END,
                         begins_by = CASE WHEN ?4 IS NULL THEN begins_by END, state = CASE WHEN ?4 \
                         IS NULL THEN state ELSE 2 END
                       WHERE id = ?1";
            self.execute(
                "join a job to its flow",
                sql,
                params![
                    ids[position],
                    next,
                    place,
                    link.dependent_kind.map(DependentKind::name),
                    parents_left
                ],
            )?;
            if let (Some(dependent_kind), 0) = (link.dependent_kind, parents_left) {
                empty.push(ReadyDependent {
                    id: ids[position],
                    missed: 0,
                    dependent_kind,
                });
            }
        }
        Ok(empty)
    }

    /// Lets those go on that wait for a job that ended: the next of its key, and its dependent in
    /// its flow, unless that happened before (`None`).
    pub(super) fn ended(
        &self,
        ended: &EndedJob,
        fate: Option<&DependencyResult<'_>>,
    ) -> Result<(), Error> {
        if let Some(key) = &ended.key {
            self.release_key(&ended.queue, key)?;
        }
        if ended.parents > 0 {
            self.forget_parent_results(ended.id)?;
        }
        match (ended.dependent, fate) {
            (Some(dependent), Some(fate)) => self.count_and_go_on(&ended.link(dependent), fate),
            _ => Ok(()),
        }
    }

    /// Counts a parent that ended with the job that waits for it, which goes on if it was the last.
    pub(super) fn count_and_go_on(
        &self,
        link: &MemberLink,
        fate: &DependencyResult<'_>,
    ) -> Result<(), Error> {
        match self.count_parent(link, fate)? {
            Some(complete) => self.go_on(complete),
            None => Ok(()),
        }
    }

    /// Counts a parent that ended; gives its dependent when it was the last.
    fn count_parent(
        &self,
        link: &MemberLink,
        fate: &DependencyResult<'_>,
    ) -> Result<Option<ReadyDependent>, Error> {
        self.take_back_noted(link)?;
        let (next, place) = (link.dependent, link.place);
        let missed = i64::from(matches!(fate, DependencyResult::Missed(_)));
        let sql = "UPDATE brigade_jobs SET parents_left = parents_left - 1, missed = missed + ?2 WHERE id = ?1 \
            AND state = 2 AND parents_left > 0
                   RETURNING parents_left, missed, dependent_kind";
        let read = |row: &Row<'_>| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, Option<String>>(2)?,
            ))
        };
        // It may have been cancelled or removed, or have gone on without this one.
        let Some((parents_left, missed, dependent_kind)) =
            self.row("count a member", sql, params![next, missed], read)?
        else {
            return Ok(None);
        };
        let dependent_kind = dependent_kind_of(dependent_kind.as_deref());
        if dependent_kind != DependentKind::Finally {
            self.keep_parent_result(next, place, dependent_kind, fate)?;
        }
        Ok((parents_left == 0).then_some(ReadyDependent {
            id: next,
            missed,
            dependent_kind,
        }))
    }

    /// A job goes on whose parents are all settled, and then those dependents that this settles;
    /// what is too much for this transaction is noted (`flow_ends`).
    pub(super) fn go_on(&self, first: ReadyDependent) -> Result<(), Error> {
        let mut complete = Some(first);
        while let Some(job) = complete {
            let ended = if job.missed > 0 && job.dependent_kind != DependentKind::Finally {
                Some(self.not_run(job.id)?)
            } else {
                self.hand_on(&job)?
            };
            complete = match ended {
                None => None,
                Some((ended, fate)) => {
                    if let Some(key) = &ended.key {
                        self.release_key(&ended.queue, key)?;
                    }
                    match ended.dependent {
                        Some(next) if self.has_flow_step() => {
                            self.count_parent(&ended.link(next), &fate)?
                        }
                        _ => {
                            self.note_end(&ended, &fate)?;
                            None
                        }
                    }
                }
            };
        }
        Ok(())
    }

    /// Sets a job aside whose parents did not all end well. What was gathered stays, for when they
    /// are retried.
    fn not_run(&self, id: i64) -> Result<(EndedJob, DependencyResult<'static>), Error> {
        let missed = self.missed_parents(id)?;
        let ended = self.set_aside(id, &format!("not run: {missed}"))?;
        Ok((ended, DependencyResult::Missed(missed)))
    }

    fn set_aside(&self, id: i64, reason: &str) -> Result<EndedJob, Error> {
        let sql = format!(
            "UPDATE brigade_jobs SET state = 6, reason = ?2, ended_at = ?3, due = 0 WHERE id = ?1 \
                RETURNING {}",
            EndedJob::COLUMNS
        );
        let values = params![id, reason, self.now.wall];
        let ended = self.row("set a job aside", &sql, values, EndedJob::read)?;
        let ended = ended.ok_or_else(|| {
            Error::new(
                ErrorKind::Protocol,
                format!("set job {id} aside: it is gone"),
            )
        })?;
        let cause = Cause::new(JobEventKind::Dead, Some(reason));
        self.note(&ended.changed(ended.state), &cause)?;
        Ok(ended)
    }

    /// Gives a job what its parents left and lets it go on. Returns how it ended, if that settles
    /// it.
    fn hand_on(
        &self,
        job: &ReadyDependent,
    ) -> Result<Option<(EndedJob, DependencyResult<'static>)>, Error> {
        let id = job.id;
        let sql = "SELECT options, payload FROM brigade_jobs WHERE id = ?1";
        let read = |row: &Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, String>(1)?));
        let Some((options, payload)) = self.row("read a job", sql, params![id], read)? else {
            return Ok(None);
        };
        // What cannot be read is found out when the job is handed out.
        let options: Options = options
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        if hands_on(job.dependent_kind) {
            if self.gathers_in_steps(id)? {
                return Ok(None);
            }
            let text = match self.assemble(id, job.dependent_kind, &payload)? {
                Ok(text) => text,
                // What was gathered stays: another build may allow more.
                Err(why) => {
                    return Ok(Some((
                        self.set_aside(id, &why)?,
                        DependencyResult::missed(id, JobState::Dead, Some(&why)),
                    )));
                }
            };
            self.forget_parent_results(id)?;
            if job.dependent_kind == DependentKind::Barrier {
                return self.raise(id, &options, text).map(Some);
            }
            self.execute(
                "hand results on",
                "UPDATE brigade_jobs SET payload = ?2 WHERE id = ?1",
                params![id, text],
            )?;
        }
        // Its times begin now: the one it has to begin in, and its delay.
        self.execute(
            "set its time",
            "UPDATE brigade_jobs SET began_at = ?2, begins_by = ?3 WHERE id = ?1",
            params![id, self.now.wall, begins_by(&options, &self.now)],
        )?;
        match due_of(&options, &self.now) {
            due if due > self.now.wall => self.enter(id, JobState::Scheduled, due)?,
            _ => self.make_ready(id)?,
        }
        Ok(None)
    }

    /// A group's own job is done with the results of its parents.
    fn raise(
        &self,
        id: i64,
        options: &Options,
        results: String,
    ) -> Result<(EndedJob, DependencyResult<'static>), Error> {
        let remove_at = self
            .now
            .wall
            .saturating_add(millis(options.keep.unwrap_or_default()));
        let sql = format!(
            "UPDATE brigade_jobs SET state = 5, result = ?2, remove_at = ?3, ended_at = ?4 WHERE \
                id = ?1 RETURNING {}",
            EndedJob::COLUMNS
        );
        let ended = self.row(
            "end a group",
            &sql,
            params![id, results, remove_at, self.now.wall],
            EndedJob::read,
        )?;
        let ended = ended.ok_or_else(|| {
            Error::new(ErrorKind::Protocol, format!("end group {id}: it is gone"))
        })?;
        let cause = Cause::new(JobEventKind::Done, None);
        self.note(&ended.changed(ended.state), &cause)?;
        Ok((ended, DependencyResult::Done(Some(results.into()))))
    }

    /// Puts a dead letter back: to be run, or, if it never got what its parents left, to be given
    /// that first.
    pub(super) fn come_back(&self, id: i64, dependent_kind: Option<&str>) -> Result<(), Error> {
        let sql = "SELECT 1 FROM brigade_parent_results WHERE job = ?1";
        let cause = Cause::new(JobEventKind::Retried, None);
        if self
            .row("look for results", sql, params![id], |_| Ok(()))?
            .is_none()
        {
            self.make_ready(id)?;
            return self.note_stored(id, &cause);
        }
        let sql = "UPDATE brigade_jobs SET state = 2 WHERE id = ?1";
        self.execute("wait for results", sql, params![id])?;
        self.note_stored(id, &cause)?;
        self.go_on(ReadyDependent {
            id,
            missed: 0,
            dependent_kind: dependent_kind_of(dependent_kind),
        })
    }
}

pub(super) fn dependent_kind_of(text: Option<&str>) -> DependentKind {
    let all = [
        DependentKind::Front,
        DependentKind::Collect,
        DependentKind::Finally,
        DependentKind::Barrier,
    ];
    all.into_iter()
        .find(|dependent_kind| text == Some(dependent_kind.name()))
        .unwrap_or(DependentKind::Then)
}
