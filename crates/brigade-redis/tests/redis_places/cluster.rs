//! `redis+cluster://`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use brigade::{
    Broker, ErrorKind, EventRequest, JobState, PushOutcome, Queue, Schedule, StatisticsFilter,
};
use brigade_testkit::places::Cluster;
use brigade_testkit::redis::Redis;
use rustix::process::Signal;
use tokio::time::sleep;

use super::{LONG, NOW, refused, run, works};

/// Far beyond what a failover takes.
const BOUND: Duration = Duration::from_secs(60);

/// Queues on every node: by the slots of their names.
const QUEUES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

async fn drain(queue: &Queue) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(job) = queue.take(NOW).await.unwrap() {
        numbers.push(job.payload().unwrap());
    }
    numbers
}

#[test]
fn queues_on_all_nodes() {
    run(async {
        let cluster = Cluster::start(0, &[]).unwrap();
        let url = format!("redis+cluster://{}", cluster.hosts());
        works(&url).await;
        // One node is enough to find the others.
        let broker = Broker::connect(&format!("redis+cluster://127.0.0.1:{}", cluster.ports[2]))
            .await
            .unwrap();
        for name in QUEUES {
            let queue = broker.queue(name);
            for number in 0..20_u32 {
                queue.push(&number).await.unwrap();
            }
        }
        let used = cluster
            .nodes
            .iter()
            .filter(|node| !node.ask("DBSIZE").unwrap().starts_with(":0"))
            .count();
        assert_eq!(used, cluster.nodes.len(), "all nodes have queues");
        assert_eq!(
            broker
                .jobs(None, Some(JobState::Ready), None, 1000)
                .await
                .unwrap()
                .len(),
            20 * QUEUES.len()
        );
        assert_eq!(broker.queues().await.unwrap().len(), QUEUES.len());
        assert!(
            broker
                .check()
                .await
                .unwrap()
                .iter()
                .any(|finding| finding.what.contains("appendonly"))
        );
        every_queue_works(&broker).await;
        let (kind, text) = refused(&format!("redis://127.0.0.1:{}", cluster.ports[0])).await;
        assert!(
            kind == ErrorKind::BadOption && text.contains("redis+cluster://"),
            "{text}"
        );

        events_and_statistics_are_of_every_node(&broker).await;
        waiting_for_events_costs_the_nodes_little(&cluster, &broker).await;
        ticks_are_fired_for_every_node(&broker).await;
        a_waiting_consumer_is_woken(&broker).await;
        a_slot_moves(&cluster, &broker).await;
    });
}

/// Also of a queue that is used for the first time while events are read.
async fn events_and_statistics_are_of_every_node(broker: &Broker) {
    let mut request = EventRequest {
        max: 4,
        wait: LONG,
        ..EventRequest::default()
    };
    request.after = Some(broker.events(EventRequest::default()).await.unwrap().next);
    let mut pushed = Vec::new();
    for name in QUEUES.into_iter().chain(["g", "h"]) {
        pushed.push(broker.queue(name).push(&1).await.unwrap());
    }
    let mut seen = Vec::new();
    while seen.len() < pushed.len() {
        let page = broker.events(request.clone()).await.unwrap();
        assert!(!page.missed && page.events.len() <= 4, "{page:?}");
        seen.extend(page.events.into_iter().map(|event| event.job));
        request.after = Some(page.next);
    }
    seen.sort_unstable();
    pushed.sort_unstable();
    assert_eq!(seen, pushed);
    let filter = StatisticsFilter {
        summed: true,
        ..StatisticsFilter::default()
    };
    let counted = broker.statistics(filter).await.unwrap();
    let queues: BTreeSet<_> = counted.iter().map(|minute| &*minute.queue).collect();
    assert!(
        QUEUES.iter().all(|queue| queues.contains(queue)),
        "{queues:?}"
    );
    for name in QUEUES.into_iter().chain(["g", "h"]) {
        assert_eq!(broker.queue(name).purge().await.unwrap(), 1);
    }
}

