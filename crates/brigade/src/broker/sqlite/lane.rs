//! The one connection and its thread: operations in, one transaction for all that are waiting, answers out after the commit.
//!
//! Group commit: the thread takes operations for as long as some are waiting, up to a limit, then commits. What arrives meanwhile goes into the
//! next transaction. So the more callers there are, the more share one sync.
//!
//! Nearly always every operation of a transaction succeeds, so none has a savepoint of its own. If one fails, the transaction is undone and the
//! same operations run once more, each in a savepoint, so that what fails is undone alone.
//!
//! A transaction of nothing but leases is not synced, see [`Synced::Later`].

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, mpsc, oneshot};

use super::room::Room;
use super::store::{Memo, Now, Store};
use super::{Place, Safety, schema};
use crate::broker::api::Clock;
use crate::error::{Error, ErrorKind};
use crate::shutdown::{Scope, spawn_thread};

/// Operations that may wait for the thread; then their callers wait.
const OPERATIONS_MAX: usize = 4096;
/// Operations in one transaction: more would make the first wait long for its answer.
const BATCH_MAX: usize = 1024;
/// A transaction takes no further operation after this time, for the same reason.
const GATHER_MAX: Duration = Duration::from_millis(5);
/// Transactions that have ended and wait for a task to tell so; then the thread does it itself.
const TELLS_MAX: usize = 16;
/// How long another process may hold the file before an operation fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Lane {
    operations: mpsc::Sender<Box<dyn Operation>>,
    committed: Arc<Notify>,
}

/// When what an operation did must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Synced {
    /// Before its caller is told, as far as the file's `synchronous` says so.
    Now,
    /// With the next commit that is synced: the write-ahead log keeps their order. For leases: power loss ends all of them anyway, and
    /// whether a job that nobody settled was ever leased makes no difference then. The end of a process loses nothing.
    Later,
}

/// A question to the store, with its answer and whom to tell.
trait Operation: Send {
    fn sync(&self) -> Synced;

