//! Handing out jobs, from one queue or ten thousand.
//!
//! A hand-out is one call of `brigade.lease` with the ranges to look at, in order (`floors`). The
//! first queues of a request are looked at one by one. Behind them, one statement finds which
//! queues have ready jobs at all. What is due comes first: at a pace while there are jobs, and
//! always before this says that there are none (`chores`).

use std::time::{Duration, Instant, SystemTime};

use tokio_postgres::Row;

use super::announcements::{Announcement, Heard};
use super::database::{Statement, millis};
use super::floors::IndexRange;
use super::sql_error::unreadable;
use super::store::Postgres;
use crate::clock::{BootTime, later};
use crate::error::Error;
use crate::job::{Job, JobId, Unserved};
use brigade_core::store::{DeliveryMode, Disposition, LeaseRequest, Leased, Queues, Settlement};

const LEASE: Statement = Statement::write(
    "hand out jobs",
    "select * from brigade.lease($1, $2, $3, $4, $5, $6)",
);
const READY_QUEUES: Statement = Statement::read(
    "find queues with ready jobs",
    "select queue from brigade.ready_queues($1) as queue",
);
/// Queues that are looked at one by one, plus two for each job that is asked for.
const DIRECT_QUEUES: usize = 16;
/// Between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// What is looked at in one call.
#[derive(Default)]
struct RangeColumns<'a> {
    queues: Vec<&'a str>,
    priorities: Vec<Option<i32>>,
    floors: Vec<i64>,
}

impl<'a> RangeColumns<'a> {
    fn add(&mut self, queue: &'a str, range: IndexRange) {
        let (priority, floor) = match range {
            IndexRange::Head => (None, 0),
            IndexRange::Behind(priority, floor) => (Some(priority), floor),
        };
        self.queues.push(queue);
        self.priorities.push(priority);
        self.floors.push(floor);
    }
}

/// A row of `brigade.lease`.
enum LeaseRow {
    Look(RangeLook),
    Job(Box<HandedOutJob>),
}

/// A look at a range, by its place among those that were asked for.
struct RangeLook {
    range: usize,
    took: Duration,
}

/// A job as it was handed out.
struct HandedOutJob {
    range: usize,
    /// Among the jobs of its range.
    place: i64,
    priority: i32,
    number: i64,
    /// `Err`: why it can never be run.
    leased: Result<Leased, (i64, String)>,
}

/// Whether an announcement is of new jobs of these queues.
fn is_about(heard: &Announcement, queues: &Queues) -> bool {
    match heard {
        Announcement::Pushed(queue) | Announcement::CameBack(queue) => queues.rank(queue).is_some(),
        Announcement::CancelAsked(_) => false,
        Announcement::ScheduleStored => true,
    }
}

impl Postgres {
    /// Waits for jobs: for an announcement, or for what falls due.
    pub(super) async fn lease_patiently(&self, ask: &LeaseRequest) -> Result<Vec<Leased>, Error> {
        let until = later(Instant::now(), ask.wait);
        if !ask.wait.is_zero() {
            self.database.listen();
        }
        let announcements = &self.database.announcements;
        let mut looks = 0;
        let holder = self.holders.note_own(&self.database).await?;
        while !ask.enough.is_cancelled() {
            self.asks.note(&self.database, holder, &ask.queues).await?;
            self.keep_up_if_due();
            if self.holders.see_to_the_dead(&self.database).await {
                self.floors.want_heads();
            }
            let seen = announcements.last();
            let leased = self.lease_now(ask).await?;
            let left = until.saturating_duration_since(Instant::now());
            if !leased.is_empty() || left.is_zero() {
                return Ok(leased);
            }
            let due_in = self.chores.due_in().unwrap_or(Duration::MAX);
            let pause = due_in.max(PAUSE_MIN).min(announcements.pause(looks));
            looks += 1;
            tokio::select! {
                () = self.database.pass_time(pause.min(left)) => {}
                heard = announcements.next(seen, |heard| is_about(heard, &ask.queues)) => {
                    if heard == Heard::CameBack {
                        self.floors.want_heads();
                    }
                }
                () = ask.enough.cancelled() => {}
            }
        }
        Ok(Vec::new())
    }

