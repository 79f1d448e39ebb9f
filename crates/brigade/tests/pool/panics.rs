//! Message and place of a panic, however it reaches the end of the attempt.

#![expect(clippy::disallowed_methods, reason = "tasks spawn as users' tasks do")]

use std::panic::resume_unwind;
use std::time::Duration;

use brigade::{AttemptOutcome, Call, CallError, Pool, task};

use crate::probe::{pool_of, soon};
use crate::tasks::{add, read_own_file};

#[task]
fn resumed_from_a_scoped_thread() -> u32 {
    std::thread::scope(|scope| {
        scope
            .spawn(|| -> u32 { panic!("the disk {} is full", 3) })
            .join()
            .unwrap_or_else(|payload| resume_unwind(payload))
    })
}

#[task]
fn resumed_literal() -> u32 {
    std::thread::spawn(|| -> u32 { panic!("a literal") })
        .join()
        .unwrap_or_else(|payload| resume_unwind(payload))
}

#[task]
fn resumed_number() -> u32 {
    std::thread::spawn(|| -> u32 { std::panic::panic_any(17_u64) })
        .join()
        .unwrap_or_else(|payload| resume_unwind(payload))
}

#[task]
async fn resumed_from_a_blocking_thread() -> u32 {
    let blocking = tokio::task::spawn_blocking(|| -> u32 { panic!("row 17 is bad") });
    blocking
        .await
        .unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

#[task]
async fn resumed_from_a_spawned_task() -> u32 {
    let spawned = tokio::spawn(async { panic!("row 18 is bad") });
    tokio::task::yield_now().await;
    spawned
        .await
        .unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

#[task]
async fn unwrapped_spawned_task() -> u32 {
    tokio::spawn(async { panic!("row 19 is bad") })
        .await
        .unwrap()
}

#[task]
fn unwrapped_thread() -> u32 {
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(|| -> u32 { panic!("row 20 is bad") })
        .unwrap()
        .join()
        .unwrap()
}

#[task]
fn scoped_and_never_joined() {
    std::thread::scope(|scope| {
        scope.spawn(|| panic!("row 21 is bad"));
    });
}

#[task]
fn resumed_of_its_own_making() {
    resume_unwind(Box::new("made up"));
}

#[task]
fn plain(number: u32) {
    panic!("plain message {number}");
}

#[task]
fn sets_a_hook() {
    std::panic::set_hook(Box::new(|_| {}));
}

#[task]
fn sets_a_hook_and_panics() {
    std::panic::set_hook(Box::new(|_| {}));
    panic!("after the hook");
}

fn hook_of_init() -> Result<(), std::io::Error> {
    // Calls the one before it, as most do.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        eprintln!("[my log] {info}");
        before(info);
    }));
    Ok(())
}

/// Message and place of a call's panic.
async fn told<T: serde::de::DeserializeOwned + Send + std::fmt::Debug + 'static>(
    pool: &Pool,
    call: Call<T>,
) -> (String, String) {
    match pool.call(call).await {
        Err(CallError::Panicked(report)) => match report.ended {
            AttemptOutcome::Panicked { message, location } => (message, location),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_panic_that_was_resumed_has_the_message_and_place_of_its_origin() {
    soon(async {
        let pool = pool_of(1).await;
        for (call, expected) in [
            (resumed_from_a_scoped_thread(), "the disk 3 is full"),
            (resumed_literal(), "a literal"),
            (resumed_number(), "a panic whose payload is not text"),
            (resumed_from_a_blocking_thread(), "row 17 is bad"),
            (resumed_from_a_spawned_task(), "row 18 is bad"),
        ] {
            let (message, place) = told(&pool, call).await;
            assert_eq!(message, expected);
            assert!(
                place.contains("tests/pool/panics.rs:"),
                "{expected}: {place}"
            );
        }
        let (message, place) = told(&pool, resumed_of_its_own_making()).await;
        assert!(
            message == "made up" && place.contains("unknown place"),
            "{message}: {place}"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_panic_because_of_a_thread_that_panicked_says_why_that_did() {
    soon(async {
        let pool = pool_of(1).await;
        for (message, expected) in [
            (
                told(&pool, unwrapped_spawned_task()).await.0,
                "row 19 is bad",
            ),
            (
                told(&pool, unwrapped_thread()).await.0,
                "thread \"reader\" panicked at",
            ),
            (
                told(&pool, scoped_and_never_joined()).await.0,
                "row 21 is bad",
            ),
        ] {
            assert!(message.contains(expected), "{expected}: {message}");
        }
        // Nothing of them is left for a later call.
        assert_eq!(told(&pool, plain(1)).await.0, "plain message 1");
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_panic_is_told_with_its_place_where_the_program_has_a_hook_of_its_own() {
    soon(async {
        let pool = Pool::builder()
            .workers(1)
            .init(hook_of_init, &())
            .start()
            .await
            .unwrap();
        let (message, place) = told(&pool, plain(2)).await;
        assert!(
            message == "plain message 2" && place.contains("tests/pool/panics.rs:"),
            "{message}: {place}"
        );
        let CallError::Panicked(report) = pool.call(plain(3)).await.unwrap_err() else {
            panic!("it panicked")
        };
        assert!(
            report.stderr.contains("[my log]") && report.stderr.contains("plain message 3"),
            "{}",
            report.stderr
        );
        assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_hook_that_a_task_sets_hides_no_message() {
    soon(async {
        let pool = pool_of(1).await;
        pool.call(sets_a_hook()).await.unwrap();
        let (message, place) = told(&pool, plain(4)).await;
        assert!(
            message == "plain message 4" && place.contains("tests/pool/panics.rs:"),
            "{message}: {place}"
        );
        // In the same call, no hook of ours can have seen the place.
        let (message, place) = told(&pool, sets_a_hook_and_panics()).await;
        assert!(
            message == "after the hook" && place.contains("a task replaced the panic hook"),
            "{message}: {place}"
        );
        pool.shutdown().await;
    })
    .await;
}

#[task]
async fn add_async(a: i64, b: i64) -> i64 {
    tokio::spawn(async move { a + b }).await.unwrap()
}

#[tokio::test]
async fn the_first_async_task_of_a_worker_has_its_whole_memory_for_itself() {
    soon(async {
        for slots in [1, 4] {
            let pool = Pool::builder()
                .workers(1)
                .slots(slots)
                .start()
                .await
                .unwrap();
            // As much as the stack of the thread of the runtime.
            assert_eq!(pool.call(add_async(1, 2).memory(2 << 20)).await.unwrap(), 3);
            pool.shutdown().await;
        }
    })
    .await;
}

/// Pages of files come into memory as code runs for the first time; they are not the task's.
#[tokio::test]
async fn pages_of_the_programs_file_do_not_count_as_memory_of_a_call() {
    const LIMIT: u64 = 2 << 20;
    soon(async {
        let pool = Pool::builder().workers(1).start().await.unwrap();
        // Longer than the memory of a limited call goes unmeasured, many times over.
        let call = read_own_file(Duration::from_millis(200)).memory(LIMIT);
        let bytes = pool.call(call).await.unwrap();
        assert!(bytes > LIMIT, "{bytes} bytes of files were resident");
        pool.shutdown().await;
    })
    .await;
}
