//! [`BrokerWatch`]: one look at the broker, shared by all who look at the dashboard.
//!
//! A page asks for the [`Snapshot`]. The first request after [`FRESH`] starts a refresh; all others
//! get what is there, so the broker is asked at most once each two seconds, however many look, and
//! not at all while the dashboard is closed. A request waits for a refresh at most [`PATIENCE`]: a
//! slow broker makes old numbers, which say their age, and no slow pages. After a change by an
//! action, the next request waits for a snapshot that was begun after it.
//!
//! `check` may read the whole broker, so it runs apart and rarely. Of the queues that wait long,
//! the first few are asked for the reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use brigade::{
    Broker, DeadGroup, Error, ErrorKind, Explanation, Finding, JobFilter, JobState, LiveConsumer,
    QueueCounts, StatisticsFilter, TaskCounts,
};
use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::sentence::{self, Mood, Sentence, SentenceFacts, waiting_long};
use super::series::{Series, buckets, by_minute, rate, start_of};

/// A snapshot of this age is as good as a new one.
const FRESH: Duration = Duration::from_secs(2);
/// The longest that a page waits for a new snapshot.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The longest that a refresh may take.
const REFRESH_MAX: Duration = Duration::from_secs(20);
/// Groups of dead letters of this age are as good as new ones.
const GROUPS_FRESH: Duration = Duration::from_secs(4);
/// The longest that a page waits for groups of dead letters.
const GROUPS_PATIENCE: Duration = Duration::from_millis(100);
/// How often the broker is checked.
const CHECK_EACH: Duration = Duration::from_secs(300);
/// Queues that are asked for the reason of their wait.
const REASONS_MAX: usize = 3;

/// What the broker looked like at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) taken: SystemTime,
    /// The same moment, for its age.
    pub(super) read: Instant,
    /// The queues by name; `None` if the broker cannot list them, or did not answer.
    pub(super) queues: Option<Vec<QueueCounts>>,
    /// The consumers that are alive; `None` if the broker cannot list them, or did not answer.
    pub(super) consumers: Option<Vec<LiveConsumer>>,
    /// What happened in the last hour; `None` if the broker keeps no statistics.
    pub(super) series: Option<Series>,
    pub(super) findings: Vec<Finding>,
    /// When the broker was checked last.
    pub(super) checked: Option<SystemTime>,
    /// What is, the worst first; at least one.
    pub(super) sentences: Vec<Sentence>,
    /// Since when the broker does not answer.
    trouble_since: Option<SystemTime>,
}

impl Snapshot {
    /// How many jobs of all queues are in this state.
    pub(super) fn jobs_in(&self, state: JobState) -> u64 {
        let queues = self.queues.as_deref().unwrap_or_default();
        queues
            .iter()
            .map(|queue| sentence::jobs_in(queue, state))
            .sum()
    }

    /// A queue by its name.
    pub(super) fn queue(&self, name: &str) -> Option<&QueueCounts> {
        let queues = self.queues.as_deref().unwrap_or_default();
        queues.iter().find(|queue| queue.queue == name)
    }

    /// A snapshot before the broker has answered.
    fn nothing(text: &str) -> Self {
        Self {
            taken: SystemTime::now(),
            read: Instant::now(),
            queues: None,
            consumers: None,
            series: None,
            findings: Vec::new(),
            checked: None,
            sentences: vec![Sentence::plain(Mood::Unknown, text)],
            trouble_since: None,
        }
    }
}

/// The shared look. Cheap to clone.
#[derive(Clone)]
pub(super) struct BrokerWatch(Arc<WatchShared>);

struct WatchShared {
    state: Mutex<LookState>,
    tasks: TaskTracker,
    /// Cancelled when the connection to the broker has ended for good.
    ended_for_good: CancellationToken,
    /// The number of refreshes that ended.
    ended: tokio::sync::watch::Sender<u64>,
    /// The minutes of the last day, and when they were read.
    day: tokio::sync::Mutex<Option<(Instant, BTreeMap<u64, TaskCounts>)>>,
    /// The groups of dead letters that were read last.
    groups: Mutex<Option<KeptGroups>>,
    /// Held while groups are read.
    groups_read: Arc<tokio::sync::Mutex<()>>,
}

