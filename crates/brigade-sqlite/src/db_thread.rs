//! The thread of the one connection: operations in, one transaction for all that are waiting,
//! answers out after the commit.
//!
//! Group commit: the thread takes operations for as long as some are waiting, up to a limit, then
//! commits. What arrives meanwhile goes into the next transaction. So the more callers there are,
//! the more share one sync. What only looks goes together too, in a transaction that takes no lock;
//! if it finds that it has to write, it goes first in the next one that may. See `transactions`.

use std::sync::{Arc, OnceLock};

use rusqlite::Connection;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, mpsc, oneshot};

use super::config::SqliteConfig;
use super::file::{BUSY_TIMEOUT, File, wait_for_lock};
use super::operation::{
    Operation, OperationAccess, OperationBatch, OperationQueue, PendingOperation, gone,
};
use super::schema;
use super::sql_error::sql_error;
use super::store::Store;
use super::transactions::Transactions;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::shutdown::{Scope, spawn_thread};

/// Operations that may wait for the thread; then their callers wait.
const OPERATIONS_MAX: usize = 4096;
/// Transactions that have ended and wait for a task to answer the callers; then the thread answers
/// by itself.
const ANSWERS_MAX: usize = 16;

pub(super) struct DbThread {
    operations: mpsc::Sender<Box<dyn Operation>>,
    committed: Arc<Notify>,
    lost: Arc<OnceLock<ErrorKind>>,
}

/// How a connection is opened.
type Open = fn(&SqliteConfig) -> Result<(Connection, File), Error>;

impl DbThread {
    pub(super) async fn open(config: SqliteConfig, clock: Clock) -> Result<Self, Error> {
        Self::start(config, clock, open, Arc::new(Notify::new())).await
    }

    /// Opens a file once more that `first` has opened. Its commits are changes of both.
    pub(super) async fn open_for_looks(
        config: SqliteConfig,
        clock: Clock,
        first: &Self,
    ) -> Result<Self, Error> {
        Self::start(config, clock, open_again, first.committed()).await
    }

