//! Waking the callers that wait for a queue, without polling.
//!
//! The server notifies one connection of each change of a few keys (`CLIENT TRACKING` in
//! broadcasting mode, since Redis 6): the bell of a queue, which scripts ring, its inbox, which any
//! client may push to, and the list of free clients. In a cluster, each node that has a watched
//! queue is listened to, and which ones these are is looked up again whenever a queue moved. A
//! notification says only that something may have changed. When a connection breaks, everybody is
//! woken once it is back, as changes may have been missed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::{PushInfo, PushKind};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fault::RedisFault;
use super::keys::key;
use super::nodes::Nodes;
use super::open_queues::OpenQueues;
use super::presence::{HolderPresence, channel};
use super::reach::{Connection, Target};
use super::server_time::ServerTimes;
use crate::error::{Error, ErrorKind};
use crate::retry::jitter;
use crate::shutdown::Scope;
use crate::sync::lock;
use brigade_runtime::owner::own_name;

/// Before connecting again.
const PAUSE: Duration = Duration::from_millis(200);
/// Before a server that does not tell of changes is asked to once more.
const SILENT_PAUSE: Duration = Duration::from_secs(30);
/// So often an idle connection is asked for the time: whether it still is one, and whether the
/// server's clock was set.
const PING_EVERY: Duration = Duration::from_secs(2);

/// A queue that nothing had to do with for this long is watched no more.
const WATCHED_FOR: Duration = Duration::from_secs(15 * 60);
/// QueueNames that are watched at most; those unused for longest go first.
const WATCHED_MAX: usize = 100_000;
/// The same names are not gone through for each ask.
const TOUCH_EVERY: Duration = Duration::from_secs(30);
/// More queues than this are watched by the one beginning that all bells have in common. The server
/// compares each key that changes with each beginning; inboxes of so many are looked at from time
/// to time instead.
const NARROW_MAX: usize = 32;

type QueueNames = BTreeSet<Box<str>>;

pub(super) struct Wake {
    changed: Arc<Notify>,
    watched: watch::Sender<QueueNames>,
    state: Arc<WatchState>,
    /// Ends the watching task.
    _stop: DropGuard,
}

/// What is known of the queues that are watched.
struct WatchState {
    open: Arc<OpenQueues>,
    used: Mutex<HashMap<Box<str>, Instant>>,
    /// The names that were touched last, by where they are, and when.
    touched: Mutex<Option<(usize, usize, Instant)>>,
    /// QueueNames whose bells rang since cancels were looked for; `None` for all.
    rung: Mutex<Option<BTreeSet<Box<str>>>>,
    /// The server does not notify.
    is_deaf: AtomicBool,
}

impl WatchState {
    /// Whether this process has to do with what changed.
    fn note(&self, keys: Option<Vec<Vec<u8>>>) -> bool {
        let Some(keys) = keys else {
            self.note_all();
            return true;
        };
        let used = lock(&self.used);
        let ours: Vec<&str> = keys
            .iter()
            .filter_map(|key| queue_of(key))
            .filter(|queue| used.contains_key(*queue))
            .collect();
        drop(used);
        self.open.ring(ours.iter().copied());
        if let Some(rung) = &mut *lock(&self.rung) {
            rung.extend(ours.iter().map(|queue| Box::from(*queue)));
        }
        !ours.is_empty()
    }

    fn note_all(&self) {
        *lock(&self.rung) = None;
        self.open.ring_all();
    }
}

/// The queue of a key that was changed.
fn queue_of(key: &[u8]) -> Option<&str> {
    let key = std::str::from_utf8(key).ok()?;
    let rest = key
        .strip_prefix("brigade:bell:{")
        .or_else(|| key.strip_prefix("brigade:{"))?;
    rest.split_once('}').map(|(queue, _)| queue)
}

