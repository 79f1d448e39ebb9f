//! [`HttpConsumers`]: the programs that take jobs over HTTP, as consumers that are alive.
//!
//! They are seen where all consumers are (`/v1/consumers`, the dashboard, `brigade top`), with what
//! each runs and how far that is. This server announces them to the broker (`announce`): a program
//! that only sends requests cannot. All of it is for people: no job depends on it, and what is
//! forgotten here changes no lease.
//!
//! - A consumer is listed while it asks for jobs or holds leases, and for [`KEPT`] after that.
//! - A lease is remembered from its answer until it is settled or runs out. A lease that another
//!   server handed out, or this one before its restart, is adopted when its holder extends it.
//! - The lists are bounded. Consumers and leases beyond the bounds work as all others and are not
//!   listed.

mod announce;
mod name;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use brigade::store::LiveConsumer;
use brigade::{Broker, JobId, Lease, RunningJob};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::name::{ConsumerHeader, ConsumerName};
use crate::auth::random_text;

/// The most consumers that one server lists.
const CONSUMERS_MAX: usize = 1_000;
/// The most leases that one server remembers.
const LEASES_MAX: usize = 10_000;
/// How long a consumer that neither asks nor holds a lease is listed.
const KEPT: Duration = Duration::from_secs(60);

/// A lease, by its job and its token.
pub(crate) type LeaseKey = (JobId, i64);

/// The programs that take jobs from this server.
pub(crate) struct HttpConsumers {
    broker: Broker,
    tasks: TaskTracker,
    /// The server ends.
    stop: CancellationToken,
    /// Names this server among all that announce consumers.
    server: String,
    book: Mutex<Book>,
    /// A consumer holds other jobs than before, or reported progress.
    changed: Notify,
}

#[derive(Default)]
struct Book {
    consumers: HashMap<ConsumerName, Entry>,
    leases: HashMap<LeaseKey, HttpLease>,
    /// The task that announces them runs.
    is_announcing: bool,
    /// Numbers consumers, so that each has an id of its own.
    last_number: u64,
}

/// A consumer.
struct Entry {
    number: u64,
    queues: Vec<Box<str>>,
    since: SystemTime,
    /// Jobs that requests which wait now may get.
    asking: usize,
    holds: usize,
    /// The most jobs that it held or asked for at once.
    slots: usize,
    last_seen: Instant,
    is_changed: bool,
    announced: Option<Instant>,
}

/// A job that a consumer holds.
struct HttpLease {
    by: ConsumerName,
    running: RunningJob,
    until: Instant,
}

/// A request for jobs that is waiting. Ends when it is dropped.
pub(crate) struct Asking {
    consumers: Arc<HttpConsumers>,
    by: ConsumerName,
    jobs: usize,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut book = self.consumers.lock();
        if let Some(entry) = book.consumers.get_mut(&self.by) {
            entry.asking = entry.asking.saturating_sub(self.jobs);
            entry.last_seen = Instant::now();
        }
    }
}

impl Asking {
    /// The consumer asks for this many jobs of these queues, until this is dropped.
    pub(crate) fn begin<'a>(
        consumers: &Arc<HttpConsumers>,
        by: &ConsumerName,
        queues: impl Iterator<Item = &'a str>,
        jobs: usize,
    ) -> Self {
        let mut book = consumers.lock();
        if let Some(entry) = book.entry(by) {
            entry.serves(queues);
            entry.asking += jobs;
            entry.slots = entry.slots.max(entry.asking + entry.holds);
        }
        consumers.stay_announced(&mut book);
        drop(book);
        Self {
            consumers: Arc::clone(consumers),
            by: by.clone(),
            jobs,
        }
    }

    /// The consumer was given this lease for this time.
    pub(crate) fn given(&self, lease: &Lease, time: Duration) {
        let task = lease.task().map(ToOwned::to_owned);
        let running = RunningJob::new(lease.id().clone(), lease.queue(), task, lease.attempt());
        let key = (lease.id().clone(), lease.token());
        self.consumers.lock().hold(key, &self.by, running, time);
        self.consumers.changed.notify_one();
    }
}

impl HttpConsumers {
    pub(crate) fn new(broker: Broker, tasks: TaskTracker, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            broker,
            tasks,
            stop,
            server: random_text().unwrap_or_else(|_| std::process::id().to_string()),
            book: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// The holder of a lease extended it; with its progress, if it reported that. Gives false if
    /// the lease is not known here.
    pub(crate) fn extended(
        &self,
        key: &LeaseKey,
        time: Duration,
        progress: Option<(f64, String)>,
    ) -> bool {
        let mut book = self.lock();
        let Some(held) = book.leases.get_mut(key) else {
            return false;
        };
        held.until = until(time);
        let Some((part, text)) = progress else {
            return true;
        };
        held.running.progress = Some((part, short(text)));
        let by = held.by.clone();
        book.changed(&by);
        drop(book);
        self.changed.notify_one();
        true
    }

    /// A lease that is not known here is held by this consumer.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        key: LeaseKey,
        by: &ConsumerName,
        mut running: RunningJob,
        time: Duration,
    ) {
        running.progress = running.progress.map(|(part, text)| (part, short(text)));
        let mut book = self.lock();
        if let Some(entry) = book.entry(by) {
            entry.serves([running.queue.as_str()].into_iter());
            book.hold(key, by, running, time);
        }
        self.stay_announced(&mut book);
    }

