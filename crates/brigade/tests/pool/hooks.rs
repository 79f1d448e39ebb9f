//! State that each worker builds before its first call and tears down after its last.

use std::time::Duration;

use brigade::{Context, ErrorKind, Failure, Pool, task};
use futures_util::future::join_all;

use crate::gate::{self, Gate};
use crate::probe::{pids, soon};
use crate::tasks::*;

struct Log {
    path: String,
    greeting: String,
}

fn open(path: String, greeting: String) -> Result<Log, Failure> {
    append(&path, &format!("init {}", std::process::id()));
    Ok(Log { path, greeting })
}

fn close(log: &Log) {
    append(&log.path, &format!("teardown {}", std::process::id()));
}

#[task]
fn greet(cx: &Context, name: String) -> String {
    format!("{} {name}", cx.state::<Log>().greeting)
}

#[task]
fn has_state(cx: &Context) -> bool {
    cx.try_state::<Log>().is_some() || cx.try_state::<u8>().is_some()
}

fn lines(path: &str, first_word: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix(first_word)?.trim().parse().ok())
        .collect()
}

#[tokio::test]
async fn wp4_wp5_wp49_pi36_hooks_run_once_in_each_worker_with_their_arguments() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log").to_str().unwrap().to_owned();
        let builder = Pool::builder()
            .workers(3)
            .init(open, &(path.clone(), "hello".to_owned()))
            .teardown(close);
        let pool = builder.start().await.unwrap();
        for _ in 0..10 {
            assert_eq!(
                pool.call(greet("you".to_owned())).await.unwrap(),
                "hello you"
            );
        }
        let mut workers = pids(&pool);
        assert!(lines(&path, "teardown").is_empty());
        pool.shutdown().await;
        workers.sort_unstable();
        for word in ["init", "teardown"] {
            let mut ran = lines(&path, word);
            ran.sort_unstable();
            assert_eq!(ran, workers, "{word}");
        }
    })
    .await;
}

#[tokio::test]
async fn tp2_teardown_runs_when_a_worker_is_recycled() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log").to_str().unwrap().to_owned();
        let builder = Pool::builder()
            .workers(1)
            .init(open, &(path.clone(), String::new()))
            .teardown(close)
            .fresh_per_call();
        let pool = builder.start().await.unwrap();
        let first = pool.call(pid()).await.unwrap();
        let second = pool.call(pid()).await.unwrap();
        assert_ne!(first, second);
        pool.shutdown().await;
        let ended = lines(&path, "teardown");
        assert!(
            ended.contains(&first) && ended.contains(&second),
            "{ended:?}"
        );
        assert_eq!(lines(&path, "init").len(), ended.len());
    })
    .await;
}

fn open_slowly(gate: String) -> Result<u8, Failure> {
    gate::pass(&gate, 7);
    Ok(7)
}

#[tokio::test]
async fn wp12_calls_wait_for_a_worker_whose_init_takes_long() {
    soon(async {
        let gate = Gate::new();
        let pool = Pool::builder()
            .workers(0..=1)
            .init(open_slowly, &(gate.path(),))
            .start()
            .await
            .unwrap();
        let calls: Vec<_> = (0..3).map(|n| pool.call(add(n, n))).collect();
        let arrival = gate.arrival().await;
        assert_eq!((pool.stats().starting, pool.stats().waiting), (1, 3));
        drop(arrival);
        for (n, end) in (0..).zip(join_all(calls).await) {
            assert_eq!(end.unwrap(), 2 * n);
        }
        assert!(pool.call(has_state()).await.unwrap());
        pool.shutdown().await;
    })
    .await;
}

fn hang_in_teardown(log: &Log) {
    append(&log.path, "begun");
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn wp49_a_teardown_that_takes_too_long_is_ended() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log").to_str().unwrap().to_owned();
        let builder = Pool::builder()
            .workers(1)
            .init(open, &(path.clone(), String::new()))
            .teardown(hang_in_teardown);
        let pool = builder
            .teardown_timeout(Duration::from_millis(100))
            .start()
            .await
            .unwrap();
        let worker = pids(&pool)[0];
        assert!(pool.shutdown().await.drained);
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("begun\n"));
        assert!(!crate::probe::exists(worker));
    })
    .await;
}

#[tokio::test]
async fn pi36_bad_use_an_init_that_fails_or_panics_is_told_when_the_pool_starts() {
    soon(async {
        let fails = Pool::builder()
            .workers(1)
            .init(|| Err::<u8, _>(Failure::new("no database")), &());
        let panics = Pool::builder()
            .workers(1)
            .init(|| -> Result<u8, Failure> { panic!("no database") }, &());
        for builder in [fails, panics] {
            let error = builder.start().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CannotStart);
            assert!(error.to_string().contains("no database"), "{error}");
        }
    })
    .await;
}

fn ignore(_: Unfit) -> Result<u8, Failure> {
    Ok(0)
}

#[tokio::test]
async fn pi36_bad_use_arguments_of_init_that_cannot_be_written_are_refused() {
    soon(async {
        let error = Pool::builder()
            .workers(1)
            .init(ignore, &(Unfit,))
            .start()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadOption);
        assert!(error.to_string().contains("init hook"), "{error}");
    })
    .await;
}
