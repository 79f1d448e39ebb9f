//! Limits of time of the server that are set low: of statements, of locks, of idle transactions and
//! sessions.

use brigade::postgres::PushInPostgres as _;
use brigade::{Broker, ErrorKind, Job};
use brigade_testkit::postgres::Postgres;
use tokio_postgres::NoTls;

use crate::stage::{BOUND, run, text, until, works};

#[test]
fn limits_of_idle_transactions_and_sessions_do_not_disturb_jobs() {
    run(async {
        let server = Postgres::start(&[
            "idle_in_transaction_session_timeout = '30ms'",
            "idle_session_timeout = '500ms'",
            "statement_timeout = '20s'",
        ])
        .unwrap();
        let (pusher, consumer) = (
            Broker::connect(&server.url()).await.unwrap(),
            Broker::connect(&server.url()).await.unwrap(),
        );
        let ended = || server.log().matches("idle-session timeout").count();
        for number in 0..3 {
            let before = ended();
            pusher.queue("q").push(&number).await.unwrap();
            let lease = consumer.queue("q").lease(BOUND, BOUND).await.unwrap();
            let lease = lease.unwrap();
            assert_eq!(lease.payload::<i32>().unwrap(), number);
            until("idle sessions are ended", async || ended() > before).await;
            lease.ack().await.unwrap();
        }
    });
}

#[test]
fn a_transaction_that_was_idle_for_too_long_says_so_and_its_job_is_not_there() {
    run(async {
        let server = Postgres::start(&["idle_in_transaction_session_timeout = '50ms'"]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        let (mut client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut transaction = client.transaction().await.unwrap();
        let job = || Job::new("mail", None, "1");
        job().push_in(&mut transaction).await.unwrap();
        // The server ends the session.
        assert!(connection.await.unwrap().is_err());
        let error = job().push_in(&mut transaction).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
        assert!(!error.is_uncertain(), "{error:?}");
        drop(transaction);
        assert!(broker.jobs(None, None, None, 10).await.unwrap().is_empty());
        works(&server.url()).await;
    });
}

#[test]
fn a_lock_that_is_not_got_in_time_says_so_and_nothing_is_stored() {
    run(async {
        let server = Postgres::start(&["lock_timeout = '50ms'"]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        let queue = broker.queue("q");
        queue.push(&1).await.unwrap();
        let lock = server
            .hold("begin; lock table brigade.jobs in access exclusive mode;")
            .unwrap();
        let error = queue.push(&2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert!(text(&error).contains("lock_timeout"), "{error:?}");
        assert!(!error.is_uncertain() && error.is_retryable());
        drop(lock);
        until("jobs go on", async || queue.push(&3).await.is_ok()).await;
        let jobs = broker.jobs(None, None, None, 10).await.unwrap();
        assert_eq!(jobs.len(), 2, "{jobs:?}");
    });
}
