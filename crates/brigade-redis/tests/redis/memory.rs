//! A server whose memory is full.

use brigade::{Broker, Error, ErrorKind, Level, Settled};

use crate::stage::{LONG, NOW, start};

/// Pushes until there is no room.
async fn fill(broker: &Broker) -> (u32, Error) {
    let text = "x".repeat(50_000);
    for number in 0..10_000 {
        if let Err(error) = broker.queue("q").push(&(number, &text)).await {
            return (number, error);
        }
    }
    panic!("it never was full");
}

#[tokio::test]
async fn e34_a_full_server_refuses_pushes_cleanly_and_lets_jobs_be_done() {
    let (server, broker) = start(&["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]).await;
    let other = Broker::connect(&server.url()).await.unwrap();
    let early = {
        broker.queue("q").push(&(0, "")).await.unwrap();
        broker.queue("q").lease(LONG, NOW).await.unwrap().unwrap()
    };
    let (pushed, error) = fill(&broker).await;
    assert!(pushed > 10, "{pushed}");
    assert_eq!(
        (error.kind(), error.is_retryable(), error.is_uncertain()),
        (ErrorKind::QueueFull, true, false),
        "{error:?}"
    );
    assert!(error.to_string().contains("maxmemory"), "{error}");
    // Not by a little, so that no small thing fits either.
    server.ask("CONFIG SET maxmemory 2mb").unwrap();
    for queue in ["q", "new"] {
        assert_eq!(
            broker.queue(queue).push(&1).await.unwrap_err().kind(),
            ErrorKind::QueueFull
        );
    }

    // A consumer that holds a job keeps it, and one that asks for a job gets it: by this the memory
    // becomes free.
    assert_eq!(early.extend(LONG).await.unwrap(), Settled::Accepted(None));
    assert_eq!(
        early.nack_later("not now", LONG).await.unwrap(),
        Settled::Accepted(None)
    );
    let lease = other
        .queue("q")
        .lease(LONG, NOW)
        .await
        .unwrap()
        .expect("who asks for the first time is served");
    assert_eq!(
        lease.pass("for another").await.unwrap(),
        Settled::Accepted(None)
    );
    for number in 0..pushed {
        let lease = other.queue("q").lease(LONG, NOW).await.unwrap().unwrap();
        assert_eq!(
            lease.payload::<(u32, String)>().unwrap().0,
            number,
            "nothing was lost, nor half stored"
        );
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
    assert!(other.queue("q").lease(LONG, NOW).await.unwrap().is_none());
    // With the room that was too small for all of them.
    server.ask("CONFIG SET maxmemory 8mb").unwrap();
    broker.queue("q").push(&1).await.unwrap();
}

#[tokio::test]
async fn e34_a_full_server_lets_jobs_be_cancelled_and_purged() {
    let (server, broker) = start(&["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]).await;
    let id = broker.queue("q").push(&(0, "")).await.unwrap();
    let (pushed, _) = fill(&broker).await;
    server.ask("CONFIG SET maxmemory 2mb").unwrap();
    assert_eq!(
        broker.cancel(&id, "no need").await.unwrap(),
        brigade::CancelOutcome::Cancelled
    );
    broker.queue("q").pause().await.unwrap();
    broker.queue("q").resume().await.unwrap();
    assert_eq!(broker.queue("q").purge().await.unwrap(), u64::from(pushed));
    server.ask("CONFIG SET maxmemory 8mb").unwrap();
    broker.queue("q").push(&1).await.unwrap();
}

#[tokio::test]
async fn e34_a_server_that_removes_keys_is_a_problem() {
    for (policy, is_problem) in [
        ("noeviction", false),
        ("allkeys-lru", true),
        ("volatile-ttl", true),
    ] {
        let (_server, broker) = start(&["--maxmemory", "8mb", "--maxmemory-policy", policy]).await;
        let findings = broker.check().await.unwrap();
        let found = findings
            .iter()
            .find(|found| found.what.contains(&format!("maxmemory-policy {policy}")));
        assert_eq!(
            found.is_some_and(|found| found.level == Level::Problem && !found.advice.is_empty()),
            is_problem,
            "{findings:?}"
        );
    }
}
