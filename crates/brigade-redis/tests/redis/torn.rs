//! Connections that are cut, a server that stands still, and replies that come late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brigade::{Broker, Error, JobState, Settled};
use brigade_testkit::random::Random;
use brigade_testkit::redis::Redis;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::stage::{BOUND, LONG, NOW, assert_passing, millis, start, tell, until};

struct Echo {
    /// Settlements that were accepted, per job.
    accepted: Mutex<BTreeMap<String, usize>>,
    /// Round trips that were right.
    right: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Echo {
    /// Pushes and looks at what it pushed, leases and looks at what it leased: every reply says
    /// whose it is.
    async fn talk(self: Arc<Self>, broker: Broker, lane: usize) {
        let queue = format!("q{lane}");
        for number in 0.. {
            if self.stop.is_cancelled() {
                return;
            }
            match self
                .round(&broker, &queue, &format!("{queue}-{number}"))
                .await
            {
                Ok(()) => self.right.send_modify(|count| *count += 1),
                Err(error) => {
                    assert_passing(&error);
                    tokio::time::sleep(millis(10)).await;
                }
            }
        }
    }

    async fn round(&self, broker: &Broker, queue: &str, tag: &str) -> Result<(), Error> {
        let job = broker.queue(queue).job(tag)?.keep(LONG);
        let id = broker.push(job).await?.id().clone();
        let seen = broker.job(&id).await?.unwrap();
        assert_eq!(
            (seen.payload, seen.queue.as_str()),
            (format!("{tag:?}"), queue),
            "a reply was taken for another's"
        );
        let Some(lease) = broker.queue(queue).lease(LONG, NOW).await? else {
            return Ok(());
        };
        let leased: String = lease.payload().unwrap();
        assert!(
            leased.starts_with(&format!("{queue}-")),
            "{leased} was handed out from {queue}"
        );
        // An answer that was lost is asked for again; then it is stale if the first one came
        // through.
        loop {
            match lease.clone().ack_with(&leased).await {
                Ok(Settled::Accepted(_)) => {
                    *self
                        .accepted
                        .lock()
                        .unwrap()
                        .entry(leased.clone())
                        .or_default() += 1
                }
                Ok(_) => {}
                Err(error) => {
                    assert_passing(&error);
                    tokio::time::sleep(millis(10)).await;
                    continue;
                }
            }
            break;
        }
        let ended = broker.job(lease.id()).await?.unwrap();
        assert_eq!(
            (ended.state, ended.result),
            (JobState::Done, Some(format!("{leased:?}")))
        );
        Ok(())
    }

    async fn progress(&self) {
        let mut right = self.right.subscribe();
        let goal = *right.borrow_and_update() + 20;
        tokio::time::timeout(BOUND, right.wait_for(|count| *count >= goal))
            .await
            .expect("it goes on by itself")
            .unwrap();
    }
}

/// Cuts one connection that is not our own.
fn cut_one(server: &Redis, random: &mut Random) {
    let listed = server.ask("CLIENT LIST").unwrap();
    let ids: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split("id=").nth(1)?.split(' ').next())
        .collect();
    if let Some(id) = random.pick(&ids) {
        server.ask(&format!("CLIENT KILL ID {id}")).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e32_no_reply_is_taken_for_another_s_when_connections_are_cut_and_the_server_stands_still()
{
    let mut random = Random::from_env();
    let (mut server, broker) = start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let echo = Arc::new(Echo {
        accepted: Mutex::default(),
        right: watch::Sender::new(0),
        stop: CancellationToken::new(),
    });
    let talking: Vec<_> = (0..6)
        .map(|lane| tokio::spawn(Arc::clone(&echo).talk(broker.clone(), lane)))
        .collect();
    let faults = brigade_testkit::count(12, 60);
    // Longer than the answer timeout: the answers come after their callers have given up.
    let stands_still = if brigade_testkit::full() {
        Duration::from_secs(12)
    } else {
        millis(250)
    };
    for fault in 0..faults {
        echo.progress().await;
        match fault % 12 {
            5 => {
                server.signal(Signal::STOP);
                tokio::time::sleep(stands_still).await;
                server.signal(Signal::CONT);
            }
            11 => server.restart().unwrap(),
            _ => cut_one(&server, &mut random),
        }
    }
    echo.progress().await;
    echo.stop.cancel();
    for task in talking {
        tokio::time::timeout(BOUND, task).await.unwrap().unwrap();
    }
    let accepted = echo.accepted.lock().unwrap();
    let dup_accept = accepted.values().filter(|count| **count > 1).count();
    println!(
        "faults {faults}, accepted {}: DUP_ACCEPT {dup_accept}",
        accepted.len()
    );
    assert_eq!(dup_accept, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e32_a_server_that_stands_still_keeps_nobody_from_going_on_afterwards() {
    let (server, broker) = start(&[]).await;
    let queue = broker.queue("q");
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take(LONG).await.unwrap().unwrap().json().to_owned() }
    });
    server.signal(Signal::STOP);
    let pushing = tokio::spawn({
        let queue = queue.clone();
        async move { queue.push(&1).await }
    });
    // Longer than the connection for notifications waits for an answer.
    tokio::time::sleep(millis(1200)).await;
    assert!(!pushing.is_finished(), "it waits for its answer");
    server.signal(Signal::CONT);
    pushing.await.unwrap().unwrap();
    assert_eq!(
        tokio::time::timeout(BOUND, waiting).await.unwrap().unwrap(),
        "1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e32_a_server_with_too_many_clients_is_reached_when_there_is_room() {
    let server = Redis::start(&["--requirepass", "secret"]).unwrap();
    let url = format!(
        "redis+unix://{}?password=secret&db=1",
        server.socket().display()
    );
    let broker = Broker::connect(&url).await.unwrap();
    broker.queue("q").push(&1).await.unwrap();
    // Room for the one that asks, and for no other.
    let mut admin = redis::Client::open(format!(
        "redis+unix://{}?pass=secret",
        server.socket().display()
    ))
    .unwrap()
    .get_connection()
    .unwrap();
    tell::<()>(&mut admin, &["CONFIG", "SET", "maxclients", "1"]);
    tell::<u64>(&mut admin, &["CLIENT", "KILL", "TYPE", "normal"]);
    for number in 2..4 {
        assert_passing(&broker.queue("q").push(&number).await.unwrap_err());
    }
    tell::<()>(&mut admin, &["CONFIG", "SET", "maxclients", "100"]);
    until("it is reached again", async || {
        broker.queue("q").push(&4).await.is_ok()
    })
    .await;
}
