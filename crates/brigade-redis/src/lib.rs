//! The broker for many hosts: Redis or Valkey, 6.2 or newer.
//!
//! Each transition is one script that runs alone on the server (`*.lua`, all of them begin with
//! `common.lua`), so a job is never between two states, whichever side dies when. All keys of a
//! queue have one hash tag, `brigade:{queue}:`, so a script needs one node of a cluster. Times are
//! the server's, corrected when its wall clock is set (`server_time`).
//!
//! From below: `url` (where it is), `reach` (opening a connection), `line` (one that is made
//! again), `nodes` (which server has a key), `client` (scripts and commands), and on that what a
//! broker does. What is too much for one script goes in pieces: `stage`, `listing`.
//!
//! Two connections per server: one for scripts, which many calls share; one that is notified of
//! changes (`wake`). A third if pushes wait for replicas. A hand-out never blocks on the server, so
//! nothing can be moved to a caller that has given up.

mod arguments;
mod blockers;
mod check;
mod client;
mod cluster_events;
mod consumers;
mod count_letters;
mod counts;
mod dead_groups;
mod events;
mod fault;
mod find;
mod hand_out;
mod holder_checks;
mod job_fields;
mod keys;
mod line;

mod listed_queues;
mod listing;
mod look;
mod next_tick;
mod nodes;
mod open_queues;
mod presence;
mod probe;
mod push;
mod reach;
mod reply;
mod schedules;
mod script_error;
mod scripts;
mod server_time;
mod settle;
mod stage;
mod statistics;
mod takeover;
mod url;
mod wake;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::Value;
use tokio::time::{sleep, sleep_until};

use self::client::RedisClient;
use self::hand_out::LeaseAnswer;
use self::push::{Push, StoredPush};
use self::script_error::is_incoming;
use self::settle::{SettlementBatch, settled};
use self::wake::Wake;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::finding::Finding;
use crate::job::{Job, JobId, JobInfo, JobState};
use crate::limits::Limits;
use crate::policy::PAYLOAD_BYTES_MAX;
use crate::retry::jitter;
use crate::schedule::{Schedule, Scheduled};
use crate::shutdown::Scope;
use crate::store::{
    CancelOutcome, CancelRequest, Capabilities, DeadGroup, Disposition, Edit, JobFilter, JobPage,
    JobStore, LeaseRequest, Leased, LiveConsumer, Managed, PushOutcome, QueueCounts, Reply,
    Settled, Settlement,
};
use crate::why::Explanation;
use brigade_core::job_event::{EventPage, EventRequest};
use brigade_core::statistics::{MinuteCounts, StatisticsFilter};
use brigade_core::{clock, error, finding, job, limits, policy, retry, schedule, store, sync, why};
use brigade_runtime::batcher::Batcher;
use brigade_runtime::shutdown;

/// Longer than any process lives.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Looked at in any case after this time: for a notification that was lost with its connection.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks in any case, also if something is due that nothing can be done about.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Of processes that wait for the same queue, each looks at a change of it after a part of this
/// time for each other one.
const PAUSE_FOR_EACH: Duration = Duration::from_millis(1);
const CROWD_PAUSE_MAX: Duration = Duration::from_millis(25);

/// A push that has to wait until a large one is in its queue helps with that, and tries again so
/// often.
const TRIES: usize = 100;
/// By so much the extension of a lease may be slower than those of other queues, before its holder
/// goes on without the answer.
const SLOWER_BY_MAX: Duration = Duration::from_secs(1);
/// Scripts of a kind under way for a queue: one is written while the other is answered.
const SCRIPTS_MAX: usize = 2;
/// What one script stores or settles at most, in bytes of arguments: a few milliseconds in which
/// the server does nothing else. More only if one caller asks for more.
const SCRIPT_WEIGHT_MAX: usize = 256 << 10;

