//! Waking consumers after pushes of this process.
//!
//! A transaction that announces something commits alone: the server lets one of them commit after
//! the other, each with its wait for the disk. So the pushes of this process announce nothing
//! themselves. When one is committed, a transaction of its own does, which does not wait for the
//! disk. Pushes that follow closely share it. If it fails, or this process dies before it, waiting
//! consumers find the jobs when they look again by themselves.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::database::{Database, Statement};
use crate::shutdown::Scope;
use brigade_core::sync::lock;

const ANNOUNCE: Statement =
    Statement::write_again("announce new jobs", "select brigade.announce_committed($1)");
/// Between two announcements.
const EVERY: Duration = Duration::from_millis(2);

#[derive(Default)]
struct QueuesToAnnounce {
    queues: BTreeSet<Box<str>>,
    is_under_way: bool,
}

/// The queues that are to be announced.
pub(super) struct WakeUps {
    scope: Scope,
    database: Arc<Database>,
    waiting: Mutex<QueuesToAnnounce>,
}

impl WakeUps {
    pub(super) fn new(scope: Scope, database: Arc<Database>) -> Self {
        Self {
            scope,
            database,
            waiting: Mutex::default(),
        }
    }

    /// Announces these queues in the background: at once, or soon if another announcement was just
    /// made.
    pub(super) fn announce<'a>(self: &Arc<Self>, queues: impl Iterator<Item = &'a str>) {
        let begins = {
            let mut waiting = lock(&self.waiting);
            for queue in queues {
                if !waiting.queues.contains(queue) {
                    waiting.queues.insert(queue.into());
                }
            }
            !std::mem::replace(&mut waiting.is_under_way, true)
        };
        if begins {
            let this = Arc::clone(self);
            self.scope.spawn(async move { this.run().await });
        }
    }

    async fn run(&self) {
        while let Some(queues) = self.next() {
            if let Err(error) = self.database.row(ANNOUNCE, &[&queues]).await {
                tracing::debug!(%error, "consumers were not woken; they look again by themselves");
            }
            sleep(EVERY).await;
        }
    }

    fn next(&self) -> Option<Vec<Box<str>>> {
        let mut waiting = lock(&self.waiting);
        if waiting.queues.is_empty() {
            waiting.is_under_way = false;
            return None;
        }
        Some(std::mem::take(&mut waiting.queues).into_iter().collect())
    }
}
