//! A process that is killed: another one on its host goes on with its jobs at once, however long
//! the leases are.

use std::process::{Command, Stdio};
use std::time::Duration;

use brigade::{Broker, JobState, Settled};
use tokio::time::timeout;

use crate::stage::{BOUND, LONG, NOW, all_jobs, start, until};

const URL: &str = "BRIGADE_TEST_HOLDER_URL";

/// What the other process does; nothing in this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holder_of_jobs() {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = Broker::connect(&url).await.unwrap();
    let mut held = Vec::new();
    while let Some(lease) = broker.queue("q").lease(LONG, NOW).await.unwrap() {
        held.push(lease);
    }
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_killed_process_go_on_at_once_on_its_host() {
    let (server, broker) = start(&[]).await;
    for number in 0..5 {
        broker.queue("q").push(&number).await.unwrap();
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "gone::holder_of_jobs"])
        .env(URL, server.url())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it holds all", async || {
        all_jobs(&broker, "q")
            .await
            .iter()
            .all(|job| job.state == JobState::Leased)
    })
    .await;
    assert!(
        broker
            .queue("q")
            .lease(LONG, Duration::from_secs(3))
            .await
            .unwrap()
            .is_none(),
        "while it lives no other gets one"
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
    for number in 0..5 {
        let leased = timeout(BOUND, broker.queue("q").lease(LONG, BOUND))
            .await
            .unwrap()
            .unwrap();
        let lease = leased.expect("it goes on long before the lease ends");
        assert_eq!(lease.payload::<u32>().unwrap(), number, "in its place");
        assert_eq!(lease.attempt(), 1, "uncharged");
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
    assert!(all_jobs(&broker, "q").await.is_empty());
}
