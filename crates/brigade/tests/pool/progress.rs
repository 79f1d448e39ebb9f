//! What a running call reports and prints.

use brigade::Pool;

use crate::gate::Gate;
use crate::probe::{pool_of, soon};
use crate::tasks::*;

#[tokio::test]
async fn wp21_wx9_progress_reaches_its_own_call_in_order_and_ends_with_it() {
    soon(async {
        let pool = Pool::builder().workers(1).slots(4).start().await.unwrap();
        let calls = [pool.call(chatty(20)), pool.call(chatty(20))];
        for handle in calls {
            let mut progress = handle.progress();
            for number in 0..20_u32 {
                let update = progress.next().await.unwrap();
                assert!((update.fraction() - f64::from(number) / 20.0).abs() < 1e-9);
                assert_eq!(
                    update.payload::<(u32, String)>().unwrap(),
                    (number, "text".to_owned())
                );
            }
            assert!(progress.next().await.is_none());
            assert_eq!(handle.await.unwrap(), 20);
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp21_tp14_what_is_told_after_the_end_reaches_nobody() {
    soon(async {
        let (pool, gate) = (pool_of(1).await, Gate::new());
        pool.call(chatter_later(gate.path())).await.unwrap();
        let before = gate.arrival().await;
        let next = pool.call(hold(gate.path(), 9));
        let held = gate.arrival().await;
        assert_eq!((before.id, held.id), (1, 9));
        drop(before);
        let after = gate.arrival().await;
        assert_eq!(after.id, 2, "it has reported its progress");
        drop((after, held));
        let mut progress = next.progress();
        assert_eq!(next.await.unwrap(), 9);
        assert!(progress.next().await.is_none());
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp21_of_what_nobody_reads_the_newest_is_kept() {
    soon(async {
        let pool = pool_of(1).await;
        let handle = pool.call(chatty(1000));
        let mut progress = handle.progress();
        assert_eq!(handle.await.unwrap(), 1000);
        let mut numbers = Vec::new();
        while let Some(update) = progress.next().await {
            numbers.push(update.payload::<(u32, String)>().unwrap().0);
        }
        assert_eq!(numbers, (936..1000).collect::<Vec<u32>>());
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp22_bad_use_output_is_kept_when_asked_for_and_not_otherwise() {
    soon(async {
        let pool = pool_of(1).await;
        let mut handle =
            pool.call(say("to stdout".to_owned(), "to stderr".to_owned()).capture(1 << 10));
        (&mut handle).await.unwrap();
        let output = handle.output().unwrap();
        assert_eq!(
            (&*output.stdout.text, &*output.stderr.text),
            (&b"to stdout\n"[..], &b"to stderr\n"[..])
        );
        assert!(handle.output().is_none(), "it is given once");

        let mut handle = pool.call(say(
            "passed through".to_owned(),
            "passed through".to_owned(),
        ));
        (&mut handle).await.unwrap();
        assert!(handle.output().is_none());
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp22_wx5_output_belongs_to_its_own_call_and_nobody_must_listen() {
    soon(async {
        let pool = pool_of(1).await;
        pool.call(say(
            "no one listens".to_owned(),
            "no one listens".to_owned(),
        ))
        .await
        .unwrap();
        for number in 0..10 {
            let text = format!("call {number}");
            let mut handle = pool.call(say(text.clone(), String::new()).capture(100));
            (&mut handle).await.unwrap();
            assert_eq!(
                handle.output().unwrap().stdout.text,
                format!("{text}\n").into_bytes()
            );
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp22_output_over_its_limit_is_counted_and_dropped() {
    soon(async {
        let pool = pool_of(1).await;
        let mut handle = pool.call(say("x".repeat(10_000), String::new()).capture(16));
        (&mut handle).await.unwrap();
        let stdout = handle.output().unwrap().stdout;
        assert_eq!((stdout.text.len(), stdout.dropped), (16, 10_001 - 16));
        pool.shutdown().await;
    })
    .await;
}
