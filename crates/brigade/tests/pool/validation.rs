//! Bad use: refused at once, with a kind, and with a text that says what to do.

use std::time::Duration;

use brigade::{Builder, Bytes, Call, CallError, CallHandle, ErrorKind, Pool, Task};

use crate::probe::{pids, pool_of, soon};
use crate::tasks::*;

async fn refused(builder: Builder) -> String {
    let error = builder.start().await.expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::BadOption, "{error}");
    assert!(!error.is_retryable());
    error.to_string()
}

#[tokio::test]
async fn wp9_pi2_pi40_bad_use_absurd_numbers_of_workers_are_refused() {
    soon(Box::pin(async {
        let (many, few) = (4, 2);
        for builder in [
            Pool::builder().workers(0),
            Pool::builder().workers(4097),
            Pool::builder().workers(usize::MAX),
            Pool::builder().workers(0..0),
            Pool::builder().workers(0..=0),
            Pool::builder().workers(..=0),
            Pool::builder().workers(many..=few),
            Pool::builder().workers(1).spares(4097),
        ] {
            let text = refused(builder).await;
            assert!(text.contains("1 to 4096"), "{text}");
        }
    }))
    .await;
}

#[tokio::test]
async fn wx8_pi40_bad_use_sizes_of_zero_or_beyond_reason_are_refused() {
    soon(async {
        for (builder, told) in vec![
            (Pool::builder().slots(0), "1 to 65536"),
            (Pool::builder().slots(65_537), "1 to 65536"),
            (Pool::builder().queue_max(0), "try_call"),
            (Pool::builder().queue_max(usize::MAX), "2^30"),
            (Pool::builder().payload_max(0), "1 KiB"),
            (Pool::builder().payload_max(1023), "1 KiB"),
            (Pool::builder().payload_max((1 << 30) + 1), "1 GiB"),
            (Pool::builder().recycle_after(0), "at least 1"),
            (Pool::builder().nice(20), "0 to 19"),
            (Pool::builder().nice(-1), "0 to 19"),
            (
                Pool::builder().start_timeout(Duration::ZERO),
                "start timeout",
            ),
            (
                Pool::builder().check_interval(Duration::from_millis(9)),
                "10 ms",
            ),
        ] {
            let text = refused(builder).await;
            assert!(text.contains(told), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn pi40_bad_use_sizes_at_their_edges_work() {
    soon(async {
        let edges = Pool::builder()
            .workers(0..=4096)
            .slots(65_536)
            .queue_max(1 << 30)
            .payload_max(1 << 10)
            .nice(19);
        let pool = edges
            .recycle_after(1)
            .check_interval(Duration::from_millis(10))
            .start()
            .await
            .unwrap();
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
        let pool = Pool::builder()
            .workers(1)
            .payload_max(1 << 30)
            .queue_max(1)
            .start()
            .await
            .unwrap();
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi40_bad_use_times_beyond_reason_are_no_panic() {
    soon(async {
        let forever = Duration::MAX;
        let builder = Pool::builder()
            .workers(1)
            .start_timeout(forever)
            .kill_after(forever, forever)
            .teardown_timeout(forever);
        let builder = builder
            .shutdown_timeout(forever)
            .idle_timeout(forever)
            .recycle_age(forever);
        let pool = builder.start().await.unwrap();
        let call = add(1, 2).timeout(forever).queue_timeout(forever);
        assert_eq!(pool.call(call).await.unwrap(), 3);
        let delayed = pool.call(add(1, 2).delay(forever));
        assert_eq!(pool.stats().waiting, 1);
        drop(delayed);
        assert!(pool.shutdown().await.drained);
    })
    .await;
}

#[tokio::test]
async fn pi40_bad_use_times_of_nothing_leave_no_patience_and_hang_nobody() {
    soon(async {
        let none = Duration::ZERO;
        let builder = Pool::builder()
            .workers(1)
            .kill_after(none, none)
            .teardown_timeout(none)
            .shutdown_timeout(none)
            .idle_timeout(none);
        let pool = builder.start().await.unwrap();
        let spins = pool.call(spin());
        crate::probe::begun(&spins).await;
        assert_eq!(
            spins.cancel("at once").await.unwrap().step,
            brigade::Step::Killed
        );
        assert_eq!(pool.call(add(1, 2).delay(none)).await.unwrap(), 3);
        let waited = pool.call(spin().queue_timeout(none));
        assert!(!pool.shutdown().await.drained);
        assert!(waited.await.is_err());
    })
    .await;
}

#[tokio::test]
async fn wp51_bad_use_a_variable_that_cannot_be_one_is_refused() {
    soon(async {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            let text = refused(Pool::builder().env(name, value)).await;
            assert!(text.contains("variable"), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn wp14_pi40_bad_use_arguments_of_other_types_are_refused_before_they_travel() {
    const WRONG: Task<(String,), i64> = Task::new("add");
    const WRONG_RESULT: Task<(i64, i64), String> = Task::new("add");
    soon(async {
        let pool = pool_of(1).await;
        for error in [
            pool.call(WRONG.call(("text".to_owned(),)))
                .await
                .unwrap_err(),
            pool.call(WRONG_RESULT.call((1, 2))).await.unwrap_err(),
        ] {
            assert_eq!(error.rejected(), Some(ErrorKind::BadArguments), "{error:?}");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("add") && cause.contains("i64"), "{cause}");
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp14_pi40_bad_use_json_of_another_shape_is_refused_and_spares_the_worker() {
    soon(async {
        let pool = pool_of(1).await;
        let before = pids(&pool);
        let json = |args: serde_json::Value| Call::<i64>::json("add", &args);
        for args in [
            "[1]",
            "[1,2,3]",
            "[\"1\",2]",
            "{}",
            "null",
            "7",
            "[1.5,2]",
            "[9223372036854775808,0]",
        ] {
            let error = pool
                .call(json(serde_json::from_str(args).unwrap()))
                .await
                .unwrap_err();
            assert_eq!(
                error.rejected(),
                Some(ErrorKind::BadArguments),
                "{args}: {error:?}"
            );
        }
        let other_result: CallHandle<String> = pool.call(Call::json("add", &(1, 2)));
        assert_eq!(
            other_result.await.unwrap_err().rejected(),
            Some(ErrorKind::Decode)
        );
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        assert_eq!(pids(&pool), before);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp14_pi40_bad_use_names_and_times_that_cannot_be_are_refused() {
    soon(async {
        let pool = pool_of(1).await;
        for name in [String::new(), "x".repeat(257)] {
            let error = pool.call(Call::<i64>::json(name, &())).await.unwrap_err();
            assert_eq!(error.rejected(), Some(ErrorKind::BadOption), "{error}");
        }
        let longest = pool
            .call(Call::<i64>::json("x".repeat(256), &()))
            .await
            .unwrap_err();
        assert_eq!(longest.rejected(), Some(ErrorKind::UnknownTask));
        let no_time = pool
            .call(add(1, 2).timeout(Duration::ZERO))
            .await
            .unwrap_err();
        assert_eq!(no_time.rejected(), Some(ErrorKind::BadOption));
        pool.shutdown().await;
    })
    .await;
}

/// Encoded, a byte string has its length before it: two bytes for lengths from 128 to 16,383.
const LENGTH_BYTES: usize = 3;

#[tokio::test]
async fn bad_use_an_argument_at_the_limit_goes_and_one_past_it_does_not() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .payload_max(4096)
            .start()
            .await
            .unwrap();
        // A list of one argument.
        let fits = 4096 - LENGTH_BYTES - 1;
        let text = pool
            .run(|bytes: Bytes| bytes.len(), (Bytes::from(vec![7; fits]),))
            .await
            .unwrap();
        assert_eq!(text, fits);
        let error = pool.call(echo(vec![7; fits + 1].into())).await.unwrap_err();
        assert_eq!(error.rejected(), Some(ErrorKind::TooLarge));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            cause.contains("4097 bytes") && cause.contains("4096") && cause.contains("payload_max"),
            "{cause}"
        );
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn bad_use_a_result_at_the_limit_comes_and_one_past_it_does_not_and_spares_the_worker() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .payload_max(4096)
            .start()
            .await
            .unwrap();
        let before = pids(&pool);
        let fits = 4096 - LENGTH_BYTES;
        assert_eq!(pool.call(zeros(fits)).await.unwrap().len(), fits);
        for count in [fits + 1, 1 << 24] {
            let error = pool.call(zeros(count)).await.unwrap_err();
            assert_eq!(error.rejected(), Some(ErrorKind::TooLarge));
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(
                cause.contains("4096") && cause.contains("zeros") && cause.contains("payload_max"),
                "{cause}"
            );
        }
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        assert_eq!(pids(&pool), before);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn bad_use_panic_messages_and_errors_of_any_size_are_carried() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .payload_max(1024)
            .start()
            .await
            .unwrap();
        let call = Call::of(
            |count: usize| -> () { panic!("{}", "x".repeat(count)) },
            &(1_usize << 20,),
        )
        .capture(1);
        let error = pool.call(call).await.unwrap_err();
        assert!(matches!(error, CallError::Panicked(_)), "{error:?}");
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[test]
fn bad_use_a_pool_outside_of_a_runtime_is_refused() {
    let started = futures_util::FutureExt::now_or_never(Pool::builder().start());
    assert_eq!(started.unwrap().unwrap_err().kind(), ErrorKind::Unsupported);
}
