//! A database whose transactions are serializable by default, as some applications want them.

use brigade::postgres::PushInPostgres as _;
use brigade::{Broker, ErrorKind, Job, Level, Settled};
use brigade_testkit::postgres::Postgres;
use tokio_postgres::{IsolationLevel, NoTls};

use crate::stage::{BOUND, run, text};

const JOBS: u64 = 320;
/// Pushes and settles at the same time.
const CALLERS: u64 = 8;

async fn all_jobs_flow(url: &str) {
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let broker = Broker::connect(url).await.unwrap();
        callers.spawn(async move {
            let queue = broker.queue("q");
            let (mut first, mut done) = (caller * JOBS / CALLERS, Vec::new());
            let end = (caller + 1) * JOBS / CALLERS;
            while first < end || done.len() < usize::try_from(JOBS / CALLERS).unwrap() {
                if first < end {
                    queue.push(&first).await.unwrap();
                    first += 1;
                }
                let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
                done.push(lease.payload::<u64>().unwrap());
                assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
            }
            done
        });
    }
    let mut done = callers.join_all().await.concat();
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len() as u64, JOBS);
}

#[test]
fn jobs_flow_where_transactions_are_serializable_by_default() {
    run(async {
        let server = Postgres::start(&["default_transaction_isolation = serializable"]).unwrap();
        all_jobs_flow(&server.url()).await;
        let broker = Broker::connect(&server.url()).await.unwrap();
        let found = broker.check().await.unwrap();
        // Nor did statements undo each other.
        assert!(!server.log().contains("could not serialize"));
        let is_named = |finding: &brigade::Finding| finding.what.contains("isolation");
        assert!(!found.iter().any(is_named), "{found:?}");
    });
}

#[test]
fn behind_a_pooler_each_statement_sets_its_own_level_and_check_says_what_that_costs() {
    run(async {
        let server = Postgres::start(&["default_transaction_isolation = serializable"]).unwrap();
        let pooler = server.start_pooler("transaction", &[]).unwrap();
        let broker = Broker::connect(&pooler.url()).await.unwrap();
        let queue = broker.queue("q");
        queue.push(&1).await.unwrap();
        let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
        all_jobs_flow(&pooler.url()).await;
        assert!(!server.log().contains("could not serialize"));
        let found = broker.check().await.unwrap();
        let found = found
            .iter()
            .find(|finding| finding.what.contains("default_transaction_isolation"));
        assert_eq!(found.map(|finding| finding.level), Some(Level::Warning));
    });
}

#[test]
fn a_push_in_a_serializable_transaction_that_conflicts_says_to_try_it_again() {
    run(async {
        let server = Postgres::start(&[]).unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
            tokio::spawn(connection);
            clients.push(client);
        }
        server
            .sql("create table stock (item text primary key, amount integer); insert into stock values ('soap', 1)")
            .unwrap();
        let [one, other] = &mut clients[..] else {
            unreachable!("two clients")
        };
        let level = IsolationLevel::Serializable;
        let mut first = one
            .build_transaction()
            .isolation_level(level)
            .start()
            .await
            .unwrap();
        let mut second = other
            .build_transaction()
            .isolation_level(level)
            .start()
            .await
            .unwrap();
        for transaction in [&first, &second] {
            let look = "select amount from stock where item = 'soap'";
            transaction.query(look, &[]).await.unwrap();
        }
        let job = || Job::new("mail", None, "1");
        let sell = "update stock set amount = amount - 1 where item = 'soap'";
        first.execute(sell, &[]).await.unwrap();
        job().push_in(&mut first).await.unwrap();
        first.commit().await.unwrap();
        // Its snapshot is older than the first transaction's commit, and it writes the same row.
        let stored = async {
            let update = second.execute(sell, &[]).await;
            update.err().map(|error| error.code().cloned())
        };
        let code = stored.await.flatten();
        assert_eq!(code.as_ref().map(|code| code.code()), Some("40001"));
        // The transaction is over: a push in it says so.
        let error = job().push_in(&mut second).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        assert!(text(&error).contains("roll it back"), "{error:?}");
        second.rollback().await.unwrap();
        let jobs = broker.jobs(Some("mail"), None, None, 10).await.unwrap();
        assert_eq!(jobs.len(), 1);
    });
}
