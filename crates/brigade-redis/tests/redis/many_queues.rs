//! A queue per tenant: one consumer of very many queues.
//!
//! `BRIGADE_FULL=1` takes 10,000 queues, and prints how soon jobs are handed out and how much CPU
//! time this process needs while all queues are idle:
//! `cargo nextest run --test redis --no-capture -E 'test(many_queues)'`.

use std::time::{Duration, Instant};

use brigade_testkit::facts;
use brigade_testkit::redis::Redis;
use tokio::time::timeout;

use crate::stage::{BOUND, start};

/// Scripts that the server has run.
pub(crate) fn scripts(server: &Redis) -> u64 {
    let stats = server.ask("INFO commandstats").unwrap();
    let of = |name: &str| {
        let line = stats
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_once("calls=")
            .and_then(|(_, rest)| rest.split(',').next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    of("cmdstat_evalsha:") + of("cmdstat_eval:")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_of_thousands_of_queues_hears_of_each_and_asks_for_few() {
    let (server, broker) = start(&[]).await;
    let count = brigade_testkit::count(2000, 10_000);
    let names: Vec<String> = (0..count)
        .map(|number| format!("tenant-{number}"))
        .collect();
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = names
        .iter()
        .fold(broker.consumer().in_process(), |worker, name| {
            worker.queue(name.as_str())
        });
    let serving = tokio::spawn(worker.run_until(stop.clone().cancelled_owned()));
    // No task serves these queues, so a consumer that was given a job says so in its history.
    let ask = async |place: usize| {
        let began = Instant::now();
        let id = broker.queue(names[place].as_str()).push(&7).await.unwrap();
        crate::stage::until("it was handed out", async || {
            !broker.job(&id).await.unwrap().unwrap().history.is_empty()
        })
        .await;
        let took = began.elapsed();
        assert!(broker.cancel(&id, "seen").await.is_ok());
        took
    };
    let mut longest = Duration::ZERO;
    for place in [0, count / 2, count - 1] {
        longest = longest.max(ask(place).await);
    }
    let idle = Duration::from_secs(brigade_testkit::count(3, 20) as u64);
    let (before, ticks) = (scripts(&server), facts::cpu_ticks(std::process::id()));
    tokio::time::sleep(idle).await;
    let asked = scripts(&server) - before;
    let ticks = facts::cpu_ticks(std::process::id()) - ticks;
    println!(
        "{count} queues: handed out within {longest:.0?}; {asked} scripts and {ticks} ticks of CPU \
            in {idle:?} while idle"
    );
    assert!(
        asked < (10 + count as u64 / 75) * idle.as_secs(),
        "{asked} scripts in {idle:?} for {count} idle queues"
    );
    // Any client may push to any of them.
    server
        .ask(&format!("RPUSH brigade:{{{}}}:inbox 5", names[count / 3]))
        .unwrap();
    crate::stage::until("the inbox is looked into", async || {
        server
            .ask(&format!("LLEN brigade:{{{}}}:inbox", names[count / 3]))
            .unwrap()
            == ":0\r\n"
    })
    .await;
    stop.cancel();
    timeout(BOUND, serving).await.unwrap().unwrap().unwrap();
}