/// A number of `INFO`, of all nodes together.
fn info(cluster: &Cluster, section: &str, name: &str) -> u64 {
    let of_node = |node: &Redis| {
        let text = node.ask(&format!("INFO {section}")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
        number.unwrap_or(0)
    };
    cluster.nodes.iter().map(of_node).sum()
}

/// Neither a script for each queue at each look, nor all that the logs have for a small page.
async fn waiting_for_events_costs_the_nodes_little(cluster: &Cluster, broker: &Broker) {
    let mut request = EventRequest {
        max: 4,
        wait: Duration::from_secs(1),
        ..EventRequest::default()
    };
    request.after = Some(broker.events(EventRequest::default()).await.unwrap().next);
    let scripts = || info(cluster, "commandstats", "cmdstat_evalsha:calls=");
    let before = scripts();
    let page = broker.events(request.clone()).await.unwrap();
    assert!(page.events.is_empty(), "{page:?}");
    let run = scripts() - before;
    assert!(run <= 2, "{run} scripts");

    let mut pushed = BTreeSet::new();
    for name in QUEUES {
        let queue = broker.queue(name);
        let jobs = (0..300).map(|number| queue.job(&number).unwrap()).collect();
        for outcome in broker.push_many(jobs).await.unwrap() {
            pushed.insert(outcome.id().clone());
        }
    }
    // Until the last of them is old enough to be given.
    sleep(Duration::from_secs(1)).await;
    let sent = || info(cluster, "stats", "total_net_output_bytes:");
    let before = sent();
    let page = broker.events(request.clone()).await.unwrap();
    assert_eq!(page.events.len(), 4);
    let bytes = sent() - before;
    assert!(bytes < 200_000, "{bytes} bytes for a page of four events");

    request.max = 100;
    let mut seen = BTreeSet::new();
    while seen.len() < pushed.len() {
        let page = broker.events(request.clone()).await.unwrap();
        assert!(!page.missed && !page.events.is_empty(), "{page:?}");
        for event in page.events {
            assert!(seen.insert(event.job), "each once");
        }
        request.after = Some(page.next);
    }
    assert_eq!(seen, pushed);
    for name in QUEUES {
        assert_eq!(broker.queue(name).purge().await.unwrap(), 300);
    }
}

/// Leases, looks, unique keys and purges of queues on every node; a push to two nodes is refused.
async fn every_queue_works(broker: &Broker) {
    for name in QUEUES {
        let queue = broker.queue(name);
        let lease = queue.lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!(
            broker.job(lease.id()).await.unwrap().unwrap().state,
            JobState::Leased
        );
        assert!(broker.why(lease.id()).await.unwrap().is_some());
        lease.give_back("another shall have it").await.unwrap();
        assert_eq!(drain(&queue).await, (0..20).collect::<Vec<u32>>(), "{name}");
        let unique = || queue.job(&1).unwrap().unique("only one");
        assert!(matches!(
            broker.push(unique()).await.unwrap(),
            PushOutcome::New(_)
        ));
        assert!(matches!(
            broker.push(unique()).await.unwrap(),
            PushOutcome::Duplicate(_)
        ));
        assert_eq!(queue.purge().await.unwrap(), 1);
    }
    let mixed = vec![
        broker.queue("a").job(&1).unwrap(),
        broker.queue("b").job(&2).unwrap(),
    ];
    let error = broker.push_many(mixed).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("different slots"),
        "{error:?}"
    );
    assert!(
        broker.jobs(None, None, None, 10).await.unwrap().is_empty(),
        "nothing of it was stored"
    );
}

/// A consumer of one queue fires what is due for all.
async fn ticks_are_fired_for_every_node(broker: &Broker) {
    let hour = Duration::from_secs(3600);
    for name in QUEUES {
        broker
            .schedule(Schedule::every(name, hour, broker.queue(name).job(&5).unwrap()).unwrap())
            .await
            .unwrap();
    }
    assert_eq!(broker.schedules().await.unwrap().len(), QUEUES.len());
    broker.clock().advance(hour + LONG);
    assert!(broker.queue("another").take(NOW).await.unwrap().is_none());
    for name in QUEUES {
        assert_eq!(drain(&broker.queue(name)).await, [5], "{name}");
        assert!(broker.unschedule(name).await.unwrap());
    }
}

/// On every node: long before the next look in any case.
async fn a_waiting_consumer_is_woken(broker: &Broker) {
    for name in QUEUES {
        let queue = broker.queue(name);
        let waiting = tokio::spawn(async move {
            queue
                .take(LONG)
                .await
                .unwrap()
                .unwrap()
                .payload::<u32>()
                .unwrap()
        });
        sleep(Duration::from_millis(1)).await;
        broker.queue(name).push(&7).await.unwrap();
        assert_eq!(waiting.await.unwrap(), 7);
    }
}

