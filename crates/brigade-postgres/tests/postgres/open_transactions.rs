//! Pushes in transactions of applications that stay open while others look, read and limit.

use std::time::Duration;

use brigade::{Broker, ErrorKind, EventRequest, Limits, Settled};
use tokio_postgres::Client;

use crate::stage::{fresh_broker, lock_waits, session};

const NOW: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);

/// Pushes a job to a queue.
const PUSH: &str = "select brigade.push($1::text, '1')";

/// A database of its own, a broker on it, and the connection of an application.
async fn broker_and_application() -> (Broker, Client) {
    let (broker, url) = fresh_broker().await;
    let client = session(&url).await;
    (broker, client)
}

/// The queues of all events behind the last page.
async fn queues_of_events(broker: &Broker, request: &mut EventRequest) -> Vec<String> {
    let mut queues = Vec::new();
    loop {
        let page = broker.events(request.clone()).await.unwrap();
        assert!(!page.missed);
        request.after = Some(page.next);
        if page.events.is_empty() {
            return queues;
        }
        queues.extend(page.events.into_iter().map(|event| event.queue));
    }
}

#[tokio::test]
async fn a_push_that_is_committed_late_is_an_event_then_and_holds_up_no_other() {
    let (broker, mut application) = broker_and_application().await;
    let mut request = EventRequest {
        max: 100,
        ..EventRequest::default()
    };
    assert!(queues_of_events(&broker, &mut request).await.is_empty());
    let transaction = application.transaction().await.unwrap();
    transaction.execute(PUSH, &[&"late"]).await.unwrap();
    broker.queue("early").push(&1).await.unwrap();
    assert_eq!(queues_of_events(&broker, &mut request).await, ["early"]);
    transaction.commit().await.unwrap();
    assert_eq!(queues_of_events(&broker, &mut request).await, ["late"]);

    let transaction = application.transaction().await.unwrap();
    transaction.execute(PUSH, &[&"never"]).await.unwrap();
    transaction.rollback().await.unwrap();
    broker.queue("next").push(&1).await.unwrap();
    assert_eq!(queues_of_events(&broker, &mut request).await, ["next"]);
    let statistics = broker.statistics(Default::default()).await.unwrap();
    let pushed: u64 = statistics.iter().map(|minute| minute.counts.pushed).sum();
    assert_eq!(pushed, 3, "what was undone is not counted");
}

#[tokio::test]
async fn a_job_that_was_pushed_before_its_queue_was_limited_is_handed_out() {
    let (broker, mut application) = broker_and_application().await;
    let queue = broker.queue("q");
    let transaction = application.transaction().await.unwrap();
    transaction.execute(PUSH, &[&"q"]).await.unwrap();
    let limits = Limits::new().turns().running_per_partition(1);
    queue.limit(limits).await.unwrap();
    assert!(queue.lease(MINUTE, NOW).await.unwrap().is_none());
    transaction.commit().await.unwrap();
    // It gets its partition when the transactions have ended that were open at the time.
    assert!(queue.lease(MINUTE, MINUTE).await.unwrap().is_some());
    queue.push(&2).await.unwrap();
    assert!(
        queue.lease(MINUTE, NOW).await.unwrap().is_none(),
        "both are of one partition, of which one job runs"
    );
}

#[tokio::test]
async fn a_push_by_an_old_snapshot_that_does_not_show_the_limit_is_handed_out() {
    let (broker, application) = broker_and_application().await;
    let queue = broker.queue("q");
    let begin = "begin isolation level repeatable read; select count(*) from brigade.facts";
    application.batch_execute(begin).await.unwrap();
    let limits = Limits::new().turns().running_per_partition(1);
    queue.limit(limits).await.unwrap();
    // Nothing is left to be looked for once the transactions have ended that had written by now.
    assert!(queue.lease(MINUTE, NOW).await.unwrap().is_none());
    application.execute(PUSH, &[&"q"]).await.unwrap();
    application.batch_execute("commit").await.unwrap();
    assert!(queue.lease(MINUTE, NOW).await.unwrap().is_some());
}

