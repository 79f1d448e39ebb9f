//! Finding jobs on every store: filters, pages, groups of dead letters, and since when a queue
//! waits.
//!
//! A random filter finds exactly the jobs that a loop over all of them finds, in both orders and
//! page by page. Pages stay right while other jobs come and go.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use brigade::policy::reason_pattern;
use brigade::{Broker, Edit, Job, JobFilter, JobId, JobInfo, JobState, Retry};
use fastrand::Rng;

use crate::case::{Case, case};
use crate::seed::{count, seed};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[
    case!(a_filter_finds_what_a_look_at_each_job_finds: listing, statistics, cancels, results, scheduling),
    case!(a_page_that_reads_many_jobs_in_vain_says_where_to_go_on: listing, statistics),
    case!(a_page_of_large_jobs_ends_early_and_says_where_to_go_on: listing),
    case!(pages_neither_skip_nor_repeat_while_jobs_come_and_go: listing, statistics),
    case!(dead_letters_are_grouped_by_task_and_reason: listing, statistics),
    case!(groups_of_dead_letters_follow_what_happens_to_them: listing, statistics),
    case!(a_queue_says_since_when_its_next_job_waits: listing, statistics, clock, scheduling),
    case!(a_job_shows_its_options_and_when_it_was_handed_out_and_ended: listing, statistics, clock),
];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the case takes.
const HOUR: Duration = Duration::from_secs(3600);

const QUEUES: [&str; 3] = ["one", "two", "three"];
const NAMES: [&str; 3] = ["a", "b", "A"];
/// What payloads and filters contain: also what means something to other languages.
const WORDS: [&str; 9] = [
    "ann", "bob", "100%", "a_b", "it's", "C:\\x", "é", "*", "[ann]",
];
const REASONS: [&str; 4] = ["job 17 is odd", "job 18 is odd", "refused", ""];

fn one<T: Copy>(random: &mut Rng, of: &[T]) -> T {
    of[random.usize(..of.len())]
}

fn some<T: Copy>(random: &mut Rng, of: &[T], one_in: u8) -> Option<T> {
    (random.u8(..one_in) == 0).then(|| one(random, of))
}

fn random_job(random: &mut Rng, broker: &Broker) -> Job {
    let words: Vec<&str> = (0..random.usize(0..3))
        .map(|_| one(random, &WORDS))
        .collect();
    let mut job = broker.queue(one(random, &QUEUES)).job(&words).unwrap();
    job.task = some(random, &NAMES, 2).map(Into::into);
    if let Some(label) = some(random, &NAMES, 3) {
        job = job.label(label);
    }
    let can = broker.capabilities();
    if let Some(key) = some(random, &NAMES, 4).filter(|_| can.keys) {
        job = job.key(key);
    }
    if can.priorities && random.u8(..3) == 0 {
        job = job.priority(random.i32(-2..3));
    }
    if random.u8(..5) == 0 {
        job = job.delay(HOUR);
    }
    if random.bool() {
        job = job.keep(HOUR);
    }
    // So late that it changes no state while the case looks.
    let retry = Retry::exponential(MINUTE, MINUTE);
    job.retries(u32::from(random.bool())).retry(retry)
}

/// Something happens to some job.
async fn happen(random: &mut Rng, broker: &Broker, ids: &[JobId]) {
    let queue = broker.queue(one(random, &QUEUES));
    let deed = random.u8(..6);
    if deed == 0 {
        let id = &ids[random.usize(..ids.len())];
        broker.cancel(id, one(random, &REASONS)).await.unwrap();
        return;
    }
    let Some(lease) = queue.lease(HOUR, NOW).await.unwrap() else {
        return;
    };
    let settled = match deed {
        1 => lease.ack().await,
        2 => lease.nack_later(one(random, &REASONS), HOUR).await,
        3 => lease.dead_letter(one(random, &REASONS)).await,
        // It stays leased.
        _ => return,
    };
    settled.unwrap();
}

fn random_filter(random: &mut Rng, jobs: &[JobInfo]) -> JobFilter {
    let pushed = |random: &mut Rng| jobs[random.usize(..jobs.len())].pushed_at;
    let states = JobState::ALL;
    let reason = some(random, &REASONS, 8).map(reason_pattern);
    JobFilter {
        queue: some(random, &["one", "two", "none"], 2).map(Into::into),
        state: some(random, &states, 2),
        task: some(random, &NAMES, 4).map(Into::into),
        no_task: random.u8(..6) == 0,
        label: some(random, &NAMES, 6).map(Into::into),
        key: some(random, &NAMES, 6).map(Into::into),
        text: some(random, &WORDS, 5).map(Into::into),
        reason: reason.map(Into::into),
        pushed_from: (random.u8(..6) == 0).then(|| pushed(random)),
        pushed_until: (random.u8(..6) == 0).then(|| pushed(random)),
        newest_first: random.bool(),
        after: None,
        limit: random.usize(1..20),
    }
}