struct Redis {
    client: Arc<RedisClient>,
    wake: Wake,
    /// By queue.
    pushes: Batcher<Push, Result<StoredPush, Error>>,
    endings: Batcher<SettlementBatch, Result<Vec<Value>, Error>>,
    /// Extensions of leases. They wait for no replica: one that is away must not end long attempts.
    extensions: Batcher<SettlementBatch, Result<Vec<Value>, Error>>,
}

/// Connects to the servers of a URL.
///
/// # Errors
///
/// Those of `Broker::connect`.
pub async fn connect(url: &str, clock: Clock) -> Result<Arc<dyn JobStore>, Error> {
    let client = Arc::new(RedisClient::connect(url, clock).await?);
    let wake = Wake::start(
        Arc::clone(client.nodes()),
        Arc::clone(&client.open),
        Arc::clone(&client.times),
        Arc::clone(&client.presence),
    )?;
    let scope = Scope::current().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "open a broker outside of an async runtime (tokio)",
        )
    })?;
    let (to_push, to_settle) = (Arc::clone(&client), Arc::clone(&client));
    let pushes = Batcher::new(
        scope.clone(),
        (SCRIPTS_MAX, 1),
        SCRIPT_WEIGHT_MAX,
        move |queue, pushes| {
            let client = Arc::clone(&to_push);
            async move { client.push_together(&queue, &pushes).await }
        },
    );
    let settle = |waits: bool| {
        let client = Arc::clone(&to_settle);
        Batcher::new(
            scope.clone(),
            (SCRIPTS_MAX, 1),
            SCRIPT_WEIGHT_MAX,
            move |queue, endings: Vec<SettlementBatch>| {
                let client = Arc::clone(&client);
                async move { client.settle_together(&queue, &endings, waits).await }
            },
        )
    };
    let (endings, extensions) = (settle(true), settle(false));
    Ok(Arc::new(Redis {
        client,
        wake,
        pushes,
        endings,
        extensions,
    }))
}

impl Redis {
    /// Waits until it is worth asking for jobs once more: until one falls due, or a queue changed.
    /// Where other processes wait for the same queues, a change wakes all of them. They then look
    /// in a random order whether the job is still there, so that about as many ask as there are
    /// jobs.
    async fn wait(
        &self,
        ask: &LeaseRequest,
        handed_out: &LeaseAnswer,
        changed: impl Future<Output = ()> + Send,
        until: Instant,
    ) {
        let pause_of = |due_in: Option<Duration>| {
            let pause = due_in.unwrap_or(LOOK_AGAIN.mul_f64(jitter(0.1)));
            pause.clamp(PAUSE_MIN, LOOK_AGAIN)
        };
        let crowd = CROWD_PAUSE_MAX
            .min(PAUSE_FOR_EACH * u32::try_from(handed_out.others).unwrap_or(u32::MAX));
        let spread = || sleep(crowd.mul_f64(1.0 - jitter(1.0)));
        let mut wakes_at = (Instant::now() + pause_of(handed_out.due_in)).min(until);
        let mut changed: Pin<Box<dyn Future<Output = ()> + Send + '_>> = Box::pin(changed);
        loop {
            tokio::select! {
                () = &mut changed => {}
                () = sleep_until(wakes_at.into()) => {
                    // They wait for the same moment.
                    return spread().await;
                }
            }
            if crowd.is_zero() {
                return;
            }
            spread().await;
            changed = Box::pin(self.wake.next(ask.queues.names()));
            match self.client.due_in(&ask.queues).await {
                Ok(Some(Duration::ZERO)) | Err(_) => return,
                Ok(Some(due_in)) => {
                    wakes_at = wakes_at.min(Instant::now() + pause_of(Some(due_in)))
                }
                Ok(None) => {}
            }
        }
    }
}

impl JobStore for Redis {
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
            consumers: true,
            statistics: true,
            events: true,
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

    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>> {
        Box::pin(async move {
            let Some(first) = jobs.first() else {
                return Ok(Vec::new());
            };
            if stage::is_large(&jobs) {
                return self.client.push_large(&jobs).await;
            }
            let mut tries = 0;
            loop {
                tries += 1;
                let push = self.client.prepare(&first.queue, &jobs).await?;
                let weight = push.weight();
                match self.pushes.ask(&first.queue, push, weight).await? {
                    Err(error) if is_incoming(&error) && tries < TRIES => {
                        self.client.merge_all(&jobs).await?
                    }
                    stored => return stored.map(|stored| RedisClient::outcomes(&jobs, stored)),
                }
            }
        })
    }

