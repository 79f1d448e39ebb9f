//! The embedded broker: one SQLite file, any number of processes of one host.
//!
//! One connection on a thread of its own does everything (`lane`); what arrives while a transaction
//! is being written goes into the next one together, so that many small pushes and settlements
//! share one sync. Idle consumers of other processes are woken by the kernel (`wake`): SQLite
//! appends to its write-ahead log at each commit, and inotify tells.
//!
//! Two clocks: the wall clock decides when a scheduled job is due; leases run on the host's boot
//! clock, which no one sets, so a jump of the wall clock moves no lease. After a reboot all leases
//! are void.

mod asks;
mod check;
mod file;
mod flow;
mod hand_out;
mod key;
mod lane;
mod limits;
mod look;
mod pace;
mod place;
mod refuse;
mod room;
mod schedules;
mod schema;
mod settle;
mod steps;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod transactions;
mod wake;
mod why;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use self::lane::{Access, Lane, Synced};
use self::pace::Pace;
use self::place::Place;
use self::store::{Now, Store};
use self::sweep::STEP_PAUSE;
use self::wake::Wake;
use super::api::Clock;
use super::{
    Backend, Capabilities, LeaseAsk, Leased, Order, Ordered, PushOutcome, Query, Reply, Settled,
    Settlement, Terms, View,
};
use crate::clock::later;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::retry::jitter;

/// Looked at in any case after this time: a filesystem without inotify, a change that no commit
/// told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Steps of a sweep that a look waits for.
const LOOK_STEPS_MAX: usize = 20;

pub(super) struct Sqlite {
    lane: Lane,
    wake: Wake,
    place: Place,
    pace: Pace,
    /// The last ask was given jobs: the next is likely to be, too.
    is_busy: AtomicBool,
}

pub(super) async fn connect(rest: &str, clock: Clock) -> Result<Arc<dyn Backend>, Error> {
    let place = Place::parse(rest)?;
    let lane = Lane::open(place.clone(), clock).await?;
    let wake = Wake::watch(place.path.as_deref(), lane.committed())?;
    Ok(Arc::new(Sqlite {
        lane,
        wake,
        place,
        pace: Pace::new(),
        is_busy: AtomicBool::new(true),
    }))
}

/// Pushes within a transaction of the application's own.
pub(super) fn push_in(connection: &rusqlite::Connection, job: &Job) -> Result<PushOutcome, Error> {
    super::admission::check_job(job, PAYLOAD_BYTES_MAX)?;
    if schema::version(connection)? != schema::VERSION {
        let text = "push within a transaction of a file without jobs of this version: open it \
            first, with Broker::connect(\"sqlite:..\")";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    if connection.is_autocommit() {
        return Err(Error::new(
            ErrorKind::BadOption,
            "push within a transaction: the connection is in none",
        ));
    }
    let memo = std::cell::RefCell::default();
    let step = |sql| {
        connection
            .execute_batch(sql)
            .map_err(|e| schema::error("push within a transaction", e))
    };
    // What fails leaves the application's transaction as it was.
    step("SAVEPOINT brigade_push")?;
    let pushed = Store::new(connection, Now::read(&Clock::default()), &memo).push(job);
    if pushed.is_err() {
        step("ROLLBACK TO brigade_push")?;
    }
    step("RELEASE brigade_push")?;
    pushed
}

/// The write-ahead log of a file.
fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Far below SQLite's own limit of 1 GB; larger data belongs in a file that the job names.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

impl Backend for Sqlite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: self.place.path.is_some(),
            listing: true,
            scheduling: true,
            schedules: true,
            priorities: true,
            keys: true,
            unique: true,
            limits: true,
            manager: false,
            flows: true,
            results: true,
            answers: false,
            passes: false,
            priority_range: (i32::MIN, i32::MAX),
            whole_batches: true,
            keeps_places: true,
            pauses: true,
            cancels: true,
            clock: true,
            dead_queues: false,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }

    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>> {
        Box::pin(self.lane.run(Access::Write(Synced::Now), move |store| {
            store.push_all(&jobs)
        }))
    }

    fn lease(&self, ask: LeaseAsk) -> Reply<'_, Vec<Leased>> {
        Box::pin(self.lease_patiently(Arc::new(ask)))
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Reply<'_, Vec<Result<Settled, Error>>> {
        Box::pin(self.lane.run(Access::Write(Synced::Now), move |store| {
            store.settle_all(&settlements)
        }))
    }

    fn look(&self, query: Query) -> Reply<'_, View> {
        Box::pin(async move {
            match query {
                Query::Job(_) | Query::Jobs { .. } | Query::Counts | Query::Why(_) => {
                    self.look_at_now(query).await
                }
                Query::Check => self.check().await,
                query => {
                    self.lane
                        .run(Access::Look, move |store| store.look(&query))
                        .await
                }
            }
        })
    }

    fn order(&self, order: Order) -> Reply<'_, Ordered> {
        Box::pin(self.order_in_steps(order))
    }

    fn changed(&self) -> Reply<'_, ()> {
        // Counts from this call on, not from when it is first polled: who calls, looks and then
        // waits misses nothing.
        let changed = self.wake.next();
        Box::pin(async {
            tokio::select! {
                () = changed => {}
                () = sleep(LOOK_AGAIN) => {}
            }
            Ok(())
        })
    }
}

