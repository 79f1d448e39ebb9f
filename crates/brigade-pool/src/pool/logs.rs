//! Events of `tracing` that workers sent: given to this program's subscriber as if they had
//! happened here.
//!
//! An event needs a static description. One is made for each place in the workers' code that sends
//! events, and kept; there are as many as the program has places of this kind, and [`SITES_MAX`] at
//! most. Events of places beyond that have a description in common, with target and fields as text.
//! To the fields of an event come `worker`, `call`, `task` and `attempt`; where it has one of that
//! name, ours is `brigade.worker` and so on.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, OnceLock};

use tracing::dispatcher;
use tracing::field::{Value, debug};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata};
use tracing_core::callsite::{self, Callsite, Identifier};
use tracing_core::field::{Field, FieldSet};
use tracing_core::metadata::Kind;

use crate::error::{Error, ErrorKind};
use crate::sync::lock;
use crate::wire::{
    Decoder, FIELDS_MAX, Frame, LogEvent, LogRecord, LogValue, NAME_BYTES_MAX, kind,
};

/// Places whose description is kept.
const SITES_MAX: usize = 2_048;
/// What is added to each event.
const OURS: [(&str, &str); 4] = [
    ("worker", "brigade.worker"),
    ("call", "brigade.call"),
    ("task", "brigade.task"),
    ("attempt", "brigade.attempt"),
];
/// Most fields of an event with ours.
const ALL_FIELDS_MAX: usize = FIELDS_MAX + OURS.len();
/// Target of events whose description is not kept.
const COMMON_TARGET: &str = "brigade::worker";

/// The most detailed level that this program listens to, at most this one; as a number, 0 for none.
pub(super) fn level(most: LevelFilter) -> u8 {
    match most.min(LevelFilter::current()) {
        LevelFilter::ERROR => 1,
        LevelFilter::WARN => 2,
        LevelFilter::INFO => 3,
        LevelFilter::DEBUG => 4,
        LevelFilter::TRACE => 5,
        _ => 0,
    }
}

/// Gives log events to the subscriber before the dispatcher sees what came with them: its lock is
/// not held while code of the user runs, and an event comes before the end of its call. Returns the
/// other frames.
pub(super) fn take(number: u32, decoder: &mut Decoder) -> Vec<Result<Option<Frame>, Error>> {
    let mut others = Vec::new();
    loop {
        match decoder.next() {
            Ok(Some(frame)) if frame.kind == kind::LOG => {
                if let Err(error) = replay(number, &frame) {
                    others.push(Err(error));
                    return others;
                }
            }
            Ok(None) => return others,
            Ok(Some(frame)) => others.push(Ok(Some(frame))),
            Err(error) => {
                others.push(Err(error));
                return others;
            }
        }
    }
}

/// Gives what a frame holds to the subscriber.
///
/// # Errors
///
/// `Protocol` if it is garbled.
fn replay(worker: u32, frame: &Frame) -> Result<(), Error> {
    let record: LogRecord<'_> = postcard::from_bytes(&frame.body)
        .map_err(|e| Error::new(ErrorKind::Protocol, "read a log event").with_source(e))?;
    if record.dropped > 0 {
        tracing::warn!(
            worker,
            dropped = record.dropped,
            "log events of a worker were dropped: there were too many of them"
        );
    }
    if let Some(event) = &record.event {
        emit(worker, frame.id >> 32, event);
    }
    Ok(())
}

fn emit(worker: u32, call: u64, event: &LogEvent<'_>) {
    let site = site(event);
    let metadata = site.metadata();
    dispatcher::get_default(|dispatch| {
        if !dispatch.enabled(metadata) {
            return;
        }
        let (task, attempt) = event
            .attempt
            .as_ref()
            .map(|(task, attempt)| (task.as_ref(), *attempt))
            .unzip();
        let text = (!site.is_exact).then(|| as_text(event));
        let theirs: Vec<Shown<'_>> = match &text {
            Some(text) => vec![Shown(&event.target), Shown(text)],
            None => event
                .fields
                .iter()
                .map(|(_, value)| Shown(text_of(value)))
                .collect(),
        };
        let shown: Vec<_> = theirs.iter().map(debug).collect();
        let mut values: Vec<Option<&dyn Value>> = match &text {
            Some(_) => shown
                .iter()
                .map(|shown| Some(shown as &dyn Value))
                .collect(),
            None => event
                .fields
                .iter()
                .zip(&shown)
                .map(|((_, value), shown)| Some(plain(value).unwrap_or(shown)))
                .collect(),
        };
        let known = call != 0;
        values.push(Some(&worker));
        values.push(known.then_some(&call as &dyn Value));
        values.push(task.as_ref().map(|task| task as &dyn Value));
        values.push(attempt.as_ref().map(|attempt| attempt as &dyn Value));
        let fields: Vec<Field> = metadata.fields().iter().collect();
        let Some(first) = fields.first() else { return };
        let mut pairs: [(&Field, Option<&dyn Value>); ALL_FIELDS_MAX] =
            [(first, None); ALL_FIELDS_MAX];
        for ((pair, field), value) in pairs.iter_mut().zip(&fields).zip(values) {
            *pair = (field, value);
        }
        dispatch.event(&Event::new(metadata, &metadata.fields().value_set(&pairs)));
    });
}

