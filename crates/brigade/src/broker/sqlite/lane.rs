//! The one connection and its thread: operations in, one transaction for all that are waiting, answers out after the commit.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Notify, mpsc, oneshot};

use super::store::{Memo, Now, Store};
use super::{Place, schema};
use crate::broker::api::Clock;
use crate::error::{Error, ErrorKind};
use crate::shutdown::spawn_thread;

/// Operations that may wait for the thread; then their callers wait.
const OPERATIONS_MAX: usize = 4096;
/// Operations in one transaction: more would make the first wait long for its answer.
const BATCH_MAX: usize = 1024;
/// How long another process may hold the file before an operation fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Lane {
    operations: mpsc::Sender<Operation>,
    committed: Arc<Notify>,
}

/// Runs within the transaction; says whether it failed, and how to tell the caller once it is known whether the transaction holds.
type Operation = Box<dyn FnOnce(Result<&Store<'_>, Error>) -> (bool, Tell) + Send>;
type Tell = Box<dyn FnOnce(Result<(), Error>) + Send>;

impl Lane {
    pub(super) async fn open(place: Place, clock: Clock) -> Result<Self, Error> {
        let (operations, mut inbox) = mpsc::channel::<Operation>(OPERATIONS_MAX);
        let (ready, opened) = oneshot::channel();
        let committed = Arc::new(Notify::new());
        let tell = Arc::clone(&committed);
        let run = move || match schema::open(&place, BUSY_TIMEOUT) {
            Ok(connection) => {
                if ready.send(Ok(())).is_ok() {
                    serve(&connection, &clock, &mut inbox, &tell);
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

    /// Runs an operation and returns when it is committed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the operation back.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        operation: impl FnOnce(&Store<'_>) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        let operation: Operation = Box::new(move |store| {
            let result = store.and_then(operation);
            let failed = result.is_err();
            let tell: Tell = Box::new(move |committed| {
                // Whoever asked may have stopped waiting.
                reply.send(committed.and(result)).ok();
            });
            (failed, tell)
        });
        self.operations.send(operation).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "ask a broker whose thread has ended")
}

/// Lives until the last [`Lane`] is dropped.
fn serve(connection: &Connection, clock: &Clock, inbox: &mut mpsc::Receiver<Operation>, committed: &Notify) {
    let memo = RefCell::default();
    while let Some(first) = inbox.blocking_recv() {
        let waiting = std::iter::once(first).chain(std::iter::from_fn(|| inbox.try_recv().ok()));
        let batch: Vec<Operation> = waiting.take(BATCH_MAX).collect();
        let before = connection.total_changes();
        transact(connection, clock, &memo, batch);
        // Whoever waits for a change looks again when told: a look must not tell of itself.
        if connection.total_changes() != before {
            committed.notify_waiters();
        }
    }
}

/// One transaction for the whole batch. An operation that fails is undone alone.
fn transact(connection: &Connection, clock: &Clock, memo: &RefCell<Memo>, batch: Vec<Operation>) {
    let store = Store { connection, now: Now::read(clock), memo };
    let mut tells = Vec::with_capacity(batch.len());
    let mut problem = connection.execute_batch("BEGIN IMMEDIATE").map_err(|e| schema::error("begin a transaction", e)).err();
    for operation in batch {
        // Once the transaction is lost, nothing more may run outside of it.
        let (tell, lost) = match &problem {
            None => run_one(connection, &store, operation),
            Some(error) => (operation(Err(copy(error))).1, None),
        };
        tells.push(tell);
        problem = problem.or(lost);
    }
    if problem.is_none() {
        problem = connection.execute_batch("COMMIT").map_err(|e| schema::error("commit", e)).err();
    }
    if problem.is_some() && !connection.is_autocommit() {
        // If even that fails, the next BEGIN says so.
        connection.execute_batch("ROLLBACK").ok();
    }
    for tell in tells {
        tell(problem.as_ref().map_or(Ok(()), |error| Err(copy(error))));
    }
}

/// The same error for one more caller.
fn copy(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

/// Runs one operation in a savepoint. An error here is the whole transaction's: SQLite may have undone all of it.
fn run_one(connection: &Connection, store: &Store<'_>, operation: Operation) -> (Tell, Option<Error>) {
    let savepoint = |sql: &str| connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    let opened = savepoint("SAVEPOINT operation");
    let (failed, tell) = operation(Ok(store));
    let closed = opened.and_then(|_| match failed {
        false => savepoint("RELEASE operation"),
        true => savepoint("ROLLBACK TO operation").and_then(|_| savepoint("RELEASE operation")),
    });
    let lost = match closed {
        Ok(_) if !connection.is_autocommit() => None,
        Ok(_) => Some(Error::new(ErrorKind::Os, "write to the database: the transaction was undone")),
        Err(error) => Some(schema::error("write to the database", error)),
    };
    (tell, lost)
}
