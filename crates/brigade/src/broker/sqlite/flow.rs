//! Flows: jobs that wait for others, and the one place where the end of a job is told to those that
//! wait for it.
//!
//! A job that waits is held with `waits` > 0: so many of its members, the jobs whose `next` it is,
//! are not settled for good. The transaction that settles a member counts it and keeps what it
//! leaves in `brigade_gathered`: its result, if that is handed on, or why it is *missed*, if it
//! ended otherwise than done. When the last one is counted the job goes on, or is a dead letter if
//! one was missed (`finally` goes on in any case). That is an end like any other and told to the
//! next in turn, in a loop: a flow may be long.
//!
//! A job that was not run has `missed` > 0 and keeps what was gathered. Retrying the member at
//! fault takes its end back, so that all those behind it wait again.
//!
//! An id of a job that waits is greater than those of its members, and a key's jobs go in the order
//! of their ids, so nothing waits in a circle.

use std::borrow::Cow;

use rusqlite::{Row, params};

use super::PAYLOAD_BYTES_MAX;
use super::store::{Store, due_of, millis};
use crate::broker::Pushed;
use crate::error::{Error, ErrorKind};
use crate::job::{Gather, Job, JobOptions, JobState};

/// Bytes of what is told of one missed member, and how many of them are named.
const MISSED_BYTES_MAX: usize = 300;
const MISSED_NAMED_MAX: i64 = 3;

/// A job that ended, as far as others want to know.
pub(super) struct Ended {
    pub(super) id: i64,
    queue: String,
    key: Option<String>,
    next: Option<i64>,
    place: Option<i64>,
    members: i64,
}

impl Ended {
    pub(super) const COLUMNS: &str = "id, queue, key, next, place, members";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            queue: row.get(1)?,
            key: row.get(2)?,
            next: row.get(3)?,
            place: row.get(4)?,
            members: row.get(5)?,
        })
    }
}

/// What a job that ended is to the one that waits for it.
pub(super) enum Fate<'a> {
    /// Done, with this result, JSON text.
    Done(Option<Cow<'a, str>>),
    /// Not done, as in "job 17 before it is dead: ..".
    Missed(String),
}

impl Fate<'_> {
    pub(super) fn missed(id: i64, state: JobState, reason: Option<&str>) -> Self {
        let ended = if state == JobState::Cancelled {
            "was cancelled"
        } else {
            "is dead"
        };
        Self::Missed(reason.map_or_else(
            || format!("job {id} before it {ended}"),
            |reason| format!("job {id} before it {ended}: {reason}"),
        ))
    }

    pub(super) fn removed(id: i64) -> Self {
        Self::Missed(format!("job {id} before it was removed"))
    }
}

/// A job whose members are all settled.
struct Complete {
    id: i64,
    missed: i64,
    gather: Gather,
}