/// A value that is of a type of `tracing`'s own.
fn plain(value: &LogValue) -> Option<&dyn Value> {
    match value {
        LogValue::Bool(value) => Some(value),
        LogValue::I64(value) => Some(value),
        LogValue::U64(value) => Some(value),
        LogValue::I128(value) => Some(value),
        LogValue::U128(value) => Some(value),
        LogValue::F64(value) => Some(value),
        LogValue::Text(value) => Some(value),
        LogValue::Shown(_) => None,
    }
}

fn text_of(value: &LogValue) -> &str {
    match value {
        LogValue::Text(text) | LogValue::Shown(text) => text,
        _ => "",
    }
}

fn as_text(event: &LogEvent<'_>) -> String {
    let fields = event.fields.iter().map(|(name, value)| match plain(value) {
        Some(_) if !matches!(value, LogValue::Text(_)) => format!("{name}={value:?}"),
        _ => format!("{name}={}", text_of(value)),
    });
    fields.collect::<Vec<_>>().join(" ")
}

/// Writes a text as it is.
struct Shown<'a>(&'a str);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The description of a place in the code.
struct Site {
    metadata: OnceLock<Metadata<'static>>,
    /// Whether it is that of one place only.
    is_exact: bool,
}

impl Site {
    fn metadata(&self) -> &Metadata<'static> {
        self.metadata
            .get()
            .expect("a site is described before anybody else has it")
    }
}

impl Callsite for Site {
    // Asked each time: it is one question per event that a worker sent.
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        Site::metadata(self)
    }
}

/// What distinguishes one place from others.
#[derive(PartialEq, Eq, Hash)]
struct SourcePlace {
    level: u8,
    name: String,
    target: String,
    fields: Vec<String>,
}

fn site(event: &LogEvent<'_>) -> &'static Site {
    static SITES: OnceLock<Mutex<HashMap<SourcePlace, &'static Site>>> = OnceLock::new();
    let place = SourcePlace {
        level: event.level,
        name: short(&event.name).to_owned(),
        target: short(&event.target).to_owned(),
        fields: event
            .fields
            .iter()
            .map(|(name, _)| short(name).to_owned())
            .collect(),
    };
    let mut sites = lock(SITES.get_or_init(Mutex::default));
    if let Some(site) = sites.get(&place) {
        return site;
    }
    if sites.len() >= SITES_MAX || place.fields.len() > FIELDS_MAX {
        return common(place.level);
    }
    let keep = |text: &str| -> &'static str { String::leak(short(text).to_owned()) };
    let names = place.fields.iter().map(|name| keep(name)).collect();
    let from = (
        event.file.as_deref().map(keep),
        event.line,
        event.module.as_deref().map(keep),
    );
    let site = describe(
        keep(&place.name),
        keep(&place.target),
        place.level,
        from,
        names,
        true,
    );
    sites.insert(place, site);
    site
}

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_BYTES_MAX)]
}

/// The description of all other places, for each level.
fn common(level: u8) -> &'static Site {
    static COMMON: [OnceLock<&'static Site>; 5] = [const { OnceLock::new() }; 5];
    let index = usize::from(level.clamp(1, 5) - 1);
    COMMON[index].get_or_init(|| {
        describe(
            "event of a worker",
            COMMON_TARGET,
            level,
            (None, None, None),
            vec!["target", "message"],
            false,
        )
    })
}

type From = (Option<&'static str>, Option<u32>, Option<&'static str>);

/// Makes a description and registers it with the subscribers. It is never freed.
fn describe(
    name: &'static str,
    target: &'static str,
    level: u8,
    from: From,
    mut fields: Vec<&'static str>,
    is_exact: bool,
) -> &'static Site {
    let level = match level {
        0 | 1 => Level::ERROR,
        2 => Level::WARN,
        3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    };
    for (ours, other) in OURS {
        let name = if fields.contains(&ours) { other } else { ours };
        fields.push(name);
    }
    let site: &'static Site = Box::leak(Box::new(Site {
        metadata: OnceLock::new(),
        is_exact,
    }));
    let fields = FieldSet::new(Vec::leak(fields), Identifier(site));
    let (file, line, module) = from;
    site.metadata.get_or_init(|| {
        Metadata::new(name, target, level, file, line, module, fields, Kind::EVENT)
    });
    callsite::register(site);
    site
}
