//! Unique keys while transactions of applications are open: one live job for each key, and an open
//! transaction delays none but pushes with a key that it holds.

use std::time::Duration;

use brigade::{ErrorKind, Schedule, Settled};
use tokio_postgres::GenericClient;

use crate::stage::{BOUND, fresh_broker, lock_waits, run, session};

/// Pushes to the queue `q`; the id of the job that has the key.
async fn push(client: &impl GenericClient, unique: &str) -> i64 {
    let sql = "select brigade.push('q', '1', jsonb_build_object('unique', $1::text))";
    client.query_one(sql, &[&unique]).await.unwrap().get(0)
}

#[test]
fn a_push_that_waited_for_one_with_its_unique_key_is_a_duplicate_of_that() {
    run(async {
        let (_broker, url) = fresh_broker().await;
        let (mut one, other, observer) = (
            session(&url).await,
            session(&url).await,
            session(&url).await,
        );
        let transaction = one.transaction().await.unwrap();
        let first = push(&transaction, "U").await;
        let second = tokio::spawn(async move { push(&other, "U").await });
        lock_waits(&observer, 1).await;
        transaction.commit().await.unwrap();
        assert_eq!(second.await.unwrap(), first);
    });
}

#[test]
fn a_push_takes_a_unique_key_over_that_an_undone_push_held() {
    run(async {
        let (_broker, url) = fresh_broker().await;
        let (mut one, other, observer) = (
            session(&url).await,
            session(&url).await,
            session(&url).await,
        );
        let transaction = one.transaction().await.unwrap();
        let first = push(&transaction, "U").await;
        let second = tokio::spawn(async move { push(&other, "U").await });
        lock_waits(&observer, 1).await;
        transaction.rollback().await.unwrap();
        let second = second.await.unwrap();
        assert_ne!(second, first);
        assert_eq!(push(&observer, "U").await, second);
    });
}

#[test]
fn two_jobs_of_one_push_with_one_unique_key_are_one_job() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let jobs = r#"[{"queue": "q", "payload": "1", "unique_key": "U"},
            {"queue": "q", "payload": "2", "unique_key": "U"}]"#;
        let sql = "select id, is_new from brigade.push_jobs($1)";
        let pushed = session(&url).await.query(sql, &[&jobs]).await.unwrap();
        let outcome =
            |place: usize| -> (i64, bool) { (pushed[place].get(0), pushed[place].get(1)) };
        let (first, _) = outcome(0);
        assert_eq!((outcome(0), outcome(1)), ((first, true), (first, false)));
        let jobs = broker.jobs(Some("q"), None, None, 10).await.unwrap();
        assert_eq!(jobs.len(), 1);
    });
}

#[test]
fn a_duplicate_in_an_open_transaction_keeps_no_job_from_being_settled() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let (mut application, other) = (session(&url).await, session(&url).await);
        let queue = broker.queue("q");
        let ids = [push(&other, "U").await, push(&other, "V").await];
        let transaction = application.transaction().await.unwrap();
        assert_eq!(push(&transaction, "U").await, ids[0]);
        for _ in ids {
            let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
            assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
        }
        // Both keys are free, and the transaction is in the way of neither.
        assert!(push(&other, "U").await > ids[1]);
        assert!(push(&transaction, "V").await > ids[1]);
        transaction.commit().await.unwrap();
    });
}

#[test]
fn a_push_that_waits_for_an_open_transaction_delays_no_other_and_gives_up() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let (mut application, observer) = (session(&url).await, session(&url).await);
        let transaction = application.transaction().await.unwrap();
        push(&transaction, "U").await;
        let queue = broker.queue("q");
        let unique = |key: &str| queue.job(&1).unwrap().unique(key);
        let (pusher, blocked) = (broker.clone(), unique("U"));
        let blocked = tokio::spawn(async move { pusher.push(blocked).await });
        lock_waits(&observer, 1).await;
        queue.push(&2).await.unwrap();
        broker.push(unique("V")).await.unwrap();
        let error = blocked.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert!(!error.is_uncertain() && error.is_retryable());
        lock_waits(&observer, 0).await;
        transaction.commit().await.unwrap();
        let jobs = broker.jobs(Some("q"), None, None, 10).await.unwrap();
        assert_eq!(jobs.len(), 3, "{jobs:?}");
    });
}

#[test]
fn pushes_that_share_a_call_with_one_that_waits_are_stored() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let mut application = session(&url).await;
        let transaction = application.transaction().await.unwrap();
        push(&transaction, "0").await;
        let pushes = (0..20).map(|key| {
            let (broker, queue) = (broker.clone(), broker.queue("q"));
            let job = queue.job(&1).unwrap().unique(key.to_string());
            tokio::spawn(async move { broker.push(job).await })
        });
        let pushes: Vec<_> = pushes.collect();
        for (key, pushed) in pushes.into_iter().enumerate() {
            let pushed = pushed.await.unwrap();
            assert_eq!(pushed.is_ok(), key > 0, "{key}: {pushed:?}");
        }
    });
}

#[test]
fn a_schedule_whose_job_waits_for_an_open_transaction_stops_no_hand_out() {
    run(async {
        let (broker, url) = fresh_broker().await;
        let (mut application, other) = (session(&url).await, session(&url).await);
        let job = broker.queue("q").job(&1).unwrap().unique("U");
        let schedule = Schedule::every("s", Duration::from_secs(60), job).unwrap();
        broker.schedule(schedule).await.unwrap();
        let transaction = application.transaction().await.unwrap();
        push(&transaction, "U").await;
        let due = "update brigade.schedules set tick = tick - interval '1 minute', \
            next_at = next_at - interval '1 minute'";
        other.execute(due, &[]).await.unwrap();
        broker.queue("other").push(&2).await.unwrap();
        let lease = broker.queue("other").lease(BOUND, BOUND).await.unwrap();
        assert_eq!(lease.unwrap().json(), "2");
        let next = "select next_at > tick from brigade.schedules";
        let row = other.query_one(next, &[]).await.unwrap();
        assert!(row.get::<_, bool>(0), "it is put off");
    });
}
