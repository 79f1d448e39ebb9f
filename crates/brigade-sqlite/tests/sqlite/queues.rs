//! A queue per tenant: one consumer of very many queues of one file.
//!
//! By default there are 2,000 queues; `BRIGADE_FULL=1` makes it 10,000, watches the idle process
//! for 20 s instead of 2, and prints what it cost (`--nocapture`).

use std::time::{Duration, Instant};

use brigade::{Broker, JobId};
use brigade_testkit::{count, facts};
use tokio::time::timeout;

/// No step takes this long.
const BOUND: Duration = Duration::from_secs(60);
/// Clock ticks of `/proc/<pid>/stat` in a second.
const TICKS: u64 = 100;

/// Waits until a job was handed out: no task serves these queues, so the consumer that was given it
/// says so in its history.
async fn handed_out(broker: &Broker, id: &JobId) {
    while broker.job(id).await.unwrap().unwrap().history.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_of_thousands_of_queues_costs_next_to_nothing_while_they_are_idle() {
    let queues = count(2000, 10_000);
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("jobs.db").display());
    let (broker, other) = (
        Broker::connect(&url).await.unwrap(),
        Broker::connect(&url).await.unwrap(),
    );
    let consumer = (0..queues).fold(broker.consumer().in_process(), |consumer, number| {
        consumer.queue(format!("tenant-{number}"))
    });
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(consumer.run_until(stop.clone().cancelled_owned()));
    let mut longest = Duration::ZERO;
    for place in [0, queues / 2, queues - 1, queues / 3, queues - 2] {
        let queue = other.queue(format!("tenant-{place}"));
        let began = Instant::now();
        let id = queue.push(&7).await.unwrap();
        timeout(BOUND, handed_out(&other, &id)).await.unwrap();
        longest = longest.max(began.elapsed());
        other.cancel(&id, "seen").await.unwrap();
    }
    let idle = Duration::from_secs(count(2, 20) as u64);
    let before = facts::cpu_ticks(std::process::id());
    tokio::time::sleep(idle).await;
    let ticks = facts::cpu_ticks(std::process::id()) - before;
    println!(
        "{queues} queues: handed out within {longest:.0?}; {ticks} ticks of {} while idle",
        idle.as_secs() * TICKS
    );
    // Other tests of a usual run may share this process.
    assert!(
        !brigade_testkit::full() || ticks * 100 <= idle.as_secs() * TICKS,
        "{ticks} ticks of CPU in {idle:?} for {queues} idle queues"
    );
    stop.cancel();
    timeout(BOUND, serving).await.unwrap().unwrap().unwrap();
}
