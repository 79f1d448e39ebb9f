//! A queue per tenant: one consumer of very many queues.

use std::time::Duration;

use brigade_testkit::redis::Redis;
use tokio::time::timeout;

use crate::stage::{BOUND, start};

/// Scripts that the server has run.
fn scripts(server: &Redis) -> u64 {
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
        let id = broker.queue(names[place].as_str()).push(&7).await.unwrap();
        crate::stage::until("it was handed out", async || {
            !broker.job(&id).await.unwrap().unwrap().history.is_empty()
        })
        .await;
        assert!(broker.cancel(&id, "seen").await.is_ok());
    };
    for place in [0, count / 2, count - 1] {
        ask(place).await;
    }
    let before = scripts(&server);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = scripts(&server) - before;
    assert!(
        idle < 30 + count as u64 / 25,
        "{idle} scripts in 3 s for {count} idle queues"
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
