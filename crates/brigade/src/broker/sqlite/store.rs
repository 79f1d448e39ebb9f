//! Pushing and handing out. Everything here runs within a transaction of `lane`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::flow::Fate;
use super::look::unserved;
use super::schema;
use crate::broker::api::Clock;
use crate::broker::{LeaseAsk, Leased, Pushed, Queues, Terms};
use crate::clock::BootTime;
use crate::error::{Error, ErrorKind};
use crate::job::{Job, JobId, JobOptions, JobState, Unserved};
use crate::process::{Heirs, Left, own_name};

/// The connection within a transaction, and its moment.
pub(super) struct Store<'a> {
    pub(super) connection: &'a Connection,
    pub(super) now: Now,
    pub(super) memo: &'a RefCell<Memo>,
    /// There is room on the disk for what runs, and no more.
    pub(super) tight: bool,
    is_up_to_date: Cell<bool>,
}

/// What a connection remembers from one transaction to the next, to save work. Nothing here may matter if it is forgotten.
#[derive(Default)]
pub(super) struct Memo {
    /// When it was last said that this process asks for jobs of a queue, boot clock.
    said: HashMap<Box<str>, i64>,
    /// When it was last looked for holders that are dead, boot clock.
    looked: Option<i64>,
    heirs: Heirs,
}

impl Memo {
    /// Whether it is time to look for holders that are dead; then it counts as done.
    fn is_to_look(&mut self, now: i64) -> bool {
        let is_time = self.looked.is_none_or(|looked| now - looked >= millis(LOOK_FOR_DEAD_EVERY));
        if is_time {
            self.looked = Some(now);
        }
        is_time
    }

    /// Whether it is time to say that a queue is asked for; then it counts as said.
    pub(super) fn is_to_say(&mut self, queue: &str, now: i64, every: Duration) -> bool {
        match self.said.get_mut(queue) {
            Some(said) if now - *said < millis(every) => false,
            Some(said) => {
                *said = now;
                true
            }
            None => {
                // A process that asks for ever new queues says it more often than it must.
                if self.said.len() >= QUEUES_REMEMBERED_MAX {
                    self.said.clear();
                }
                self.said.insert(queue.into(), now);
                true
            }
        }
    }
}

/// A dead holder's jobs stand before all others, so they are looked for even while there are others: at once by a process that has just
/// begun, as it may be in the dead one's place.
const LOOK_FOR_DEAD_EVERY: Duration = Duration::from_secs(1);
const QUEUES_REMEMBERED_MAX: usize = 1024;

/// Milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Since 1970, by the wall clock.
    pub(super) wall: i64,
    /// Since the host was started; nobody sets this one.
    pub(super) boot: i64,
    /// The same moment for this process.
    pub(super) since: BootTime,
}

impl Now {
    pub(super) fn read(clock: &Clock) -> Self {
        let since = BootTime::now();
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ahead = millis(clock.ahead());
        Self {
            wall: wall_millis(SystemTime::now()) + ahead + clock.wall_off_millis(),
            boot: boot.tv_sec * 1000 + boot.tv_nsec / 1_000_000 + ahead,
            since,
        }
    }
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

pub(super) fn wall_millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -millis(before.duration()), millis)
}

/// A job's state as the `state` column has it; below 5 it is not settled for good.
pub(super) fn code(state: JobState) -> i64 {
    match state {
        JobState::Ready => 0,
        JobState::Scheduled => 1,
        JobState::Held => 2,
        JobState::Leased => 3,
        JobState::Retrying => 4,
        JobState::Done => 5,
        JobState::Dead => 6,
        JobState::Cancelled => 7,
    }
}

/// How many ended jobs whose time is over one lease removes.
const REMOVALS_MAX: i64 = 1000;

impl<'a> Store<'a> {
    pub(super) fn new(connection: &'a Connection, now: Now, memo: &'a RefCell<Memo>) -> Self {
        Self { connection, now, memo, tight: false, is_up_to_date: Cell::new(false) }
    }

    /// Forgets what may have been done by something that is undone.
    pub(super) fn forget(&self) {
        self.memo.take();
        self.is_up_to_date.set(false);
    }
}