/// A queue's slot goes to another node while it has jobs: nothing is lost, and a consumer that
/// waits there is woken.
async fn a_slot_moves(cluster: &Cluster, broker: &Broker) {
    let queue = broker.queue("a");
    let key = "brigade:{a}:seq";
    let slot: u16 = cluster.nodes[0]
        .ask(&format!("CLUSTER KEYSLOT {key}"))
        .unwrap()
        .trim()
        .trim_start_matches(':')
        .parse()
        .unwrap();
    let from = cluster.owner(slot).unwrap().unwrap();
    let to = (from + 1) % cluster.nodes.len();
    for number in 0..5_u32 {
        queue.push(&number).await.unwrap();
    }
    let (from_id, to_id) = (cluster.id(from).unwrap(), cluster.id(to).unwrap());
    let ok = |index: usize, command: String| {
        let answer = cluster.nodes[index].ask(&command).unwrap();
        assert!(
            answer.starts_with("+OK") || answer.starts_with("+NOKEY"),
            "{command}: {answer}"
        );
    };
    ok(to, format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"));
    ok(from, format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"));
    let keys = cluster.nodes[from]
        .ask(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"))
        .unwrap();
    for key in keys
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("brigade:"))
    {
        ok(
            from,
            format!("MIGRATE 127.0.0.1 {} {key} 0 5000", cluster.ports[to]),
        );
    }
    // All keys are there, and the slot is still on its way: a caller is sent on for this once.
    queue.push(&5).await.unwrap();
    for index in [to, from] {
        ok(index, format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
    }
    queue.push(&6).await.unwrap();
    assert_eq!(drain(&queue).await, (0..7).collect::<Vec<u32>>());
    assert_eq!(cluster.owner(slot).unwrap(), Some(to));
    let taker = queue.clone();
    let waiting = tokio::spawn(async move {
        taker
            .take(LONG)
            .await
            .unwrap()
            .unwrap()
            .payload::<u32>()
            .unwrap()
    });
    queue.push(&8).await.unwrap();
    assert_eq!(waiting.await.unwrap(), 8);
}

/// A node dies, its replica takes its slots, and pushes and takes go on. What was pushed with
/// `wait=1` before is not lost.
#[test]
fn a_node_dies_and_its_replica_goes_on() {
    run(async {
        let cluster = Cluster::start(1, &[]).unwrap();
        let url = format!("redis+cluster://{}", cluster.hosts());
        let (broker, safe) = (
            Broker::connect(&url).await.unwrap(),
            Broker::connect(&format!("{url}?wait=1")).await.unwrap(),
        );
        let mut pushed = BTreeSet::new();
        for number in 0..60_u32 {
            safe.queue(QUEUES[number as usize % QUEUES.len()])
                .push(&number)
                .await
                .unwrap();
            pushed.insert(number);
        }
        cluster.nodes[0].signal(Signal::KILL);
        // Its successor has no replica of its own, so from here on without `wait`.
        let mut failures = 0;
        for number in 60..120_u32 {
            let (queue, began) = (
                broker.queue(QUEUES[number as usize % QUEUES.len()]),
                Instant::now(),
            );
            while let Err(error) = queue.push(&number).await {
                failures += 1;
                assert!(error.is_retryable() && began.elapsed() < BOUND, "{error:?}");
                sleep(Duration::from_millis(50)).await;
            }
            pushed.insert(number);
        }
        let mut found = BTreeSet::new();
        for name in QUEUES {
            found.extend(drain(&broker.queue(name)).await);
        }
        eprintln!(
            "{} pushed, {failures} tries failed, LOST {}",
            pushed.len(),
            pushed.difference(&found).count()
        );
        assert_eq!(found, pushed);
    });
}

/// Each node in turn, so also the ones that have the list of queues and that of schedules.
#[test]
fn a_node_that_is_away_stops_no_queue_of_another() {
    run(async {
        for away in 0..3 {
            let cluster = Cluster::start(0, &["--cluster-require-full-coverage", "no"]).unwrap();
            let url = format!("redis+cluster://{}", cluster.hosts());
            let broker = Broker::connect(&url).await.unwrap();
            let mut healthy = Vec::new();
            for name in QUEUES {
                let slot = cluster.nodes[0]
                    .ask(&format!("CLUSTER KEYSLOT brigade:{{{name}}}:x"))
                    .unwrap();
                let owner = cluster
                    .owner(slot.trim().trim_start_matches(':').parse().unwrap())
                    .unwrap()
                    .unwrap();
                broker.queue(name).push(&0).await.unwrap();
                if owner != away {
                    healthy.push(name);
                }
            }
            let hour = Duration::from_secs(3600);
            for name in &healthy {
                broker
                    .schedule(
                        Schedule::every(*name, hour, broker.queue(*name).job(&5).unwrap()).unwrap(),
                    )
                    .await
                    .unwrap();
            }
            cluster.nodes[away].signal(Signal::KILL);
            let fresh = Broker::connect(&url).await.unwrap();
            for broker in [&broker, &fresh] {
                for name in &healthy {
                    broker.queue(*name).push(&1).await.unwrap();
                }
            }
            // One that asks for all queues is given those of the nodes that are there.
            for name in &healthy {
                let lease = fresh.queue(*name).lease(LONG, NOW).await.unwrap().unwrap();
                assert_eq!(
                    lease.extend(LONG).await.unwrap(),
                    brigade::Settled::Accepted(None)
                );
                lease.ack().await.unwrap();
            }
            fresh.clock().advance(hour + LONG);
            for name in &healthy {
                assert_eq!(
                    drain(&fresh.queue(*name)).await,
                    [1, 1, 5],
                    "{name}, while {away} is away"
                );
            }
        }
    });
}
