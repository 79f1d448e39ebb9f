//! Events of `tracing` in a worker: sent to the pool, whose program has the subscriber.
//!
//! A subscriber of the task's own comes first. Brigade never sets the global one, so a task or the
//! init hook may; it sets a default for the threads that run attempts, and only while there is no
//! global one. Spans do not travel.
//!
//! Events are bounded: each in size, and all of them in number by a bucket of [`BURST`] that
//! refills at [`PER_SECOND`]. What does not fit is counted, and the count goes out with the next
//! event or at the end of the attempt. Events before the worker is ready (those of the init hook)
//! wait in memory, up to [`EARLY_BYTES_MAX`].
//!
//! Where the host listens to nothing, there is no subscriber here either, and an event costs what
//! it costs without one.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use tracing::dispatcher::{self, DefaultGuard, Dispatch};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, NoSubscriber, Subscriber};
use tracing::{Event, Level, Metadata};

use super::crash_note;
use super::serve::Worker;
use crate::codec::Codec;
use crate::sync::lock;
use crate::wire::{FIELDS_MAX, LogEvent, LogRecord, LogValue, VALUE_BYTES_MAX, kind};

/// Events at once.
const BURST: u32 = 1_000;
/// Events in the long run, per second.
const PER_SECOND: u32 = 1_000;
const EARLY_BYTES_MAX: usize = 256 << 10;

static DISPATCH: OnceLock<Dispatch> = OnceLock::new();
static WORKER: OnceLock<Arc<Worker>> = OnceLock::new();
static EARLY: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Whether a task set a global subscriber.
static OWN: AtomicBool = AtomicBool::new(false);

thread_local! {
    static GUARD: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
}

/// Gets ready to send events up to this level: 0 none, 1 errors, 5 all.
pub(super) fn install(level: u8) {
    if let Some(level) = level_of(level) {
        let forwarder = Forwarder {
            level,
            bucket: Mutex::new(Bucket {
                left: f64::from(BURST),
                at: Instant::now(),
            }),
        };
        DISPATCH.set(Dispatch::new(forwarder)).ok();
    }
}

fn level_of(number: u8) -> Option<Level> {
    [
        Level::ERROR,
        Level::WARN,
        Level::INFO,
        Level::DEBUG,
        Level::TRACE,
    ]
    .into_iter()
    .nth(usize::from(number).checked_sub(1)?)
}

/// What is to be sent goes through this worker from now on.
pub(super) fn connect(worker: &Arc<Worker>) {
    if DISPATCH.get().is_some() {
        WORKER.set(Arc::clone(worker)).ok();
        let early = std::mem::take(&mut *lock(&EARLY));
        for body in early {
            worker.send(kind::LOG, 0, &body);
        }
    }
}

/// Events of this thread are sent until the guard is dropped, unless the program has a subscriber.
pub(super) fn enter() -> Option<DefaultGuard> {
    let dispatch = DISPATCH.get()?;
    let own = dispatcher::get_default(|current| !current.is::<NoSubscriber>());
    if own {
        OWN.store(true, Ordering::Relaxed);
        return None;
    }
    Some(dispatcher::set_default(dispatch))
}

/// As [`enter`], for a thread of the runtime, until it ends.
pub(super) fn enter_thread() {
    GUARD.set(enter());
}

/// Lets go of a thread of the runtime if a task has set a subscriber since.
pub(super) fn look_again() {
    if OWN.load(Ordering::Relaxed) {
        GUARD.set(None);
    }
}

/// Sends how many events were dropped, if any were.
pub(super) fn report_dropped(call: u64) {
    if DROPPED.load(Ordering::Relaxed) > 0 {
        send(
            call,
            &LogRecord {
                dropped: DROPPED.swap(0, Ordering::Relaxed),
                event: None,
            },
        );
    }
}

fn send(call: u64, record: &LogRecord<'_>) {
    let Ok(body) = Codec::Postcard.encode(record) else {
        return;
    };
    let Some(worker) = WORKER.get() else {
        let mut early = lock(&EARLY);
        if early.iter().map(Vec::len).sum::<usize>() + body.len() <= EARLY_BYTES_MAX {
            early.push(body.to_vec());
        } else {
            DROPPED.fetch_add(1 + record.dropped, Ordering::Relaxed);
        }
        return;
    };
    worker.send(kind::LOG, call, &body);
    if worker.is_shared() {
        worker.flush();
    }
}

struct Forwarder {
    level: Level,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Forwarder {
    fn has_room(&self) -> bool {
        let mut bucket = lock(&self.bucket);
        let now = Instant::now();
        let refill = (now - bucket.at).as_secs_f64() * f64::from(PER_SECOND);
        bucket.left = (bucket.left + refill).min(f64::from(BURST));
        bucket.at = now;
        let room = bucket.left >= 1.0;
        if room {
            bucket.left -= 1.0;
        }
        room
    }
}

impl Subscriber for Forwarder {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        if !self.has_room() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let metadata = event.metadata();
        let mut fields = Fields(Vec::with_capacity(FIELDS_MAX.min(metadata.fields().len())));
        event.record(&mut fields);
        let worker = WORKER.get();
        let call = match crash_note::current() {
            0 => worker.and_then(|worker| worker.only_call()).unwrap_or(0),
            call => call,
        };
        let attempt = worker.and_then(|worker| worker.attempt_of(call));
        let event = LogEvent {
            level: level_number(*metadata.level()),
            name: metadata.name().into(),
            target: metadata.target().into(),
            module: metadata.module_path().map(Cow::Borrowed),
            file: metadata.file().map(Cow::Borrowed),
            line: metadata.line(),
            attempt: attempt.map(|(task, attempt)| (task.into(), attempt)),
            fields: fields.0,
        };
        send(
            call,
            &LogRecord {
                dropped: DROPPED.swap(0, Ordering::Relaxed),
                event: Some(event),
            },
        );
    }

    // Spans are not enabled; one that is asked for all the same has this id.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn level_number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

struct Fields(Vec<(Cow<'static, str>, LogValue)>);

impl Fields {
    fn add(&mut self, field: &Field, value: LogValue) {
        if self.0.len() < FIELDS_MAX {
            self.0.push((field.name().into(), value));
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, LogValue::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, LogValue::I64(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, LogValue::U64(value));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.add(field, LogValue::I128(value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, LogValue::U128(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, LogValue::F64(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, LogValue::Text(text(format_args!("{value}"))));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, LogValue::Shown(text(format_args!("{value:?}"))));
    }
}

/// Writes a value and stops at the limit, which `..` at the end shows.
fn text(value: fmt::Arguments<'_>) -> String {
    struct Cut(String);
    impl fmt::Write for Cut {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = part.floor_char_boundary(VALUE_BYTES_MAX - self.0.len());
            self.0.push_str(&part[..room]);
            if room < part.len() {
                Err(fmt::Error)
            } else {
                Ok(())
            }
        }
    }
    let mut cut = Cut(String::new());
    if fmt::write(&mut cut, value).is_err() {
        cut.0.push_str("..");
    }
    cut.0
}
