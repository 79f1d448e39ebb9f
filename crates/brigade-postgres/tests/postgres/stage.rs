//! What the tests share.

use std::time::Duration;

use brigade::{Broker, Error, ErrorKind};
use brigade_testkit::postgres::Postgres;
use tokio_postgres::{Client, NoTls};

/// Far beyond what anything here takes.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// Runs a test in a runtime of its own, bounded.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(3 * BOUND, Box::pin(test))
            .await
            .unwrap();
    });
}

/// A database of its own with a broker, and its URL.
pub(crate) async fn fresh_broker() -> (Broker, String) {
    let url = Postgres::shared().unwrap().fresh_database().unwrap();
    (Broker::connect(&url).await.unwrap(), url)
}

/// A connection of an application.
pub(crate) async fn session(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move {
        connection.await.ok();
    });
    client
}

/// Waits until so many sessions of the observer's database wait for locks.
pub(crate) async fn lock_waits(observer: &Client, count: i64) {
    const WAITING: &str = "select count(*) from pg_stat_activity \
        where datname = current_database() and wait_event_type = 'Lock'";
    until("sessions wait for locks", async || {
        let row = observer.query_one(WAITING, &[]).await.unwrap();
        row.get::<_, i64>(0) == count
    })
    .await;
}

/// Waits, bounded, until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(BOUND, waiting).await;
    assert!(waited.is_ok(), "never: {what}");
}

/// The error of a broker that cannot be opened, with all that it says.
pub(crate) async fn refused(url: &str) -> (ErrorKind, String) {
    match Broker::connect(url).await {
        Ok(_) => panic!("{url} was taken"),
        Err(error) => (error.kind(), text(&error)),
    }
}

pub(crate) fn text(error: &Error) -> String {
    format!("{error:?}")
}

/// Pushes one job and gets it.
pub(crate) async fn works(url: &str) {
    let broker = Broker::connect(url).await.unwrap();
    let queue = broker.queue("works");
    queue.push(&7).await.unwrap();
    let lease = queue.lease(BOUND, BOUND).await.unwrap().unwrap();
    assert_eq!(lease.json(), "7");
    lease.ack().await.unwrap();
}