/// Groups of dead letters.
struct KeptGroups {
    /// Of this queue, or of all with an empty name.
    queue: String,
    groups: Vec<DeadGroup>,
    /// When they are read again.
    until: Instant,
}

#[derive(Default)]
struct LookState {
    current: Option<Arc<Snapshot>>,
    begun: Option<Instant>,
    refreshes: bool,
    /// A change was made that no snapshot has yet.
    changed: bool,
    findings: Vec<Finding>,
    checked: Option<(Instant, SystemTime)>,
    checks: bool,
}

impl BrokerWatch {
    pub(super) fn new(ended_for_good: CancellationToken) -> Self {
        Self(Arc::new(WatchShared {
            state: Mutex::default(),
            tasks: TaskTracker::new(),
            ended_for_good,
            ended: tokio::sync::watch::Sender::new(0),
            day: tokio::sync::Mutex::new(None),
            groups: Mutex::new(None),
            groups_read: Arc::default(),
        }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LookState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request waits for a snapshot that is begun after now.
    pub(super) fn changed(&self) {
        *self.groups() = None;
        self.state().changed = true;
    }

    /// Has the broker checked again at the next look.
    pub(super) fn check_again(&self) {
        self.state().checked = None;
    }

    /// The newest snapshot; starts a refresh if it is old.
    pub(super) async fn look(&self, broker: &Broker) -> Arc<Snapshot> {
        let mut ended = self.0.ended.subscribe();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let waits = {
                let mut state = self.state();
                let is_fresh = state.begun.is_some_and(|begun| begun.elapsed() < FRESH);
                let waits = state.changed || state.current.is_none() || {
                    let age = state.begun.map_or(REFRESH_MAX, |begun| begun.elapsed());
                    age > FRESH + FRESH / 2
                };
                if !state.refreshes && (state.changed || !is_fresh) {
                    state.refreshes = true;
                    state.changed = false;
                    state.begun = Some(Instant::now());
                    self.start(broker, state.current.clone());
                }
                if !waits && let Some(current) = &state.current {
                    return Arc::clone(current);
                }
                state.refreshes
            };
            let is_new = waits
                && tokio::time::timeout_at(deadline, ended.changed())
                    .await
                    .is_ok();
            if !is_new || !self.state().changed {
                let current = self.state().current.clone();
                return current.unwrap_or_else(|| {
                    Arc::new(Snapshot::nothing("The broker has not answered yet"))
                });
            }
        }
    }

    /// The last day in buckets of ten minutes; read again after a minute.
    pub(super) async fn day(&self, broker: &Broker) -> Vec<Option<TaskCounts>> {
        const DAY_FRESH: Duration = Duration::from_secs(60);
        // Held while it is read: all others wait for the one that reads.
        let mut day = self.0.day.lock().await;
        let is_fresh = day.as_ref().is_some_and(|(at, _)| at.elapsed() < DAY_FRESH);
        if !is_fresh {
            let read = broker.statistics(StatisticsFilter::default()).await;
            *day = read
                .ok()
                .map(|entries| (Instant::now(), by_minute(entries)));
        }
        let minutes = day.as_ref().map(|(_, minutes)| minutes);
        minutes.map_or_else(Vec::new, |minutes| {
            buckets(minutes, broker.clock().now(), 144, 10)
        })
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, Option<KeptGroups>> {
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups of dead letters of a queue, or of all with an empty name. They may come from
    /// every dead letter there is, so a page waits for them at most [`GROUPS_PATIENCE`]: without
    /// groups of before it gets `None`, and asks again.
    pub(super) async fn dead_groups(
        &self,
        broker: &Broker,
        queue: &str,
    ) -> Result<Option<Vec<DeadGroup>>, Error> {
        let read = timeout(GROUPS_PATIENCE, self.read_groups(broker, queue)).await;
        if let Ok(Err(error)) = read {
            return Err(error);
        }
        let kept = self.groups();
        let kept = kept.as_ref().filter(|kept| kept.queue == queue);
        Ok(kept.map(|kept| kept.groups.clone()))
    }

    /// Reads the groups if those that are kept are of another queue, or old. Cancel safe: the
    /// reading goes on in a task of its own.
    async fn read_groups(&self, broker: &Broker, queue: &str) -> Result<(), Error> {
        // All others wait for the one that reads.
        let reads = Arc::clone(&self.0.groups_read).lock_owned().await;
        let is_fresh = |kept: &KeptGroups| kept.queue == queue && Instant::now() < kept.until;
        if self.groups().as_ref().is_some_and(is_fresh) {
            return Ok(());
        }
        let (watch, broker, queue) = (self.clone(), broker.clone(), queue.to_owned());
        let reading = self.0.tasks.spawn(async move {
            let began = Instant::now();
            let of = (!queue.is_empty()).then_some(queue.as_str());
            let groups = broker.dead_groups(of).await?;
            // A broker that takes long for them is asked less often.
            let fresh = GROUPS_FRESH.max(4 * began.elapsed());
            let until = Instant::now() + fresh;
            *watch.groups() = Some(KeptGroups {
                queue,
                groups,
                until,
            });
            drop(reads);
            Ok(())
        });
        reading.await.unwrap_or(Ok(()))
    }

    /// Begins a refresh in a task of its own, which ends by itself.
    fn start(&self, broker: &Broker, before: Option<Arc<Snapshot>>) {
        let (watch, broker) = (self.clone(), broker.clone());
        self.0.tasks.spawn(async move {
            let (findings, checked) = {
                let state = watch.state();
                (state.findings.clone(), state.checked.map(|(_, at)| at))
            };
            let refresh = refresh(
                &broker,
                before.as_deref(),
                findings,
                checked,
                &watch.0.ended_for_good,
            );
            let snapshot = tokio::time::timeout(REFRESH_MAX, refresh).await;
            // Only now: it may read the whole broker, and the page waits for the snapshot.
            watch.check(&broker);
            let snapshot = snapshot.unwrap_or_else(|_| {
                let text = "The broker takes longer than 20 s to answer";
                unreachable(before.as_deref(), Mood::Problem, text)
            });
            let mut state = watch.state();
            state.current = Some(Arc::new(snapshot));
            state.refreshes = false;
            drop(state);
            watch.0.ended.send_modify(|ended| *ended += 1);
        });
    }

    /// Begins a check of the broker in a task of its own, if the last one is long ago.
    fn check(&self, broker: &Broker) {
        let mut state = self.state();
        let is_due = state
            .checked
            .is_none_or(|(at, _)| at.elapsed() > CHECK_EACH);
        if !is_due || state.checks {
            return;
        }
        state.checks = true;
        let (watch, broker) = (self.clone(), broker.clone());
        self.0.tasks.spawn(async move {
            let found = broker.check().await;
            let mut state = watch.state();
            state.checks = false;
            // If it fails, the refresh fails as well and has the reason.
            state.findings = found.unwrap_or_default();
            state.checked = Some((Instant::now(), SystemTime::now()));
        });
    }
}

/// Asks the broker for everything that the pages share.
async fn refresh(
    broker: &Broker,
    before: Option<&Snapshot>,
    findings: Vec<Finding>,
    checked: Option<SystemTime>,
    ended_for_good: &CancellationToken,
) -> Snapshot {
    let can = broker.capabilities();
    let now = broker.clock().now();
    // Side by side: the first page waits for all of them.
    let (queues, consumers, series) = tokio::join!(
        read_if(can.listing, broker.queues()),
        read_if(can.consumers, broker.consumers()),
        read_if(can.statistics, read_series(broker, before, now)),
    );
    let queues = match queues.transpose() {
        Ok(queues) => queues,
        Err(error) => {
            if error.kind() == ErrorKind::Closed {
                ended_for_good.cancel();
            }
            let text = format!("The broker does not answer: {error}");
            return unreachable(before, Mood::Problem, &text);
        }
    };
    let consumers = consumers.and_then(Result::ok);
    let mut snapshot = Snapshot {
        taken: now,
        read: Instant::now(),
        queues,
        consumers,
        series,
        findings,
        checked,
        sentences: Vec::new(),
        trouble_since: None,
    };
    snapshot.sentences = describe(broker, &snapshot).await;
    snapshot
}

/// What the broker can show; `None` if it cannot.
async fn read_if<T>(can: bool, read: impl Future<Output = T>) -> Option<T> {
    match can {
        true => Some(read.await),
        false => None,
    }
}

async fn read_series(broker: &Broker, before: Option<&Snapshot>, now: SystemTime) -> Series {
    let mut series = before
        .and_then(|before| before.series.clone())
        .unwrap_or_default();
    let from = series.wanted_from(now);
    let filter = StatisticsFilter {
        since: Some(start_of(from)),
        ..StatisticsFilter::default()
    };
    if let Ok(minutes) = broker.statistics(filter).await {
        series.replace(from, minutes, now);
    }
    series
}

/// The sentences of a snapshot, with the reasons of those that wait long.
async fn describe(broker: &Broker, snapshot: &Snapshot) -> Vec<Sentence> {
    let Some(queues) = &snapshot.queues else {
        return sentence::without_list(snapshot.consumers.as_deref(), &snapshot.findings);
    };
    let has_series = snapshot
        .series
        .as_ref()
        .is_some_and(|series| !series.is_empty());
    if queues.is_empty() && !has_series {
        return vec![Sentence::plain(
            Mood::Unknown,
            "No jobs yet: nothing was pushed",
        )];
    }
    let now = snapshot.taken;
    let waiting = waiting_long(queues, now).into_iter().take(REASONS_MAX);
    let reasons = waiting.map(|queue| reason_of(broker, &queue.queue));
    let reasons = join_all(reasons).await;
    let recent_dead: Vec<(String, u64)> =
        snapshot.series.as_ref().map_or_else(Vec::new, |series| {
            let recent = queues.iter().map(|queue| {
                (
                    queue.queue.clone(),
                    series.recent_dead_of(&queue.queue, now),
                )
            });
            recent.filter(|(_, dead)| *dead > 0).collect()
        });
    sentence::sentences(&SentenceFacts {
        now,
        queues,
        reasons: &reasons,
        findings: &snapshot.findings,
        recent_dead: &recent_dead,
        per_minute: snapshot
            .series
            .as_ref()
            .map(|series| rate(series, now, |counts| counts.done)),
    })
}

/// A queue that waits long, and why its first job does.
async fn reason_of(broker: &Broker, queue: &str) -> (String, Option<Explanation>) {
    let filter = JobFilter {
        queue: Some(queue.into()),
        state: Some(JobState::Ready),
        limit: 1,
        ..JobFilter::default()
    };
    let first = broker.find(&filter).await.ok();
    let reason = match first.and_then(|page| page.jobs.into_iter().next()) {
        Some(job) => broker.why(&job.id).await.ok().flatten(),
        None => None,
    };
    (queue.to_owned(), reason)
}

/// A snapshot of a broker that does not answer: no numbers, and since when.
fn unreachable(before: Option<&Snapshot>, mood: Mood, text: &str) -> Snapshot {
    let since = before
        .and_then(|before| before.trouble_since)
        .unwrap_or_else(SystemTime::now);
    let mut snapshot = Snapshot::nothing(text);
    snapshot.sentences[0].mood = mood;
    snapshot.sentences[0].since = Some(since);
    snapshot.trouble_since = Some(since);
    snapshot.series = before.and_then(|before| before.series.clone());
    snapshot
}
