//! A store in memory: a first example of a [`JobStore`]. The README explains how to write one.
//!
//! All jobs are in one map, in the order of their pushes, under one lock. So every method is one
//! atomic step, and a job that is given back keeps its place. Nothing runs in the background: each
//! lease request first ends the leases that are over. It goes through all jobs, which a real store
//! would not do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brigade::policy::{ChargedEnd, RetryDecision, RetryRule, delay_of};
use brigade::store::{
    BootTime, DeliveryMode, Disposition, JobId, JobStore, LeaseRequest, Leased, Reply, Settlement,
};
use brigade::{Broker, Capabilities, Clock, Error, Job, PushOutcome, Settled, Unserved};
use tokio::sync::Notify;

/// Jobs in memory.
#[derive(Default)]
pub struct MemoryStore {
    jobs: Mutex<Jobs>,
    /// Something may be ready now, or earlier than it would have been.
    changed: Notify,
    /// Tests move it.
    clock: Clock,
}

#[derive(Default)]
struct Jobs {
    by_number: BTreeMap<u64, Stored>,
    last_number: u64,
    last_token: i64,
}

struct Stored {
    /// The job as it was handed out last, or will be next.
    leased: Leased,
    /// When that lease ends, while the job is leased.
    lease_end: Option<BootTime>,
    due: BootTime,
    /// No attempt begins later.
    begins_by: Option<BootTime>,
}

/// A broker over an empty store.
pub fn broker() -> Broker {
    let store = MemoryStore::default();
    let clock = store.clock.clone();
    Broker::from_store(Arc::new(store), clock)
}

impl MemoryStore {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leases and pauses run on the boot clock, which no one sets.
    fn now(&self) -> BootTime {
        BootTime::now().later(self.clock.ahead())
    }

    /// `push`, without waiting.
    fn push_all(&self, pushed: Vec<Job>) -> Vec<PushOutcome> {
        let (now, wall, mut jobs) = (self.now(), self.clock.now(), self.jobs());
        let store = |job: Job| {
            jobs.last_number += 1;
            let number = jobs.last_number;
            let (delay, within) = (delay_of(&job.options, wall), job.options.retry().within);
            let stored = Stored {
                leased: Leased::first(JobId::new(number.to_string()), job, wall),
                lease_end: None,
                due: now.later(delay),
                begins_by: within.map(|within| now.later(within)),
            };
            let id = stored.leased.id.clone();
            jobs.by_number.insert(number, stored);
            PushOutcome::New(id)
        };
        pushed.into_iter().map(store).collect()
    }

    /// `settle`, without waiting.
    fn settle_one(&self, settlement: &Settlement) -> Settled {
        let (now, wall, mut jobs) = (self.now(), self.clock.now(), self.jobs());
        let number = settlement.id.as_str().parse().unwrap_or_default();
        // A lease that is over is no lease, even if no one has the job yet.
        let holds = |one: &&mut Stored| {
            one.leased.token == settlement.token && one.lease_end.is_some_and(|end| end > now)
        };
        let Some(held) = jobs.by_number.get_mut(&number).filter(holds) else {
            return Settled::Stale;
        };
        match &settlement.disposition {
            Disposition::Ack { .. } | Disposition::Cancelled { .. } => {
                jobs.by_number.remove(&number);
            }
            Disposition::Extend(time) => held.lease_end = Some(now.later(*time)),
            Disposition::DeadLetter(_) => held.become_dead_letter(now),
            Disposition::GiveBack { kind, after, .. } => {
                held.leased.unserved = Unserved::after(held.leased.unserved, *kind, wall);
                held.wait_until(now.later(*after));
            }
            Disposition::Fail {
                kind,
                advice,
                policy,
                ..
            } => {
                let leased = &mut held.leased;
                let rule = RetryRule::of_job(&leased.job.options, *policy);
                let (end, before) = (ChargedEnd::of(*kind, *advice), leased.charged());
                let left = held.begins_by.map(|by| by.since(now));
                leased.attempt += 1;
                leased.crashed += u32::from(end == ChargedEnd::Crashed);
                leased.unserved = Unserved::after(leased.unserved, *kind, wall);
                match rule.decide(before, end, left, 1.0) {
                    RetryDecision::Retry(pause) => held.wait_until(now.later(pause)),
                    RetryDecision::Stop(_) => held.become_dead_letter(now),
                }
            }
        }
        self.changed.notify_waiters();
        Settled::Accepted(None)
    }
}

