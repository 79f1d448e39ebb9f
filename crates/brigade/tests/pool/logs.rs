//! Events of `tracing` in workers.

#![expect(clippy::disallowed_methods, reason = "tasks spawn as users' tasks do")]

use std::sync::Mutex;

use brigade::{Call, Context, Pool, task};
use brigade_testkit::log_events::{LogEvent, LogEvents};
use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::probe::soon;
use crate::tasks::add;

/// What came from tasks and hooks of this file.
fn own(events: &LogEvents) -> Vec<LogEvent> {
    let mut events = events.take();
    events.retain(|event| event.target.starts_with(module_path!()));
    events
}

#[task]
fn logs(disk: String) {
    tracing::warn!(
        disk,
        free = 3_u64,
        ratio = 0.5,
        full = false,
        worker = "mine",
        "nearly full: {}",
        97
    );
    tracing::info!(name: "named", "second");
    tracing::debug!("a detail");
}

#[task]
async fn logs_async() {
    tracing::info!("in the task");
    tokio::spawn(async { tracing::info!("in a spawned one") })
        .await
        .unwrap();
    tokio::task::spawn_blocking(|| tracing::info!("in a blocking one"))
        .await
        .unwrap();
}

#[task]
fn too_much_progress(cx: &Context) {
    cx.progress(0.5, vec![0_u8; 100 << 10]);
}

#[task]
fn floods(count: u32) {
    for number in 0..count {
        tracing::info!(number, "flood");
    }
}

/// Has a subscriber of its own for a while. Returns what that got.
#[task]
fn logs_to_itself() -> Vec<String> {
    let events = LogEvents::default();
    tracing::subscriber::with_default(events.clone(), || tracing::info!("for itself"));
    tracing::info!("for the host");
    messages(&events)
}

/// The messages of what came from this file.
fn messages(events: &LogEvents) -> Vec<String> {
    own(events)
        .iter()
        .map(|event| event.message().to_owned())
        .collect()
}

static GLOBAL: Mutex<Option<LogEvents>> = Mutex::new(None);

/// Sets the subscriber of the whole process the first time, as `tracing_subscriber::fmt().init()`
/// does. Returns what it got so far.
#[task]
fn sets_the_global_subscriber() -> Vec<String> {
    let mut global = GLOBAL.lock().unwrap();
    if global.is_none() {
        let events = LogEvents::default();
        tracing::subscriber::set_global_default(events.clone()).expect("Brigade has not set it");
        *global = Some(events);
    }
    tracing::info!("who gets this?");
    messages(global.as_ref().unwrap())
}

fn hook() -> Result<(), std::io::Error> {
    tracing::info!("from the init hook");
    Ok(())
}

/// Checks the fields of the event that `logs("sda")` sends: its own, and those that the pool adds.
fn assert_fields(event: &LogEvent, call: &str) {
    let expected = [
        ("disk", "\"sda\""),
        ("free", "3"),
        ("ratio", "0.5"),
        ("full", "false"),
        ("worker", "\"mine\""),
        ("brigade.worker", "1"),
        ("call", call),
        ("task", "\"logs\""),
        ("attempt", "1"),
    ];
    for (name, value) in expected {
        assert_eq!(
            event.fields.get(name).map(String::as_str),
            Some(value),
            "{name}: {event:?}"
        );
    }
}

#[tokio::test]
async fn events_of_a_worker_reach_the_subscriber_of_the_host() {
    soon(async {
        let (events, _guard) = LogEvents::listen();
        let pool = Pool::builder()
            .workers(1)
            .init(hook, &())
            .start()
            .await
            .unwrap();
        pool.call(add(1, 2)).await.unwrap();
        let [line] = &own(&events)[..] else {
            panic!("one event of the hook")
        };
        assert_eq!(
            (line.message(), line.fields["worker"].as_str()),
            ("from the init hook", "1")
        );

        let call = pool.call(logs("sda".to_owned()));
        let id = call.id().unwrap().to_string();
        call.await.unwrap();
        let [warning, info] = &own(&events)[..] else {
            panic!("two events, as debug is not sent by default")
        };
        assert_eq!(
            (warning.level, warning.message()),
            (Level::WARN, "nearly full: 97")
        );
        assert_eq!((info.level, info.message()), (Level::INFO, "second"));
        assert!(
            warning
                .file
                .as_ref()
                .is_some_and(|file| file.ends_with("tests/pool/logs.rs")),
            "{warning:?}"
        );
        assert_fields(warning, &id);

        pool.call(logs_async()).await.unwrap();
        let logged = own(&events);
        let messages: Vec<_> = logged.iter().map(LogEvent::message).collect();
        assert_eq!(
            messages,
            ["in the task", "in a spawned one", "in a blocking one"]
        );
        assert!(
            logged
                .iter()
                .all(|event| event.fields["task"] == "\"logs_async\""),
            "{logged:?}"
        );

        // A warning of Brigade's own in a worker.
        pool.call(too_much_progress()).await.unwrap();
        assert!(
            events
                .take()
                .iter()
                .any(|event| event.message().starts_with("progress was dropped")),
            "there is a warning"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn the_level_of_events_is_set_by_the_builder() {
    soon(async {
        let (events, _guard) = LogEvents::listen();
        for (level, expected) in [
            (LevelFilter::OFF, 0),
            (LevelFilter::WARN, 1),
            (LevelFilter::INFO, 2),
            (LevelFilter::TRACE, 3),
        ] {
            for slots in [1, 4] {
                let pool = Pool::builder()
                    .workers(1)
                    .slots(slots)
                    .logs(level)
                    .start()
                    .await
                    .unwrap();
                pool.call(logs("sda".to_owned())).await.unwrap();
                assert_eq!(own(&events).len(), expected, "{level}, {slots} slots");
                pool.shutdown().await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_of_the_task_comes_first() {
    soon(async {
        let (events, _guard) = LogEvents::listen();
        let pool = Pool::builder().workers(1).start().await.unwrap();
        assert_eq!(pool.call(logs_to_itself()).await.unwrap(), ["for itself"]);
        let [line] = &own(&events)[..] else {
            panic!("one event")
        };
        assert_eq!(line.message(), "for the host");
        pool.call(sets_the_global_subscriber()).await.unwrap();
        events.take();
        for _ in 0..2 {
            assert_eq!(
                pool.call(sets_the_global_subscriber()).await.unwrap(),
                ["who gets this?"]
            );
        }
        assert!(own(&events).is_empty());
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_events_is_cut_and_what_is_missing_is_counted() {
    soon(async {
        let (events, _guard) = LogEvents::listen();
        let pool = Pool::builder().workers(1).start().await.unwrap();
        let count = 20_000;
        let flood: Call<()> = floods(count);
        pool.call(flood).await.unwrap();
        let all = events.take();
        let came = all.iter().filter(|line| line.message() == "flood").count();
        let dropped = all
            .iter()
            .filter_map(|line| line.fields.get("dropped")?.parse::<usize>().ok());
        assert_eq!(came + dropped.sum::<usize>(), count as usize);
        assert!(came >= 1_000, "{came}");
        // It goes on.
        pool.call(add(1, 2)).await.unwrap();
        pool.shutdown().await;
    })
    .await;
}
