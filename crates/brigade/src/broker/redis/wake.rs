//! Waking whoever waits for a queue, without polling.
//!
//! The server tells one connection of each change of a few keys (`CLIENT TRACKING` in broadcasting mode, since Redis 6): the bell of a
//! queue, which scripts ring, its inbox, which any client may push to, and the list of free clients. A notification says only that something may have changed. When the connection
//! breaks, everybody is woken once it is back, as nobody knows what was missed.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, RedisResult};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::key;
use crate::error::{Error, ErrorKind};
use crate::shutdown::Scope;
use crate::sync::lock;

/// Before connecting again.
const PAUSE: Duration = Duration::from_millis(200);
/// So often an idle connection is asked whether it still is one.
const PING_EVERY: Duration = Duration::from_secs(2);

pub(super) struct Wake {
    changed: Arc<Notify>,
    watched: Arc<Watched>,
    /// Ends the watching task.
    _stop: DropGuard,
}

#[derive(Default)]
struct Watched {
    queues: Mutex<BTreeSet<Box<str>>>,
    more: Notify,
}

impl Wake {
    /// Must be called within the runtime.
    pub(super) fn start(client: Client) -> Result<Self, Error> {
        let scope =
            Scope::current().ok_or_else(|| Error::new(ErrorKind::Unsupported, "open a broker outside of an async runtime (tokio)"))?;
        let (stop, changed, watched) = (CancellationToken::new(), Arc::new(Notify::new()), Arc::new(Watched::default()));
        let (until, tell, of) = (stop.clone(), Arc::clone(&changed), Arc::clone(&watched));
        scope.spawn(async move {
            until.run_until_cancelled(watch(&client, &tell, &of)).await;
        });
        Ok(Self { changed, watched, _stop: stop.drop_guard() })
    }

    /// The queues that this process has to do with.
    pub(super) fn watched(&self) -> Vec<Box<str>> {
        lock(&self.watched.queues).iter().cloned().collect()
    }

    /// A future that ends at the next change after this call, of these queues at least, polled by then or not.
    pub(super) fn next(&self, queues: &[Box<str>]) -> impl Future<Output = ()> + '_ {
        let mut watched = lock(&self.watched.queues);
        let known = watched.len();
        for queue in queues {
            if !watched.contains(queue) {
                watched.insert(queue.clone());
            }
        }
        if watched.len() > known {
            self.watched.more.notify_one();
        }
        self.changed.notified()
    }
}

/// Connects again and again, for ever.
async fn watch(client: &Client, changed: &Arc<Notify>, watched: &Watched) {
    loop {
        if let Err(error) = listen(client, changed, watched).await {
            tracing::debug!(%error, "the connection for notifications is gone");
        }
        sleep(PAUSE).await;
    }
}

/// Listens until the connection breaks.
async fn listen(client: &Client, changed: &Arc<Notify>, watched: &Watched) -> RedisResult<()> {
    let broken = CancellationToken::new();
    let client = Client::open(
        client
            .get_connection_info()
            .clone()
            .set_redis_settings(client.get_connection_info().redis_settings().clone().set_protocol(redis::ProtocolVersion::RESP3)),
    )?;
    let (ends, tell) = (broken.clone(), Arc::clone(changed));
    let hear = move |push: PushInfo| -> Result<(), SendError> {
        match push.kind {
            PushKind::Disconnection => ends.cancel(),
            _ => tell.notify_waiters(),
        }
        Ok(())
    };
    let config = AsyncConnectionConfig::new().set_push_sender(hear);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut told = BTreeSet::new();
    track(&mut connection, watched, &mut told).await?;
    // Whatever happened while nobody listened.
    changed.notify_waiters();
    loop {
        tokio::select! {
            () = broken.cancelled() => return Ok(()),
            () = watched.more.notified() => {
                track(&mut connection, watched, &mut told).await?;
                changed.notify_waiters();
            }
            () = sleep(PING_EVERY) => redis::cmd("PING").query_async::<()>(&mut connection).await?,
        }
    }
}

/// Has the server tell of the queues that it does not tell of yet.
async fn track(connection: &mut MultiplexedConnection, watched: &Watched, told: &mut BTreeSet<Box<str>>) -> RedisResult<()> {
    let new: Vec<Box<str>> = lock(&watched.queues).difference(told).cloned().collect();
    if new.is_empty() {
        return Ok(());
    }
    let mut command = redis::cmd("CLIENT");
    command.arg("TRACKING").arg("ON").arg("BCAST");
    for queue in &new {
        for name in ["bell", "inbox", "free"] {
            command.arg("PREFIX").arg(key(queue, name));
        }
    }
    command.query_async::<()>(connection).await?;
    told.extend(new);
    Ok(())
}
