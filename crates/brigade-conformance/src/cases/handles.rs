//! The handle of a call, which is the same for a pool and for each broker.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use brigade::{CallError, Context, Place, Pool, Step, task};
use tokio_util::sync::CancellationToken;

use crate::case::{Case, case};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[case!(
    a_handle_is_the_same_in_a_pool_and_through_every_broker:
    results or answers, cancels or answers, listing or answers
)];

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(60);

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LONG, what).await.expect("it comes")
}

async fn made(file: &Path) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[task]
fn adds(a: i64, b: i64) -> i64 {
    a + b
}

/// Makes the file and ends when it is asked to.
#[task]
fn runs_until_asked(cx: &Context, file: String) {
    std::fs::write(file, "").unwrap();
    while !cx.is_cancelled() {
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Results, cancels and receipts of calls, whatever place runs them.
async fn calls_and_cancels(place: &impl Place) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("begun");
    let path = || file.to_str().unwrap().to_owned();

    let mut sum = place.call(adds(3, 4));
    assert_eq!(soon(&mut sum).await.unwrap(), 7);
    assert!(sum.is_finished());
    assert_eq!(soon(sum.cancel("too late")).await, None);

    let looked_at = place.call(adds(1, 1));
    soon(async {
        while !looked_at.is_finished() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(soon(looked_at).await.unwrap(), 2);
    let detached = place.call(adds(5, 6));
    let mut progress = detached.progress();
    detached.detach();
    assert!(
        soon(progress.next()).await.is_none(),
        "it ends with its call"
    );

    let handle = place.call(runs_until_asked(path()));
    soon(made(&file)).await;
    assert!(!handle.is_finished());
    let (first, second) = (handle.cancel("first"), handle.cancel("second"));
    let (first, second) = soon(async { tokio::join!(first, second) }).await;
    assert_eq!(first.unwrap().step, Step::Asked);
    assert_eq!(second.unwrap().step, Step::Asked);
    assert!(handle.is_finished());
    let CallError::Cancelled(cancelled) = soon(handle).await.unwrap_err() else {
        panic!("cancelled")
    };
    assert_eq!(cancelled.reason, "first");
    assert_eq!(cancelled.report.unwrap().step, Some(Step::Asked));

    // The stop is seen through by the task that awaits it, without its handle.
    std::fs::remove_file(&file).unwrap();
    let handle = place.call(runs_until_asked(path()));
    soon(made(&file)).await;
    let stopping = handle.cancel("enough");
    drop(handle);
    assert_eq!(soon(stopping).await.unwrap().step, Step::Asked);
}

async fn a_handle_is_the_same_in_a_pool_and_through_every_broker(subject: Subject) {
    let pool = Pool::builder().workers(2).start().await.unwrap();
    calls_and_cancels(&pool).await;
    let consumer = subject
        .broker
        .consumer()
        .task(adds)
        .task(runs_until_asked)
        .on(&pool);
    let stop = CancellationToken::new();
    let (caller, stopping) = (subject.broker.clone(), stop.clone());
    let calling = async move {
        calls_and_cancels(&caller).await;
        stopping.cancel();
    };
    let (served, ()) = tokio::join!(consumer.run_until(stop.cancelled()), calling);
    served.unwrap();
    pool.shutdown().await;
}