impl Stored {
    fn wait_until(&mut self, due: BootTime) {
        self.lease_end = None;
        self.due = due;
    }

    /// Dead letters are jobs of another queue (`Capabilities::dead_queues`).
    fn become_dead_letter(&mut self, now: BootTime) {
        let (job, leased) = (self.leased.job.clone(), &mut self.leased);
        let queue = format!("{}.dead", job.queue.trim_end_matches(".dead"));
        let dead = Job::new(queue, job.task, job.payload);
        *leased = Leased::first(leased.id.clone(), dead, leased.began_at);
        self.begins_by = None;
        self.wait_until(now);
    }
}

impl Jobs {
    /// Ends the leases that are over, and sets aside what can no longer begin in time.
    fn sweep(&mut self, now: BootTime) {
        for stored in self.by_number.values_mut() {
            if stored.lease_end.is_some_and(|end| end <= now) {
                stored.leased.lost += 1;
                stored.wait_until(now);
            }
            if stored.lease_end.is_none() && stored.begins_by.is_some_and(|by| by < now) {
                stored.become_dead_letter(now);
            }
        }
    }

    /// The jobs for a request, and when the next job falls due or the next lease ends.
    fn lease(&mut self, request: &LeaseRequest, now: BootTime) -> (Vec<Leased>, Option<BootTime>) {
        self.sweep(now);
        let leased = self.hand_out(request, now);
        let jobs = self.by_number.values();
        let next = jobs.map(|one| one.lease_end.unwrap_or(one.due));
        (leased, next.filter(|time| *time > now).min())
    }

    /// Leases the jobs that are ready, in the order of the queues of the request and of the pushes.
    fn hand_out(&mut self, request: &LeaseRequest, now: BootTime) -> Vec<Leased> {
        let jobs = self.by_number.iter();
        let ready = jobs.filter(|(_, one)| one.lease_end.is_none() && one.due <= now);
        let rank = |one: &Stored| request.queues.rank(&one.leased.job.queue);
        let ranked = ready.filter_map(|(number, one)| Some((rank(one)?, *number)));
        let mut chosen: Vec<(usize, u64)> = ranked.collect();
        chosen.sort_unstable();
        chosen.truncate(request.max);
        let mut all = Vec::new();
        for (_, number) in chosen {
            let Some(stored) = self.by_number.get_mut(&number) else {
                continue;
            };
            self.last_token += 1;
            stored.leased.token = self.last_token;
            stored.leased.since = BootTime::now();
            all.push(stored.leased.clone());
            match request.mode {
                DeliveryMode::Take => drop(self.by_number.remove(&number)),
                DeliveryMode::Lease(time) => {
                    stored.lease_end = Some(now.later(time));
                }
            }
        }
        all
    }
}

impl JobStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            scheduling: true,
            whole_batches: true,
            keeps_places: true,
            clock: true,
            dead_queues: true,
            ..Capabilities::minimal()
        }
    }

    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>> {
        let pushed = self.push_all(jobs);
        self.changed.notify_waiters();
        Box::pin(async { Ok(pushed) })
    }

    fn lease(&self, request: LeaseRequest) -> Reply<'_, Vec<Leased>> {
        Box::pin(async move {
            let until = BootTime::now().later(request.wait);
            loop {
                // Before the look at the jobs, so that no push in between is missed.
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                let now = self.now();
                let (leased, next) = self.jobs().lease(&request, now);
                if !leased.is_empty() || until.left().is_zero() || request.enough.is_cancelled() {
                    return Ok(leased);
                }
                let pause = next.map_or(until.left(), |next| next.since(now).min(until.left()));
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep(pause) => {}
                    () = request.enough.cancelled() => {}
                }
            }
        })
    }

    fn settle(&self, all: Vec<Arc<Settlement>>) -> Reply<'_, Vec<Result<Settled, Error>>> {
        let settled = all.iter().map(|one| Ok(self.settle_one(one))).collect();
        Box::pin(async { Ok(settled) })
    }

    fn purge<'a>(&'a self, queue: &'a str) -> Reply<'a, u64> {
        let mut jobs = self.jobs();
        let before = jobs.by_number.len();
        jobs.by_number
            .retain(|_, stored| *stored.leased.job.queue != *queue || stored.lease_end.is_some());
        let purged = before - jobs.by_number.len();
        Box::pin(async move { Ok(purged as u64) })
    }
}
