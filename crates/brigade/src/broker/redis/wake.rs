//! Waking whoever waits for a queue, without polling.
//!
//! The server tells one connection of each change of a few keys (`CLIENT TRACKING` in broadcasting mode, since Redis 6): the bell of a
//! queue, which scripts ring, its inbox, which any client may push to, and the list of free clients. In a cluster, each node that has a
//! watched queue is listened to, and which ones these are is looked up again whenever a queue moved. A notification says only that
//! something may have changed. When a connection breaks, everybody is woken once it is back, as nobody knows what was missed.

use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::{PushInfo, PushKind};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fault::Fault;
use super::link::key;
use super::nodes::Nodes;
use super::reach::{Connection, Target};
use crate::error::{Error, ErrorKind};
use crate::shutdown::Scope;

/// Before connecting again.
const PAUSE: Duration = Duration::from_millis(200);
/// So often an idle connection is asked whether it still is one.
const PING_EVERY: Duration = Duration::from_secs(2);

type Queues = BTreeSet<Box<str>>;

pub(super) struct Wake {
    changed: Arc<Notify>,
    watched: watch::Sender<Queues>,
    /// Ends the watching task.
    _stop: DropGuard,
}

impl Wake {
    /// Must be called within the runtime.
    pub(super) fn start(nodes: Arc<Nodes>) -> Result<Self, Error> {
        let scope =
            Scope::current().ok_or_else(|| Error::new(ErrorKind::Unsupported, "open a broker outside of an async runtime (tokio)"))?;
        let (stop, changed, watched) = (CancellationToken::new(), Arc::new(Notify::new()), watch::Sender::default());
        let (until, ear) = (stop.clone(), Ear { nodes, changed: Arc::clone(&changed), watched: watched.subscribe() });
        scope.spawn(async move {
            until.run_until_cancelled(ear.watch()).await;
        });
        Ok(Self { changed, watched, _stop: stop.drop_guard() })
    }

    /// The queues that this process has to do with.
    pub(super) fn watched(&self) -> Vec<Box<str>> {
        self.watched.borrow().iter().cloned().collect()
    }

    /// A future that ends at the next change after this call, of these queues at least, polled by then or not.
    pub(super) fn next(&self, queues: &[Box<str>]) -> impl Future<Output = ()> + '_ {
        if !queues.iter().all(|queue| self.watched.borrow().contains(queue)) {
            self.watched.send_modify(|watched| watched.extend(queues.iter().cloned()));
        }
        self.changed.notified()
    }
}

/// What listens.
struct Ear {
    nodes: Arc<Nodes>,
    changed: Arc<Notify>,
    watched: watch::Receiver<Queues>,
}

impl Ear {
    /// Sees to it that each server with a watched queue is listened to, for ever.
    async fn watch(&self) {
        let (mut watched, mut moves) = (self.watched.clone(), self.nodes.moves());
        let (mut at, mut listening) = (HashSet::new(), FuturesUnordered::new());
        loop {
            let queues = watched.borrow_and_update().clone();
            moves.mark_unchanged();
            let mut is_complete = true;
            for queue in &queues {
                match self.nodes.target_of(key(queue, "").as_bytes()).await {
                    Ok(target) => {
                        if at.insert(target.clone()) {
                            listening.push(self.listen_while_needed(target));
                        }
                    }
                    Err(_) => is_complete = false,
                }
            }
            tokio::select! {
                _ = watched.changed() => {}
                _ = moves.changed() => {}
                Some(target) = listening.next() => {
                    at.remove(&target);
                }
                () = sleep(PAUSE), if !is_complete => {}
            }
        }
    }

    /// Connects again and again, until the server has no watched queue any more.
    async fn listen_while_needed(&self, target: Target) -> Target {
        loop {
            if let Err(fault) = self.listen(&target).await {
                tracing::debug!(error = %fault.source, "the connection for notifications is gone");
            }
            sleep(PAUSE).await;
            if matches!(self.queues_of(&target).await, Ok(queues) if queues.is_empty()) {
                return target;
            }
        }
    }

    /// Listens until the connection breaks, or there is nothing to listen for.
    async fn listen(&self, target: &Target) -> Result<(), Fault> {
        let (mut watched, mut moves) = (self.watched.clone(), self.nodes.moves());
        let broken = CancellationToken::new();
        let (ends, tell) = (broken.clone(), Arc::clone(&self.changed));
        let hear = move |push: PushInfo| match push.kind {
            PushKind::Disconnection => ends.cancel(),
            _ => tell.notify_waiters(),
        };
        let connection = self.nodes.reach().open(target, Some(Arc::new(hear))).await?;
        let mut told = Queues::new();
        loop {
            watched.mark_unchanged();
            moves.mark_unchanged();
            let queues = self.queues_of(target).await?;
            if queues.is_empty() {
                return Ok(());
            }
            if track(&connection, &queues, &mut told).await? {
                // Whatever happened while nobody listened.
                self.changed.notify_waiters();
            }
            loop {
                tokio::select! {
                    () = broken.cancelled() => return Ok(()),
                    _ = watched.changed() => break,
                    _ = moves.changed() => break,
                    () = sleep(PING_EVERY) => connection.ask::<()>(redis::cmd("PING")).await?,
                }
            }
        }
    }

    /// The watched queues that a server has.
    async fn queues_of(&self, target: &Target) -> Result<Queues, Fault> {
        let watched = self.watched.borrow().clone();
        let mut queues = Queues::new();
        for queue in watched {
            if self.nodes.target_of(key(&queue, "").as_bytes()).await? == *target {
                queues.insert(queue);
            }
        }
        Ok(queues)
    }
}

/// The key that scripts change when somebody should look at a queue.
fn bell(queue: &str) -> String {
    format!("brigade:bell:{{{queue}}}")
}

/// Has the server tell of the queues that it does not tell of yet; whether there were any.
async fn track(connection: &Connection, queues: &Queues, told: &mut Queues) -> Result<bool, Fault> {
    let new: Vec<Box<str>> = queues.difference(told).cloned().collect();
    if new.is_empty() {
        return Ok(false);
    }
    let mut command = redis::cmd("CLIENT");
    command.arg("TRACKING").arg("ON").arg("BCAST");
    for queue in &new {
        command.arg("PREFIX").arg(bell(queue));
        for name in ["inbox", "free"] {
            command.arg("PREFIX").arg(key(queue, name));
        }
    }
    connection.ask::<()>(command).await?;
    told.extend(new);
    Ok(true)
}
