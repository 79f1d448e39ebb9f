//! Schedules: each is with its queue, so that its jobs and its step to the next tick are one
//! script.
//!
//! Two keys of no queue help to find them: which queue a schedule is of, and when each wants to be
//! looked at. They are hints: what counts is with the queue.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{Pipeline, Value, cmd, pipe};

use super::arguments::Arguments;
use super::client::RedisClient;
use super::keys::{check_name, id_of, key};
use super::next_tick::NextTick;
use super::push::write_fields;
use super::reply::read;
use super::script_error::is_incoming;
use super::scripts;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::schedule::{Schedule, SchedulePlan, Scheduled, tell_skipped, time_of};
use crate::sync::lock;

/// Name -> queue.
const SCHEDULES: &str = "brigade:schedules";
/// Names by when they want to be looked at.
const TICKS: &str = "brigade:ticks";
/// Schedules that one look fires; others are fired by the next.
const FIRED_MAX: usize = 100;
/// A schedule that cannot be fired is looked at again after this time: a later version of this
/// library may know it.
const PUT_OFF: Duration = Duration::from_secs(60);
/// The same where the reason may go by itself, as when the server's memory is full.
const PUT_OFF_SHORT: Duration = Duration::from_secs(2);
const PUT_OFF_MAX: usize = 10_000;

/// A schedule as it is stored with its queue, all in text.
struct ScheduleRecord {
    queue: String,
    plan: String,
    job: String,
    tick: String,
}

impl ScheduleRecord {
    fn schedule(&self, name: &str) -> Result<Schedule, Error> {
        let unreadable = |e| {
            Error::new(
                ErrorKind::Decode,
                format!("read the schedule {name:?}: {e}"),
            )
            .with_source(e)
        };
        let plan: SchedulePlan = serde_json::from_str(&self.plan).map_err(unreadable)?;
        let job: Job = serde_json::from_str(&self.job).map_err(unreadable)?;
        Ok(Schedule {
            name: name.into(),
            plan,
            job,
        })
    }

    fn tick(&self) -> i64 {
        self.tick.parse().unwrap_or(0)
    }
}

fn write(name: &str, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| {
        Error::new(
            ErrorKind::Encode,
            format!("write the schedule {name:?}: {e}"),
        )
        .with_source(e)
    })
}

impl RedisClient {
    /// Stores a schedule. If the ticks are those of the one that is there, its next one stays, due
    /// or not; so does its pause.
    pub(super) async fn schedule(&self, schedule: &Schedule) -> Result<Scheduled, Error> {
        let mut schedule = schedule.clone();
        let name = &*schedule.name;
        check_name(&schedule.job.queue)?;
        loop {
            let known = self.stored(name).await?;
            let plan = known
                .as_ref()
                .and_then(|known| Some(known.schedule(name).ok()?.plan));
            let same = known.as_ref().filter(|_| {
                let stored = plan.as_ref().map(|plan| &plan.recurrence);
                stored == Some(&schedule.plan.recurrence)
            });
            let tick = match same {
                Some(known) => known.tick(),
                None => schedule
                    .plan
                    .after(self.now_at(&schedule.job.queue).await?)?,
            };
            schedule.plan.paused = plan.is_some_and(|plan| plan.paused);
            let new = ScheduleRecord {
                queue: schedule.job.queue.to_string(),
                plan: write(name, &schedule.plan)?,
                job: write(name, &schedule.job)?,
                tick: tick.to_string(),
            };
            let apart = known
                .as_ref()
                .filter(|known| !self.are_together(&known.queue, &new.queue));
            let changed = match apart {
                // No script can do both.
                Some(other) => {
                    self.change(name, Some(other), None, &[]).await?.is_some()
                        && self.change(name, None, Some(&new), &[]).await?.is_some()
                }
                None => self
                    .change(name, known.as_ref(), Some(&new), &[])
                    .await?
                    .is_some(),
            };
            if changed {
                self.list_queue(&new.queue).await?;
                return Ok(schedule.into_scheduled(time_of(tick)));
            }
        }
    }