impl Store<'_> {
    /// Stores jobs in this order, and how they stand in a flow.
    pub(super) fn push_all(&self, jobs: &[Job]) -> Result<Vec<Pushed>, Error> {
        let pushed = jobs
            .iter()
            .map(|job| self.push(job))
            .collect::<Result<Vec<Pushed>, Error>>()?;
        if jobs.iter().any(|job| job.link.is_some()) {
            self.join(jobs, &pushed)?;
        }
        Ok(pushed)
    }

    fn join(&self, jobs: &[Job], pushed: &[Pushed]) -> Result<(), Error> {
        let ids: Vec<i64> = pushed
            .iter()
            .map(|pushed| super::store::row_id(pushed.id()))
            .collect();
        let (mut members, mut empty) = (vec![0_i64; jobs.len()], Vec::new());
        for (position, (job, pushed)) in jobs.iter().zip(pushed).enumerate() {
            if let Pushed::Duplicate(id) = pushed {
                let text = format!(
                    "push a flow: job {id} has the unique mark of one of its jobs and is not \
                        settled"
                );
                return Err(Error::new(ErrorKind::Duplicate, text));
            }
            let Some(link) = &job.link else { continue };
            let mut place = None;
            if let Some(next) = link.next {
                assert!(
                    next > position && next < jobs.len(),
                    "whoever waits stands behind its members"
                );
                place = Some(members[next]);
                members[next] += 1;
            }
            let (next, waits) = (link.next.map(|next| ids[next]), members[position]);
            let sql = "UPDATE brigade_jobs SET next = ?2, place = ?3, gather = ?4, members = ?5, \
                waits = ?5,
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
                    link.gather.map(Gather::name),
                    waits
                ],
            )?;
            if let (Some(gather), 0) = (link.gather, waits) {
                empty.push(Complete {
                    id: ids[position],
                    missed: 0,
                    gather,
                });
            }
        }
        // Whoever waits for these knows by now how many it waits for.
        empty.into_iter().try_for_each(|group| self.go_on(group))
    }

    /// Tells those that wait for a job that it ended: the next of its key, and the next of its
    /// flow, unless that was told before (`None`).
    pub(super) fn ended(&self, ended: &Ended, fate: Option<&Fate<'_>>) -> Result<(), Error> {
        if let Some(key) = &ended.key {
            self.release_key(&ended.queue, key)?;
        }
        if ended.members > 0 {
            self.forget_gathered(ended.id)?;
        }
        match fate
            .map(|fate| self.count(ended, fate))
            .transpose()?
            .flatten()
        {
            Some(complete) => self.go_on(complete),
            None => Ok(()),
        }
    }

    /// Counts a member that ended with the job that waits for it; gives that one when it was the
    /// last.
    fn count(&self, ended: &Ended, fate: &Fate<'_>) -> Result<Option<Complete>, Error> {
        let Some(next) = ended.next else {
            return Ok(None);
        };
        let missed = i64::from(matches!(fate, Fate::Missed(_)));
        let sql = "UPDATE brigade_jobs SET waits = waits - 1, missed = missed + ?2 WHERE id = ?1 \
            AND state = 2 AND waits > 0
                   RETURNING waits, missed, gather";
        let read = |row: &Row<'_>| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, Option<String>>(2)?,
            ))
        };
        // It may have been cancelled or removed, or have gone on without this one.
        let Some((waits, missed, gather)) =
            self.row("count a member", sql, params![next, missed], read)?
        else {
            return Ok(None);
        };
        let gather = gather_of(gather.as_deref());
        let (result, reason) = match fate {
            Fate::Done(result) => (result.as_deref().filter(|_| hands_on(gather)), None),
            Fate::Missed(reason) => (
                None,
                Some(&reason[..reason.floor_char_boundary(MISSED_BYTES_MAX)]),
            ),
        };
        if gather != Gather::Finally && (hands_on(gather) || reason.is_some()) {
            let sql = "INSERT OR REPLACE INTO brigade_gathered (job, place, result, missed) VALUES \
                (?1, ?2, ?3, ?4)";
            self.execute(
                "keep what a member leaves",
                sql,
                params![next, ended.place, result, reason],
            )?;
        }
        Ok((waits == 0).then_some(Complete {
            id: next,
            missed,
            gather,
        }))
    }

    /// A job goes on whose members are all settled, and whoever that settles in turn.
    fn go_on(&self, first: Complete) -> Result<(), Error> {
        let mut complete = Some(first);
        while let Some(job) = complete {
            let told = if job.missed > 0 && job.gather != Gather::Finally {
                Some(self.not_run(job.id)?)
            } else {
                self.hand_on(&job)?
            };
            complete = match told {
                None => None,
                Some((ended, fate)) => {
                    if let Some(key) = &ended.key {
                        self.release_key(&ended.queue, key)?;
                    }
                    self.count(&ended, &fate)?
                }
            };
        }
        Ok(())
    }

    /// Sets a job aside whose members did not all end well. What was gathered stays, for when they
    /// are retried.
    fn not_run(&self, id: i64) -> Result<(Ended, Fate<'static>), Error> {
        let sql = "SELECT missed FROM brigade_gathered WHERE job = ?1 AND missed IS NOT NULL ORDER \
            BY place LIMIT ?2";
        let named = self.rows(
            "read why members were missed",
            sql,
            params![id, MISSED_NAMED_MAX],
            |row| row.get::<_, String>(0),
        )?;
        let sql = "SELECT missed FROM brigade_jobs WHERE id = ?1";
        let all = self
            .row("count missed members", sql, params![id], |row| {
                row.get::<_, i64>(0)
            })?
            .unwrap_or(0);
        let mut missed = named.join("; ");
        if all > MISSED_NAMED_MAX {
            missed.push_str(&format!("; and {} more", all - MISSED_NAMED_MAX));
        }
        let ended = self.set_aside(id, &format!("not run: {missed}"))?;
        Ok((ended, Fate::Missed(missed)))
    }

    fn set_aside(&self, id: i64, reason: &str) -> Result<Ended, Error> {
        let sql = format!(
            "UPDATE brigade_jobs SET state = 6, reason = ?2, due = 0 WHERE id = ?1 RETURNING {}",
            Ended::COLUMNS
        );
        let ended = self.row("set a job aside", &sql, params![id, reason], Ended::read)?;
        ended.ok_or_else(|| {
            Error::new(
                ErrorKind::Protocol,
                format!("set job {id} aside: it is gone"),
            )
        })
    }

    /// Gives a job what its members left and lets it go on. If that settles it, says so.
    fn hand_on(&self, job: &Complete) -> Result<Option<(Ended, Fate<'static>)>, Error> {
        let id = job.id;
        let sql = "SELECT options, payload FROM brigade_jobs WHERE id = ?1";
        let read = |row: &Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, String>(1)?));
        let Some((options, payload)) = self.row("read a job", sql, params![id], read)? else {
            return Ok(None);
        };
        // What cannot be read is found out when the job is handed out.
        let options: JobOptions = options
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        if hands_on(job.gather) {
            let text = match self.assemble(job, &payload)? {
                Ok(text) => text,
                // What was gathered stays: another build may allow more.
                Err(why) => {
                    return Ok(Some((
                        self.set_aside(id, &why)?,
                        Fate::missed(id, JobState::Dead, Some(&why)),
                    )));
                }
            };
            self.forget_gathered(id)?;
            if job.gather == Gather::Barrier {
                return self.raise(id, &options, text).map(Some);
            }
            self.execute(
                "hand results on",
                "UPDATE brigade_jobs SET payload = ?2 WHERE id = ?1",
                params![id, text],
            )?;
        }
        // Its times begin now: the one it has to begin in, and its delay.
        if let Some(by) = self.begins_by(&options) {
            self.execute(
                "set its time",
                "UPDATE brigade_jobs SET begins_by = ?2 WHERE id = ?1",
                params![id, by],
            )?;
        }
        match due_of(&options, &self.now) {
            due if due > self.now.wall => self.enter(id, JobState::Scheduled, due)?,
            _ => self.make_ready(id)?,
        }
        Ok(None)
    }

    /// The payload of a job that is given results, or the result of a barrier; why there can be
    /// none, otherwise.
    fn assemble(&self, job: &Complete, payload: &str) -> Result<Result<String, String>, Error> {
        let sql = "SELECT coalesce(sum(length(CAST(coalesce(result, 'null') AS BLOB)) + 1), 0) \
            FROM brigade_gathered WHERE job = ?1";
        let bytes = self
            .row("measure results", sql, params![job.id], |row| {
                row.get::<_, i64>(0)
            })?
            .unwrap_or(0);
        let bytes = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .saturating_add(payload.len() + 2);
        if bytes > PAYLOAD_BYTES_MAX {
            return Ok(Err(format!(
                "the results of those it waited for have {bytes} bytes and {PAYLOAD_BYTES_MAX} are \
                    allowed"
            )));
        }
        let sql =
            "SELECT coalesce(result, 'null') FROM brigade_gathered WHERE job = ?1 ORDER BY place";
        let results = self
            .rows("gather results", sql, params![job.id], |row| {
                row.get::<_, String>(0)
            })?
            .join(",");
        if job.gather == Gather::Barrier {
            return Ok(Ok(format!("[{results}]")));
        }
        let Some(rest) = payload.trim().strip_prefix('[') else {
            return Ok(Err(
                "its payload is no array, so no result can be put in front".to_owned(),
            ));
        };
        let comma = if rest.trim_start().starts_with(']') {
            ""
        } else {
            ","
        };
        Ok(Ok(if job.gather == Gather::Front {
            format!("[{results}{comma}{rest}")
        } else {
            format!("[[{results}]{comma}{rest}")
        }))
    }

    /// A group's own job is done with the results of its members.
    fn raise(
        &self,
        id: i64,
        options: &JobOptions,
        results: String,
    ) -> Result<(Ended, Fate<'static>), Error> {
        let remove_at = self
            .now
            .wall
            .saturating_add(millis(options.keep.unwrap_or_default()));
        let sql = format!(
            "UPDATE brigade_jobs SET state = 5, result = ?2, remove_at = ?3 WHERE id = ?1 \
                RETURNING {}",
            Ended::COLUMNS
        );
        let ended = self.row(
            "end a group",
            &sql,
            params![id, results, remove_at],
            Ended::read,
        )?;
        let ended = ended.ok_or_else(|| {
            Error::new(ErrorKind::Protocol, format!("end group {id}: it is gone"))
        })?;
        Ok((ended, Fate::Done(Some(results.into()))))
    }

    fn forget_gathered(&self, id: i64) -> Result<(), Error> {
        self.execute(
            "forget what was gathered",
            "DELETE FROM brigade_gathered WHERE job = ?1",
            params![id],
        )
        .map(drop)
    }

    /// Takes the end of a dead letter back with those behind it: they wait for it again. Before it
    /// is itself put back.
    pub(super) fn take_back(&self, id: i64) -> Result<(), Error> {
        let mut member = id;
        loop {
            let sql = "SELECT member.place, job.id, job.state, job.queue, job.mark FROM \
                brigade_jobs AS member JOIN brigade_jobs AS job ON job.id = member.next
                       WHERE member.id = ?1 AND job.missed > 0 AND (job.state = 2 AND job.waits > \
                       0 OR job.state = 6 AND job.gather <> 'finally')";
            let read = |row: &Row<'_>| {
                let behind = (
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, String>(3)?,
                    row.get::<_, Option<String>>(4)?,
                );
                Ok((row.get::<_, Option<i64>>(0)?, behind))
            };
            let found = self.row("look for who waited", sql, params![member], read)?;
            let Some((place, (next, state, queue, mark))) = found else {
                return Ok(());
            };
            if state == 6 {
                self.check_mark(next, &queue, mark.as_deref())?;
            }
            let sql = "UPDATE brigade_jobs SET state = 2, waits = waits + 1, missed = missed - 1, \
                reason = NULL WHERE id = ?1";
            self.execute("wait again", sql, params![next])?;
            self.execute(
                "forget a member",
                "DELETE FROM brigade_gathered WHERE job = ?1 AND place = ?2",
                params![next, place],
            )?;
            if state != 6 {
                return Ok(());
            }
            member = next;
        }
    }

    /// Puts a dead letter back: to be run, or, if it never got what its members left, to be given
    /// that first.
    pub(super) fn come_back(&self, id: i64, gather: Option<&str>) -> Result<(), Error> {
        let sql = "SELECT 1 FROM brigade_gathered WHERE job = ?1";
        match self.row("look for results", sql, params![id], |_| Ok(()))? {
            Some(()) => self.go_on(Complete {
                id,
                missed: 0,
                gather: gather_of(gather),
            }),
            None => self.make_ready(id),
        }
    }
}

/// Whether it is given the results of its members.
fn hands_on(gather: Gather) -> bool {
    matches!(gather, Gather::Front | Gather::Collect | Gather::Barrier)
}

fn gather_of(text: Option<&str>) -> Gather {
    let all = [
        Gather::Front,
        Gather::Collect,
        Gather::Finally,
        Gather::Barrier,
    ];
    all.into_iter()
        .find(|gather| text == Some(gather.name()))
        .unwrap_or(Gather::Then)
}
