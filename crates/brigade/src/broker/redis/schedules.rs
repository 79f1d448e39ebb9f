//! Schedules: each is with its queue, so that its jobs and its step to the next tick are one script. Two keys of no queue help to find
//! them: which queue a schedule is of, and when each wants to be looked at. They are hints: what counts is with the queue.

use std::time::{Duration, Instant};

use redis::{Value, cmd, pipe};

use super::arguments::Arguments;
use super::link::{Link, id_of, key, scripts};
use super::push::write_fields;
use super::queue::{check_name, read};
use crate::broker::{Ordered, View};
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::schedule::{Plan, Schedule, tell_skipped, time_of};
use crate::sync::lock;

/// Name -> queue.
const SCHEDULES: &str = "brigade:schedules";
/// Names by when they want to be looked at.
const TICKS: &str = "brigade:ticks";
/// So often it is asked at least when the next tick is: another process may have brought a schedule.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Schedules that one look fires; others are fired by the next.
const FIRED_MAX: usize = 100;
/// A schedule that cannot be fired is looked at again after this time: a later version of this library may know it.
const PUT_OFF_MILLIS: i64 = 60_000;

/// What was heard of the next tick.
#[derive(Clone, Copy)]
pub(super) struct NextTick {
    asked: Instant,
    /// How far a test had moved the clock.
    moved: (Duration, i64),
    /// In how long it was.
    next: Option<Duration>,
}

/// A schedule as it is stored with its queue.
struct Stored {
    queue: String,
    plan: String,
    job: String,
    tick: String,
}

impl Stored {
    fn schedule(&self, name: &str) -> Result<Schedule, Error> {
        let unreadable = |e| Error::new(ErrorKind::Decode, format!("read the schedule {name:?}: {e}")).with_source(e);
        let plan: Plan = serde_json::from_str(&self.plan).map_err(unreadable)?;
        let job: Job = serde_json::from_str(&self.job).map_err(unreadable)?;
        Ok(Schedule { name: name.into(), plan, job })
    }

    fn tick(&self) -> i64 {
        self.tick.parse().unwrap_or(0)
    }
}

fn write(name: &str, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::new(ErrorKind::Encode, format!("write the schedule {name:?}: {e}")).with_source(e))
}

impl Link {
    /// Stores a schedule. If the ticks are those of the one that is there, its next one stays, due or not.
    pub(super) async fn schedule(&self, schedule: &Schedule) -> Result<Ordered, Error> {
        let name = &*schedule.name;
        check_name(&schedule.job.queue)?;
        loop {
            let known = self.stored(name).await?;
            if let Some(other) = known.as_ref().filter(|known| known.queue != *schedule.job.queue) {
                self.change(name, Some(other), None, &[]).await?;
                continue;
            }
            let same =
                known.as_ref().filter(|known| known.schedule(name).is_ok_and(|known| known.plan.recurrence == schedule.plan.recurrence));
            let tick = match same {
                Some(known) => known.tick(),
                None => schedule.plan.after(self.now().await?)?,
            };
            let new = Stored {
                queue: schedule.job.queue.to_string(),
                plan: write(name, &schedule.plan)?,
                job: write(name, &schedule.job)?,
                tick: tick.to_string(),
            };
            if self.change(name, known.as_ref(), Some(&new), &[]).await?.is_some() {
                self.list_queue(&new.queue).await?;
                return Ok(Ordered::Scheduled(time_of(tick)));
            }
        }
    }

    pub(super) async fn unschedule(&self, name: &str) -> Result<Ordered, Error> {
        loop {
            let Some(known) = self.stored(name).await? else { return Ok(Ordered::Nothing) };
            if self.change(name, Some(&known), None, &[]).await?.is_some() {
                return Ok(Ordered::Changed(1));
            }
        }
    }

    pub(super) async fn schedules(&self) -> Result<View, Error> {
        let mut names: Vec<String> = self.ask("list schedules", cmd("HKEYS").arg(SCHEDULES)).await?;
        names.sort();
        let mut schedules = Vec::new();
        for name in names {
            let Some(stored) = self.stored(&name).await? else { continue };
            match stored.schedule(&name) {
                Ok(schedule) => schedules.push(schedule.into_scheduled(time_of(stored.tick()))),
                Err(error) => tracing::warn!(%error, "left a schedule out of a list"),
            }
        }
        Ok(View::Schedules(schedules))
    }

    /// Pushes the jobs of all ticks that are due; also says in how long another is.
    pub(super) async fn fire_schedules(&self) -> Result<Option<Duration>, Error> {
        let clock = self.clock_moved();
        if let Some(NextTick { asked, moved, next }) = *lock(&self.next_tick)
            && moved == clock
            && asked.elapsed() < next.unwrap_or(ASK_EVERY).min(ASK_EVERY)
        {
            return Ok(next.map(|next| next.saturating_sub(asked.elapsed())));
        }
        let now = self.now().await?;
        let mut due = cmd("ZRANGEBYSCORE");
        due.arg(TICKS).arg("-inf").arg(now).arg("LIMIT").arg(0).arg(FIRED_MAX);
        let due: Vec<String> = self.ask("find due schedules", &due).await?;
        for name in &due {
            self.fire(name, now).await?;
        }
        let first: Vec<(String, i64)> = self.ask("find the next tick", cmd("ZRANGE").arg(TICKS).arg(0).arg(0).arg("WITHSCORES")).await?;
        let next = first.first().map(|(_, at)| Duration::from_millis(u64::try_from(at - now).unwrap_or(0)));
        *lock(&self.next_tick) = Some(NextTick { asked: Instant::now(), moved: clock, next });
        Ok(next)
    }