    /// A lease has ended.
    pub(crate) fn ended(&self, key: &LeaseKey) {
        let mut book = self.lock();
        if let Some(held) = book.leases.remove(key) {
            book.released(&held.by, Instant::now());
            drop(book);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// The consumer, which is noted now if it is new; `None` if there are too many.
    fn entry(&mut self, by: &ConsumerName) -> Option<&mut Entry> {
        if !self.consumers.contains_key(by) {
            if self.consumers.len() >= CONSUMERS_MAX {
                return None;
            }
            self.last_number += 1;
            let entry = Entry {
                number: self.last_number,
                queues: Vec::new(),
                since: SystemTime::now(),
                asking: 0,
                holds: 0,
                slots: 0,
                last_seen: Instant::now(),
                is_changed: true,
                announced: None,
            };
            self.consumers.insert(by.clone(), entry);
        }
        self.consumers.get_mut(by)
    }

    fn hold(&mut self, key: LeaseKey, by: &ConsumerName, running: RunningJob, time: Duration) {
        if self.leases.len() >= LEASES_MAX {
            return;
        }
        let Some(entry) = self.consumers.get_mut(by) else {
            return;
        };
        let held = HttpLease {
            by: by.clone(),
            running,
            until: until(time),
        };
        if self.leases.insert(key, held).is_none() {
            entry.holds += 1;
            entry.slots = entry.slots.max(entry.holds);
            entry.is_changed = true;
        }
    }

    fn changed(&mut self, by: &ConsumerName) {
        if let Some(entry) = self.consumers.get_mut(by) {
            entry.is_changed = true;
        }
    }

    fn released(&mut self, by: &ConsumerName, now: Instant) {
        if let Some(entry) = self.consumers.get_mut(by) {
            entry.holds = entry.holds.saturating_sub(1);
            entry.last_seen = now;
            entry.is_changed = true;
        }
    }

    /// Forgets leases that have run out, and gives consumers that are not listed any more.
    fn expire(&mut self, now: Instant) -> Vec<(ConsumerName, Entry)> {
        let lapsed = self.leases.extract_if(|_, held| held.until <= now);
        let lapsed: Vec<_> = lapsed.map(|(_, held)| held.by).collect();
        lapsed.iter().for_each(|by| self.released(by, now));
        let is_gone = |entry: &Entry| {
            entry.asking == 0
                && entry.holds == 0
                && now.saturating_duration_since(entry.last_seen) >= KEPT
        };
        let gone = self.consumers.extract_if(|_, entry| is_gone(entry));
        gone.collect()
    }
}

impl Entry {
    fn serves<'a>(&mut self, queues: impl Iterator<Item = &'a str>) {
        for queue in queues {
            if self.queues.len() >= LiveConsumer::QUEUES_NAMED_MAX {
                return;
            }
            if !self.queues.iter().any(|known| **known == *queue) {
                self.queues.push(queue.into());
                self.is_changed = true;
            }
        }
    }
}

/// The moment in this time; a time that no clock has is a year.
fn until(time: Duration) -> Instant {
    let now = Instant::now();
    let year = Duration::from_secs(365 * 24 * 3600);
    now + time.min(year)
}

fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(RunningJob::PROGRESS_TEXT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(number: u32) -> ConsumerName {
        ConsumerName::unnamed(Some(format!("192.0.2.1/{number}")))
    }

    fn lease(number: i64) -> (LeaseKey, RunningJob) {
        let id = JobId::new(number.to_string());
        ((id.clone(), number), RunningJob::new(id, "q", None, 1))
    }

    async fn consumers() -> (Arc<HttpConsumers>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/jobs.db", directory.path().display());
        let broker = Broker::connect(&url).await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        (HttpConsumers::new(broker, tasks, stop), directory)
    }

    #[tokio::test]
    async fn a_consumer_is_listed_until_its_leases_have_run_out_and_it_was_not_seen_for_a_while() {
        let (consumers, _directory) = consumers().await;
        let begin = Instant::now();
        let (key, running) = lease(1);
        let mut book = consumers.lock();
        book.entry(&named(1)).unwrap();
        book.hold(key.clone(), &named(1), running, Duration::from_secs(600));
        drop(book);
        let progress = Some((0.5, "é".repeat(500)));
        assert!(consumers.extended(&key, Duration::from_secs(600), progress));
        assert!(!consumers.extended(&lease(2).0, Duration::from_secs(600), None));
        let mut book = consumers.lock();
        assert_eq!(book.expire(begin + Duration::from_secs(599)).len(), 0);
        let (part, text) = book.leases[&key].running.progress.clone().unwrap();
        assert_eq!((part, text.len()), (0.5, 200));
        let after = Instant::now() + Duration::from_secs(601);
        assert_eq!(book.expire(after).len(), 0, "its lease has just run out");
        assert!(book.leases.is_empty());
        let gone = book.expire(after + KEPT);
        assert_eq!(gone[0].0, named(1));
        assert!(book.consumers.is_empty());
    }

    #[tokio::test]
    async fn consumers_and_leases_are_bounded() {
        let (consumers, _directory) = consumers().await;
        let mut book = consumers.lock();
        for number in 0..2_000 {
            book.entry(&named(number));
        }
        assert_eq!(book.consumers.len(), CONSUMERS_MAX);
        for number in 0..20_000 {
            let (key, running) = lease(number);
            book.hold(key, &named(1), running, Duration::MAX);
        }
        assert_eq!(book.leases.len(), LEASES_MAX);
        assert_eq!(book.consumers[&named(1)].holds, LEASES_MAX);
    }
}