/// All pages of a filter.
async fn found(broker: &Broker, mut filter: JobFilter) -> Vec<JobId> {
    let mut ids = Vec::new();
    for pages in 0.. {
        assert!(pages < 1000, "it never ends: {filter:?}");
        let page = broker.find(&filter).await.unwrap();
        assert!(page.jobs.len() <= filter.limit, "{filter:?}");
        let is_last = page.next.is_none();
        let bytes: usize = page.jobs.iter().map(JobInfo::bytes).sum();
        let is_large = bytes > JobFilter::PAGE_BYTES_MAX;
        let is_full = page.jobs.len() == filter.limit || is_large;
        assert!(is_last || is_full || filter.reads_jobs(), "{filter:?}");
        ids.extend(page.jobs.into_iter().map(|job| job.id));
        let Some(next) = page.next else { break };
        filter.after = Some(next);
    }
    ids
}

async fn a_filter_finds_what_a_look_at_each_job_finds(subject: Subject) {
    let (broker, mut random) = (&subject.broker, Rng::with_seed(seed()));
    let mut ids = Vec::new();
    for _ in 0..150 {
        let pushed = broker.push(random_job(&mut random, broker)).await.unwrap();
        ids.push(pushed.id().clone());
        happen(&mut random, broker, &ids).await;
    }
    let jobs = broker.jobs(None, None, None, 1000).await.unwrap();
    let mut matched = 0;
    for _ in 0..count(300, 5000) {
        let filter = random_filter(&mut random, &jobs);
        let matching = jobs.iter().filter(|job| filter.matches(job));
        let mut wanted: Vec<JobId> = matching.map(|job| job.id.clone()).collect();
        if filter.newest_first {
            wanted.reverse();
        }
        matched += wanted.len();
        assert_eq!(found(broker, filter.clone()).await, wanted, "{filter:?}");
    }
    assert!(matched > 0, "some filters found something");
}

async fn a_page_that_reads_many_jobs_in_vain_says_where_to_go_on(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let needle = queue.push(&"a needle").await.unwrap();
    for _ in 0..JobFilter::READ_MAX / 1000 {
        let hay = (0..1000).map(|n| queue.job(&n).unwrap()).collect();
        broker.push_many(hay).await.unwrap();
    }
    let last = queue.push(&"another needle").await.unwrap();
    for (newest_first, wanted) in [(false, [&needle, &last]), (true, [&last, &needle])] {
        for queue in [None, Some("q".into())] {
            let filter = JobFilter {
                text: Some("needle".into()),
                queue,
                newest_first,
                limit: 10,
                ..JobFilter::default()
            };
            let page = broker.find(&filter).await.unwrap();
            assert!(page.next.is_some(), "it read no more than it may");
            let found = found(broker, filter).await;
            assert_eq!(found.iter().collect::<Vec<_>>(), wanted);
        }
    }
}

async fn a_page_of_large_jobs_ends_early_and_says_where_to_go_on(subject: Subject) {
    let broker = &subject.broker;
    // Three of them are less than a page may have, four are more.
    let large = "x".repeat(JobFilter::PAGE_BYTES_MAX / 4);
    let mut all = Vec::new();
    for number in 0..10 {
        let queue = broker.queue(QUEUES[number % 2]);
        all.push(queue.push(&large).await.unwrap());
    }
    for newest_first in [false, true] {
        for text in [None, Some("xxx".into())] {
            let filter = JobFilter {
                newest_first,
                text,
                limit: 100,
                ..JobFilter::default()
            };
            let page = broker.find(&filter).await.unwrap();
            assert_eq!(page.jobs.len(), 4, "no more than the one that is too much");
            assert!(page.next.is_some());
            assert_eq!(found(broker, filter).await, all);
        }
        all.reverse();
    }
    let jobs = broker.jobs(None, None, None, 9).await.unwrap();
    assert_eq!(jobs.len(), 9, "all that was asked for");
}