#[tokio::test]
async fn a_hand_out_stays_within_its_bound_of_bytes_and_leaves_the_rest_as_it_was() {
    let (_broker, url) = fresh_broker().await;
    let client = session(&url).await;
    let push =
        "select brigade.push('q', to_jsonb(repeat('x', 12 << 20))) from generate_series(1, 3)";
    client.batch_execute(push).await.unwrap();
    assert_eq!(client.query(LEASE_TEN, &[]).await.unwrap().len(), 2);
    let states = "select array_agg(state order by id) from brigade.jobs";
    let states: Vec<i16> = client.query_one(states, &[]).await.unwrap().get(0);
    assert_eq!(states, [3, 3, 0]);
    assert_eq!(client.query(LEASE_TEN, &[]).await.unwrap().len(), 1);
}

/// Hands out up to ten jobs of a queue.
const LEASE_TEN: &str = "select id from brigade.lease(array['q'], array[null]::integer[], array[0]::bigint[], \
    10, 60000, 1) where id is not null";

/// Hands out up to two jobs of a queue.
const LEASE: &str = "select id from brigade.lease(array['q'], array[null]::integer[], array[0]::bigint[], \
    2, 60000, 1) where id is not null";

#[tokio::test]
async fn a_hand_out_that_waited_for_another_leaves_its_starts_in_the_rate() {
    let (broker, url) = fresh_broker().await;
    let (mut other, observer) = (session(&url).await, session(&url).await);
    let queue = broker.queue("q");
    queue.limit(Limits::new().starts(2, MINUTE)).await.unwrap();
    let transaction = other.transaction().await.unwrap();
    assert_eq!(transaction.query(LEASE, &[]).await.unwrap().len(), 0);
    let waiting = tokio::spawn(async move { queue.lease(MINUTE, NOW).await.unwrap().is_some() });
    lock_waits(&observer, 1).await;
    transaction.execute(PUSH, &[&"q"]).await.unwrap();
    transaction.execute(PUSH, &[&"q"]).await.unwrap();
    assert_eq!(transaction.query(LEASE, &[]).await.unwrap().len(), 2);
    let starts = "select min(at)::text || max(at)::text from brigade.starts";
    let before: String = transaction.query_one(starts, &[]).await.unwrap().get(0);
    transaction.commit().await.unwrap();
    assert!(!waiting.await.unwrap());
    let after: String = observer.query_one(starts, &[]).await.unwrap().get(0);
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_purge_does_not_count_a_job_that_was_leased_meanwhile() {
    let (broker, url) = fresh_broker().await;
    let (mut other, observer) = (session(&url).await, session(&url).await);
    let queue = broker.queue("q");
    for number in 0..3 {
        queue.push(&number).await.unwrap();
    }
    let transaction = other.transaction().await.unwrap();
    assert_eq!(transaction.query(LEASE, &[]).await.unwrap().len(), 2);
    let purging = tokio::spawn(async move { queue.purge().await.unwrap() });
    lock_waits(&observer, 1).await;
    transaction.commit().await.unwrap();
    assert_eq!(purging.await.unwrap(), 1);
}

#[tokio::test]
async fn a_settlement_that_waits_for_an_open_transaction_delays_no_other_and_gives_up() {
    let (broker, url) = fresh_broker().await;
    let mut other = session(&url).await;
    let queue = broker.queue("q");
    let mut leases = Vec::new();
    for number in 0..6 {
        queue.push(&number).await.unwrap();
        leases.push(queue.lease(MINUTE, NOW).await.unwrap().unwrap());
    }
    let transaction = other.transaction().await.unwrap();
    let lock = "select id from brigade.jobs order by id limit 1 for update";
    transaction.execute(lock, &[]).await.unwrap();
    let settling: Vec<_> = leases
        .into_iter()
        .map(|lease| tokio::spawn(lease.ack()))
        .collect();
    for (number, settled) in settling.into_iter().enumerate() {
        match settled.await.unwrap() {
            Ok(settled) => assert_eq!((number > 0, settled), (true, Settled::Accepted(None))),
            Err(error) => {
                assert_eq!((number, error.kind()), (0, ErrorKind::Timeout), "{error:?}");
                assert!(!error.is_uncertain(), "{error:?}");
            }
        }
    }
}