    async fn start(
        config: SqliteConfig,
        clock: Clock,
        open: Open,
        committed: Arc<Notify>,
    ) -> Result<Self, Error> {
        let (operations, inbox) = mpsc::channel(OPERATIONS_MAX);
        let (ready, opened) = oneshot::channel();
        let answerer = answerer();
        let lost = Arc::<OnceLock<ErrorKind>>::default();
        let (changed, losing) = (Arc::clone(&committed), Arc::clone(&lost));
        let run = move || match open(&config) {
            Ok((connection, file)) => {
                if ready.send(Ok(())).is_ok() {
                    let transactions = Transactions::new(connection, clock, &config, file);
                    serve(
                        transactions,
                        &mut OperationQueue::new(inbox),
                        answerer.as_ref(),
                        &changed,
                        &losing,
                    );
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        spawn_thread("brigade-sqlite", 1 << 20, run)
            .map_err(|e| Error::os("start the database thread", e))?;
        opened.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(Self {
            operations,
            committed,
            lost,
        })
    }

    /// Notified after each commit that changed something.
    pub(super) fn committed(&self) -> Arc<Notify> {
        Arc::clone(&self.committed)
    }

    /// Whether everything is refused, for whatever reason, or the thread has ended.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some() || self.operations.is_closed()
    }

    /// Whether everything is refused because the file was moved, replaced or deleted.
    pub(super) fn is_file_lost(&self) -> bool {
        self.lost.get() == Some(&ErrorKind::Closed)
    }

    /// Runs an operation, perhaps twice if the first transaction is undone, and returns when it is
    /// committed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the operation back.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        access: OperationAccess,
        question: impl Fn(&Store<'_>) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        self.operations
            .send(Box::new(PendingOperation::new(access, question, reply)))
            .await
            .map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn open(config: &SqliteConfig) -> Result<(Connection, File), Error> {
    ready(schema::open(config, BUSY_TIMEOUT)?, config)
}

fn open_again(config: &SqliteConfig) -> Result<(Connection, File), Error> {
    ready(schema::connect(config, BUSY_TIMEOUT)?, config)
}

fn ready(mut connection: Connection, config: &SqliteConfig) -> Result<(Connection, File), Error> {
    connection
        .busy_handler(Some(wait_for_lock))
        .map_err(|e| sql_error("set up the database", e))?;
    let file = File::of(config);
    Ok((connection, file))
}

/// Lives until the last [`DbThread`] is dropped.
fn serve(
    mut transactions: Transactions,
    inbox: &mut OperationQueue,
    answerer: Option<&mpsc::Sender<FinishedTransaction>>,
    changed: &Arc<Notify>,
    losing: &OnceLock<ErrorKind>,
) {
    while let Some(first) = inbox.first() {
        let mut batch = vec![first];
        let before = transactions.changes();
        let committed = transactions.run(&mut batch, inbox);
        let has_changed = transactions.changes() != before;
        let answerer = answerer.filter(|_| batch.len() > 1);
        let lost = committed
            .as_ref()
            .err()
            .filter(|error| error.is_uncertain() || error.kind() == ErrorKind::Closed)
            .map(Error::copy);
        if let Some(error) = &lost {
            // It is set once: after this nothing is carried out any more.
            losing.set(error.kind()).ok();
        }
        // Those that wait for a change look again when notified: a look must not wake itself.
        let ended = FinishedTransaction {
            batch,
            committed,
            changed: has_changed.then(|| Arc::clone(changed)),
        };
        match answerer {
            // If the task is gone or far behind, it comes back and is dropped here.
            Some(answerer) => drop(answerer.try_send(ended)),
            None => drop(ended),
        }
        if let Some(error) = lost {
            drop(transactions);
            return refuse_all(inbox, &error);
        }
        transactions.keep_log_small();
    }
}

/// A task that answers several callers of one transaction: it wakes its neighbours in the runtime
/// for a small part of what that costs the database thread, which has the next transaction to
/// see to. None in a runtime of one thread, which need not be running while others ask.
fn answerer() -> Option<mpsc::Sender<FinishedTransaction>> {
    let runtime = Handle::try_current()
        .ok()
        .filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    let scope = runtime.and_then(|_| Scope::current())?;
    let (answerer, mut finished) = mpsc::channel(ANSWERS_MAX);
    scope.spawn(async move { while finished.recv().await.is_some() {} });
    Some(answerer)
}

/// A transaction that has ended. Dropping it answers the callers.
struct FinishedTransaction {
    batch: OperationBatch,
    committed: Result<(), Error>,
    changed: Option<Arc<Notify>>,
}

impl Drop for FinishedTransaction {
    fn drop(&mut self) {
        for operation in self.batch.drain(..) {
            operation.tell(
                self.committed
                    .as_ref()
                    .map_or_else(|error| Err(error.copy()), |()| Ok(())),
            );
        }
        if let Some(changed) = &self.changed {
            changed.notify_waiters();
        }
    }
}

/// A sync that failed is not tried again: the kernel may have dropped what it could not write, and
/// the next sync would say that all is well (fsync(2)). So the connection is closed, which merges
/// what was synced before, and nothing is acknowledged any more. The same if the file is not where
/// it was: what is written to it is lost to others (SQLite sees that too when it closes it, and
/// leaves alone what is there).
fn refuse_all(inbox: &mut OperationQueue, lost: &Error) {
    let text = if lost.kind() == ErrorKind::Closed {
        tracing::error!(error = %lost, "the job file was moved, replaced or deleted: this \
            connection does nothing any more");
        lost.to_string()
    } else {
        tracing::error!(
            "the disk failed to keep a commit: this connection acknowledges nothing any more"
        );
        "ask a broker whose disk failed to keep a commit: connect again to see what was kept"
            .to_owned()
    };
    while let Some(operation) = inbox.first() {
        operation.tell(Err(Error::new(ErrorKind::Closed, text.clone())));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::operation::Synced;
    use super::*;
    use crate::config::Safety;
    use brigade_core::{Job, StatisticsFilter};

    fn note(name: &'static str) -> impl Fn(&Store<'_>) -> Result<usize, Error> {
        move |store| {
            store.execute(
                "note",
                "INSERT INTO brigade_facts VALUES (?1, '')",
                &[&name],
            )
        }
    }

    fn synchronous(store: &Store<'_>) -> Result<Option<i64>, Error> {
        store.row("look", "PRAGMA synchronous", &[], |row| row.get(0))
    }

    async fn thread(directory: &tempfile::TempDir) -> DbThread {
        let config = SqliteConfig {
            path: Some(directory.path().join("jobs.db")),
            link: None,
            safety: Safety::Full,
            shared: false,
        };
        DbThread::open(config, Clock::default())
            .await
            .expect("a database thread")
    }

    /// Keeps the thread busy until the sender is dropped, so that what is asked meanwhile waits
    /// together.
    fn hold(
        thread: &DbThread,
    ) -> (
        mpsc::SyncSender<()>,
        impl Future<Output = Result<(), Error>>,
    ) {
        let (release, held) = mpsc::sync_channel::<()>(0);
        let held = std::sync::Mutex::new(held);
        let holding = thread.run(OperationAccess::Write(Synced::Later), move |_| {
            crate::sync::lock(&held).recv().ok();
            Ok(())
        });
        (release, holding)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_fails_is_undone_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let thread = thread(&directory).await;
        let (release, holding) = hold(&thread);
        let failing = thread.run(OperationAccess::Write(Synced::Now), |store| {
            note("undone")(store)?;
            note("before")(store)
        });
        let before = thread.run(OperationAccess::Write(Synced::Now), note("before"));
        let after = thread.run(OperationAccess::Write(Synced::Now), note("after"));
        let released = async {
            tokio::task::yield_now().await;
            drop(release);
        };
        let (held, before, failed, after, ()) =
            tokio::join!(holding, before, failing, after, released);
        held.and(before).and(after).expect("the others hold");
        failed.expect_err("there is one of that name already");
        let there = thread.run(OperationAccess::Write(Synced::Later), |store| {
            store.rows(
                "look",
                "SELECT name FROM brigade_facts WHERE value = '' ORDER BY name",
                &[],
                |row| row.get::<_, String>(0),
            )
        });
        assert_eq!(there.await.expect("a look"), ["after", "before"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_undone_alone_is_not_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let thread = thread(&directory).await;
        let (release, holding) = hold(&thread);
        let push = |fails: bool| {
            thread.run(OperationAccess::Write(Synced::Now), move |store| {
                store.push_all(&[Job::new("q", None, "1")])?;
                if fails { Err(gone()) } else { Ok(()) }
            })
        };
        let released = async {
            tokio::task::yield_now().await;
            drop(release);
        };
        let (held, before, failed, after, ()) =
            tokio::join!(holding, push(false), push(true), push(false), released);
        held.and(before).and(after).expect("the others hold");
        failed.expect_err("it fails");
        let look = |store: &Store<'_>| store.statistics(&StatisticsFilter::default());
        let counted = thread.run(OperationAccess::Look, look).await;
        let counted = counted.expect("a look");
        let pushed: u64 = counted.iter().map(|minute| minute.counts.pushed).sum();
        assert_eq!(pushed, 2);
    }

    #[tokio::test]
    async fn only_leases_are_not_synced() {
        let directory = tempfile::tempdir().expect("a directory");
        let thread = thread(&directory).await;
        let (release, holding) = hold(&thread);
        let lease = thread.run(OperationAccess::Write(Synced::Later), synchronous);
        let push = thread.run(OperationAccess::Write(Synced::Now), synchronous);
        let with_it = thread.run(OperationAccess::Write(Synced::Later), synchronous);
        let released = async {
            tokio::task::yield_now().await;
            drop(release);
        };
        let (held, lease, push, with_it, ()) =
            tokio::join!(holding, lease, push, with_it, released);
        held.expect("it was held");
        let (full, normal) = (Some(2), Some(1));
        assert_eq!(
            [lease, push, with_it].map(|seen| seen.expect("a look")),
            [normal, full, full]
        );
    }
}