    /// Hands out what there is.
    async fn lease_now(&self, ask: &LeaseRequest) -> Result<Vec<Leased>, Error> {
        let did_chores = self.chores.are_due(&self.database.clock);
        if did_chores {
            self.database.do_chores(&self.chores).await?;
        }
        let leased = self.hand_out(ask).await?;
        if !leased.is_empty() || did_chores || !self.chores.are_cheap() {
            return Ok(leased);
        }
        self.database.do_chores(&self.chores).await?;
        self.hand_out(ask).await
    }

    async fn hand_out(&self, ask: &LeaseRequest) -> Result<Vec<Leased>, Error> {
        let direct = ask
            .queues
            .len()
            .min(DIRECT_QUEUES.saturating_add(ask.max.saturating_mul(2)));
        let queues: Vec<&str> = ask
            .queues
            .iter()
            .take(direct)
            .map(|queue| &**queue)
            .collect();
        let mut leased = Vec::new();
        self.hand_out_of(&queues, ask, &mut leased).await?;
        if direct < ask.queues.len() && leased.len() < ask.max {
            let ready = self.ready_queues(&ask.queues, direct).await?;
            let names = ask.queues.names();
            let queues: Vec<&str> = ready
                .into_iter()
                .map(|rank| &*names[ask.queues.place(rank)])
                .collect();
            let at_once = ask.max.saturating_mul(2).max(DIRECT_QUEUES);
            for queues in queues.chunks(at_once) {
                if leased.len() < ask.max {
                    self.hand_out_of(queues, ask, &mut leased).await?;
                }
            }
        }
        Ok(leased)
    }

    /// The ranks, from this one on, of those of these queues that have ready jobs, in order.
    async fn ready_queues(&self, asked: &Queues, from: usize) -> Result<Vec<usize>, Error> {
        let names: Vec<&str> = asked.names().iter().map(|name| &**name).collect();
        let rows = self.database.rows(READY_QUEUES, &[&names]).await?;
        let ranks = rows
            .iter()
            .filter_map(|row| asked.rank(row.try_get(0).ok()?))
            .filter(|rank| *rank >= from);
        let mut ranks: Vec<usize> = ranks.collect();
        ranks.sort_unstable();
        Ok(ranks)
    }

    /// Hands out jobs of these queues, as far as there is room.
    async fn hand_out_of(
        &self,
        queues: &[&str],
        ask: &LeaseRequest,
        leased: &mut Vec<Leased>,
    ) -> Result<(), Error> {
        // Jobs that are set aside leave room for others.
        while leased.len() < ask.max && self.hand_out_once(queues, ask, leased).await? {}
        Ok(())
    }

    /// One call; `true` if another may find more.
    async fn hand_out_once(
        &self,
        queues: &[&str],
        ask: &LeaseRequest,
        leased: &mut Vec<Leased>,
    ) -> Result<bool, Error> {
        let mut ranges = RangeColumns::default();
        for queue in queues {
            let of_queue = self.floors.ranges(queue);
            of_queue
                .into_iter()
                .for_each(|range| ranges.add(queue, range));
        }
        let room = ask.max - leased.len();
        let most = i32::try_from(room).unwrap_or(i32::MAX);
        let (time, holder) = match ask.mode {
            DeliveryMode::Take => (None, None),
            DeliveryMode::Lease(time) => {
                let holder = self.holders.note_own(&self.database).await?;
                (Some(millis(time)), Some(holder))
            }
        };
        let since = BootTime::now();
        let RangeColumns {
            queues: names,
            priorities,
            floors,
        } = &ranges;
        let rows = self
            .database
            .rows(LEASE, &[names, priorities, floors, &most, &time, &holder])
            .await?;
        if let DeliveryMode::Lease(time) = ask.mode {
            self.chores.expect(time);
        }
        let (mut looks, mut found) = (Vec::new(), Vec::new());
        for row in &rows {
            let read = LeaseRow::read(row, names, since);
            match read.ok_or_else(|| unreadable("hand out jobs").uncertain())? {
                LeaseRow::Look(look) => looks.push(look),
                LeaseRow::Job(job) => found.push(*job),
            }
        }
        // The server gives them as its plan finds them.
        found.sort_unstable_by_key(|job| (job.range, job.place));
        self.note_found(&ranges, &looks, &found, found.len() < room);
        let mut was_set_aside = false;
        for job in found {
            match job.leased {
                Ok(job) => leased.push(job),
                Err((token, why)) => {
                    was_set_aside = true;
                    self.set_aside(job.number, token, why).await;
                }
            }
        }
        Ok(was_set_aside)
    }