impl Sqlite {
    /// Waits for jobs: for a change, for what falls due, for another step of a sweep.
    async fn lease_patiently(&self, ask: Arc<LeaseAsk>) -> Result<Vec<Leased>, Error> {
        let until = later(Instant::now(), ask.wait);
        // What is taken is gone; a lease ends with a loss of power anyway.
        let sync = if matches!(ask.terms, Terms::Take) {
            Synced::Now
        } else {
            Synced::Later
        };
        let at_once = ask.wait.is_zero();
        while !ask.enough.is_cancelled() {
            let (changed, asked, began) = (self.wake.next(), Arc::clone(&ask), Instant::now());
            let access = Access::HandOut {
                sync,
                looks_first: !self.is_busy.load(Ordering::Relaxed),
                at_once,
            };
            let came = self
                .lane
                .run(access, move |store| store.lease(&asked))
                .await?;
            let found = !came.leased.is_empty();
            self.is_busy.store(found, Ordering::Relaxed);
            self.pace.note(found, began.elapsed());
            let left = until.saturating_duration_since(Instant::now());
            if found || left.is_zero() && came.again_in.is_none() {
                return Ok(came.leased);
            }
            if let Some(pause) = came.again_in {
                sleep(pause).await;
                continue;
            }
            // Not all at the same moment.
            let pause = came
                .due_in
                .unwrap_or(LOOK_AGAIN)
                .min(LOOK_AGAIN.mul_f64(jitter(0.2)))
                .min(left);
            tokio::select! {
                () = changed => drop(ask.enough.run_until_cancelled(sleep(self.pace.pause().min(left))).await),
                () = sleep(pause) => {}
                () = ask.enough.cancelled() => {}
            }
        }
        Ok(Vec::new())
    }

    /// What has come due is seen to first, as far as that is not too much: so all views tell of the
    /// same moment. A look that finds nothing due takes no lock.
    async fn look_at_now(&self, query: Query) -> Result<View, Error> {
        let query = Arc::new(query);
        let mut steps = 0;
        loop {
            let (asked, is_last) = (Arc::clone(&query), steps == LOOK_STEPS_MAX);
            let access = Access::HandOut {
                sync: Synced::Later,
                looks_first: true,
                at_once: true,
            };
            let view = self
                .lane
                .run(access, move |store| {
                    if is_last {
                        store.look(&asked).map(Some)
                    } else {
                        store.look_at_now(&asked)
                    }
                })
                .await?;
            if let Some(view) = view {
                return Ok(view);
            }
            steps += 1;
            sleep(STEP_PAUSE).await;
        }
    }

    async fn check(&self) -> Result<View, Error> {
        let view = self.look_at_now(Query::Check).await;
        let mut findings = match view {
            Ok(View::Check(findings)) => findings,
            Err(error) if self.lane.is_file_lost() => vec![check::lost_file(&error)],
            other => return other,
        };
        // The rest is known outside of the database.
        findings.extend(check::place(&self.place, self.wake.is_watching()));
        Ok(View::Check(findings))
    }
}
