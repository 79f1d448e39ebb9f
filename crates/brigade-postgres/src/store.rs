//! [`Postgres`]: the store.
//!
//! Each method of the contract is a call of what is in the file of its concept. Here is what they
//! share: the database, the batchers of pushes and settlements, where this process goes on in its
//! queues (`floors`), when it sees to what is due (`chores`), and what it knows of `holders`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::announcements::Announcement;
use super::asks::Asks;
use super::chores::Chores;
use super::database::Database;
use super::floors::Floors;
use super::holders::Holders;
use super::sql_error::may_only_read;
use super::upkeep::Upkeep;
use super::wake::WakeUps;
use super::{push, settle};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::finding::Finding;
use crate::job::{Job, JobId, JobInfo, JobState};
use crate::policy::PAYLOAD_BYTES_MAX;
use crate::shutdown::Scope;
use brigade_core::limits::Limits;
use brigade_core::schedule::{Schedule, Scheduled};
use brigade_core::store::{
    CancelOutcome, CancelRequest, Capabilities, DeadGroup, Edit, JobFilter, JobPage, JobStore,
    LeaseRequest, Leased, LiveConsumer, PushOutcome, QueueCounts, Reply, Settled, Settlement,
};
use brigade_core::why::Explanation;
use brigade_core::{EventPage, EventRequest, MinuteCounts, StatisticsFilter};
use brigade_runtime::batcher::Batcher;

/// Calls of a kind under way, and how many requests are worth a second one.
const PUSH_CALLS: (usize, usize) = (2, 1);
/// A call costs as much as some twenty of its settlements, and the hand-outs that follow have as
/// many jobs. A second one is for servers that take long to commit.
const SETTLE_CALLS: (usize, usize) = (2, 32);
/// What one call stores or settles at most, in bytes of arguments; more only if one caller asks for
/// more.
const CALL_WEIGHT_MAX: usize = 1 << 20;
/// All calls of a kind share batches, whatever their queues.
const LANE: &str = "";
/// But not pushes with unique keys, which may wait for transactions of applications.
const UNIQUE_LANE: &str = "unique";
/// A caller that waits for a change looks again after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

type PushReply = Result<Vec<PushOutcome>, Error>;
type SettleReply = Vec<Result<Settled, Error>>;

pub(super) struct Postgres {
    pub(super) database: Arc<Database>,
    pub(super) floors: Floors,
    pub(super) chores: Chores,
    pub(super) asks: Asks,
    upkeep: Arc<Upkeep>,
    scope: Scope,
    pub(super) holders: Holders,
    pushes: Batcher<Vec<Job>, PushReply>,
    settlements: Batcher<Vec<Arc<Settlement>>, SettleReply>,
}

impl Postgres {
    pub(super) async fn connect(url: &str, clock: Clock) -> Result<Self, Error> {
        let scope = Scope::current().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "open a broker outside of an async runtime (tokio)",
            )
        })?;
        let database = Arc::new(Database::connect(url, clock).await?);
        let (to_push, to_settle) = (Arc::clone(&database), Arc::clone(&database));
        let wake_ups = Arc::new(WakeUps::new(scope.clone(), Arc::clone(&database)));
        let pushes = Batcher::new(
            scope.clone(),
            PUSH_CALLS,
            CALL_WEIGHT_MAX,
            move |_, pushes: Vec<Vec<Job>>| {
                let (database, wake_ups) = (Arc::clone(&to_push), Arc::clone(&wake_ups));
                async move {
                    let answers = database.push_together(&pushes).await;
                    wake_ups.announce(pushes.iter().flatten().map(|job| &*job.queue));
                    answers
                }
            },
        );
        let settlements = Batcher::new(
            scope.clone(),
            SETTLE_CALLS,
            CALL_WEIGHT_MAX,
            move |_, all: Vec<Vec<Arc<Settlement>>>| {
                let database = Arc::clone(&to_settle);
                async move { settle_all(&database, all).await }
            },
        );
        Ok(Self {
            database,
            floors: Floors::default(),
            chores: Chores::default(),
            asks: Asks::default(),
            upkeep: Arc::default(),
            scope,
            holders: Holders::default(),
            pushes,
            settlements,
        })
    }

    async fn push_all(&self, jobs: Vec<Job>) -> PushReply {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let pushed: Vec<(Box<str>, i32)> = jobs
            .iter()
            .map(|job| (job.queue.clone(), job.options.priority()))
            .collect();
        let due_in = jobs.iter().filter_map(|job| {
            let is_later = job.options.at.is_some() || job.options.delay.is_some();
            is_later.then(|| crate::policy::delay_of(&job.options, self.database.clock.now()))
        });
        let due_in = due_in.min();
        let weight = push::weight_of(&jobs);
        let is_unique = jobs.iter().any(|job| job.options.unique.is_some());
        let lane = if is_unique { UNIQUE_LANE } else { LANE };
        let outcomes = self.pushes.ask(lane, jobs, weight).await??;
        for (queue, priority) in pushed {
            self.floors.note_pushed(&queue, priority);
        }
        if let Some(due_in) = due_in {
            self.chores.expect(due_in);
        }
        self.keep_up_if_due();
        Ok(outcomes)
    }

    /// Adds statistics up in the background, now and then.
    pub(super) fn keep_up_if_due(&self) {
        self.upkeep.do_if_due(&self.scope, &self.database);
    }

    /// Sees to what is due before a look, so that all views show the same moment. A user or a
    /// server that may only read sees what is there.
    async fn before_look(&self) -> Result<(), Error> {
        if !self.chores.are_due(&self.database.clock) && !self.chores.are_cheap() {
            return Ok(());
        }
        self.database.do_chores(&self.chores).await
    }
}

