//! Live reload: one worker after the other, while the others serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;

use crate::*;

#[tokio::test]
async fn workers_reload_one_after_the_other_while_the_others_serve() {
    let setting = Setting::new(1).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(start(
            setting
                .elsewhere()
                .await
                .consumer()
                .on(&setting.pool)
                .queue("add")
                .prefetch(2),
        ));
    }
    let over = tokio_util::sync::CancellationToken::new();
    let broker = setting.broker.clone();
    let calling = tokio::spawn(over.clone().run_until_cancelled_owned(async move {
        for n in 0.. {
            assert_eq!(broker.call(add(n, 1)).await.unwrap(), n + 1);
        }
    }));
    let (loading, most, done) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let reloads = workers.iter().map(|(handle, _)| {
        let (loading, most, done) = (Arc::clone(&loading), Arc::clone(&most), Arc::clone(&done));
        let broker = setting.broker.clone();
        handle.reload(async move {
            most.fetch_max(loading.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            assert_eq!(handle.stats().held, 0, "nothing runs in it");
            // The others serve meanwhile.
            assert_eq!(broker.call(add(1, 2)).await.unwrap(), 3);
            done.fetch_add(1, Ordering::SeqCst);
            loading.fetch_sub(1, Ordering::SeqCst);
        })
    });
    for reloaded in soon(join_all(reloads)).await {
        reloaded.unwrap();
    }
    assert_eq!(
        (done.load(Ordering::SeqCst), most.load(Ordering::SeqCst)),
        (3, 1)
    );
    over.cancel();
    assert!(calling.await.unwrap().is_none(), "no call failed");
    for (handle, serving) in workers {
        handle.drain();
        soon(serving).await.unwrap();
    }
    setting.pool.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_ends_does_not_reload() {
    let setting = Setting::new(1).await;
    let (handle, serving) = start(setting.consumer().queue("add"));
    handle.drain();
    let error = soon(handle.reload(async { unreachable!("it does not load") }))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), brigade::ErrorKind::Closed);
    soon(serving).await.unwrap();
    setting.pool.shutdown().await;
}