async fn pages_neither_skip_nor_repeat_while_jobs_come_and_go(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let mut random = Rng::with_seed(seed());
    for newest_first in [false, true] {
        for in_queue in [true, false] {
            let mut stay: HashSet<JobId> = HashSet::new();
            for number in 0..200 {
                stay.insert(queue.push(&number).await.unwrap());
            }
            let mut filter = JobFilter {
                queue: in_queue.then(|| "q".into()),
                state: random.bool().then_some(JobState::Ready),
                newest_first,
                limit: 7,
                ..JobFilter::default()
            };
            let mut seen = HashSet::new();
            loop {
                let page = broker.find(&filter).await.unwrap();
                for job in page.jobs {
                    assert!(seen.insert(job.id.clone()), "{} came twice", job.id);
                }
                let Some(next) = page.next else { break };
                filter.after = Some(next);
                // One that comes, and two that go: perhaps the one that the next page begins after.
                if seen.len() < 500 {
                    queue.push(&"new").await.unwrap();
                }
                let gone: Vec<JobId> = stay.iter().take(1).cloned().collect();
                for id in gone.iter().chain(&filter.after) {
                    broker.delete(id).await.unwrap();
                    stay.remove(id);
                }
            }
            assert!(stay.is_subset(&seen), "those that stayed were all seen");
            assert!(!stay.is_empty());
            queue.purge().await.unwrap();
        }
    }
}

async fn dead_letters_are_grouped_by_task_and_reason(subject: Subject) {
    let (broker, mut random) = (&subject.broker, Rng::with_seed(seed()));
    assert_eq!(broker.dead_groups(None).await.unwrap(), []);
    for _ in 0..100 {
        let mut job = broker.queue(one(&mut random, &QUEUES)).job(&1).unwrap();
        job.task = some(&mut random, &NAMES, 2).map(Into::into);
        let queue = job.queue.clone();
        broker.push(job).await.unwrap();
        let lease = broker.queue(queue).lease(LONG, NOW).await.unwrap();
        let reason = match one(&mut random, &REASONS) {
            "" => String::new(),
            reason => format!("{reason} after {} ms\nline 2", random.u8(..)),
        };
        lease.unwrap().dead_letter(reason).await.unwrap();
    }
    broker.queue("one").push(&"not dead").await.unwrap();
    let dead = assert_groups(broker).await;
    assert!(broker.retry(&dead[0].id).await.unwrap());
    let groups = broker.dead_groups(None).await.unwrap();
    assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 99);
}

/// Compares the groups with the dead letters one by one, which it returns.
async fn assert_groups(broker: &Broker) -> Vec<JobInfo> {
    let dead = JobFilter {
        state: Some(JobState::Dead),
        limit: 1000,
        ..JobFilter::default()
    };
    let dead = broker.find(&dead).await.unwrap().jobs;
    for queue in [None, Some("one"), Some("none")] {
        let groups = broker.dead_groups(queue).await.unwrap();
        let counts: Vec<u64> = groups.iter().map(|group| group.count).collect();
        assert!(counts.is_sorted_by(|a, b| a >= b), "the largest first");
        let mut wanted = HashMap::<_, Vec<&JobInfo>>::new();
        for job in &dead {
            if queue.is_none_or(|queue| queue == job.queue) {
                let pattern = reason_pattern(job.reason.as_deref().unwrap_or_default());
                let key = (job.queue.clone(), job.task.clone(), pattern);
                wanted.entry(key).or_default().push(job);
            }
        }
        assert_eq!(groups.len(), wanted.len());
        for group in groups {
            let key = (
                group.queue.clone(),
                group.task.clone(),
                group.reason.clone(),
            );
            let jobs = &wanted[&key];
            assert_eq!(group.count, jobs.len() as u64);
            let pushed = || jobs.iter().map(|job| job.pushed_at);
            assert_eq!(Some(group.first), pushed().min());
            assert_eq!(Some(group.last), pushed().max());
            assert!(jobs.iter().any(|job| job.id == group.example));
            let filter = JobFilter {
                queue: Some(group.queue.into()),
                state: Some(JobState::Dead),
                no_task: group.task.is_none(),
                task: group.task.map(Into::into),
                reason: Some(group.reason.into()),
                limit: 1000,
                ..JobFilter::default()
            };
            let ids: Vec<JobId> = jobs.iter().map(|job| job.id.clone()).collect();
            assert_eq!(
                found(broker, filter).await,
                ids,
                "the jobs of the group alone"
            );
        }
    }
    dead
}

