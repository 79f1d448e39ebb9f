//! A report describes its own attempt only.

use brigade::{AttemptOutcome, CallError, Exit, Pool, task};

brigade::test_workers!();

const CAPTURE_BYTES: usize = 16 << 10;

#[task]
fn panics() {
    panic!("an old panic");
}

#[task]
fn aborts() {
    std::process::abort();
}

#[task]
fn panics_while_it_unwinds() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the second panic");
        }
    }
    let _bomb = Bomb;
    panic!("the first panic");
}

#[tokio::test]
async fn an_abort_is_not_blamed_on_the_panic_of_an_earlier_call() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let panicked = pool.call(panics().capture(CAPTURE_BYTES)).await;
    assert!(
        matches!(panicked, Err(CallError::Panicked(_))),
        "{panicked:?}"
    );
    match pool.call(aborts().capture(CAPTURE_BYTES)).await {
        Err(CallError::Crashed(report)) => {
            assert_eq!(
                (report.ended, report.exit),
                (AttemptOutcome::Signalled, Some(Exit::Signal(6)))
            );
        }
        other => panic!("{other:?}"),
    }
    pool.shutdown().await;
}

#[tokio::test]
async fn an_abort_by_a_panic_is_told_as_that_panic() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    match pool
        .call(panics_while_it_unwinds().capture(CAPTURE_BYTES))
        .await
    {
        Err(CallError::Panicked(report)) => {
            assert_eq!(report.exit, Some(Exit::Signal(6)));
            assert!(
                matches!(report.ended, AttemptOutcome::Panicked { .. }),
                "{report:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    pool.shutdown().await;
}