    /// Pauses a schedule or ends its pause; whether there is one.
    pub(super) async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool, Error> {
        loop {
            let Some(known) = self.stored(name).await? else {
                return Ok(false);
            };
            let mut plan = known.schedule(name)?.plan;
            let now = self.now_at(&known.queue).await?;
            let tick = plan.set_paused(paused, known.tick(), now)?;
            let new = ScheduleRecord {
                plan: write(name, &plan)?,
                tick: tick.to_string(),
                job: known.job.clone(),
                queue: known.queue.clone(),
            };
            let changed = self.change(name, Some(&known), Some(&new), &[]).await?;
            if changed.is_some() {
                return Ok(true);
            }
        }
    }

    pub(super) async fn unschedule(&self, name: &str) -> Result<bool, Error> {
        loop {
            let Some(known) = self.stored(name).await? else {
                return Ok(false);
            };
            if self.change(name, Some(&known), None, &[]).await?.is_some() {
                return Ok(true);
            }
        }
    }

    pub(super) async fn schedules(&self) -> Result<Vec<Scheduled>, Error> {
        let mut names: Vec<String> = self
            .ask("list schedules", cmd("HKEYS").arg(SCHEDULES))
            .await?;
        names.sort();
        let mut schedules = Vec::new();
        for name in names {
            let Some(stored) = self.stored(&name).await? else {
                continue;
            };
            match stored.schedule(&name) {
                Ok(schedule) => schedules.push(schedule.into_scheduled(time_of(stored.tick()))),
                Err(error) => tracing::warn!(%error, "left a schedule out of a list"),
            }
        }
        Ok(schedules)
    }

