//! One transaction for the operations that wait.
//!
//! Nearly always every operation of a transaction succeeds, so none has a savepoint of its own. If
//! one fails, the transaction is undone and the same operations run once more, each in a savepoint,
//! so that what fails is undone alone.
//!
//! A transaction of nothing but leases is not synced, see [`Synced::Later`]. One of nothing but
//! looks takes no lock.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::config::{Safety, SqliteConfig};
use super::disk_reserve::DiskReserve;
use super::file::File;
use super::operation::{Operation, OperationAccess, OperationBatch, OperationQueue, Synced};
use super::sql_error::{commit_error, sql_error};
use super::store::{ConnectionCache, Now, Store};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};

/// Operations in one transaction: more would make the first wait long for its answer.
const BATCH_MAX: usize = 1024;
/// A transaction takes no further operation after this time, for the same reason.
const GATHER_MAX: Duration = Duration::from_millis(5);

pub(super) struct Transactions {
    connection: Connection,
    clock: Clock,
    safety: Safety,
    /// Whether commits are synced now.
    syncs: Cell<bool>,
    cache: RefCell<ConnectionCache>,
    room: DiskReserve,
    file: File,
}

/// Why operations that ran without savepoints were undone.
enum Undone {
    /// One of them failed.
    ByOne,
    /// All did.
    ByAll(Error),
}

impl Transactions {
    pub(super) fn new(
        connection: Connection,
        clock: Clock,
        config: &SqliteConfig,
        file: File,
    ) -> Self {
        let (safety, room) = (config.safety, DiskReserve::of(config.path.as_deref()));
        Self {
            connection,
            clock,
            safety,
            syncs: Cell::new(safety == Safety::Full),
            cache: RefCell::default(),
            room,
            file,
        }
    }

    /// Rows that this connection has changed so far.
    pub(super) fn changes(&self) -> u64 {
        self.connection.total_changes()
    }

    /// Merges the log into the file if it has grown. Outside of a transaction.
    pub(super) fn keep_log_small(&mut self) {
        self.file.keep_log_small(&mut self.connection);
    }

    /// One transaction for all that wait; `Ok` when it is committed, and each operation that is
    /// left in the batch has its own answer.
    pub(super) fn run(
        &self,
        batch: &mut OperationBatch,
        inbox: &mut OperationQueue,
    ) -> Result<(), Error> {
        self.file.check_place()?;
        let Some(first) = batch.first().map(|first| first.access()) else {
            return Ok(());
        };
        if let OperationAccess::HandOut { at_once, .. } = first {
            self.store().look_for_the_gone(at_once)?;
        }
        if first.is_look() {
            return self.look_together(batch, inbox);
        }
        match self.run_together(batch, inbox) {
            Err(Undone::ByOne) => self.run_apart(batch)?,
            Err(Undone::ByAll(error)) => return Err(error),
            Ok(()) => {}
        }
        // Between the first check and the commit it may have gone.
        self.file.check_place().map_err(Error::uncertain)
    }

    /// Those that only look. Takes those out of the batch that have to write.
    fn look_together(
        &self,
        batch: &mut OperationBatch,
        inbox: &mut OperationQueue,
    ) -> Result<(), Error> {
        self.execute("begin to look", "BEGIN")?;
        let store = Store {
            is_look: true,
            ..self.store()
        };
        let began = Instant::now();
        let (mut done, mut writers) = (0, Vec::new());
        while let Some(operation) = batch.get_mut(done) {
            operation.run(&store);
            if store.must_write.take() {
                writers.push(batch.remove(done));
            } else {
                done += 1;
            }
            if done == batch.len()
                && done + writers.len() < BATCH_MAX
                && began.elapsed() < GATHER_MAX
            {
                batch.extend(inbox.more(|access| access.is_look() && may_join(&store, access)));
            }
        }
        writers
            .into_iter()
            .for_each(|writer| inbox.put_back(writer));
        self.commit()
    }