impl Store<'_> {
    pub(super) fn execute(&self, what: &str, sql: &str, values: &[&dyn ToSql]) -> Result<usize, Error> {
        let run = || self.connection.prepare_cached(sql)?.execute(values);
        run().map_err(|e| schema::error(what, e))
    }

    pub(super) fn rows<T>(
        &self,
        what: &str,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        let run = || self.connection.prepare_cached(sql)?.query_map(values, read)?.collect::<rusqlite::Result<Vec<T>>>();
        run().map_err(|e| schema::error(what, e))
    }

    pub(super) fn row<T>(
        &self,
        what: &str,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Error> {
        let run = || self.connection.prepare_cached(sql)?.query_row(values, read).optional();
        run().map_err(|e| schema::error(what, e))
    }

    // -- push

    pub(super) fn push(&self, job: &Job) -> Result<Pushed, Error> {
        if self.tight {
            return Err(no_room("store a job"));
        }
        if let Some(id) = self.duplicate(job)? {
            return Ok(Pushed::Duplicate(id));
        }
        let due = due_of(&job.options, &self.now);
        let state = if due > self.now.wall { JobState::Scheduled } else { JobState::Ready };
        let options = (job.options != JobOptions::default()).then(|| serde_json::to_string(&job.options)).transpose();
        let options = options.map_err(|e| Error::new(ErrorKind::Encode, format!("write a job's options: {e}")).with_source(e))?;
        // A failure undoes the whole operation, so SQLite need not be able to undo this statement alone: `OR FAIL`.
        let sql =
            "INSERT OR FAIL INTO brigade_jobs (queue, payload, task, state, priority, due, begins_by, key, partition, mark, options, pushed_at)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        let JobOptions { priority, key, unique, .. } = &job.options;
        let (partition, begins_by) = (job.options.partition.as_ref().or(key.as_ref()), self.begins_by(&job.options));
        let place = params![job.queue, job.payload, job.task, code(state), priority, due, begins_by];
        let rest = params![key, partition, unique, options, self.now.wall];
        let values: Vec<&dyn ToSql> = place.iter().chain(rest).copied().collect();
        self.execute("store a job", sql, &values)?;
        let id = self.connection.last_insert_rowid();
        if let (Some(mark), Some(period)) = (unique, job.options.unique_for) {
            let sql = "INSERT OR REPLACE INTO brigade_marks (queue, mark, job, until) VALUES (?1, ?2, ?3, ?4)";
            let until = self.now.wall.saturating_add(millis(period));
            self.execute("mark a job as unique", sql, params![job.queue, mark, id, until])?;
        }
        Ok(Pushed::New(JobId::new(id.to_string())))
    }

    /// The job that a unique mark stands for already.
    fn duplicate(&self, job: &Job) -> Result<Option<JobId>, Error> {
        let Some(mark) = &job.options.unique else { return Ok(None) };
        let sql = "SELECT id FROM brigade_jobs WHERE queue = ?1 AND mark = ?2 AND state < 5
                   UNION ALL SELECT job FROM brigade_marks WHERE queue = ?1 AND mark = ?2 AND until > ?3 LIMIT 1";
        let id = self.row("look for a duplicate", sql, params![job.queue, mark, self.now.wall], |row| row.get::<_, i64>(0))?;
        Ok(id.map(|id| JobId::new(id.to_string())))
    }

    // -- lease

    /// Hands out jobs; also says in how long another falls due.
    pub(super) fn lease(&self, ask: &LeaseAsk) -> Result<(Vec<Leased>, Option<Duration>), Error> {
        self.bring_up_to_date()?;
        if self.memo.borrow_mut().is_to_look(self.now.boot) {
            self.release_dead_holders()?;
        }
        self.say_who_asks(&ask.queues)?;
        let mut leased = Vec::new();
        for queue in ask.queues.iter() {
            let settings = self.settings(queue)?;
            if settings.limits.is_some() && !settings.paused {
                self.lease_within(queue, &settings, ask, &mut leased)?;
            }
            // Damaged jobs are set aside and leave room for others.
            while !settings.paused && settings.limits.is_none() && leased.len() < ask.max && self.lease_from(queue, ask, &mut leased)? {}
        }
        if leased.is_empty() && self.release_dead_holders()? > 0 {
            return self.lease(ask);
        }
        let due_in = if leased.is_empty() { self.next_due(&ask.queues)? } else { None };
        Ok((leased, due_in))
    }

    /// Everything whose time has come; once in a transaction, which is one moment.
    pub(super) fn bring_up_to_date(&self) -> Result<(), Error> {
        if self.is_up_to_date.replace(true) {
            return Ok(());
        }
        self.expire_leases()?;
        self.fire_schedules()?;
        self.end_late()?;
        self.promote_due()?;
        self.remove_ended()
    }

    /// One round through a queue without limits; `true` if another may find more.
    fn lease_from(&self, queue: &str, ask: &LeaseAsk, leased: &mut Vec<Leased>) -> Result<bool, Error> {
        let sql = Found::select("queue = ?2");
        let room = i64::try_from(ask.max - leased.len()).unwrap_or(i64::MAX);
        let found = self.rows("find ready jobs", &sql, params![room, queue], |row| Found::read(queue, row))?;
        let mut damaged = false;
        for found in found {
            match self.checked(found)? {
                Some(job) => {
                    self.hand_out(&job, ask.terms)?;
                    leased.push(job);
                }
                None => damaged = true,
            }
        }
        Ok(damaged)
    }

    /// The job, unless it can never be run: then it is set aside.
    pub(super) fn checked(&self, found: Found) -> Result<Option<Leased>, Error> {
        match found.check(self.now.since) {
            Ok(job) => Ok(Some(job)),
            Err((id, why)) => self.end_job(id, JobState::Dead, Some(&why), None).map(|()| None),
        }
    }

    pub(super) fn hand_out(&self, job: &Leased, terms: Terms) -> Result<(), Error> {
        let id = row_id(&job.id);
        match terms {
            // Nobody will tell how it ended.
            Terms::Take => self.remove_job(id, Some(&Fate::Done(None))),
            Terms::Lease(time) => {
                let until = self.now.boot.saturating_add(millis(time));
                let sql = "UPDATE brigade_jobs SET state = 3, token = ?2, attempts = attempts + 1, lease_until = ?3, holder = ?4, cancel = NULL WHERE id = ?1";
                self.execute("lease a job", sql, params![id, job.token, until, own_name()]).map(drop)
            }
        }
    }

    /// Ends leases that ran out: their holders were too late, which is charged to nobody.
    fn expire_leases(&self) -> Result<(), Error> {
        let sql = "SELECT id FROM brigade_jobs WHERE state = 3 AND lease_until < ?1";
        for id in self.rows("find expired leases", sql, params![self.now.boot], |row| row.get::<_, i64>(0))? {
            self.lose(id, "its lease ran out")?;
        }
        Ok(())
    }

    /// Ends leases whose holder is no more, nor any worker of its: it was a process of this host.
    pub(super) fn release_dead_holders(&self) -> Result<usize, Error> {
        let sql = "SELECT DISTINCT holder FROM brigade_jobs WHERE state = 3 AND holder IS NOT NULL";
        let holders = self.rows("list holders", sql, &[], |row| row.get::<_, String>(0))?;
        let mut released = 0;
        for holder in holders.iter().filter(|holder| self.memo.borrow_mut().heirs.left(holder) == Left::Nothing) {
            let sql = "SELECT id FROM brigade_jobs WHERE state = 3 AND holder = ?1";
            for id in self.rows("find leases of a dead holder", sql, params![holder], |row| row.get::<_, i64>(0))? {
                self.lose(id, "the process that held it ended")?;
                released += 1;
            }
        }
        Ok(released)
    }

    /// The latest moment for an attempt to begin, for a job whose time begins now.
    pub(super) fn begins_by(&self, options: &JobOptions) -> Option<i64> {
        options.retry.within.map(|within| self.now.wall.saturating_add(millis(within)))
    }

    /// Sets jobs aside that were to begin by now.
    fn end_late(&self) -> Result<(), Error> {
        let sql = "SELECT id, failed + crashed FROM brigade_jobs WHERE begins_by < ?1 AND state IN (0, 1, 2, 4)";
        let late = self.rows("find jobs that are too late", sql, params![self.now.wall], |row| Ok((row.get(0)?, row.get::<_, u32>(1)?)))?;
        for (id, attempts) in late {
            let why = match attempts {
                0 => "no attempt began within the time that it had".to_owned(),
                attempts => format!("the time for its attempts is over; it has had {attempts}"),
            };
            self.end_job(id, JobState::Dead, Some(&why), None)?;
        }
        Ok(())
    }

    fn promote_due(&self) -> Result<(), Error> {
        let sql = "UPDATE brigade_jobs SET due = 0, state = CASE WHEN key IS NOT NULL AND
                     (EXISTS (SELECT 1 FROM brigade_jobs AS other WHERE other.queue = brigade_jobs.queue AND other.key = brigade_jobs.key
                                AND other.state < 5 AND other.id < brigade_jobs.id)
                      OR EXISTS (SELECT 1 FROM brigade_jobs AS other WHERE other.queue = brigade_jobs.queue AND other.key = brigade_jobs.key
                                AND other.state = 3)) THEN 2 ELSE 0 END
                   WHERE state IN (1, 4) AND due <= ?1";
        self.execute("wake due jobs", sql, params![self.now.wall]).map(drop)
    }

    fn remove_ended(&self) -> Result<(), Error> {
        let sql = "DELETE FROM brigade_jobs WHERE id IN (SELECT id FROM brigade_jobs WHERE remove_at <= ?1 LIMIT ?2)";
        self.execute("remove old jobs", sql, params![self.now.wall, REMOVALS_MAX])?;
        let sql = "DELETE FROM brigade_marks WHERE until <= ?1";
        self.execute("remove old marks", sql, params![self.now.wall]).map(drop)
    }

    /// In how long a job falls due, a lease ends, or a limit opens.
    fn next_due(&self, queues: &Queues) -> Result<Option<Duration>, Error> {
        let sql = "SELECT min(due) FROM brigade_jobs WHERE state IN (1, 4)";
        let due = self.row("find the next due job", sql, &[], |row| row.get::<_, Option<i64>>(0))?.flatten();
        let sql = "SELECT min(lease_until) FROM brigade_jobs WHERE state = 3";
        let until = self.row("find the next lease to end", sql, &[], |row| row.get::<_, Option<i64>>(0))?.flatten();
        let tick = self.next_schedule()?;
        let wall = [due, tick].into_iter().flatten().min();
        let left = [wall.map(|due| due - self.now.wall), until.map(|until| until - self.now.boot + 1)];
        let least = left.into_iter().flatten().min();
        let mut least = least.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
        for queue in queues.iter() {
            least = least.into_iter().chain(self.next_start(queue)?).min();
        }
        Ok(least)
    }
}