async fn groups_of_dead_letters_follow_what_happens_to_them(subject: Subject) {
    let (broker, mut random) = (&subject.broker, Rng::with_seed(seed()));
    let mut dead = assert_groups(broker).await;
    for _ in 0..count(60, 600) {
        let queue = broker.queue(one(&mut random, &QUEUES));
        match (random.u8(..5), dead.is_empty()) {
            (0, false) => {
                let id = &one(&mut random, &dead.iter().collect::<Vec<_>>()).id;
                assert!(broker.delete(id).await.unwrap());
            }
            (1, false) => {
                let id = &one(&mut random, &dead.iter().collect::<Vec<_>>()).id;
                let edit = Edit {
                    task: some(&mut random, &NAMES, 2).map(Into::into),
                    queue: some(&mut random, &QUEUES, 2).map(Into::into),
                    ..Edit::default()
                };
                assert!(broker.retry_with(id, edit).await.unwrap().is_some());
            }
            _ => {
                let mut job = queue.job(&1).unwrap();
                job.task = some(&mut random, &NAMES, 2).map(Into::into);
                broker.push(job).await.unwrap();
                if let Some(lease) = queue.lease(LONG, NOW).await.unwrap() {
                    let reason = format!("{} after {}", one(&mut random, &REASONS), random.u8(..));
                    lease.dead_letter(reason).await.unwrap();
                }
            }
        }
        dead = assert_groups(broker).await;
    }
}

async fn a_queue_says_since_when_its_next_job_waits(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let since = || async {
        let queues = broker.queues().await.unwrap();
        queues.first().and_then(|counts| counts.waits_since)
    };
    let id = queue.push(&1).await.unwrap();
    let job = broker.job(&id).await.unwrap().unwrap();
    assert_eq!(since().await, Some(job.pushed_at));
    broker.clock().advance(MINUTE);
    let second = queue.push(&2).await.unwrap();
    assert_eq!(since().await, Some(job.pushed_at), "the first of them");
    queue.take(NOW).await.unwrap().unwrap();
    let job = broker.job(&second).await.unwrap().unwrap();
    assert_eq!(since().await, Some(job.pushed_at));
    queue.take(NOW).await.unwrap().unwrap();

    let delayed = queue.job(&3).unwrap().delay(2 * MINUTE).retries(1);
    let delayed = delayed.retry(Retry::exponential(MINUTE, MINUTE));
    let id = broker.push(delayed).await.unwrap().id().clone();
    let job = broker.job(&id).await.unwrap().unwrap();
    assert_eq!(since().await, None, "it is not due");
    broker.clock().advance(10 * MINUTE);
    assert_eq!(since().await, job.due_at);
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(since().await, None, "it is handed out");
    lease.nack("no").await.unwrap();
    let job = broker.job(&id).await.unwrap().unwrap();
    assert_eq!((job.state, since().await), (JobState::Retrying, None));
    broker.clock().advance(10 * MINUTE);
    assert_eq!(since().await, job.due_at);

    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    broker.clock().advance(LONG / 2);
    let before = broker.clock().now() - Duration::from_millis(1);
    lease.pass("not here").await.unwrap();
    assert!(since().await.unwrap() >= before, "since it was given back");
}

async fn a_job_shows_its_options_and_when_it_was_handed_out_and_ended(subject: Subject) {
    let (broker, queue) = (&subject.broker, subject.broker.queue("q"));
    let job = queue.job(&1).unwrap().retries(3).timeout(LONG).label("l");
    let options = job.options.clone();
    let id = broker.push(job).await.unwrap().id().clone();
    let look = || async { broker.job(&id).await.unwrap().unwrap() };
    let waiting = look().await;
    assert_eq!(waiting.options, options);
    assert_eq!((waiting.leased_at, waiting.ended_at), (None, None));
    broker.clock().advance(MINUTE);
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    let leased_at = look().await.leased_at.unwrap();
    let waited = leased_at.duration_since(waiting.pushed_at).unwrap();
    assert!(waited >= MINUTE && waited < 2 * MINUTE, "{waited:?}");
    lease.give_back("not now").await.unwrap();
    assert_eq!(look().await.leased_at, None);
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    broker.clock().advance(LONG / 2);
    lease.dead_letter("odd").await.unwrap();
    let dead = look().await;
    assert!(dead.ended_at.unwrap() >= leased_at + LONG / 2);
    assert_eq!(dead.leased_at, None);
    assert!(broker.retry(&id).await.unwrap());
    let again = look().await;
    assert_eq!((again.ended_at, again.options), (None, options));
}
