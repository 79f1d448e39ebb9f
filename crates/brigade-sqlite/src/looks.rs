//! Looks at the file: on which thread they run, and what they wait for.
//!
//! Lists, counts, groups and statistics may read for a tenth of a second where there are a million
//! jobs. So they have a connection and a thread of their own, from the first of them on: the thread
//! of pushes, hand-outs and settlements goes on meanwhile, as readers of a write-ahead log block no
//! writer. Both threads work in the same way, so that a look sees all that was committed before it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Sqlite;
use super::budget::pause_after;
use super::db_thread::DbThread;
use super::operation::{OperationAccess, Synced};
use super::store::Store;
use crate::error::Error;

/// Steps of a sweep that a look waits for.
const LOOK_STEPS_MAX: usize = 20;
/// How long a look waits while the end of a job is passed on in a long flow, so that it shows all
/// of it or none. Longer than the longest flow takes; after that it shows what is there.
const FLOW_LOOK_MAX: Duration = Duration::from_secs(30);

impl Sqlite {
    /// A look at little, see [`look_on`](Self::look_on).
    pub(super) async fn look_at_now<T: Send + 'static>(
        &self,
        look: impl Fn(&Store<'_>) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        Self::look_on(&self.thread, look).await
    }

    /// A look that may read much.
    pub(super) async fn look_long<T: Send + 'static>(
        &self,
        look: impl Fn(&Store<'_>) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        Self::look_on(self.thread_for_looks().await, look).await
    }

    /// The thread for looks. The first one where there is no other: for a database in memory, when
    /// nothing works any more, which it says best, and when the other thread has lost its file.
    pub(super) async fn thread_for_looks(&self) -> &DbThread {
        let is_lost = self.looks.get().is_some_and(DbThread::is_lost);
        if self.config.path.is_none() || self.thread.is_lost() || is_lost {
            return &self.thread;
        }
        let open = || async {
            // It opens the file by its name, which must still be that of the file.
            let is_there = |_: &Store<'_>| Ok(());
            self.thread.run(OperationAccess::Look, is_there).await?;
            DbThread::open_for_looks(self.config.clone(), self.clock.clone(), &self.thread).await
        };
        let opened = self.looks.get_or_try_init(open).await;
        opened.unwrap_or(&self.thread)
    }

    /// Looks after everything that has come due was processed, as far as that is not too much: so
    /// all views show the same moment. A look that finds nothing due takes no lock.
    async fn look_on<T: Send + 'static>(
        thread: &DbThread,
        look: impl Fn(&Store<'_>) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let look = Arc::new(look);
        let (mut steps, asked) = (0, Instant::now());
        loop {
            let look = Arc::clone(&look);
            let began = Instant::now();
            let access = OperationAccess::HandOut {
                sync: Synced::Later,
                looks_first: true,
                at_once: true,
            };
            let view = thread
                .run(access, move |store| {
                    let is_enough = steps >= LOOK_STEPS_MAX;
                    if is_enough
                        && (asked.elapsed() >= FLOW_LOOK_MAX || !store.has_unfinished_flows()?)
                    {
                        look(store).map(Some)
                    } else {
                        store.look_at_now(&*look)
                    }
                })
                .await?;
            if let Some(view) = view {
                return Ok(view);
            }
            steps += 1;
            sleep(pause_after(began.elapsed())).await;
        }
    }
}