    /// Pushes the jobs of all ticks that are due; also says in how long another is. What is wrong
    /// with a schedule, or with the list of them, keeps no other and no hand-out from going on: it
    /// is tried again later.
    pub(super) async fn fire_schedules(&self) -> Option<Duration> {
        let clock = self.clock_moved();
        if let Some(next) = lock(&self.next_tick).as_ref()
            && let Some(due_in) = next.due_in(clock)
        {
            return due_in;
        }
        let next = if self.is_list_away().await {
            None
        } else {
            self.fire_due().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "could not look for due schedules; trying again");
                None
            })
        };
        *lock(&self.next_tick) = Some(NextTick::new(clock, next));
        next
    }

    /// Whether the nodes of a cluster are away that say which schedules there are.
    pub(super) async fn is_list_away(&self) -> bool {
        self.nodes().is_away(TICKS.as_bytes()).await
            || self.nodes().is_away(SCHEDULES.as_bytes()).await
    }

    async fn fire_due(&self) -> Result<Option<Duration>, Error> {
        let now = self.now_of(TICKS.as_bytes()).await?;
        let put_off: HashMap<Box<str>, Instant> = {
            let mut put_off = lock(&self.put_off);
            put_off.retain(|_, until| *until > Instant::now());
            put_off.clone()
        };
        let mut due = cmd("ZRANGEBYSCORE");
        due.arg(TICKS)
            .arg("-inf")
            .arg(now)
            .arg("LIMIT")
            .arg(0)
            .arg(FIRED_MAX + put_off.len());
        let due: Vec<String> = self.ask("find due schedules", &due).await?;
        for name in due
            .iter()
            .filter(|name| !put_off.contains_key(name.as_str()))
            .take(FIRED_MAX)
        {
            if let Err(error) = self.fire(name, now).await {
                if error.kind() == ErrorKind::Unreachable {
                    // Not its fault; a cluster's healthy queues have theirs fired one by one.
                    return Err(error);
                }
                self.put_off(name, &error);
            }
        }
        // One that was fired may be due again, as only so many ticks are made up for at once.
        let put_off: Vec<Box<str>> = lock(&self.put_off).keys().cloned().collect();
        let mut still = cmd("ZRANGEBYSCORE");
        still
            .arg(TICKS)
            .arg("-inf")
            .arg(now)
            .arg("LIMIT")
            .arg(0)
            .arg(put_off.len() + 1);
        let still: Vec<String> = self.ask("find due schedules", &still).await?;
        if still
            .iter()
            .any(|name| !put_off.iter().any(|put_off| **put_off == **name))
        {
            return Ok(Some(Duration::ZERO));
        }
        let mut next = cmd("ZRANGEBYSCORE");
        next.arg(TICKS)
            .arg(format!("({now}"))
            .arg("+inf")
            .arg("WITHSCORES")
            .arg("LIMIT")
            .arg(0)
            .arg(1);
        let next: Vec<(String, i64)> = self.ask("find the next tick", &next).await?;
        Ok(next
            .first()
            .map(|(_, at)| Duration::from_millis(u64::try_from(at - now).unwrap_or(0))))
    }

    /// Has a schedule that cannot be fired wait.
    fn put_off(&self, name: &str, error: &Error) {
        let pause = if error.is_retryable() {
            PUT_OFF_SHORT
        } else {
            PUT_OFF
        };
        tracing::error!(schedule = name, %error, "could not fire a schedule; trying again in \
            {pause:?}");
        let mut put_off = lock(&self.put_off);
        if put_off.len() < PUT_OFF_MAX {
            put_off.insert(name.into(), Instant::now() + pause);
        }
    }

    /// Fires the schedules of a queue whose ticks are due, for a cluster whose list of schedules is
    /// away.
    pub(super) async fn fire_of(&self, queue: &str) -> Result<(), Error> {
        let now = self.now_at(queue).await?;
        let mut due = cmd("ZRANGEBYSCORE");
        due.arg(key(queue, "ticks"))
            .arg("-inf")
            .arg(now)
            .arg("LIMIT")
            .arg(0)
            .arg(FIRED_MAX);
        let due: Vec<String> = self.ask("find due schedules", &due).await?;
        for name in due
            .iter()
            .filter(|name| !lock(&self.put_off).contains_key(name.as_str()))
        {
            let fired = match self.stored_in(queue, name).await {
                Ok(Some(stored)) => self.fire_stored(name, stored, now).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = fired {
                self.put_off(name, &error);
            }
        }
        Ok(())
    }

    async fn fire(&self, name: &str, now: i64) -> Result<(), Error> {
        match self.stored(name).await? {
            Some(stored) => self.fire_stored(name, stored, now).await,
            None => {
                self.ask("forget a schedule", cmd("ZREM").arg(TICKS).arg(name))
                    .await
            }
        }
    }

    async fn fire_stored(&self, name: &str, stored: ScheduleRecord, now: i64) -> Result<(), Error> {
        let schedule = stored.schedule(name)?;
        let due = schedule.plan.due(stored.tick(), now)?;
        due.tell(name, &schedule.plan);
        let jobs: Vec<Job> = due.fire.iter().map(|tick| schedule.job_of(*tick)).collect();
        let next = ScheduleRecord {
            tick: due.next.to_string(),
            plan: stored.plan.clone(),
            job: stored.job.clone(),
            queue: stored.queue.clone(),
        };
        // Another process has fired it, or it was changed: then the next look finds it as it is.
        let known = self
            .change(name, Some(&stored), Some(&next), &jobs)
            .await?
            .unwrap_or_default();
        for (tick, number) in due
            .fire
            .iter()
            .zip(known)
            .filter(|(_, number)| !number.is_empty())
        {
            tell_skipped(name, *tick, &id_of(&stored.queue, &number));
        }
        Ok(())
    }

    /// Puts a schedule in the place of the one that was seen, and pushes jobs; `None` if it is
    /// another by now.
    async fn change(
        &self,
        name: &str,
        seen: Option<&ScheduleRecord>,
        new: Option<&ScheduleRecord>,
        jobs: &[Job],
    ) -> Result<Option<Vec<String>>, Error> {
        let Some(queue) = new.or(seen).map(|stored| stored.queue.as_str()) else {
            return Ok(None);
        };
        let arguments = change_arguments(name, seen, new, jobs)?;
        // The hint first: if all ends here, it leads to a schedule that is not due, or to none, and
        // is put right.
        if let (Some(new), None) = (new, seen) {
            self.ask_all::<()>("store a schedule", &note(name, queue, Some(new)))
                .await?;
        }
        let what = "change a schedule";
        let answer: Vec<Value> = match self
            .run(what, scripts::schedule(), queue, arguments.clone())
            .await
        {
            Err(error) if is_incoming(&error) => {
                self.merge(queue).await?;
                self.run(what, scripts::schedule(), queue, arguments)
                    .await?
            }
            answer => answer?,
        };
        let mut answer = answer.into_iter();
        let is_done = read::<i64>(answer.next().unwrap_or(Value::Nil))? == 1;
        if is_done
            && !self.is_list_away().await
            && let Err(error) = self
                .ask_all::<()>("note a schedule", &note(name, queue, new))
                .await
        {
            // The schedule itself is as it should be. A hint that is behind is put right by the
            // next look.
            tracing::warn!(%error, schedule = name, "could not note when a schedule is due");
        }
        *lock(&self.next_tick) = None;
        if !is_done {
            self.mend_note(name).await?;
            return Ok(None);
        }
        Ok(Some(answer.map(read).collect::<Result<_, _>>()?))
    }

    /// Notes when a schedule is due: the hint may be behind what others have done.
    async fn mend_note(&self, name: &str) -> Result<(), Error> {
        let Some(known) = self.stored(name).await? else {
            return Ok(());
        };
        let mut note = cmd("ZADD");
        note.arg(TICKS).arg(known.tick()).arg(name);
        self.ask("look at a schedule", &note).await
    }

    async fn stored(&self, name: &str) -> Result<Option<ScheduleRecord>, Error> {
        let queue: Option<String> = self
            .ask("look up a schedule", cmd("HGET").arg(SCHEDULES).arg(name))
            .await?;
        match queue {
            Some(queue) => self.stored_in(&queue, name).await,
            None => Ok(None),
        }
    }

    async fn stored_in(&self, queue: &str, name: &str) -> Result<Option<ScheduleRecord>, Error> {
        let mut pipeline = pipe();
        pipeline
            .hget(key(queue, "plans"), name)
            .hget(key(queue, "planned"), name)
            .zscore(key(queue, "ticks"), name);
        let (plan, job, tick): (Option<String>, Option<String>, Option<String>) =
            self.ask_all("look up a schedule", &pipeline).await?;
        Ok(match (plan, job, tick) {
            (Some(plan), Some(job), Some(tick)) => Some(ScheduleRecord {
                queue: queue.to_owned(),
                plan,
                job,
                tick,
            }),
            _ => None,
        })
    }
}