    fn lease(&self, ask: LeaseRequest) -> Reply<'_, Vec<Leased>> {
        Box::pin(async move {
            // One that no clock can express is as good as for ever.
            let until = Instant::now()
                .checked_add(ask.wait)
                .unwrap_or_else(|| Instant::now() + FOR_EVER);
            while !ask.enough.is_cancelled() {
                let changed = self.wake.next(ask.queues.names());
                let handed_out = self.client.lease(&ask).await?;
                if !handed_out.leased.is_empty() || until <= Instant::now() {
                    return Ok(handed_out.leased);
                }
                tokio::select! {
                    () = self.wait(&ask, &handed_out, changed, until) => {}
                    () = ask.enough.cancelled() => {}
                }
            }
            Ok(Vec::new())
        })
    }

    fn settle(&self, settlements: Vec<Arc<Settlement>>) -> Reply<'_, Vec<Result<Settled, Error>>> {
        Box::pin(async move {
            let mut answers: Vec<_> = settlements.iter().map(|_| Ok(Settled::Stale)).collect();
            let only_extends = settlements
                .iter()
                .all(|settlement| matches!(settlement.disposition, Disposition::Extend(_)));
            let batcher = if only_extends {
                &self.extensions
            } else {
                &self.endings
            };
            let queues = self.client.sort(&settlements).await?;
            if only_extends {
                // A queue is watched for as long as leases of it are held.
                let names: Vec<Box<str>> = queues.keys().map(|queue| Box::from(*queue)).collect();
                drop(self.wake.next(&names));
            }
            let mut open: BTreeSet<usize> = queues
                .values()
                .flat_map(|endings| endings.places.iter().copied())
                .collect();
            let mut telling: FuturesUnordered<_> = queues
                .into_iter()
                .map(async |(queue, endings)| {
                    let (places, weight) = (endings.places.clone(), endings.weight());
                    (places, batcher.ask(queue, endings, weight).await.flatten())
                })
                .collect();
            let mut bound = Box::pin(sleep(FOR_EVER));
            loop {
                let answered = tokio::select! {
                    answered = telling.next() => answered,
                    () = &mut bound => break,
                };
                let Some((places, answered)) = answered else {
                    return Ok(answers);
                };
                open.retain(|place| !places.contains(place));
                match answered {
                    Ok(answered) => places
                        .into_iter()
                        .zip(answered)
                        .for_each(|(place, answer)| answers[place] = settled(answer)),
                    Err(error) => places
                        .into_iter()
                        .for_each(|place| answers[place] = Err(error.copy())),
                }
                if only_extends {
                    // Those of one server must not wait for another's.
                    bound = Box::pin(sleep(SLOWER_BY_MAX));
                }
            }
            for place in open {
                let text =
                    "extend a lease: its server has not answered yet, those of other queues have";
                answers[place] = Err(Error::new(ErrorKind::Unreachable, text).uncertain());
            }
            Ok(answers)
        })
    }

    fn announce_consumer<'a>(
        &'a self,
        consumer: &'a LiveConsumer,
        lasts: Duration,
    ) -> Reply<'a, ()> {
        Box::pin(self.client.announce_consumer(consumer, lasts))
    }

    fn retire_consumer<'a>(&'a self, consumer: &'a LiveConsumer) -> Reply<'a, ()> {
        Box::pin(self.client.retire_consumer(consumer))
    }

    fn consumers(&self) -> Reply<'_, Vec<LiveConsumer>> {
        Box::pin(self.client.consumers())
    }

    fn purge<'a>(&'a self, queue: &'a str) -> Reply<'a, u64> {
        Box::pin(self.client.purge(queue))
    }

    fn cancel_requests(&self) -> Reply<'_, Vec<CancelRequest>> {
        Box::pin(async {
            let cancels = self.client.cancels(&self.wake.rung()).await;
            if cancels.is_err() {
                self.wake.ring_again();
            }
            cancels
        })
    }

    fn check(&self) -> Reply<'_, Vec<Finding>> {
        Box::pin(self.client.check())
    }

    fn is_cut_off(&self, queue: &str) -> bool {
        self.client.is_cut_off(queue)
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

    fn job<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<JobInfo>> {
        self.watch_queue_of(id);
        Box::pin(self.client.job(id, true))
    }

    fn waited_job<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<JobInfo>> {
        self.watch_queue_of(id);
        Box::pin(self.client.job(id, false))
    }

    fn jobs(&self, filter: JobFilter) -> Reply<'_, JobPage> {
        Box::pin(async move { self.client.jobs(&filter).await })
    }

    fn dead_groups<'a>(&'a self, queue: Option<&'a str>) -> Reply<'a, Vec<DeadGroup>> {
        Box::pin(self.client.dead_groups(queue))
    }

    fn statistics(&self, filter: StatisticsFilter) -> Reply<'_, Vec<MinuteCounts>> {
        Box::pin(async move { self.client.statistics(&filter).await })
    }

    fn events(&self, request: EventRequest) -> Reply<'_, EventPage> {
        Box::pin(async move { self.client.events(&request).await })
    }

    fn counts(&self) -> Reply<'_, Vec<QueueCounts>> {
        Box::pin(async { self.client.counts(&self.wake.watched()).await })
    }

    fn why<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<Explanation>> {
        Box::pin(self.client.why(id))
    }

    fn retry<'a>(&'a self, id: &'a JobId, edit: Edit) -> Reply<'a, Option<JobId>> {
        Box::pin(async move { self.client.retry(id, &edit).await })
    }

    fn delete<'a>(&'a self, id: &'a JobId, only: Option<JobState>) -> Reply<'a, bool> {
        Box::pin(self.client.delete(id, only))
    }

    fn cancel<'a>(&'a self, id: &'a JobId, reason: &'a str) -> Reply<'a, CancelOutcome> {
        Box::pin(self.client.cancel(id, reason))
    }

    fn withdraw<'a>(&'a self, id: &'a JobId, reason: &'a str) -> Reply<'a, bool> {
        Box::pin(self.client.withdraw(id, reason))
    }

    fn pause<'a>(&'a self, queue: &'a str) -> Reply<'a, ()> {
        Box::pin(self.client.change_queue(queue, vec!["pause".to_owned()]))
    }

    fn resume<'a>(&'a self, queue: &'a str) -> Reply<'a, ()> {
        Box::pin(self.client.change_queue(queue, vec!["resume".to_owned()]))
    }

    fn limit<'a>(&'a self, queue: &'a str, limits: Option<Limits>) -> Reply<'a, ()> {
        Box::pin(self.client.limit(queue, limits))
    }

    fn schedules(&self) -> Reply<'_, Vec<Scheduled>> {
        Box::pin(self.client.schedules())
    }

    fn schedule<'a>(&'a self, schedule: &'a Schedule) -> Reply<'a, Scheduled> {
        Box::pin(self.client.schedule(schedule))
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, paused: bool) -> Reply<'a, bool> {
        Box::pin(self.client.pause_schedule(name, paused))
    }

    fn unschedule<'a>(&'a self, name: &'a str) -> Reply<'a, bool> {
        Box::pin(self.client.unschedule(name))
    }

    fn manage<'a>(&'a self, queue: &'a str, collect_within: Duration) -> Reply<'a, Managed> {
        drop(self.wake.next(&[queue.into()]));
        Box::pin(self.client.manage(queue, collect_within))
    }
}

impl Redis {
    /// Subscribes to the changes of a job's queue: a caller may wait for its end.
    fn watch_queue_of(&self, id: &JobId) {
        if let Some((queue, _)) = keys::parts_of(id) {
            drop(self.wake.next(&[queue.into()]));
        }
    }
}
