//! The embedded broker: one SQLite file, any number of processes of one host.
//!
//! One connection on a thread of its own does everything (`lane`); what arrives while a transaction is being written goes into the next one
//! together, so that many small pushes and settlements share one sync. Idle consumers of other processes are woken by the
//! kernel (`wake`): SQLite appends to its write-ahead log at each commit, and inotify tells.
//!
//! Two clocks: the wall clock decides when a scheduled job is due; leases run on the host's boot clock, which no one sets, so a jump
//! of the wall clock moves no lease. After a reboot all leases are void.

mod check;
mod flow;
mod key;
mod lane;
mod limits;
mod look;
mod refuse;
mod room;
mod schedules;
mod schema;
mod settle;
mod store;
mod wake;
mod why;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use self::lane::{Lane, Synced};
use self::store::{Now, Store};
use self::wake::Wake;
use super::api::Clock;
use super::{Backend, Capabilities, LeaseAsk, Leased, Order, Ordered, Pushed, Query, Reply, Settled, Settlement, Terms, View};
use crate::error::{Error, ErrorKind};
use crate::job::Job;

/// Looked at in any case after this time: a filesystem without inotify, a change that no commit told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Sqlite {
    lane: Lane,
    wake: Wake,
    place: Place,
}

/// Where the database is, and how.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `None` for a database in memory.
    path: Option<PathBuf>,
    safety: Safety,
    /// It may have tables of another program.
    shared: bool,
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// Power loss: each transaction is synced.
    Full,
    /// The end of any process; power loss takes the last transactions.
    Normal,
}

impl Place {
    /// `jobs.db`, `/var/lib/x/jobs.db?synchronous=normal`, `app.db?shared=true`, `:memory:`.
    fn parse(rest: &str) -> Result<Self, Error> {
        let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err(Error::new(ErrorKind::BadOption, "open a SQLite broker without a path: sqlite:jobs.db or sqlite::memory:"));
        }
        if path.starts_with("//") && path.contains('@') {
            // Not quoted: it may be the URL of another broker, with its password.
            let text = "open a SQLite broker with a user: SQLite has none, and its URL has no slashes before the path: sqlite:jobs.db";
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        let path = (path != ":memory:").then(|| PathBuf::from(path));
        let mut place = Self { path, safety: Safety::Full, shared: false };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option {
                "synchronous=full" => place.safety = Safety::Full,
                "synchronous=normal" => place.safety = Safety::Normal,
                "shared=true" => place.shared = true,
                "shared=false" => place.shared = false,
                _ => {
                    // Not quoted: a value may be a password that belongs to another broker.
                    let text = "open a SQLite broker with an unknown option: there are synchronous=full, synchronous=normal, shared=true";
                    return Err(Error::new(ErrorKind::BadOption, text));
                }
            }
        }
        Ok(place)
    }
}

pub(super) async fn connect(rest: &str, clock: Clock) -> Result<Arc<dyn Backend>, Error> {
    let place = Place::parse(rest)?;
    let lane = Lane::open(place.clone(), clock).await?;
    let wake = Wake::watch(place.path.as_deref(), lane.committed())?;
    Ok(Arc::new(Sqlite { lane, wake, place }))
}

/// Pushes within a transaction of the application's own.
pub(super) fn push_in(connection: &rusqlite::Connection, job: &Job) -> Result<Pushed, Error> {
    super::admission::check_job(job, PAYLOAD_BYTES_MAX)?;
    if schema::version(connection)? != schema::VERSION {
        let text = "push within a transaction of a file without jobs of this version: open it first, with Broker::connect(\"sqlite:..\")";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    if connection.is_autocommit() {
        return Err(Error::new(ErrorKind::BadOption, "push within a transaction: the connection is in none"));
    }
    let memo = std::cell::RefCell::default();
    let step = |sql| connection.execute_batch(sql).map_err(|e| schema::error("push within a transaction", e));
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

    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<Pushed>> {
        Box::pin(self.lane.run(Synced::Now, move |store| store.push_all(&jobs)))
    }

    fn lease(&self, ask: LeaseAsk) -> Reply<'_, Vec<Leased>> {
        Box::pin(async move {
            let until = Instant::now() + ask.wait;
            // What is taken is gone; a lease ends with a loss of power anyway.
            let sync = if matches!(ask.terms, Terms::Take) { Synced::Now } else { Synced::Later };
            let ask = Arc::new(ask);
            while !ask.enough.is_cancelled() {
                let changed = self.wake.next();
                let asked = Arc::clone(&ask);
                let (leased, due_in) = self.lane.run(sync, move |store| store.lease(&asked)).await?;
                let left = until.saturating_duration_since(Instant::now());
                if !leased.is_empty() || left.is_zero() {
                    return Ok(leased);
                }
                let pause = due_in.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN).min(left);
                tokio::select! {
                    () = changed => {}
                    () = sleep(pause) => {}
                    () = ask.enough.cancelled() => {}
                }
            }
            Ok(Vec::new())
        })
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Reply<'_, Vec<Result<Settled, Error>>> {
        // All in one transaction, so an error is one of them all.
        let settle = move |store: &Store<'_>| settlements.iter().map(|settlement| store.settle(settlement).map(Ok)).collect();
        Box::pin(self.lane.run(Synced::Now, settle))
    }

    fn look(&self, query: Query) -> Reply<'_, View> {
        Box::pin(async move {
            let view = self.lane.run(Synced::Later, move |store| store.look(&query)).await?;
            // The rest is known outside of the database.
            Ok(match view {
                View::Check(mut findings) => {
                    findings.extend(check::place(&self.place, self.wake.is_watching()));
                    View::Check(findings)
                }
                view => view,
            })
        })
    }

    fn order(&self, order: Order) -> Reply<'_, Ordered> {
        Box::pin(self.lane.run(Synced::Now, move |store| store.order(&order)))
    }

    fn changed(&self) -> Reply<'_, ()> {
        // Counts from this call on, not from when it is first polled: who calls, looks and then waits misses nothing.
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