    /// Runs within a transaction, once more if that was undone; `false` if it failed.
    fn run(&mut self, store: &Store<'_>) -> bool;

    /// Tells the caller once it is known whether the transaction holds.
    fn tell(self: Box<Self>, committed: Result<(), Error>);
}

struct Asked<F, R> {
    question: F,
    sync: Synced,
    answer: Option<Result<R, Error>>,
    reply: oneshot::Sender<Result<R, Error>>,
}

impl<F, R> Operation for Asked<F, R>
where
    F: Fn(&Store<'_>) -> Result<R, Error> + Send,
    R: Send,
{
    fn sync(&self) -> Synced {
        self.sync
    }

    fn run(&mut self, store: &Store<'_>) -> bool {
        self.answer.insert((self.question)(store)).is_ok()
    }

    fn tell(self: Box<Self>, committed: Result<(), Error>) {
        let Self { answer, reply, .. } = *self;
        // Whoever asked may have stopped waiting.
        reply.send(committed.and_then(|()| answer.unwrap_or_else(|| Err(gone())))).ok();
    }
}

impl Lane {
    pub(super) async fn open(place: Place, clock: Clock) -> Result<Self, Error> {
        let (operations, inbox) = mpsc::channel(OPERATIONS_MAX);
        let (ready, opened) = oneshot::channel();
        let teller = teller();
        let committed = Arc::new(Notify::new());
        let changed = Arc::clone(&committed);
        let run = move || match open(&place) {
            Ok(connection) => {
                if ready.send(Ok(())).is_ok() {
                    let transactions = Transactions::new(connection, clock, &place);
                    serve(transactions, &mut Inbox { inbox, next: None }, teller.as_ref(), &changed);
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        spawn_thread("brigade-sqlite", 1 << 20, run).map_err(|e| Error::os("start the database thread", e))?;
        opened.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(Self { operations, committed })
    }

    /// Told after each commit that changed something.
    pub(super) fn committed(&self) -> Arc<Notify> {
        Arc::clone(&self.committed)
    }

    /// Runs an operation, perhaps twice if the first transaction is undone, and returns when it is committed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the operation back.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        sync: Synced,
        question: impl Fn(&Store<'_>) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        self.operations.send(Box::new(Asked { question, sync, answer: None, reply })).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "ask a broker whose thread has ended")
}

fn open(place: &Place) -> Result<Connection, Error> {
    let mut connection = schema::open(place, BUSY_TIMEOUT)?;
    connection.busy_handler(Some(wait_for_lock)).map_err(|e| schema::error("set up the database", e))?;
    Ok(connection)
}

/// Another process holds the file, mostly while a commit of its is synced. SQLite's own waits begin at a millisecond, which is
/// several such commits.
#[expect(clippy::disallowed_methods, reason = "the lane's own thread, which has nothing else to do")]
fn wait_for_lock(tries: i32) -> bool {
    const SHORT: Duration = Duration::from_micros(50);
    const LONG: Duration = Duration::from_millis(1);
    const SHORT_TRIES: u32 = 100;
    let tries = tries.unsigned_abs();
    std::thread::sleep(if tries < SHORT_TRIES { SHORT } else { LONG });
    SHORT * tries.min(SHORT_TRIES) + LONG * tries.saturating_sub(SHORT_TRIES) < BUSY_TIMEOUT
}

/// What waits for the thread.
struct Inbox {
    inbox: mpsc::Receiver<Box<dyn Operation>>,
    /// Was taken out, and did not fit.
    next: Option<Box<dyn Operation>>,
}

impl Inbox {
    /// Waits for an operation; `None` when there will be no more.
    fn first(&mut self) -> Option<Box<dyn Operation>> {
        self.next.take().or_else(|| self.inbox.blocking_recv())
    }

    /// The next one, if it waits already and a transaction of this kind may take it.
    fn more(&mut self, sync: Synced) -> Option<Box<dyn Operation>> {
        let next = self.next.take().or_else(|| self.inbox.try_recv().ok())?;
        if sync == Synced::Later && next.sync() == Synced::Now {
            self.next = Some(next);
            return None;
        }
        Some(next)
    }
}

/// Lives until the last [`Lane`] is dropped.
fn serve(transactions: Transactions, inbox: &mut Inbox, teller: Option<&mpsc::Sender<Ended>>, changed: &Arc<Notify>) {
    while let Some(first) = inbox.first() {
        let mut batch = vec![first];
        let before = transactions.connection.total_changes();
        let committed = transactions.run(&mut batch, inbox);
        let has_changed = transactions.connection.total_changes() != before;
        let teller = teller.filter(|_| batch.len() > 1);
        let lost = committed.as_ref().is_err_and(Error::is_uncertain);
        // Whoever waits for a change looks again when told: a look must not tell of itself.
        let ended = Ended { batch, committed, changed: has_changed.then(|| Arc::clone(changed)) };
        match teller {
            // If the task is gone or far behind, it comes back and is dropped here.
            Some(teller) => drop(teller.try_send(ended)),
            None => drop(ended),
        }
        if lost {
            drop(transactions);
            return refuse_all(inbox);
        }
    }
}

/// A task that tells several callers what their transaction came to: it wakes its neighbours in the runtime for a small part of what that
/// costs the lane's thread, which has the next transaction to see to. None in a runtime of one thread, which need not be running while
/// others ask.
fn teller() -> Option<mpsc::Sender<Ended>> {
    let runtime = Handle::try_current().ok().filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    let scope = runtime.and_then(|_| Scope::current())?;
    let (teller, mut told) = mpsc::channel(TELLS_MAX);
    scope.spawn(async move { while told.recv().await.is_some() {} });
    Some(teller)
}

/// A transaction that has ended. Whoever drops it tells the callers.
struct Ended {
    batch: Vec<Box<dyn Operation>>,
    committed: Result<(), Error>,
    changed: Option<Arc<Notify>>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        for operation in self.batch.drain(..) {
            operation.tell(self.committed.as_ref().map_or_else(|error| Err(error.copy()), |()| Ok(())));
        }
        if let Some(changed) = &self.changed {
            changed.notify_waiters();
        }
    }
}

/// A sync that failed is not tried again: the kernel may have dropped what it could not write, and the next sync would say that all is well
/// (fsync(2)). So the connection is closed, which merges what was synced before, and nothing is acknowledged any more.
fn refuse_all(inbox: &mut Inbox) {
    tracing::error!("the disk failed to keep a commit: this connection acknowledges nothing any more");
    while let Some(operation) = inbox.first() {
        let text = "ask a broker whose disk failed to keep a commit: connect again to see what was kept";
        operation.tell(Err(Error::new(ErrorKind::Closed, text)));
    }
}

struct Transactions {
    connection: Connection,
    clock: Clock,
    safety: Safety,
    /// Whether commits are synced now.
    syncs: Cell<bool>,
    memo: RefCell<Memo>,
    room: Room,
}

/// Why operations that ran without savepoints were undone.
enum Undone {
    /// One of them failed.
    ByOne,
    /// All did.
    ByAll(Error),
}

impl Transactions {
    fn new(connection: Connection, clock: Clock, place: &Place) -> Self {
        let (safety, room) = (place.safety, Room::of(place.path.as_deref()));
        Self { connection, clock, safety, syncs: Cell::new(safety == Safety::Full), memo: RefCell::default(), room }
    }

    /// One transaction for all that wait; `Ok` when it is committed, and each operation has its own answer.
    fn run(&self, batch: &mut Vec<Box<dyn Operation>>, inbox: &mut Inbox) -> Result<(), Error> {
        match self.run_together(batch, inbox) {
            Err(Undone::ByOne) => self.run_apart(batch),
            Err(Undone::ByAll(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    fn run_together(&self, batch: &mut Vec<Box<dyn Operation>>, inbox: &mut Inbox) -> Result<(), Undone> {
        let sync = if batch.iter().all(|operation| operation.sync() == Synced::Later) { Synced::Later } else { Synced::Now };
        let store = self.begin(sync).map_err(Undone::ByAll)?;
        let began = Instant::now();
        let mut done = 0;
        while let Some(operation) = batch.get_mut(done) {
            if !operation.run(&store) {
                store.forget();
                self.undo();
                return Err(Undone::ByOne);
            }
            done += 1;
            if done == batch.len() && done < BATCH_MAX && began.elapsed() < GATHER_MAX {
                batch.extend(inbox.more(sync));
            }
        }
        self.commit().map_err(Undone::ByAll)
    }

    /// Each in a savepoint.
    fn run_apart(&self, batch: &mut [Box<dyn Operation>]) -> Result<(), Error> {
        let store = self.begin(Synced::Now)?;
        for operation in batch {
            let ran = self.run_alone(&store, &mut **operation);
            // SQLite may have undone all of it. Once the transaction is lost, nothing more may run outside of it.
            let lost = || Error::new(ErrorKind::Os, "write to the database: the transaction was undone");
            ran.and_then(|()| if self.connection.is_autocommit() { Err(lost()) } else { Ok(()) }).inspect_err(|_| self.undo())?;
        }
        self.commit()
    }

    fn run_alone(&self, store: &Store<'_>, operation: &mut dyn Operation) -> Result<(), Error> {
        let what = "write to the database";
        self.execute(what, "SAVEPOINT operation")?;
        if !operation.run(store) {
            self.execute(what, "ROLLBACK TO operation")?;
            store.forget();
        }
        self.execute(what, "RELEASE operation")
    }

    fn begin(&self, sync: Synced) -> Result<Store<'_>, Error> {
        self.set_sync(sync == Synced::Now && self.safety == Safety::Full)?;
        let tight = self.room.is_tight(&self.connection);
        self.execute("begin a transaction", "BEGIN IMMEDIATE")?;
        let mut store = Store::new(&self.connection, Now::read(&self.clock), &self.memo);
        store.tight = tight;
        Ok(store)
    }

    fn commit(&self) -> Result<(), Error> {
        let committed = self.connection.prepare_cached("COMMIT").and_then(|mut statement| statement.execute([]));
        committed.map(drop).map_err(schema::commit_error).inspect_err(|_| self.undo())
    }

    fn undo(&self) {
        if !self.connection.is_autocommit() {
            // If even that fails, the next BEGIN says so.
            self.connection.execute_batch("ROLLBACK").ok();
        }
    }

    fn set_sync(&self, syncs: bool) -> Result<(), Error> {
        if self.syncs.replace(syncs) != syncs {
            // Takes effect when it is prepared, so it cannot be a cached statement.
            let pragma = if syncs { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            self.connection.execute_batch(pragma).map_err(|e| schema::error("set up a transaction", e))?;
        }
        Ok(())
    }

    fn execute(&self, what: &str, sql: &str) -> Result<(), Error> {
        let executed = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        executed.map(drop).map_err(|e| schema::error(what, e))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn note(name: &'static str) -> impl Fn(&Store<'_>) -> Result<usize, Error> {
        move |store| store.execute("note", "INSERT INTO brigade_facts VALUES (?1, '')", &[&name])
    }

    fn synchronous(store: &Store<'_>) -> Result<Option<i64>, Error> {
        store.row("look", "PRAGMA synchronous", &[], |row| row.get(0))
    }

    async fn lane(directory: &tempfile::TempDir) -> Lane {
        let place = Place { path: Some(directory.path().join("jobs.db")), safety: Safety::Full, shared: false };
        Lane::open(place, Clock::default()).await.expect("a lane")
    }

    /// Keeps the thread busy until the sender is dropped, so that what is asked meanwhile waits together.
    fn hold(lane: &Lane) -> (mpsc::SyncSender<()>, impl Future<Output = Result<(), Error>>) {
        let (release, held) = mpsc::sync_channel::<()>(0);
        let held = std::sync::Mutex::new(held);
        let holding = lane.run(Synced::Later, move |_| {
            crate::sync::lock(&held).recv().ok();
            Ok(())
        });
        (release, holding)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_fails_is_undone_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let lane = lane(&directory).await;
        let (release, holding) = hold(&lane);
        let failing = lane.run(Synced::Now, |store| {
            note("undone")(store)?;
            note("before")(store)
        });
        let before = lane.run(Synced::Now, note("before"));
        let after = lane.run(Synced::Now, note("after"));
        let released = async {
            tokio::task::yield_now().await;
            drop(release);
        };
        let (held, before, failed, after, ()) = tokio::join!(holding, before, failing, after, released);
        held.and(before).and(after).expect("the others hold");
        failed.expect_err("there is one of that name already");
        let there = lane.run(Synced::Later, |store| {
            store.rows("look", "SELECT name FROM brigade_facts WHERE value = '' ORDER BY name", &[], |row| row.get::<_, String>(0))
        });
        assert_eq!(there.await.expect("a look"), ["after", "before"]);
    }

    #[tokio::test]
    async fn only_leases_are_not_synced() {
        let directory = tempfile::tempdir().expect("a directory");
        let lane = lane(&directory).await;
        let (release, holding) = hold(&lane);
        let lease = lane.run(Synced::Later, synchronous);
        let push = lane.run(Synced::Now, synchronous);
        let with_it = lane.run(Synced::Later, synchronous);
        let released = async {
            tokio::task::yield_now().await;
            drop(release);
        };
        let (held, lease, push, with_it, ()) = tokio::join!(holding, lease, push, with_it, released);
        held.expect("it was held");
        let (full, normal) = (Some(2), Some(1));
        assert_eq!([lease, push, with_it].map(|seen| seen.expect("a look")), [normal, full, full]);
    }
}
