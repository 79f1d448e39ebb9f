//! The broker for many hosts: Redis or Valkey, 6.2 or newer.
//!
//! Each transition is one script that runs alone on the server (`*.lua`, all of them begin with `common.lua`), so a job is never between two
//! states, whichever side dies when. All keys of a queue have one hash tag, `brigade:{queue}:`, so a script needs one node of a
//! cluster. Times are the server's.
//!
//! From below: `url` (where it is), `reach` and `tls` (opening a connection), `line` (one that is made again), `nodes` (which server has a key),
//! `link` (scripts and commands), and on that what a broker does.
//!
//! Two connections per server: one for scripts, which many calls share; one that is told of changes (`wake`). A third if pushes wait
//! for replicas. A hand-out never blocks on the server, so nothing can be moved to a caller that has given up.

mod fault;
mod line;
mod link;
mod look;
mod nodes;
mod queue;
mod reach;
mod schedules;
mod settle;
#[cfg(feature = "redis-tls")]
mod tls;
#[cfg(not(feature = "redis-tls"))]
#[path = "redis/no_tls.rs"]
mod tls;
mod url;
mod wake;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use self::link::Link;
use self::wake::Wake;
use super::api::Clock;
use super::{Backend, Capabilities, LeaseAsk, Leased, Order, Ordered, Pushed, Query, Reply, Settled, Settlement, View};
use crate::error::Error;
use crate::job::Job;

/// Looked at in any case after this time: for a notification that was lost with its connection.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Far below the 512 MiB of a string: a script copies a payload several times while the server does nothing else.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

pub(super) struct Redis {
    link: Link,
    wake: Wake,
}

pub(super) async fn connect(url: &str, clock: Clock) -> Result<Arc<dyn Backend>, Error> {
    let link = Link::connect(url, clock).await?;
    let wake = Wake::start(Arc::clone(link.nodes()))?;
    Ok(Arc::new(Redis { link, wake }))
}

impl Backend for Redis {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            listing: true,
            scheduling: true,
            priorities: true,
            keys: true,
            unique: true,
            limits: true,
            flows: true,
            manager: true,
            schedules: true,
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
        Box::pin(async move { self.link.push(&jobs).await })
    }

    fn lease(&self, ask: LeaseAsk) -> Reply<'_, Vec<Leased>> {
        Box::pin(async move {
            let until = Instant::now() + ask.wait;
            while !ask.enough.is_cancelled() {
                let changed = self.wake.next(&ask.queues);
                let (leased, due_in) = self.link.lease(&ask).await?;
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

    fn settle(&self, settlements: Vec<Settlement>) -> Reply<'_, Vec<Settled>> {
        Box::pin(async move { self.link.settle(&settlements).await })
    }

    fn look(&self, query: Query) -> Reply<'_, View> {
        if let Query::Job(id) = &query
            && let Some((queue, _)) = link::parts_of(id)
        {
            // Somebody may wait for its end.
            drop(self.wake.next(&[queue.into()]));
        }
        Box::pin(async move {
            match query {
                Query::Cancels => self.link.cancels(&self.wake.watched()).await.map(View::Cancels),
                query => self.link.look(&query).await,
            }
        })
    }

    fn order(&self, order: Order) -> Reply<'_, Ordered> {
        if let Order::Manage(queue, _) = &order {
            drop(self.wake.next(std::slice::from_ref(queue)));
        }
        Box::pin(async move { self.link.order(&order).await })
    }

    fn changed(&self) -> Reply<'_, ()> {
        // From the call on, not from the first poll.
        let changed = self.wake.next(&[]);
        Box::pin(async {
            tokio::select! {
                () = changed => {}
                () = sleep(LOOK_AGAIN) => {}
            }
            Ok(())
        })
    }
}
