//! Which worker gets a call.

use brigade::remote::Credentials;
use brigade::{ErrorKind, Pool};
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;

use crate::gate::Gate;
use crate::stage::{fleet, host, millis, soon, url_of, worker};
use crate::tasks::*;

const OTHER_KEY: &str = "brigade-key-AduR0GAyzGQWLBb441clsOYyvuvd6LLCRZl50E-x4gyZpKZE";

#[tokio::test]
async fn labels_of_a_task_or_a_call_choose_the_host_and_hold_up_no_other_call() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let url = url_of(&fleet);
        let _plain = host(&[&url, "name=plain", "workers=2"]);
        fleet.ready(1).await.unwrap();
        let (by_task, by_call) = (
            fleet.call(on_gpu()),
            fleet.call(add(1, 2).labels(["gpu", "big"])),
        );
        for sum in join_all((0..20).map(|number| fleet.call(add(number, 0)))).await {
            sum.unwrap();
        }
        assert!(!by_task.is_finished() && !by_call.is_finished());
        assert_eq!(worker(&fleet, "plain").done, 20);
        let _small = host(&[&url, "name=small", "labels=gpu"]);
        by_task.await.unwrap();
        let _big = host(&[&url, "name=big", "labels=gpu,big"]);
        assert_eq!(by_call.await.unwrap(), 3);
        assert_eq!(
            (worker(&fleet, "small").done, worker(&fleet, "big").done),
            (1, 1)
        );
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn labels_of_workers_of_ones_own() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .labels(["gpu"])
            .start()
            .await
            .unwrap();
        pool.call(on_gpu()).await.unwrap();
        let error = pool
            .call(add(1, 2).labels(["gpu", "big"]))
            .await
            .unwrap_err();
        assert_eq!(error.rejected(), Some(ErrorKind::BadOption), "{error}");
        pool.shutdown().await;

        // Where hosts may join the own workers are passed over, and none is started for it.
        let fleet = fleet().workers(0..=2).start().await.unwrap();
        let waiting = fleet.call(on_gpu());
        assert_eq!(fleet.call(add(1, 2)).await.unwrap(), 3);
        assert!(!waiting.is_finished());
        assert_eq!(fleet.stats().workers, 1);
        let _host = host(&[&url_of(&fleet), "labels=gpu"]);
        waiting.await.unwrap();
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn the_emptiest_host_gets_the_next_call_and_a_full_one_nothing() {
    soon(async {
        let gate = Gate::new();
        let fleet = fleet().start().await.unwrap();
        let url = url_of(&fleet);
        let _hosts = [
            host(&[&url, "name=small", "workers=2"]),
            host(&[&url, "name=large", "workers=4"]),
        ];
        fleet.ready(2).await.unwrap();
        let mut held = Vec::new();
        for number in 0..6 {
            held.push(fleet.call(hold(gate.path(), number)));
        }
        let arrivals = gate.arrivals(6).await;
        assert_eq!(
            (
                worker(&fleet, "small").running,
                worker(&fleet, "large").running
            ),
            (2, 4)
        );
        let more = fleet.call(add(1, 2).queue_timeout(millis(100)));
        assert_eq!(more.await.unwrap_err().outcome(), "timed out");
        drop(arrivals);
        join_all(held)
            .await
            .into_iter()
            .for_each(|held| assert!(held.is_ok()));
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn bad_use_a_pool_that_could_never_have_a_worker() {
    soon(async {
        let error = Pool::builder().workers(0).start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadOption);
        let error = fleet().heartbeat(millis(1)).start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadOption);
        let error = Pool::builder()
            .listen("http://127.0.0.1:1", crate::stage::credentials())
            .start()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadOption);
    })
    .await;
}

/// A stranger on the port, or a pool with another key, must not end a host for good: anybody could
/// have answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_keeps_trying_while_what_answers_has_not_proved_itself() {
    soon(async {
        // A stranger first.
        let squatter = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = squatter.local_addr().unwrap();
        let url = format!("tcp://{address}");
        let _host = host(&[&url, "name=patient"]);
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0; 56], b""] {
            let (mut stream, _) = squatter.accept().await.unwrap();
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        drop(squatter);
        // Then a pool with another key, which refuses it.
        let other = Credentials::key(OTHER_KEY).unwrap();
        let impostor = Pool::builder()
            .workers(0)
            .listen(&url, other)
            .start()
            .await
            .unwrap();
        while impostor.refusals().keys < 2 {
            tokio::time::sleep(millis(5)).await;
        }
        assert!(impostor.workers().is_empty());
        impostor.shutdown().await;
        // Then its own.
        let fleet = Pool::builder()
            .workers(0)
            .listen(&url, crate::stage::credentials())
            .start()
            .await
            .unwrap();
        fleet.ready(1).await.unwrap();
        assert_eq!(fleet.workers()[0].host.as_deref(), Some("patient"));
        fleet.shutdown().await;
    })
    .await;
}