/// What `schedule.lua` wants.
fn change_arguments(
    name: &str,
    seen: Option<&ScheduleRecord>,
    new: Option<&ScheduleRecord>,
    jobs: &[Job],
) -> Result<Arguments, Error> {
    let mut arguments = Arguments::default();
    arguments.push(name);
    let first = seen.or(new).map_or("", |record| record.queue.as_str());
    arguments.push(&key(first, ""));
    let mut push = |of: Option<&ScheduleRecord>, part: fn(&ScheduleRecord) -> &str| {
        arguments.push(of.map_or("", part));
    };
    push(seen, |it| &it.plan);
    push(seen, |it| &it.tick);
    push(new, |it| &it.plan);
    push(new, |it| &it.job);
    push(new, |it| &it.tick);
    for job in jobs {
        arguments.push(job.options.unique.as_deref().unwrap_or(""));
        write_fields(job, true, &mut arguments)?;
    }
    Ok(arguments)
}

/// The hints that lead to a schedule, or their removal.
fn note(name: &str, queue: &str, new: Option<&ScheduleRecord>) -> Pipeline {
    let mut pipeline = pipe();
    match new {
        Some(new) => {
            pipeline
                .hset(SCHEDULES, name, queue)
                .zadd(TICKS, name, new.tick());
        }
        None => {
            pipeline.hdel(SCHEDULES, name).zrem(TICKS, name);
        }
    }
    pipeline
}
