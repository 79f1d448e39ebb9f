//! Behind PgBouncer.

use brigade::{Broker, Level};
use brigade_testkit::postgres::Postgres;

use crate::stage::{BOUND, run, until, works};

#[test]
fn jobs_flow_through_a_transaction_pooler_and_check_says_what_that_costs() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let pooler = server
            .start_pooler("transaction", &["default_pool_size = 2"])
            .unwrap();
        works(&pooler.url()).await;
        // Two programs, whose statements would meet under the same names.
        let one = Broker::connect(&pooler.url()).await.unwrap();
        let other = Broker::connect(&pooler.url()).await.unwrap();
        let (from, to) = (one.queue("q"), other.queue("q"));
        let taking = tokio::spawn(async move {
            let mut got = Vec::new();
            while got.len() < 200 {
                let lease = to.lease(BOUND, BOUND).await.unwrap().unwrap();
                got.push(lease.json().parse::<u32>().unwrap());
                lease.ack().await.unwrap();
            }
            got
        });
        for number in 0..200_u32 {
            from.push(&number).await.unwrap();
        }
        let mut got = taking.await.unwrap();
        got.sort_unstable();
        assert_eq!(got, Vec::from_iter(0..200));
        let found = one.check().await.unwrap();
        let pooler = found.iter().find(|finding| finding.what.contains("pooler"));
        assert_eq!(
            pooler.map(|finding| finding.level),
            Some(Level::Warning),
            "{found:?}"
        );
    });
}

#[test]
fn a_pooler_that_goes_round_its_sessions_is_found() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let lines = ["server_round_robin = 1", "default_pool_size = 2"];
        let pooler = server.start_pooler("transaction", &lines).unwrap();
        for _ in 0..3 {
            works(&pooler.url()).await;
        }
    });
}

#[test]
fn no_session_of_a_transaction_pooler_listens() {
    run(async {
        let server = Postgres::start(&["log_statement = all"]).unwrap();
        let pooler = server.start_pooler("transaction", &[]).unwrap();
        let broker = Broker::connect(&pooler.url()).await.unwrap();
        let queue = broker.queue("q");
        let waiting = tokio::spawn(async move { queue.lease(BOUND, BOUND).await.unwrap() });
        until("the consumer waits", async || {
            server.log().contains("brigade.lease")
        })
        .await;
        broker.check().await.unwrap();
        broker.queue("q").push(&1).await.unwrap();
        let lease = waiting.await.unwrap().unwrap();
        lease.ack().await.unwrap();
        assert!(!server.log().to_lowercase().contains("listen brigade"));
    });
}

#[test]
fn a_session_pooler_is_as_good_as_none() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let pooler = server.start_pooler("session", &[]).unwrap();
        works(&pooler.url()).await;
        let broker = Broker::connect(&pooler.url()).await.unwrap();
        let found = broker.check().await.unwrap();
        assert!(
            found.iter().any(|finding| finding.what.contains("LISTEN")),
            "{found:?}"
        );
    });
}

#[test]
fn a_push_whose_connection_breaks_behind_a_pooler_is_uncertain_and_stored_once() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let pooler = server.start_pooler("transaction", &[]).unwrap();
        let broker = Broker::connect(&pooler.url()).await.unwrap();
        let queue = broker.queue("q");
        queue.push(&1).await.unwrap();
        // Soon a commit is there, and waits for a standby that never comes.
        server.set("synchronous_standby_names", "absent").unwrap();
        let pushing = tokio::spawn(async move {
            for acknowledged in 1..u64::MAX {
                if let Err(error) = queue.push(&2).await {
                    return Some((acknowledged, error));
                }
            }
            None
        });
        let committed = "from pg_stat_activity where wait_event = 'SyncRep'";
        until("the push waits for the standby", async || {
            let waits = format!("select count(*) {committed} and query like '%push_many%'");
            server.sql(&waits).unwrap() == "1"
        })
        .await;
        let ends = format!("select count(pg_terminate_backend(pid)) {committed}");
        server.sql(&ends).unwrap();
        server.set("synchronous_standby_names", "").unwrap();
        let (acknowledged, error) = pushing.await.unwrap().unwrap();
        assert!(error.is_uncertain(), "{error:?}");
        let stored = "select count(*) from brigade.jobs";
        let stored: u64 = server.sql(stored).unwrap().parse().unwrap();
        assert_eq!(stored, acknowledged + 1);
    });
}
