//! Events of `tracing` in workers.

#![expect(clippy::disallowed_methods, reason = "tasks spawn as users' tasks do")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use brigade::{Call, Context, Pool, task};
use tracing::dispatcher::DefaultGuard;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::probe::soon;
use crate::tasks::add;

/// Keeps events of levels up to debug that come from this file.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

#[derive(Clone, Debug)]
struct Line {
    level: Level,
    target: String,
    file: Option<String>,
    fields: BTreeMap<String, String>,
}

impl Line {
    fn message(&self) -> &str {
        &self.fields["message"]
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields
            .insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let (level, target, file) = (
            *metadata.level(),
            metadata.target().to_owned(),
            metadata.file().map(str::to_owned),
        );
        let mut line = Line {
            level,
            target,
            file,
            fields: BTreeMap::new(),
        };
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Lines {
    fn listen() -> (Self, DefaultGuard) {
        let lines = Self::default();
        let guard = tracing::subscriber::set_default(lines.clone());
        (lines, guard)
    }

    /// What came from tasks and hooks of this file.
    fn take(&self) -> Vec<Line> {
        let lines = std::mem::take(&mut *self.0.lock().unwrap());
        lines
            .into_iter()
            .filter(|line| line.target.starts_with(module_path!()))
            .collect()
    }

    fn all(&self) -> Vec<Line> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
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
    let own = Lines::default();
    tracing::subscriber::with_default(own.clone(), || tracing::info!("for itself"));
    tracing::info!("for the host");
    own.take()
        .iter()
        .map(|line| line.message().to_owned())
        .collect()
}

static GLOBAL: Mutex<Option<Lines>> = Mutex::new(None);

/// Sets the subscriber of the whole process the first time, as `tracing_subscriber::fmt().init()`
/// does. Returns what it got so far.
#[task]
fn sets_the_global_subscriber() -> Vec<String> {
    let mut global = GLOBAL.lock().unwrap();
    if global.is_none() {
        let own = Lines::default();
        tracing::subscriber::set_global_default(own.clone()).expect("Brigade has not set it");
        *global = Some(own);
    }
    tracing::info!("who gets this?");
    global
        .as_ref()
        .unwrap()
        .take()
        .iter()
        .map(|line| line.message().to_owned())
        .collect()
}

fn hook() -> Result<(), std::io::Error> {
    tracing::info!("from the init hook");
    Ok(())
}

/// Checks the fields of the event that `logs("sda")` sends: its own, and those that the pool adds.
fn assert_fields(event: &Line, call: &str) {
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
        let (lines, _guard) = Lines::listen();
        let pool = Pool::builder()
            .workers(1)
            .init(hook, &())
            .start()
            .await
            .unwrap();
        pool.call(add(1, 2)).await.unwrap();
        let [line] = &lines.take()[..] else {
            panic!("one event of the hook")
        };
        assert_eq!(
            (line.message(), line.fields["worker"].as_str()),
            ("from the init hook", "1")
        );

        let call = pool.call(logs("sda".to_owned()));
        let id = call.id().unwrap().to_string();
        call.await.unwrap();
        let [warning, info] = &lines.take()[..] else {
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
        let events = lines.take();
        let messages: Vec<_> = events.iter().map(Line::message).collect();
        assert_eq!(
            messages,
            ["in the task", "in a spawned one", "in a blocking one"]
        );
        assert!(
            events
                .iter()
                .all(|line| line.fields["task"] == "\"logs_async\""),
            "{events:?}"
        );

        // A warning of Brigade's own in a worker.
        pool.call(too_much_progress()).await.unwrap();
        assert!(
            lines
                .all()
                .iter()
                .any(|line| line.message().starts_with("progress was dropped")),
            "there is a warning"
        );
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn the_level_of_events_is_set_by_the_builder() {
    soon(async {
        let (lines, _guard) = Lines::listen();
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
                assert_eq!(lines.take().len(), expected, "{level}, {slots} slots");
                pool.shutdown().await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_of_the_task_comes_first() {
    soon(async {
        let (lines, _guard) = Lines::listen();
        let pool = Pool::builder().workers(1).start().await.unwrap();
        assert_eq!(pool.call(logs_to_itself()).await.unwrap(), ["for itself"]);
        let [line] = &lines.take()[..] else {
            panic!("one event")
        };
        assert_eq!(line.message(), "for the host");
        pool.call(sets_the_global_subscriber()).await.unwrap();
        lines.take();
        for _ in 0..2 {
            assert_eq!(
                pool.call(sets_the_global_subscriber()).await.unwrap(),
                ["who gets this?"]
            );
        }
        assert!(lines.take().is_empty());
        pool.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_events_is_cut_and_what_is_missing_is_counted() {
    soon(async {
        let (lines, _guard) = Lines::listen();
        let pool = Pool::builder().workers(1).start().await.unwrap();
        let count = 20_000;
        let flood: Call<()> = floods(count);
        pool.call(flood).await.unwrap();
        let all = lines.all();
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
