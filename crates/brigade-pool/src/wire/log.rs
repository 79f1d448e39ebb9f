//! An event of `tracing`, as a worker sends it to its pool.
//!
//! Texts are bounded by the worker; the pool cuts what is longer, as it does not trust a worker
//! that a task may have broken.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Longest text of one value.
pub(crate) const VALUE_BYTES_MAX: usize = 4 << 10;
/// Longest name of an event, a target, a file, a field.
pub(crate) const NAME_BYTES_MAX: usize = 256;
/// Most fields of one event. With those that the pool adds, `tracing` takes 32.
pub(crate) const FIELDS_MAX: usize = 24;

/// What the frame [`LOG`](super::kind::LOG) holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogRecord<'a> {
    /// Events before this one that were not sent.
    pub(crate) dropped: u64,
    #[serde(borrow)]
    pub(crate) event: Option<LogEvent<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogEvent<'a> {
    /// From 1, error, to 5, trace.
    pub(crate) level: u8,
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) target: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) module: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) file: Option<Cow<'a, str>>,
    pub(crate) line: Option<u32>,
    /// Task and attempt that it belongs to, if that is known.
    #[serde(borrow)]
    pub(crate) attempt: Option<(Cow<'a, str>, u32)>,
    #[serde(borrow)]
    pub(crate) fields: Vec<(Cow<'a, str>, LogValue)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LogValue {
    Bool(bool),
    I64(i64),
    U64(u64),
    I128(i128),
    U128(u128),
    F64(f64),
    /// A text.
    Text(String),
    /// What `Debug` or `Display` of another value wrote.
    Shown(String),
}
