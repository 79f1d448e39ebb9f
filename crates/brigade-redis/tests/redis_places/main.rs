//! All ways to reach Redis, on real servers: TLS, replicas, sentinels, clusters.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod cluster;
mod sentinel;
mod tls;
mod wait;

use std::future::Future;
use std::time::Duration;

use brigade::{Broker, ErrorKind};
use brigade_testkit::places::{free_port, start_at};

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// What a person reads when that URL does not lead anywhere.
async fn refused(url: &str) -> (ErrorKind, String) {
    let error = Broker::connect(url).await.unwrap_err();
    (error.kind(), format!("{error:?}"))
}

/// A job goes through, and a consumer that waits for one gets it.
async fn works(url: &str) {
    let broker = Broker::connect(url)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    let queue = broker.queue("emails");
    let taker = queue.clone();
    let waiting = tokio::spawn(async move {
        taker
            .lease(LONG, LONG)
            .await
            .unwrap()
            .unwrap()
            .ack()
            .await
            .unwrap()
    });
    let id = queue.push("hello").await.unwrap();
    waiting.await.unwrap();
    assert!(broker.job(&id).await.unwrap().is_none());
}

#[test]
fn a_port_and_a_database_and_the_wrong_kind_of_server() {
    run(async {
        let port = free_port();
        let server = start_at(port, &[]).unwrap();
        assert_eq!(
            server.ask("ACL SETUSER me on >secret ~* &* +@all").unwrap(),
            "+OK\r\n"
        );
        works(&format!("redis://127.0.0.1:{port}")).await;
        works(&format!("redis://me:secret@localhost:{port}/3")).await;
        works(&format!(
            "redis+unix://{}?user=me&password=secret&db=4",
            server.socket().display()
        ))
        .await;
        assert!(server.ask("INFO keyspace").unwrap().contains("db3:"));

        let (kind, text) = refused(&format!("redis://me:hunter2@127.0.0.1:{port}")).await;
        assert!(
            kind == ErrorKind::Refused
                && text.contains("wrong user or password")
                && !text.contains("hunter2"),
            "{text}"
        );
        let (kind, text) = refused(&format!("redis+cluster://127.0.0.1:{port}")).await;
        assert!(
            kind == ErrorKind::BadOption && text.contains("write redis://"),
            "{text}"
        );
        let (kind, text) = refused(&format!("redis://127.0.0.1:{}", free_port())).await;
        assert!(
            kind == ErrorKind::Unreachable && text.contains("cannot be reached"),
            "{text}"
        );
    });
}