impl Wake {
    /// Must be called within the runtime.
    pub(super) fn start(
        nodes: Arc<Nodes>,
        open: Arc<OpenQueues>,
        times: Arc<ServerTimes>,
        presence: Arc<HolderPresence>,
    ) -> Result<Self, Error> {
        let scope = Scope::current().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "open a broker outside of an async runtime (tokio)",
            )
        })?;
        let (stop, changed, watched) = (
            CancellationToken::new(),
            Arc::new(Notify::new()),
            watch::Sender::default(),
        );
        let state = Arc::new(WatchState {
            open,
            used: Mutex::default(),
            touched: Mutex::default(),
            rung: Mutex::default(),
            is_deaf: AtomicBool::new(false),
        });
        let listener = ChangeListener {
            nodes,
            times,
            presence,
            changed: Arc::clone(&changed),
            watched: watched.subscribe(),
            state: Arc::clone(&state),
        };
        let until = stop.clone();
        scope.spawn(async move {
            until.run_until_cancelled(listener.watch()).await;
        });
        Ok(Self {
            changed,
            watched,
            state,
            _stop: stop.drop_guard(),
        })
    }

    /// The queues that this process has to do with.
    pub(super) fn watched(&self) -> Vec<Box<str>> {
        self.watched.borrow().iter().cloned().collect()
    }

    /// The watched queues in which a cancel may have been asked for since this was asked last.
    pub(super) fn rung(&self) -> Vec<Box<str>> {
        let rung = lock(&self.state.rung).replace(BTreeSet::new());
        match rung {
            Some(rung) if !self.state.is_deaf.load(Ordering::Relaxed) => rung.into_iter().collect(),
            _ => self.watched(),
        }
    }

    /// They could not be looked at.
    pub(super) fn ring_again(&self) {
        *lock(&self.state.rung) = None;
    }

    /// A future that ends at the next change after this call, of these queues at least, polled by
    /// then or not.
    pub(super) fn next(&self, queues: &[Box<str>]) -> impl Future<Output = ()> + '_ {
        if !queues.is_empty() && !self.was_touched(queues) {
            self.touch(queues);
        }
        self.changed.notified()
    }

    fn was_touched(&self, queues: &[Box<str>]) -> bool {
        let (at, count) = (queues.as_ptr() as usize, queues.len());
        let mut touched = lock(&self.state.touched);
        let is_known = touched.is_some_and(|(known_at, known, when)| {
            (known_at, known) == (at, count) && when.elapsed() < TOUCH_EVERY
        });
        // Other names may be at the same place by now.
        let used = lock(&self.state.used);
        let is_known = is_known
            && [0, count / 2, count - 1]
                .iter()
                .all(|place| used.contains_key(&queues[*place]));
        if !is_known {
            *touched = Some((at, count, Instant::now()));
        }
        is_known
    }

    fn touch(&self, queues: &[Box<str>]) {
        let (now, mut new) = (Instant::now(), Vec::new());
        let mut used = lock(&self.state.used);
        for queue in queues {
            match used.get_mut(queue) {
                Some(when) => *when = now,
                None => {
                    used.insert(queue.clone(), now);
                    new.push(queue.clone());
                }
            }
        }
        if new.is_empty() {
            return;
        }
        used.retain(|_, when| when.elapsed() < WATCHED_FOR);
        if used.len() > WATCHED_MAX {
            let mut all: Vec<_> = used
                .iter()
                .map(|(queue, when)| (*when, queue.clone()))
                .collect();
            all.sort_unstable();
            all.iter()
                .take(used.len() - WATCHED_MAX)
                .for_each(|(_, queue)| {
                    used.remove(queue);
                });
        }
        let watched: QueueNames = used.keys().cloned().collect();
        drop(used);
        if let Some(rung) = &mut *lock(&self.state.rung) {
            rung.extend(new);
        }
        self.watched.send_replace(watched);
    }
}

/// Listens to the servers.
struct ChangeListener {
    nodes: Arc<Nodes>,
    times: Arc<ServerTimes>,
    presence: Arc<HolderPresence>,
    changed: Arc<Notify>,
    watched: watch::Receiver<QueueNames>,
    state: Arc<WatchState>,
}

impl ChangeListener {
    /// Sees to it that each server with a watched queue is listened to, for ever.
    async fn watch(&self) {
        let (mut watched, mut moves) = (self.watched.clone(), self.nodes.moves());
        let (mut at, mut listening) = (HashSet::new(), FuturesUnordered::new());
        loop {
            let queues = watched.borrow_and_update().clone();
            moves.mark_unchanged();
            let mut is_complete = true;
            // Where there is one server, one queue speaks for all.
            let asked = if self.nodes.are_many() {
                queues.len()
            } else {
                queues.len().min(1)
            };
            for queue in queues.iter().take(asked) {
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
                self.presence.note_fault(&target, &fault);
                tracing::debug!(error = %fault.source, "the connection for notifications is gone");
            }
            sleep(PAUSE.mul_f64(jitter(0.5))).await;
            if matches!(self.queues_of(&target).await, Ok(queues) if queues.is_empty()) {
                return target;
            }
        }
    }

