//! One call: arguments there, result or error back.

use std::collections::BTreeMap;

use brigade::{Bytes, Call, CallError, ErrorKind, Event, Pool, Task};
use futures_util::future::join_all;

use crate::gate::Gate;
use crate::probe::{event, pids, pool_of, soon};
use crate::tasks::*;

#[tokio::test]
async fn wp1_l1_l2_a_function_runs_in_another_process_and_returns_its_values() {
    soon(async {
        let pool = pool_of(1).await;
        assert_eq!(pool.call(add(3, 4)).await.unwrap(), 7);
        assert_ne!(pool.call(pid()).await.unwrap(), std::process::id());
        let expected = (
            None,
            -1,
            "text".to_owned(),
            true,
            BTreeMap::from([("key".to_owned(), vec![1, 2])]),
        );
        assert_eq!(pool.call(five_results()).await.unwrap(), expected);
        pool.shutdown().await;
    })
    .await;
}

fn multiply(a: i64, b: i64) -> i64 {
    a * b
}

#[tokio::test]
async fn wp11_pi34_pi35_named_tasks_and_any_function_run_in_one_worker() {
    soon(async {
        let pool = pool_of(1).await;
        assert_eq!(pool.call(add(3, 4)).await.unwrap(), 7);
        assert_eq!(pool.run(multiply, (3, 4)).await.unwrap(), 12);
        assert_eq!(
            pool.run(|text: String| text.len(), ("four".to_owned(),))
                .await
                .unwrap(),
            4
        );
        let json = Call::of_json(
            |value: serde_json::Value| value,
            &(serde_json::json!({"a": [1]}),),
        );
        assert_eq!(pool.call(json).await.unwrap()["a"][0], 1);
        assert_eq!(pool.stats().started, 1, "one worker did it all");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp13_a_constant_is_a_proxy_for_a_task_whose_code_is_elsewhere() {
    const ADD: Task<(i64, i64), i64> = Task::new("add");
    const ANSWER: Task<(bool,), i64> = Task::new("answer_or_fail");
    soon(async {
        let pool = pool_of(1).await;
        assert_eq!(pool.call(ADD.call((20, 22))).await.unwrap(), 42);
        assert_eq!(pool.call(ANSWER.call((false,))).await.unwrap(), 42);
        assert_eq!(
            pool.call(Call::<i64>::json("add", &(1, 2))).await.unwrap(),
            3
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp15_l3_many_requests_in_flight_on_one_worker_find_their_callers() {
    soon(async {
        let pool = Pool::builder().workers(1).slots(16).start().await.unwrap();
        let gate = Gate::new();
        let mut held: Vec<_> = (0..8).map(|id| pool.call(hold(gate.path(), id))).collect();
        let arrivals = gate.arrivals(8).await;
        let sums = join_all((0..200).map(|n| pool.call(add(n, n)))).await;
        for (n, sum) in (0..).zip(sums) {
            assert_eq!(sum.unwrap(), 2 * n);
        }
        drop(arrivals);
        for (id, handle) in (0..).zip(&mut held) {
            assert_eq!(handle.await.unwrap(), id);
        }
        assert_eq!(pool.stats().started, 1);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp16_an_async_task_gives_its_value_or_its_error() {
    soon(async {
        let pool = pool_of(1).await;
        assert_eq!(pool.call(answer_or_fail(false)).await.unwrap(), 42);
        let CallError::Failed(failure) = pool.call(answer_or_fail(true)).await.unwrap_err() else {
            panic!("it failed")
        };
        assert_eq!(failure.message, "rejected");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp17_tp13_an_error_arrives_with_message_type_and_sources() {
    soon(async {
        let pool = pool_of(1).await;
        let error = pool.call(fail_with_source()).await.unwrap_err();
        assert!(error.to_string().contains("the outer error"), "{error}");
        let CallError::Failed(failure) = error else {
            panic!("it failed: {error}")
        };
        assert_eq!(
            (failure.message.as_str(), &*failure.sources),
            ("the outer error", &["the inner error".to_owned()][..])
        );
        assert!(
            failure.type_name.ends_with("Outer"),
            "{}",
            failure.type_name
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp17_a_panic_arrives_with_message_and_place_and_spares_the_worker() {
    soon(async {
        let pool = pool_of(1).await;
        let before = pids(&pool);
        let error = pool
            .call(panic_with("out of luck".to_owned()))
            .await
            .unwrap_err();
        let CallError::Panicked(report) = &error else {
            panic!("it panicked: {error}")
        };
        let brigade::AttemptOutcome::Panicked { message, location } = &report.ended else {
            panic!("{report:?}")
        };
        assert_eq!(message, "out of luck");
        assert!(location.contains("tasks.rs:"), "{location}");
        assert!(matches!(
            pool.call(panic_without_text()).await,
            Err(CallError::Panicked(_))
        ));
        assert_eq!(pool.call(add(1, 1)).await.unwrap(), 2);
        assert_eq!(pids(&pool), before);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp19_data_in_an_error_arrives_with_its_fields() {
    soon(async {
        let pool = pool_of(1).await;
        let CallError::Failed(failure) = pool.call(fail_with_details()).await.unwrap_err() else {
            panic!("it failed")
        };
        let details = failure.details().unwrap();
        assert_eq!(
            (&details["value"], &details["nested"]["list"][1]),
            (&42.into(), &serde_json::Value::Null)
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wx4_an_error_that_says_nothing_or_never_ends_is_still_an_error_and_spares_the_worker() {
    soon(async {
        let pool = pool_of(1).await;
        let before = pids(&pool);
        let CallError::Failed(failure) = pool.call(fail_endlessly()).await.unwrap_err() else {
            panic!("it failed")
        };
        assert_eq!(failure.message, "");
        assert!(
            !failure.sources.is_empty() && failure.sources.len() < 100,
            "{}",
            failure.sources.len()
        );
        assert_eq!(pool.call(add(1, 1)).await.unwrap(), 2);
        assert_eq!(pids(&pool), before);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp20_wx7_lb1_lb12_an_unknown_name_is_an_error_that_names_it() {
    soon(async {
        let pool = pool_of(1).await;
        let before = pids(&pool);
        for name in [
            "no_such_task",
            "toString",
            "terminate",
            "shutdown",
            "__invoke",
            "Add",
        ] {
            let error = pool.call(Call::<i64>::json(name, &())).await.unwrap_err();
            assert_eq!(error.rejected(), Some(ErrorKind::UnknownTask), "{name}");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(name), "{cause}");
        }
        assert_eq!(pool.call(add(1, 1)).await.unwrap(), 2);
        assert_eq!(pids(&pool), before);
        pool.shutdown().await;
    })
    .await;
}

/// In the places where names could clash with those of a pool.
mod clashing {
    #[brigade::task]
    pub(super) fn stats() -> u32 {
        1
    }
    #[brigade::task]
    pub(super) fn workers() -> u32 {
        2
    }
}

#[tokio::test]
async fn lb12_a_task_may_have_any_name() {
    soon(async {
        let pool = pool_of(1).await;
        assert_eq!(pool.call(clashing::stats()).await.unwrap(), 1);
        assert_eq!(pool.call(clashing::workers()).await.unwrap(), 2);
        assert_eq!((pool.stats().done, pool.workers().len()), (2, 1));
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wp23_pi39_l9_lb14_binary_data_of_any_length_goes_there_and_back() {
    soon(async {
        let pool = pool_of(1).await;
        let lengths = [
            0,
            1,
            4095,
            4096,
            8191,
            8192,
            8193,
            16_384,
            24_576,
            32_767,
            32_768,
            65_536,
            212_992,
            1 << 20,
            (4 << 20) + 1,
        ];
        for length in lengths {
            let data: Vec<u8> = (0_u8..=250).cycle().take(length).collect();
            let back = pool.call(echo(Bytes::from(data.clone()))).await.unwrap();
            assert!(*back == *data, "{length} bytes came back as they went");
        }
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn l10_lb15_each_call_says_in_which_format_it_is() {
    soon(async {
        let pool = pool_of(1).await;
        let value = serde_json::json!({"list": [1, "two", null], "half": 0.5});
        assert_eq!(pool.call(json_echo(value.clone())).await.unwrap(), value);
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        assert_eq!(
            pool.call(Call::<i64>::json("add", &[1, 2])).await.unwrap(),
            3
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi38_lb3_an_argument_that_cannot_be_written_is_refused_and_takes_no_slot() {
    soon(async {
        let pool = pool_of(1).await;
        for _ in 0..10 {
            let error = pool.call(unfit_argument(Unfit)).await.unwrap_err();
            assert_eq!(error.rejected(), Some(ErrorKind::Encode), "{error}");
            assert_eq!(
                pool.try_call(unfit_argument(Unfit)).unwrap_err().kind(),
                ErrorKind::Encode
            );
        }
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.running, stats.waiting), (1, 0, 0));
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn pi38_bad_use_a_result_that_cannot_be_written_is_told_and_spares_the_worker() {
    soon(async {
        let pool = pool_of(1).await;
        let before = pids(&pool);
        let error = pool.call(unfit_result()).await.unwrap_err();
        assert_eq!(error.rejected(), Some(ErrorKind::Encode), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            cause.contains("unfit_result") && cause.contains("encode"),
            "{cause}"
        );
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        assert_eq!(pids(&pool), before);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn l8_an_answer_that_comes_before_the_caller_waits_is_kept() {
    soon(async {
        let pool = pool_of(1).await;
        let mut events = pool.events();
        let handle = pool.call(add(3, 4));
        let id = handle.id().unwrap();
        event(&mut events, |event| {
            matches!(event, Event::CallEnded { call, .. } if call == id).then_some(())
        })
        .await;
        assert!(handle.is_finished());
        assert_eq!(handle.await.unwrap(), 7);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn lb11_a_caller_that_does_not_read_its_answer_holds_up_nobody() {
    soon(async {
        let pool = Pool::builder().workers(1).slots(4).start().await.unwrap();
        let unread: Vec<_> = (0..20).map(|_| pool.call(zeros(1 << 20))).collect();
        assert_eq!(pool.call(add(3, 4)).await.unwrap(), 7);
        for handle in unread {
            assert_eq!(handle.await.unwrap().len(), 1 << 20);
        }
        pool.shutdown().await;
    })
    .await;
}
