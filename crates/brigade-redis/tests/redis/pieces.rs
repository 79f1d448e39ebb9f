//! Requests of any size are carried out in pieces: no script of ours holds the server up, and a
//! large push is whole or not there.

use brigade::{Broker, ErrorKind, Group, Job, JobState, PushOutcome};
use brigade_testkit::redis::Redis;

use crate::stage::{LONG, NOW, all_jobs, plain, start, tell};

/// Microseconds of the longest script so far. A script of a piece takes a few milliseconds; those
/// that went through all at once took seconds.
fn longest(server: &Redis) -> u64 {
    let entries: Vec<redis::Value> = tell(&mut plain(server), &["SLOWLOG", "GET", "-1"]);
    let time = |entry: &redis::Value| match entry {
        redis::Value::Array(parts) => redis::from_redis_value::<u64>(parts[2].clone()).unwrap(),
        _ => 0,
    };
    entries.iter().map(time).max().unwrap_or(0)
}

/// Far above a piece on a busy machine, far below what all at once takes.
const LONGEST: u64 = 400_000;

#[track_caller]
fn assert_short(server: &Redis) {
    let longest = longest(server);
    println!("the longest script took {longest} us");
    assert!(longest < LONGEST, "{longest} us");
}

async fn stage() -> (Redis, Broker) {
    start(&[
        "--slowlog-log-slower-than",
        "10000",
        "--slowlog-max-len",
        "1000",
    ])
    .await
}

fn count() -> usize {
    brigade_testkit::count(30_000, 400_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_push_and_its_purge_are_many_short_scripts() {
    let (server, broker) = stage().await;
    let queue = broker.queue("q");
    let jobs: Vec<Job> = (0..count())
        .map(|number| queue.job(&number).unwrap())
        .collect();
    let pushed = broker.push_many(jobs).await.unwrap();
    assert_eq!(
        broker.queues().await.unwrap()[0].jobs,
        [(JobState::Ready, count() as u64)]
    );
    let first = queue.lease(LONG, NOW).await.unwrap().unwrap();
    assert_eq!(
        (first.json(), first.id()),
        ("0", pushed[0].id()),
        "they are in the order of the push"
    );
    first.ack().await.unwrap();
    assert_eq!(queue.purge().await.unwrap(), count() as u64 - 1);
    assert_short(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_push_with_keys_and_marks_says_which_jobs_were_there() {
    let (server, broker) = stage().await;
    let queue = broker.queue("q");
    let job = |number: usize| {
        queue
            .job(&number)
            .unwrap()
            .key(format!("k{}", number % 1000))
            .unique(format!("m{number}"))
    };
    let before = broker.push(job(7)).await.unwrap().id().clone();
    let pushed = broker
        .push_many((0..count() / 2).map(job).collect())
        .await
        .unwrap();
    let known: Vec<_> = pushed
        .iter()
        .enumerate()
        .filter(|(_, pushed)| matches!(pushed, PushOutcome::Duplicate(_)))
        .collect();
    assert_eq!(known, [(7, &PushOutcome::Duplicate(before))]);
    assert_eq!(
        broker.queues().await.unwrap()[0]
            .jobs
            .iter()
            .map(|(_, count)| count)
            .sum::<u64>(),
        count() as u64 / 2
    );
    assert_eq!(
        broker.job(pushed[1007].id()).await.unwrap().unwrap().state,
        JobState::Blocked,
        "one of a key after the other"
    );
    assert_short(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_group_is_whole_and_its_cancel_takes_all_of_it() {
    let (server, broker) = stage().await;
    let members = brigade_testkit::count(10_000, 100_000);
    let job = |number: usize| broker.queue("q").job(&serde_json::json!([number])).unwrap();
    let group = Group::new((0..members).map(job))
        .then(broker.queue("q").job(&serde_json::json!([])).unwrap());
    let looking = tokio::spawn({
        let other = Broker::connect(&server.url()).await.unwrap();
        async move {
            let mut seen = Vec::new();
            loop {
                let counts = other.queues().await.unwrap();
                let count: u64 = counts
                    .iter()
                    .flat_map(|queue| &queue.jobs)
                    .map(|(_, count)| count)
                    .sum();
                seen.push(count);
                if count > 0 {
                    return seen;
                }
            }
        }
    });
    let flow = broker.push_flow(group).await.unwrap();
    assert_eq!(
        looking.await.unwrap().pop(),
        Some(members as u64 + 1),
        "it shows whole or not at all"
    );
    assert_eq!(flow.jobs.len(), members + 1);
    let waits = all_jobs(&broker, "q")
        .await
        .into_iter()
        .find(|job| job.state == JobState::Blocked)
        .unwrap();
    let leased = broker.queue("q").lease(LONG, NOW).await.unwrap().unwrap();
    broker.cancel(&waits.id, "no need").await.unwrap();
    let counts = broker.queues().await.unwrap().remove(0).jobs;
    assert_eq!(
        counts,
        [(JobState::Leased, 1), (JobState::Cancelled, members as u64)]
    );
    assert_eq!(
        broker
            .job(leased.id())
            .await
            .unwrap()
            .unwrap()
            .cancel
            .as_deref(),
        Some("no need")
    );
    assert_short(&server);
}

/// The producer ends between any two pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_push_whose_producer_ends_is_whole_or_not_there() {
    let (server, broker) = stage().await;
    let mut whole = 0;
    for round in 0..20_u64 {
        let name = format!("q{round}");
        let other = Broker::connect(&server.url()).await.unwrap();
        let pushing = tokio::spawn({
            let queue = other.queue(name.clone());
            async move {
                other
                    .push_many(
                        (0..3000)
                            .map(|number| queue.job(&number).unwrap())
                            .collect(),
                    )
                    .await
            }
        });
        tokio::time::sleep(crate::stage::millis(round * 4)).await;
        pushing.abort();
        let is_over = pushing.await.is_ok();
        let mut taken = Vec::new();
        while let Some(job) = broker.queue(name.clone()).take(NOW).await.unwrap() {
            taken.push(job.payload::<u32>().unwrap());
        }
        assert!(
            taken.is_empty() && !is_over || taken == (0..3000).collect::<Vec<_>>(),
            "{} of them",
            taken.len()
        );
        whole += u64::from(!taken.is_empty());
    }
    println!("{whole} of 20 were whole");
}

#[tokio::test]
async fn a_large_push_that_the_server_has_no_memory_for_is_not_there() {
    let (server, broker) =
        start(&["--maxmemory", "12mb", "--maxmemory-policy", "noeviction"]).await;
    let queue = broker.queue("q");
    let text = "x".repeat(1000);
    let error = broker
        .push_many(
            (0..30_000)
                .map(|number| queue.job(&(number, &text)).unwrap())
                .collect(),
        )
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::QueueFull && !error.is_uncertain(),
        "{error:?}"
    );
    assert!(queue.take(NOW).await.unwrap().is_none());
    assert_eq!(
        server.ask("KEYS brigade:{q}:stage*").unwrap(),
        "*0\r\n",
        "nothing of it is left"
    );
}
