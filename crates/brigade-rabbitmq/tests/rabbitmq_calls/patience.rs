//! F38 for workers: attempts that run for longer than the broker lets anybody hold a delivery.

use std::io::Write as _;
use std::time::{Duration, Instant};

use brigade::{Broker, task};
use brigade_testkit::full;
use brigade_testkit::rabbitmq::RabbitMq;

use crate::stage::*;

/// Notes that it began, and runs so long.
#[task]
async fn long(starts: String, time: Duration) -> u32 {
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(starts)
        .unwrap();
    file.write_all(b".").unwrap();
    tokio::time::sleep(time).await;
    7
}

fn starts(file: &str) -> usize {
    std::fs::read(file).map_or(0, |text| text.len())
}

/// A server with this `consumer_timeout`, which looks at it often.
fn server_with(limit: Duration) -> RabbitMq {
    let line = format!("consumer_timeout = {}", limit.as_millis());
    let server = RabbitMq::start(&[&line]).unwrap();
    if !full() {
        let look = "application:set_env(rabbit, channel_tick_interval, 300).";
        server.ctl(&["eval", look]).unwrap();
    }
    server
}

/// The URL of one worker names the broker's time: what that worker runs is begun once. The URL of
/// the other does not: its first attempt is taken from it and refused, and then it knows the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f38_long_calls_and_jobs_end_in_the_worker_that_runs_them() {
    // In full: a job of three minutes, a minute to hold it, and the server looks once a minute, as
    // it does by default.
    let (limit, time) = if full() {
        (Duration::from_secs(60), Duration::from_secs(180))
    } else {
        (millis(5_000), millis(8_000))
    };
    let server = tokio::task::block_in_place(|| server_with(limit));
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let [named, unnamed, job] =
        ["named", "unnamed", "job"].map(|namespace| format!("{}/?ns={namespace}", server.url()));
    let and_the_time = |url: &str| format!("{url}&consumer_timeout={}s", limit.as_secs());
    let began = Instant::now();
    let (mut callers, mut running, mut workers) = (Vec::new(), Vec::new(), Vec::new());
    for (name, url, options) in [
        ("named", &named, and_the_time(&named)),
        ("unnamed", &unnamed, unnamed.clone()),
    ] {
        let broker = Broker::connect(url).await.unwrap();
        let serving = Broker::connect(&options).await.unwrap();
        let worker = serving.consumer().task(long).prefetch(1).in_process();
        workers.push(Serving::start(worker));
        let first = broker.call(long(file(name), time).queue_timeout(LONG));
        until("it runs", async || starts(&file(name)) == 1).await;
        // A second one waits until the first has ended, however often that is exchanged.
        let second =
            broker.call(long(file(&format!("{name}-second")), millis(1)).queue_timeout(LONG));
        running.push((first, second));
        callers.push(broker);
    }
    let serving = Broker::connect(&and_the_time(&job)).await.unwrap();
    let worker = Serving::start(serving.consumer().task(long).prefetch(1).in_process());
    serving.push(long(file("job"), time)).await.unwrap();
    let plain = Plain::connect(server.port()).await;
    while began.elapsed() < time * 9 / 10 {
        assert_eq!(starts(&file("named-second")), 0);
        assert!(workers[0].handle.stats().held <= 1);
        tokio::time::sleep(millis(50)).await;
    }
    assert_eq!(
        plain.counts("named.long").await.0,
        1,
        "the second waits at the broker"
    );
    for (first, second) in running {
        let ended = async { (first.await.unwrap(), second.await.unwrap()) };
        assert_eq!(
            tokio::time::timeout(time * 3 + BOUND, ended).await.unwrap(),
            (7, 7)
        );
    }
    println!("the calls took {:?}", began.elapsed());
    assert_eq!(starts(&file("named")), 1);
    assert_eq!(
        starts(&file("unnamed")),
        2,
        "once it was taken back, and then it was known"
    );
    let is_done = async || worker.handle.stats().served.done == 1;
    until("the job is done", is_done).await;
    assert_eq!(starts(&file("job")), 1);
    for worker in workers.into_iter().chain([worker]) {
        let served = worker.end().await;
        println!("{served:?}, {:?}", began.elapsed());
    }
}
