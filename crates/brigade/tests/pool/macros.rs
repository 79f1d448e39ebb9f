//! What `#[task]` makes of a function.

use std::time::Duration;

use brigade::{CallError, Context, Failure, Pass, Pool, RetryAdvice, TimedOut, task};

use crate::probe::{pool_of, soon};
use crate::tasks::*;

/// Documentation stays with the call.
#[task(name = "shop.greet-1")]
#[must_use]
fn named(name: String) -> String {
    format!("hello {name}")
}

#[task(timeout = "100ms")]
fn with_a_timeout() {
    loop {
        std::hint::spin_loop();
    }
}

#[task(memory = "64MiB")]
fn with_a_memory_limit() -> usize {
    let mut held = Vec::new();
    loop {
        held.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&held);
    }
}

#[task(retries = 2)]
fn fails_twice(cx: &Context) -> Result<u32, Failure> {
    if cx.attempt() < 3 {
        Err(cx.retry_in(Duration::ZERO))
    } else {
        Ok(cx.attempt())
    }
}

#[task(retries = 5)]
fn fails_for_good(cx: &Context) -> Result<u32, Failure> {
    Err(Failure::permanent(format!("attempt {}", cx.attempt())))
}

/// Far more attempts than there is time for.
#[task(
    retries = 1_000_000,
    retry_base = "1ms",
    retry_cap = "1ms",
    retry_within = "100ms"
)]
fn fails_within_its_time(cx: &Context) -> Result<u32, Failure> {
    Err(Failure::new(format!("attempt {}", cx.attempt())))
}

#[task(
    codec = "json",
    priority = 3,
    queue = "elsewhere",
    idempotent,
    queue_timeout = "1h"
)]
fn with_everything(mut list: Vec<u8>, (a, b): (u8, u8)) -> Vec<u8> {
    list.extend([a, b]);
    list
}

#[task]
fn passes(_cx: &Context) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Err(Pass::new("reloading").into())
}

#[task]
#[expect(clippy::too_many_arguments, reason = "the most that there may be")]
fn twelve(
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
    i: u8,
    j: u8,
    k: u8,
    l: u8,
) -> Vec<u8> {
    vec![a, b, c, d, e, f, g, h, i, j, k, l]
}

#[tokio::test]
async fn pi34_options_of_a_task_hold_for_its_calls_and_a_call_may_override_them() {
    soon(async {
        let pool = pool_of(1).await;
        assert_eq!(
            pool.call(named("you".to_owned())).await.unwrap(),
            "hello you"
        );
        let by_name = brigade::Call::<String>::json("shop.greet-1", &("me",));
        assert_eq!(pool.call(by_name).await.unwrap(), "hello me");
        assert!(matches!(
            pool.call(with_a_timeout()).await,
            Err(CallError::TimedOut(TimedOut::Run(_)))
        ));
        let shorter = pool
            .call(with_a_timeout().timeout(Duration::from_millis(10)))
            .await
            .unwrap_err();
        assert!(shorter.report().is_some());
        assert!(matches!(
            pool.call(with_a_memory_limit()).await,
            Err(CallError::Crashed(_))
        ));
        assert_eq!(
            pool.call(with_everything(vec![1], (2, 3))).await.unwrap(),
            [1, 2, 3]
        );
        assert_eq!(
            pool.call(twelve(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
                .await
                .unwrap(),
            (0..12).collect::<Vec<u8>>()
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn no_attempt_begins_when_the_time_for_it_is_over() {
    soon(async {
        let pool = pool_of(1).await;
        let CallError::Failed(failure) = pool.call(fails_within_its_time()).await.unwrap_err()
        else {
            panic!("it failed")
        };
        assert!(failure.message.starts_with("attempt "), "{failure}");
        // What a call is given wins, as a whole.
        let once =
            brigade::Retry::exponential(Duration::ZERO, Duration::ZERO).within(Duration::ZERO);
        let CallError::Failed(failure) = pool
            .call(fails_within_its_time().retry(once))
            .await
            .unwrap_err()
        else {
            panic!("it failed")
        };
        assert_eq!(failure.message, "attempt 1");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi34_retries_are_numbered_and_a_permanent_failure_is_the_last() {
    soon(async {
        let pool = pool_of(1).await;
        assert_eq!(pool.call(fails_twice()).await.unwrap(), 3);
        let CallError::Failed(failure) = pool.call(fails_for_good()).await.unwrap_err() else {
            panic!("it failed")
        };
        assert_eq!(
            (failure.message.as_str(), failure.retry()),
            ("attempt 1", RetryAdvice::Permanent)
        );
        assert!(pool.call(fails_twice().retries(1)).await.is_err());
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi34_a_call_that_every_worker_passes_ends_with_their_reasons() {
    soon(async {
        let pool = Pool::builder().workers(2).start().await.unwrap();
        let CallError::Passed(reasons) = pool.call(passes()).await.unwrap_err() else {
            panic!("it was passed")
        };
        assert_eq!(reasons, ["reloading", "reloading"]);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi34_a_call_can_run_in_the_caller_for_unit_tests() {
    assert_eq!(add(3, 4).run_here().await.unwrap(), 7);
    assert_eq!(pid().run_here().await.unwrap(), std::process::id());
    assert_eq!(answer_or_fail(false).run_here().await.unwrap(), 42);
    assert!(matches!(
        fail_with_source().run_here().await,
        Err(CallError::Failed(_))
    ));
}
