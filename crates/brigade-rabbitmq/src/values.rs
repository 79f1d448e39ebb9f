//! Ids, names of headers that more than one file reads or writes (`message` says what each means),
//! and values of headers and arguments.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::job::JobId;

/// Of an answer without a value: its kind.
pub(super) const ERROR: &str = "brigade-error";
/// Of progress: how far a running call is.
pub(super) const PROGRESS: &str = "brigade-progress";
/// Of a request whose caller wants more than the answer. Ours want progress without saying so.
pub(super) const TELL: &str = "brigade-call";
/// The value of [`TELL`] in a request, and the header of the message, that says that a worker has
/// the call.
pub(super) const BEGUN: &str = "brigade-begun";
/// Of a request that is to wait for as long as every worker passes.
pub(super) const WAITS: &str = "brigade-call-waits";
/// Of reasons in headers.
pub(super) const REASON_BYTES_MAX: usize = 4 << 10;

/// A reason that fits into a header.
pub(super) fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(REASON_BYTES_MAX)]
}

pub(super) fn millis_since_1970(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}

/// What no other process has.
pub(super) fn random_id() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// A number that no other job has, of which later ones come later.
pub(super) fn new_id() -> JobId {
    let random = || RandomState::new().hash_one(std::process::id());
    JobId::new(format!(
        "{:012x}-{:016x}{:08x}",
        millis_since_1970(SystemTime::now()),
        random(),
        random() >> 32
    ))
}

pub(super) fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let entries = entries.map(|(name, value)| (name.into(), value));
    BTreeMap::from(entries).into()
}

pub(super) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

pub(super) fn whole(number: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(super) fn millis(time: Duration) -> AMQPValue {
    whole(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// A header of a message.
pub(super) fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// A property that is a string; empty if the message does not have it.
pub(super) fn str_of(property: &Option<ShortString>) -> &str {
    property.as_ref().map_or("", |text| text.as_str())
}

pub(super) fn text_of(headers: &FieldTable, name: &str) -> Option<String> {
    read_text(headers.inner().get(name)?).map(str::to_owned)
}

pub(super) fn read_text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// Other clients choose the size by the value.
pub(super) fn number_of(headers: &FieldTable, name: &str) -> Option<u64> {
    match *headers.inner().get(name)? {
        AMQPValue::ShortShortInt(n) => u64::try_from(n).ok(),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => u64::try_from(n).ok(),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => u64::try_from(n).ok(),
        AMQPValue::LongUInt(n) => Some(n.into()),
        AMQPValue::LongLongInt(n) => u64::try_from(n).ok(),
        AMQPValue::Timestamp(n) => Some(n),
        _ => None,
    }
}