/// When a job that may go on now is due; 0 if it need not wait.
pub(super) fn due_of(options: &JobOptions, now: &Now) -> i64 {
    match (options.at, options.delay) {
        (Some(at), _) => wall_millis(at),
        (None, Some(delay)) => now.wall.saturating_add(millis(delay)),
        (None, None) => 0,
    }
}

/// A ready job as it is stored.
pub(super) struct Found {
    id: i64,
    token: i64,
    failed: u32,
    crashed: u32,
    lost: u32,
    unserved: Option<Unserved>,
    options: Option<String>,
    job: Job,
}

impl Found {
    /// The query for the first ready jobs, in the order of the hand-out; its first parameter says how many.
    pub(super) fn select(filter: &str) -> String {
        format!(
            "SELECT id, payload, task, options, token, failed, crashed, lost, unserved, unserved_at FROM brigade_jobs
             WHERE state = 0 AND {filter} ORDER BY priority DESC, id LIMIT ?1"
        )
    }

    pub(super) fn read(queue: &str, row: &Row<'_>) -> rusqlite::Result<Self> {
        let task: Option<Box<str>> = row.get(2)?;
        let payload: Box<str> = row.get(1)?;
        let job = Job::new(queue, task, payload);
        Ok(Self {
            id: row.get(0)?,
            token: row.get(4)?,
            failed: row.get(5)?,
            crashed: row.get(6)?,
            lost: row.get(7)?,
            unserved: unserved(row.get(8)?, row.get(9)?),
            options: row.get(3)?,
            job,
        })
    }

    /// The job, or why it can never be run: other programs write to this table too.
    fn check(mut self, since: BootTime) -> Result<Leased, (i64, String)> {
        if let Err(e) = serde_json::from_str::<&serde_json::value::RawValue>(&self.job.payload) {
            return Err((self.id, format!("its payload is not JSON: {e}")));
        }
        if let Some(options) = &self.options {
            self.job.options = serde_json::from_str(options).map_err(|e| (self.id, format!("its options cannot be read: {e}")))?;
        }
        let attempt = self.failed + self.crashed + 1;
        Ok(Leased {
            id: JobId::new(self.id.to_string()),
            token: self.token + 1,
            since,
            job: self.job,
            attempt,
            crashed: self.crashed,
            lost: self.lost,
            unserved: self.unserved,
            is_call: false,
        })
    }
}

pub(super) fn no_room(what: &str) -> Error {
    Error::new(ErrorKind::Os, format!("{what}: the disk is full but for what running jobs need; nothing of this was stored"))
}

/// The row of an id; one that no row has, if it is not a number.
pub(super) fn row_id(id: &JobId) -> i64 {
    id.as_str().parse().unwrap_or(-1)
}
