//! A queue per tenant: one consumer of more queues than a connection has channels.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use brigade::{Broker, task};
use brigade_testkit::facts;
use brigade_testkit::rabbitmq::RabbitMq;
use futures_util::{StreamExt as _, stream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::stage::{connect, millis};

/// Over the 2,047 channels that RabbitMQ allows a connection by itself.
const OVER_CHANNEL_MAX: usize = 2_100;
/// For this long the idle consumer is watched.
const IDLE: Duration = Duration::from_secs(3);
/// Clock ticks of `/proc` in a second.
const TICKS: u64 = 100;

/// What was handed out, in this process.
static SEEN: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

#[task]
fn notes(number: u64) {
    SEEN.lock().unwrap().insert(number);
}

async fn push(broker: &Broker, name: &str, number: u64) {
    let job = broker.queue(name).job(&(number,)).unwrap().task("notes");
    broker.push(job).await.unwrap();
}

/// Waits, for as long as something comes.
async fn until_seen(is_so: impl Fn(&BTreeSet<u64>) -> bool) {
    let (mut count, mut since) = (0, Instant::now());
    loop {
        {
            let seen = SEEN.lock().unwrap();
            if is_so(&seen) {
                return;
            }
            if seen.len() > count {
                (count, since) = (seen.len(), Instant::now());
            }
        }
        assert!(since.elapsed() < crate::stage::BOUND, "only {count} came");
        sleep(millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_of_more_queues_than_there_are_channels_serves_each_and_rests_when_all_are_empty()
 {
    let server = tokio::task::block_in_place(|| RabbitMq::start(&[]).unwrap());
    let (broker, producer) = (connect(&server, "").await, connect(&server, "").await);
    let count = brigade_testkit::count(OVER_CHANNEL_MAX, 10_000);
    let names: Vec<String> = (0..count).map(|n| format!("tenant-{n}")).collect();
    let begun = Instant::now();
    stream::iter(names.iter().zip(0..))
        .for_each_concurrent(32, |(name, number)| push(&producer, name, number))
        .await;
    println!("{count} queues have a job after {:?}", begun.elapsed());
    let begun = Instant::now();
    let stop = CancellationToken::new();
    let consumer = names
        .iter()
        .fold(broker.consumer().in_process(), |consumer, name| {
            consumer.queue(name.as_str())
        });
    let serving = tokio::spawn(consumer.run_until(stop.clone().cancelled_owned()));
    until_seen(|seen| seen.len() == count).await;
    println!("each of them was served after {:?}", begun.elapsed());
    // What is left of the beginning is over when each queue is served at once.
    let mut slowest = Duration::ZERO;
    for number in (0..40).map(|n| count + n) {
        let begun = Instant::now();
        let name = &names[number * 7919 % count];
        push(&producer, name, number as u64).await;
        until_seen(|seen| seen.contains(&(number as u64))).await;
        slowest = slowest.max(begun.elapsed());
    }
    let before = facts::cpu_ticks(std::process::id());
    sleep(IDLE).await;
    let ticks = facts::cpu_ticks(std::process::id()) - before;
    println!(
        "{count} queues: a job was pushed and handed out within {slowest:?}; idle, {}.{:02} % of a \
            core",
        ticks * 100 / TICKS / IDLE.as_secs(),
        ticks * 10_000 / TICKS / IDLE.as_secs() % 100
    );
    // Far less than what a loop that spins uses.
    assert!(
        ticks < TICKS * IDLE.as_secs() / 10,
        "{ticks} ticks while idle"
    );
    stop.cancel();
    serving.await.unwrap().unwrap();
}
