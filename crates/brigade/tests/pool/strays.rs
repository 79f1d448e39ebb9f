//! Programs that are no workers: the caller who starts them soon gets an error, and nothing is left
//! of them.

use std::time::Duration;

use brigade::{ErrorKind, Event, Pool};

use crate::probe::{event, soon, until};
use crate::tasks::*;

const SHORT: Duration = Duration::from_millis(200);

/// Process ids of this process's children that run a program of that name.
fn children_called(name: &str) -> Vec<u32> {
    let own = std::process::id().to_string();
    let is_it = |pid: &u32| {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return false;
        };
        let Some((head, tail)) = stat.rsplit_once(") ") else {
            return false;
        };
        head.ends_with(&format!("({name}")) && tail.split(' ').nth(1) == Some(&own)
    };
    let entries = std::fs::read_dir("/proc").expect("proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(is_it)
        .collect()
}

#[tokio::test]
async fn wx3_bad_use_a_program_without_init_runs_into_the_start_timeout_and_is_gone() {
    soon(async {
        let error = Pool::builder()
            .workers(1)
            .program("/bin/sleep", ["60"])
            .start_timeout(SHORT)
            .start()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotStart);
        let text = error.to_string();
        assert!(
            text.contains("200ms") && text.contains("brigade::init()"),
            "{text}"
        );
        until("no sleep is left", || children_called("sleep").is_empty()).await;
    })
    .await;
}

#[tokio::test]
async fn wx3_lb10_calls_that_wait_for_workers_that_never_start_are_told() {
    soon(async {
        let pool = Pool::builder()
            .workers(0..=1)
            .program("/bin/sleep", ["61"])
            .start_timeout(SHORT)
            .start()
            .await
            .unwrap();
        let mut events = pool.events();
        assert_eq!(
            pool.call(add(1, 2)).await.unwrap_err().rejected(),
            Some(ErrorKind::CannotStart)
        );
        event(&mut events, |event| {
            matches!(event, Event::Degraded { .. }).then_some(())
        })
        .await;
        assert!(pool.stats().degraded.unwrap().contains("200ms"));
        assert_eq!(
            pool.call(add(1, 2)).await.unwrap_err().rejected(),
            Some(ErrorKind::CannotStart),
            "at once, now"
        );
        assert_eq!(
            pool.ready(1).await.unwrap_err().kind(),
            ErrorKind::CannotStart
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn wx3_bad_use_a_program_that_ends_at_once_or_is_not_there_is_told_with_its_end() {
    soon(async {
        let error = Pool::builder()
            .workers(1)
            .program("/bin/sh", ["-c", "echo sorry >&2; exit 3"])
            .start()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotStart);
        assert!(
            error.to_string().contains("exit code 3") && error.to_string().contains("sorry"),
            "{error}"
        );
        let error = Pool::builder()
            .workers(1)
            .program("/no/program", [""; 0])
            .start()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotStart);
        assert!(error.to_string().contains("/no/program"), "{error}");
    })
    .await;
}