/// One call for what several callers settle; to each its answers.
async fn settle_all(database: &Database, all: Vec<Vec<Arc<Settlement>>>) -> Vec<SettleReply> {
    let counts: Vec<usize> = all.iter().map(Vec::len).collect();
    let together: Vec<Arc<Settlement>> = all.into_iter().flatten().collect();
    let mut answers = database.settle_together(&together).await.into_iter();
    counts
        .into_iter()
        .map(|count| answers.by_ref().take(count).collect())
        .collect()
}

impl JobStore for Postgres {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            scheduling: true,
            schedules: true,
            priorities: true,
            keys: true,
            unique: true,
            flows: true,
            priority_range: (i32::MIN, i32::MAX),
            whole_batches: true,
            keeps_places: true,
            pauses: true,
            cancels: true,
            clock: true,
            listing: true,
            results: true,
            statistics: true,
            events: true,
            consumers: true,
            limits: true,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            ..Capabilities::minimal()
        }
    }

    fn push(&self, jobs: Vec<Job>) -> Reply<'_, Vec<PushOutcome>> {
        Box::pin(self.push_all(jobs))
    }

    fn lease(&self, ask: LeaseRequest) -> Reply<'_, Vec<Leased>> {
        Box::pin(async move { self.lease_patiently(&ask).await })
    }

    fn settle(&self, settlements: Vec<Arc<Settlement>>) -> Reply<'_, Vec<Result<Settled, Error>>> {
        Box::pin(async move {
            let weight = settle::weight_of(&settlements);
            self.settlements.ask(LANE, settlements, weight).await
        })
    }

    fn purge<'a>(&'a self, queue: &'a str) -> Reply<'a, u64> {
        Box::pin(self.database.purge(queue))
    }

    fn cancel_requests(&self) -> Reply<'_, Vec<CancelRequest>> {
        Box::pin(async {
            match self.holders.own() {
                Some(holder) => self.database.cancels(holder).await,
                None => Ok(Vec::new()),
            }
        })
    }

    fn check(&self) -> Reply<'_, Vec<Finding>> {
        Box::pin(async {
            self.before_look().await?;
            let mut findings = self.database.check_server().await?;
            findings.extend(self.database.check_queues().await?);
            Ok(findings)
        })
    }

    fn changed(&self) -> Reply<'_, ()> {
        let seen = self.database.announcements.last();
        Box::pin(async move {
            self.database.listen();
            let is_cancel = |heard: &Announcement| matches!(heard, Announcement::CancelAsked(_));
            tokio::select! {
                () = sleep(LOOK_AGAIN) => {}
                _ = self.database.announcements.next(seen, is_cancel) => {}
            }
            Ok(())
        })
    }

    fn job<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<JobInfo>> {
        Box::pin(async {
            self.before_look().await?;
            self.database.job(id).await
        })
    }

    fn waited_job<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<JobInfo>> {
        Box::pin(self.database.job(id))
    }

    fn jobs(&self, filter: JobFilter) -> Reply<'_, JobPage> {
        Box::pin(async move {
            self.before_look().await?;
            self.database.jobs(&filter).await
        })
    }

    fn counts(&self) -> Reply<'_, Vec<QueueCounts>> {
        Box::pin(async {
            self.before_look().await?;
            self.database.counts().await
        })
    }

    fn dead_groups<'a>(&'a self, queue: Option<&'a str>) -> Reply<'a, Vec<DeadGroup>> {
        Box::pin(async move {
            self.before_look().await?;
            self.database.dead_groups(queue).await
        })
    }

    fn why<'a>(&'a self, id: &'a JobId) -> Reply<'a, Option<Explanation>> {
        Box::pin(async move {
            self.before_look().await?;
            self.database.why(id).await
        })
    }

    fn statistics(&self, filter: StatisticsFilter) -> Reply<'_, Vec<MinuteCounts>> {
        Box::pin(async move {
            self.before_look().await?;
            match self.database.keep_up().await {
                Err(error) if !may_only_read(&error) => return Err(error),
                _ => {}
            }
            self.database.statistics(&filter).await
        })
    }

    fn limit<'a>(&'a self, queue: &'a str, limits: Option<Limits>) -> Reply<'a, ()> {
        Box::pin(async move { self.database.limit(queue, limits.as_ref()).await })
    }

    fn events(&self, request: EventRequest) -> Reply<'_, EventPage> {
        Box::pin(self.read_events(request))
    }

    fn announce_consumer<'a>(
        &'a self,
        consumer: &'a LiveConsumer,
        lasts: Duration,
    ) -> Reply<'a, ()> {
        Box::pin(self.database.announce_consumer(consumer, lasts))
    }

    fn retire_consumer<'a>(&'a self, consumer: &'a LiveConsumer) -> Reply<'a, ()> {
        Box::pin(self.database.retire_consumer(&consumer.id))
    }

    fn consumers(&self) -> Reply<'_, Vec<LiveConsumer>> {
        Box::pin(self.database.consumers())
    }

    fn retry<'a>(&'a self, id: &'a JobId, edit: Edit) -> Reply<'a, Option<JobId>> {
        Box::pin(async move {
            let retried = self.database.retry(id, &edit).await?;
            self.floors.want_heads();
            // Those behind it are to wait again, too; otherwise other chores see to them later.
            self.database.do_chores(&self.chores).await.ok();
            Ok(retried)
        })
    }

    fn delete<'a>(&'a self, id: &'a JobId, only: Option<JobState>) -> Reply<'a, bool> {
        Box::pin(self.database.delete(id, only))
    }

    fn cancel<'a>(&'a self, id: &'a JobId, reason: &'a str) -> Reply<'a, CancelOutcome> {
        Box::pin(async move {
            let outcome = self.database.cancel(id, reason).await?;
            // What it waited for is to end, too; otherwise other chores see to it later.
            self.database.do_chores(&self.chores).await.ok();
            Ok(outcome)
        })
    }

    fn withdraw<'a>(&'a self, id: &'a JobId, reason: &'a str) -> Reply<'a, bool> {
        Box::pin(self.database.withdraw(id, reason))
    }

    fn schedules(&self) -> Reply<'_, Vec<Scheduled>> {
        Box::pin(self.database.schedules())
    }

    fn schedule<'a>(&'a self, schedule: &'a Schedule) -> Reply<'a, Scheduled> {
        Box::pin(async {
            let scheduled = self.database.schedule(schedule).await?;
            let now = self.database.clock.now();
            self.chores
                .expect(scheduled.next.duration_since(now).unwrap_or_default());
            Ok(scheduled)
        })
    }

    fn pause_schedule<'a>(&'a self, name: &'a str, paused: bool) -> Reply<'a, bool> {
        Box::pin(self.database.pause_schedule(name, paused))
    }

    fn unschedule<'a>(&'a self, name: &'a str) -> Reply<'a, bool> {
        Box::pin(self.database.unschedule(name))
    }

    fn pause<'a>(&'a self, queue: &'a str) -> Reply<'a, ()> {
        Box::pin(self.database.set_paused(queue, true))
    }

    fn resume<'a>(&'a self, queue: &'a str) -> Reply<'a, ()> {
        Box::pin(self.database.set_paused(queue, false))
    }
}
