//! Log events of Brigade, for cases that check them. The test kit of the workspace has the same for
//! tests, but it is not published and this crate is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::{self, Write as _};
use std::sync::{Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// One line per event.
#[derive(Clone, Copy)]
pub(crate) struct Log(&'static Mutex<Vec<String>>);

/// Begins to listen, for the whole process: brokers have threads of their own.
pub(crate) fn start() -> Log {
    static LINES: OnceLock<Mutex<Vec<String>>> = OnceLock::new();
    Log(LINES.get_or_init(|| {
        tracing::subscriber::set_global_default(LogListener).unwrap();
        Mutex::default()
    }))
}

impl Log {
    /// Some event has all of these words.
    #[track_caller]
    pub(crate) fn has(self, words: &[&str]) {
        let lines = self.0.lock().unwrap();
        assert!(
            lines
                .iter()
                .any(|line| words.iter().all(|word| line.contains(word))),
            "{words:?} in {lines:#?}"
        );
    }
}

struct LogListener;

struct LoggedLine(String);

impl Visit for LoggedLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for LogListener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("brigade")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = LoggedLine(event.metadata().level().to_string());
        event.record(&mut line);
        start().0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