    fn note_found(
        &self,
        ranges: &RangeColumns<'_>,
        looks: &[RangeLook],
        found: &[HandedOutJob],
        had_room: bool,
    ) {
        for look in looks {
            let of_range: Vec<(i32, i64)> = found
                .iter()
                .filter(|job| job.range == look.range)
                .map(|job| (job.priority, job.number))
                .collect();
            let is_head = ranges.priorities[look.range].is_none();
            let head_took = is_head.then_some(look.took);
            let queue = ranges.queues[look.range];
            self.floors.note(queue, &of_range, had_room, head_took);
        }
    }

    /// A job that can never be run: other programs write to these tables, too.
    async fn set_aside(&self, number: i64, token: i64, why: String) {
        let settlement = Settlement {
            id: JobId::new(number.to_string()),
            token,
            disposition: Disposition::DeadLetter(why),
            answer: None,
        };
        let answers = self.database.settle_together(&[settlement.into()]).await;
        for error in answers.into_iter().filter_map(Result::err) {
            // Its lease runs out, and it comes again.
            tracing::error!(%error, number, "could not set a job aside that cannot be read");
        }
    }
}

impl LeaseRow {
    fn read(row: &Row, queues: &[&str], since: BootTime) -> Option<Self> {
        // Counted from 1 by the database.
        let range: i32 = row.try_get(0).ok()?;
        let range = usize::try_from(range).ok()?.checked_sub(1)?;
        let queue = queues.get(range)?;
        let took: Option<i64> = row.try_get(1).ok()?;
        Some(match took {
            Some(took) => Self::Look(RangeLook {
                range,
                took: Duration::from_micros(took.unsigned_abs()),
            }),
            None => Self::Job(Box::new(HandedOutJob::read(row, (range, queue), since)?)),
        })
    }
}

impl HandedOutJob {
    fn read(row: &Row, (range, queue): (usize, &str), since: BootTime) -> Option<Self> {
        let count = |column| {
            let count: i32 = row.try_get(column).ok()?;
            Some(count.unsigned_abs())
        };
        let place: i64 = row.try_get(2).ok()?;
        let number: i64 = row.try_get(3).ok()?;
        let token: i64 = row.try_get(4).ok()?;
        let payload: String = row.try_get(6).ok()?;
        let task: Option<String> = row.try_get(7).ok()?;
        let options: Option<String> = row.try_get(8).ok()?;
        let (failed, crashed, lost) = (count(9)?, count(10)?, count(11)?);
        let times = count(12)?;
        let unserved_at: Option<SystemTime> = row.try_get(13).ok().flatten();
        // Other programs write to these tables, too, and may write what no clock shows.
        let began_at: SystemTime = row.try_get(14).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut job = Job::new(queue, task.map(Into::into), payload);
        let options = options.map_or(Ok(job.options.clone()), |text| serde_json::from_str(&text));
        let leased = options.map(|options| {
            job.options = options;
            Leased {
                token,
                since,
                attempt: failed.saturating_add(crashed).saturating_add(1),
                crashed,
                lost,
                unserved: unserved_at
                    .filter(|_| times > 0)
                    .map(|since| Unserved { times, since }),
                ..Leased::first(JobId::new(number.to_string()), job, began_at)
            }
        });
        Some(Self {
            range,
            place,
            priority: row.try_get(5).ok()?,
            number,
            leased: leased.map_err(|e| (token, format!("its options cannot be read: {e}"))),
        })
    }
}