    async fn fire(&self, name: &str, now: i64) -> Result<(), Error> {
        let Some(stored) = self.stored(name).await? else {
            return self.ask("forget a schedule", cmd("ZREM").arg(TICKS).arg(name)).await;
        };
        let due = stored.schedule(name).and_then(|schedule| {
            let due = schedule.plan.due(stored.tick(), now)?;
            Ok((schedule, due))
        });
        let (schedule, due) = match due {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(schedule = name, %error, "could not fire a schedule; trying again in a minute");
                return self.ask("put a schedule off", cmd("ZADD").arg(TICKS).arg(now + PUT_OFF_MILLIS).arg(name)).await;
            }
        };
        due.tell(name, &schedule.plan);
        let jobs: Vec<Job> = due.fire.iter().map(|tick| schedule.job_of(*tick)).collect();
        let next = Stored { tick: due.next.to_string(), plan: stored.plan.clone(), job: stored.job.clone(), queue: stored.queue.clone() };
        // Somebody else has fired it, or it was changed: then the next look finds it as it is.
        let known = self.change(name, Some(&stored), Some(&next), &jobs).await?.unwrap_or_default();
        for (tick, number) in due.fire.iter().zip(known).filter(|(_, number)| !number.is_empty()) {
            tell_skipped(name, *tick, &id_of(&stored.queue, &number));
        }
        Ok(())
    }

    /// Puts a schedule in the place of the one that was seen, and pushes jobs; `None` if it is another by now.
    async fn change(&self, name: &str, seen: Option<&Stored>, new: Option<&Stored>, jobs: &[Job]) -> Result<Option<Vec<String>>, Error> {
        let Some(queue) = new.or(seen).map(|stored| stored.queue.as_str()) else { return Ok(None) };
        let mut arguments = Arguments::default();
        arguments.push(name);
        let mut push = |of: Option<&Stored>, part: fn(&Stored) -> &str| arguments.push(of.map_or("", part));
        push(seen, |it| &it.plan);
        push(seen, |it| &it.tick);
        push(new, |it| &it.plan);
        push(new, |it| &it.job);
        push(new, |it| &it.tick);
        for job in jobs {
            arguments.push(job.options.unique.as_deref().unwrap_or(""));
            write_fields(job, true, &mut arguments)?;
        }
        // The hint first: if all ends here, it leads to a schedule that is not due, or to none, and is put right.
        if let Some(new) = new {
            let mut pipeline = pipe();
            pipeline.hset(SCHEDULES, name, queue).zadd(TICKS, name, new.tick());
            if seen.is_none() {
                self.ask_all::<()>("store a schedule", &pipeline).await?;
            }
        }
        let answer: Vec<Value> = self.run("change a schedule", scripts::schedule(), queue, arguments).await?;
        let mut answer = answer.into_iter();
        let is_done: i64 = read(answer.next().unwrap_or(Value::Nil))?;
        let mut pipeline = pipe();
        match new {
            _ if is_done == 0 => {}
            Some(new) => {
                pipeline.hset(SCHEDULES, name, queue).zadd(TICKS, name, new.tick());
                self.ask_all::<()>("store a schedule", &pipeline).await?;
            }
            None => {
                pipeline.hdel(SCHEDULES, name).zrem(TICKS, name);
                self.ask_all::<()>("remove a schedule", &pipeline).await?;
            }
        }
        *lock(&self.next_tick) = None;
        if is_done == 0 {
            // The hint may be behind what others have done.
            if let Some(known) = self.stored(name).await? {
                self.ask::<()>("look at a schedule", cmd("ZADD").arg(TICKS).arg(known.tick()).arg(name)).await?;
            }
            return Ok(None);
        }
        Ok(Some(answer.map(read).collect::<Result<_, _>>()?))
    }

    async fn stored(&self, name: &str) -> Result<Option<Stored>, Error> {
        let queue: Option<String> = self.ask("look up a schedule", cmd("HGET").arg(SCHEDULES).arg(name)).await?;
        let Some(queue) = queue else { return Ok(None) };
        let mut pipeline = pipe();
        pipeline.hget(key(&queue, "plans"), name).hget(key(&queue, "planned"), name).zscore(key(&queue, "ticks"), name);
        let (plan, job, tick): (Option<String>, Option<String>, Option<String>) = self.ask_all("look up a schedule", &pipeline).await?;
        Ok(match (plan, job, tick) {
            (Some(plan), Some(job), Some(tick)) => Some(Stored { queue, plan, job, tick }),
            _ => None,
        })
    }
}