    fn run_together(
        &self,
        batch: &mut OperationBatch,
        inbox: &mut OperationQueue,
    ) -> Result<(), Undone> {
        let are_later = batch
            .iter()
            .all(|operation| operation.access().sync() == Synced::Later);
        let sync = if are_later {
            Synced::Later
        } else {
            Synced::Now
        };
        let store = self.begin(sync).map_err(Undone::ByAll)?;
        let began = Instant::now();
        let mut done = 0;
        while let Some(operation) = batch.get_mut(done) {
            if !operation.run(&store) {
                self.undo();
                store.forget();
                return Err(Undone::ByOne);
            }
            done += 1;
            if done == batch.len() && done < BATCH_MAX && began.elapsed() < GATHER_MAX {
                batch.extend(inbox.more(|access| {
                    let is_covered = sync == Synced::Now || access.sync() == Synced::Later;
                    is_covered && may_join(&store, access)
                }));
            }
        }
        self.commit_counted(&store).map_err(Undone::ByAll)
    }

    /// Each in a savepoint.
    fn run_apart(&self, batch: &mut OperationBatch) -> Result<(), Error> {
        let store = self.begin(Synced::Now)?;
        for operation in batch {
            let ran = self.run_alone(&store, &mut **operation);
            // SQLite may have undone all of it. Once the transaction is lost, nothing more may run
            // outside of it.
            let lost = || {
                Error::new(
                    ErrorKind::Os,
                    "write to the database: the transaction was undone",
                )
            };
            ran.and_then(|()| {
                if self.connection.is_autocommit() {
                    Err(lost())
                } else {
                    Ok(())
                }
            })
            .inspect_err(|_| self.undo())?;
        }
        self.commit_counted(&store)
    }

    fn run_alone(&self, store: &Store<'_>, operation: &mut dyn Operation) -> Result<(), Error> {
        let (what, counted) = ("write to the database", store.counted_so_far());
        self.execute(what, "SAVEPOINT operation")?;
        if !operation.run(store) {
            self.execute(what, "ROLLBACK TO operation")?;
            store.forget_counted(counted);
            store.forget();
        }
        self.execute(what, "RELEASE operation")
    }

    fn store(&self) -> Store<'_> {
        Store::new(&self.connection, Now::read(&self.clock), &self.cache)
    }

    fn begin(&self, sync: Synced) -> Result<Store<'_>, Error> {
        self.set_sync(sync == Synced::Now && self.safety == Safety::Full)?;
        let tight = self.room.is_tight(&self.connection);
        self.execute("begin a transaction", "BEGIN IMMEDIATE")?;
        Ok(Store {
            tight,
            ..self.store()
        })
    }

    /// Writes the statistics of a transaction and commits it.
    fn commit_counted(&self, store: &Store<'_>) -> Result<(), Error> {
        store.write_counted().inspect_err(|_| self.undo())?;
        self.commit()
    }

    fn commit(&self) -> Result<(), Error> {
        let committed = self
            .connection
            .prepare_cached("COMMIT")
            .and_then(|mut statement| statement.execute([]));
        committed
            .map(drop)
            .map_err(commit_error)
            .inspect_err(|_| self.undo())
    }

    fn undo(&self) {
        self.cache.take();
        if !self.connection.is_autocommit() {
            // If even that fails, the next BEGIN fails.
            self.connection.execute_batch("ROLLBACK").ok();
        }
    }

    fn set_sync(&self, syncs: bool) -> Result<(), Error> {
        if self.syncs.replace(syncs) != syncs {
            // Takes effect when it is prepared, so it cannot be a cached statement.
            let pragma = if syncs {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            };
            self.connection
                .execute_batch(pragma)
                .map_err(|e| sql_error("set up a transaction", e))?;
        }
        Ok(())
    }

    fn execute(&self, what: &str, sql: &str) -> Result<(), Error> {
        let executed = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]));
        executed.map(drop).map_err(|e| sql_error(what, e))
    }
}

/// Whether an operation may share a transaction that has begun. Hand-outs look for holders that are
/// gone before their transaction, so one that is due to look begins its own: without that, it would
/// hand out later jobs before those that a holder has left.
fn may_join(store: &Store<'_>, access: OperationAccess) -> bool {
    match access {
        OperationAccess::HandOut { at_once, .. } => store.knows_the_gone(at_once),
        OperationAccess::Look | OperationAccess::Write(_) => true,
    }
}
