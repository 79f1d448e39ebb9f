//! Statistics and events in the way of other programs, and of very many queues and dead letters.
//!
//! `BRIGADE_FULL=1` takes 1,000 queues and 100,000 dead letters, and prints how long looks take:
//! `cargo nextest run --test redis --no-capture -E 'test(looks_at)'`.

use std::time::{Duration, Instant};

use brigade::{Broker, Error, EventRequest, Job, JobFilter, JobState, StatisticsFilter};
use brigade_testkit::redis::Redis;

use crate::many_queues::scripts;
use crate::stage::{LONG, NOW, plain, start, tell};

#[tokio::test]
async fn keys_of_other_programs_where_statistics_and_events_are_stop_no_job() {
    let (server, broker) = start(&[]).await;
    let mut connection = plain(&server);
    let events = broker.events(EventRequest::default()).await.unwrap();
    tell::<()>(&mut connection, &["RPUSH", "brigade:{q}:minute", "1"]);
    tell::<()>(&mut connection, &["SET", "brigade:events", "1"]);
    let queue = broker.queue("q");
    queue.push(&1).await.unwrap();
    let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
    lease.ack().await.unwrap();
    for key in ["brigade:{q}:minute", "brigade:events"] {
        tell::<()>(&mut connection, &["DEL", key]);
    }
    tell::<()>(&mut connection, &["SET", "brigade:recorded", "1"]);
    queue.push(&2).await.unwrap();
    tell::<()>(&mut connection, &["DEL", "brigade:recorded"]);
    assert_eq!(queue.take(NOW).await.unwrap().unwrap().json(), "2");
    let request = EventRequest {
        after: Some(events.next),
        max: 10,
        ..EventRequest::default()
    };
    let page = broker.events(request).await.unwrap();
    assert!(page.events.is_empty() && page.missed, "{page:?}");
}

/// Pushes a job to each of these queues, and makes so many dead letters.
async fn fill(server: &Redis, broker: &Broker, queues: usize, dead: usize) {
    for number in 0..queues {
        let queue = broker.queue(format!("tenant-{number}").as_str());
        queue.push(&number).await.unwrap();
    }
    let job = |number: usize| Job {
        task: Some(["a", "b"][number % 2].into()),
        ..broker.queue("dead").job(&number).unwrap()
    };
    for from in (0..dead).step_by(1000) {
        let jobs = (from..from + 1000).map(job).collect();
        broker.push_many(jobs).await.unwrap();
    }
    // Each set aside by itself would take as long as all the rest.
    let set_aside = "for _, id in ipairs(redis.call('ZRANGE', KEYS[1] .. 'ready', 0, -1)) do \
        redis.call('HSET', KEYS[1] .. 'job:' .. id, 'state', 'dead', 'reason', 'took ' .. id .. \
        ' ms') redis.call('ZADD', KEYS[1] .. 'dead', 0, id) end redis.call('DEL', KEYS[1] .. \
        'ready')";
    let words = ["EVAL", set_aside, "1", "brigade:{dead}:"];
    tell::<()>(&mut plain(server), &words);
}

/// How long looks took, and how many scripts the server ran for each.
struct Looks<'a> {
    server: &'a Redis,
    took: Vec<String>,
}

impl Looks<'_> {
    async fn at<T>(&mut self, what: &str, look: impl Future<Output = Result<T, Error>>) -> T {
        let (began, before) = (Instant::now(), scripts(self.server));
        let looked = look.await.unwrap();
        let (took, scripts) = (began.elapsed(), scripts(self.server) - before);
        self.took
            .push(format!("{what} {took:.0?} ({scripts} scripts)"));
        looked
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_at_many_queues_and_dead_letters_find_all_of_them() {
    let (server, broker) = start(&[]).await;
    let (queues, dead) = (
        brigade_testkit::count(100, 1000),
        brigade_testkit::count(2000, 100_000),
    );
    fill(&server, &broker, queues, dead).await;
    let mut looks = Looks {
        server: &server,
        took: Vec::new(),
    };
    for what in ["counts", "counts again"] {
        let counts = looks.at(what, broker.queues()).await;
        assert_eq!(counts.len(), queues + 1);
    }
    for (what, state, newest_first) in [
        ("newest jobs", None, true),
        ("oldest jobs", None, false),
        ("ready jobs", Some(JobState::Ready), true),
        ("dead jobs", Some(JobState::Dead), true),
    ] {
        let filter = JobFilter {
            state,
            newest_first,
            limit: 50,
            ..JobFilter::default()
        };
        let page = looks.at(what, broker.find(&filter)).await;
        assert_eq!(page.jobs.len(), 50, "{what}");
    }
    for what in ["dead groups", "dead groups again"] {
        let groups = looks.at(what, broker.dead_groups(None)).await;
        assert_eq!(groups.len(), 2, "{groups:?}");
        let grouped: u64 = groups.iter().map(|group| group.count).sum();
        assert_eq!(grouped, dead as u64);
    }
    let filter = StatisticsFilter {
        summed: true,
        ..StatisticsFilter::default()
    };
    let counted = looks.at("statistics", broker.statistics(filter)).await;
    let pushed: u64 = counted.iter().map(|minute| minute.counts.pushed).sum();
    assert_eq!(pushed, (queues + dead) as u64);
    let took = looks.took.join(", ");
    println!("{queues} queues, {dead} dead letters: {took}");
}

#[tokio::test]
async fn a_request_for_events_that_waits_hears_of_the_next_at_once() {
    let (_server, broker) = start(&[]).await;
    let after = broker.events(EventRequest::default()).await.unwrap().next;
    let request = EventRequest {
        after: Some(after),
        max: 10,
        wait: LONG * 10,
        ..EventRequest::default()
    };
    let waiting = broker.clone();
    let reading = tokio::spawn(async move { waiting.events(request).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let id = broker.queue("q").push(&1).await.unwrap();
    let page = tokio::time::timeout(LONG, reading).await.unwrap();
    let page = page.unwrap().unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.events[0].job, id);
}