    /// Listens until the connection breaks, or there is nothing to listen for.
    async fn listen(&self, target: &Target) -> Result<(), RedisFault> {
        let (mut watched, mut moves) = (self.watched.clone(), self.nodes.moves());
        let broken = CancellationToken::new();
        let (ends, tell, state) = (
            broken.clone(),
            Arc::clone(&self.changed),
            Arc::clone(&self.state),
        );
        let hear = move |push: PushInfo| match push.kind {
            PushKind::Disconnection => ends.cancel(),
            // Others are no change.
            PushKind::Invalidate => {
                let keys = push
                    .data
                    .into_iter()
                    .next()
                    .and_then(|keys| redis::from_redis_value(keys).ok());
                if state.note(keys) {
                    tell.notify_waiters();
                }
            }
            _ => {}
        };
        let connection = self
            .nodes
            .reach()
            .open(target, Some(Arc::new(hear)))
            .await?;
        self.times.look_on(&connection, target).await?;
        let mut tracked = BTreeSet::new();
        loop {
            watched.mark_unchanged();
            moves.mark_unchanged();
            let queues = self.queues_of(target).await?;
            if queues.is_empty() && !self.presence.is_announced(target) {
                return Ok(());
            }
            match track(&connection, &queues, &mut tracked).await {
                Ok(false) => {}
                // There may have been changes before.
                Ok(true) => {
                    self.state.is_deaf.store(false, Ordering::Relaxed);
                    self.state.note_all();
                    self.changed.notify_waiters();
                }
                Err(fault) if fault.ends_connection() => return Err(fault),
                Err(fault) => {
                    self.presence.note_tried(target);
                    self.bear_silence(&fault).await;
                    return Err(fault);
                }
            }
            self.announce(&connection, target).await?;
            loop {
                tokio::select! {
                    () = broken.cancelled() => {
                        self.presence.note_end(target);
                        return Ok(());
                    }
                    _ = watched.changed() => break,
                    _ = moves.changed() => break,
                    () = sleep(PING_EVERY) => self.times.look_on(&connection, target).await?,
                }
            }
        }
    }

    /// Has others see that this process is there, while this connection is.
    async fn announce(&self, connection: &Connection, target: &Target) -> Result<(), RedisFault> {
        if !HolderPresence::is_possible() || self.presence.is_announced(target) {
            return Ok(());
        }
        match connection.subscribe(&channel(own_name())).await {
            Ok(()) => self.presence.note_announced(target),
            Err(fault) if fault.ends_connection() => return Err(fault),
            // Its user may not use channels: its leases end by their time.
            Err(fault) => {
                tracing::debug!(error = %fault.source, "could not announce this process");
                self.presence.note_tried(target);
            }
        }
        Ok(())
    }

    /// A server that does not notify, as its user may not ask for that, is looked at from time to
    /// time.
    async fn bear_silence(&self, fault: &RedisFault) {
        if !self.state.is_deaf.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = %fault.source, "the server may not be asked to tell of changes \
                (CLIENT TRACKING): idle consumers look every 2 s");
        }
        sleep(SILENT_PAUSE).await;
    }

    /// The watched queues that a server has.
    async fn queues_of(&self, target: &Target) -> Result<QueueNames, RedisFault> {
        let watched = self.watched.borrow().clone();
        if !self.nodes.are_many() {
            return Ok(watched);
        }
        let mut queues = QueueNames::new();
        for queue in watched {
            if self.nodes.target_of(key(&queue, "").as_bytes()).await? == *target {
                queues.insert(queue);
            }
        }
        Ok(queues)
    }
}

/// The key that scripts change when consumers should look at a queue.
fn bell(queue: &str) -> String {
    format!("brigade:bell:{{{queue}}}")
}

const ALL_BELLS: &str = "brigade:bell:";

/// The beginnings of the keys that the server is to tell of.
fn beginnings(queues: &QueueNames) -> BTreeSet<String> {
    if queues.len() > NARROW_MAX {
        return BTreeSet::from([ALL_BELLS.to_owned()]);
    }
    queues
        .iter()
        .flat_map(|queue| [bell(queue), key(queue, "inbox"), key(queue, "free")])
        .collect()
}

/// Has the server tell of the queues that it does not tell of yet; whether there were any.
async fn track(
    connection: &Connection,
    queues: &QueueNames,
    tracked: &mut BTreeSet<String>,
) -> Result<bool, RedisFault> {
    let wanted = beginnings(queues);
    let new: Vec<&String> = wanted.difference(tracked).collect();
    if new.is_empty() {
        return Ok(false);
    }
    let tracking = |how: &str| {
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg(how);
        command
    };
    // It takes further beginnings, but none that contains another, nor does it forget one.
    let begins_again = tracked.len() + new.len() > 6 * NARROW_MAX
        || wanted.contains(ALL_BELLS)
        || tracked.contains(ALL_BELLS);
    if begins_again && !tracked.is_empty() {
        connection.ask::<()>(tracking("OFF")).await?;
        tracked.clear();
    }
    let mut command = tracking("ON");
    command.arg("BCAST");
    for beginning in wanted.difference(tracked) {
        command.arg("PREFIX").arg(beginning);
    }
    connection.ask::<()>(command).await?;
    tracked.extend(wanted);
    Ok(true)
}
