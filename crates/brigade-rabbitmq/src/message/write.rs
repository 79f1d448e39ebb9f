//! Writing a job as a message, for its queue or for that of dead letters.
//!
//! Headers of other programs stay, but for those that the broker writes or acts upon; ours are
//! written from the envelope. Options, history and reasons are bounded, as all headers of a message
//! have to fit into one frame (`fit` takes more out if they do not).

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::super::checks::is_unprintable;
use super::super::publisher::Message;
use super::super::values::{
    REASON_BYTES_MAX, millis_since_1970, new_id, shortened, str_of, text, whole,
};
use super::{DELIVERIES, Envelope, OURS, REASON, TRACEPARENT};
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptRecord, Job};
use brigade_core::options::Options;

/// All headers of a message have to fit into one frame of 128 KiB.
const HISTORY_BYTES_MAX: usize = 24 << 10;
const OPTIONS_BYTES_MAX: usize = 24 << 10;

impl Envelope {
    /// Those of other programs, and ours.
    fn headers(&self) -> Result<FieldTable, Error> {
        // What the broker notes of a message's way is of no use on the next one, and CC would make
        // copies.
        let is_ours = |name: &str| name.starts_with("brigade-") || is_for_the_broker(name);
        let mut headers = kept_headers(&self.properties, |name| !is_ours(name) || stays(name));
        let mut put = |name: &str, value: Option<AMQPValue>| {
            if let Some(value) = value {
                headers.insert(name.into(), value);
            }
        };
        let (job, options) = (&self.job, &self.job.options);
        let count = |number: u64| (number > 0).then(|| whole(number));
        let moment = |at| whole(millis_since_1970(at));
        let has_own_task = |task: &&str| !self.is_call() || **task != *job.queue;
        put(
            "brigade-task",
            job.task.as_deref().filter(has_own_task).map(text),
        );
        put("brigade-options", options_of(job)?.as_deref().map(text));
        let trace = options.traceparent.as_ref();
        put(TRACEPARENT, trace.map(|trace| text(trace.as_str())));
        let is_again = self.seq != Some(0);
        put(
            "brigade-seq",
            is_again.then(|| whole(self.seq.unwrap_or(0))),
        );
        put("brigade-failed", count(self.failed.into()));
        put("brigade-crashed", count(self.crashed.into()));
        put("brigade-interrupted", count(self.interrupted.into()));
        put("brigade-lost", count(self.lost.into()));
        let unserved = self.unserved.as_ref();
        put(
            "brigade-unserved",
            unserved.and_then(|one| count(one.times.into())),
        );
        put("brigade-unserved-at", unserved.map(|one| moment(one.since)));
        put(DELIVERIES, count(self.deliveries));
        // Without it, a message is taken to be pushed when it is first read: the time that its
        // task's registration gives it counts from then.
        let is_delayed = options.delay.is_some() || options.at.is_some();
        let has_moment = options.retry().within.is_some() || is_delayed || is_again;
        put(
            "brigade-pushed-at",
            has_moment.then(|| moment(self.pushed_at)),
        );
        put("brigade-due", self.due.map(moment));
        put(
            "brigade-history",
            history_of(&self.history)?.as_deref().map(text),
        );
        Ok(headers)
    }

    /// For the queue of that name at the broker.
    ///
    /// # Errors
    ///
    /// `Encode`; `BadOption` for options that do not fit into a header.
    pub(in super::super) fn write(&self, queue: ShortString) -> Result<Message, Error> {
        let headers = self.headers()?;
        let priority = u8::try_from(self.job.options.priority()).unwrap_or(0);
        let mut properties = without_user(&self.properties);
        if !headers.inner().is_empty() || properties.headers().is_some() {
            properties = properties.with_headers(headers);
        }
        if self.seq == Some(0) {
            properties = properties.with_app_id(OURS.into());
        }
        if properties.content_type().is_none() {
            properties = properties.with_content_type("application/json".into());
        }
        if priority > 0 {
            properties = properties.with_priority(priority);
        }
        if !self.is_call() || str_of(properties.correlation_id()) != self.id.as_str() {
            properties = properties.with_message_id(self.id.as_str().into());
        }
        properties = properties.with_delivery_mode(2);
        Ok(Message {
            queue,
            body: Bytes::copy_from_slice(self.job.payload.as_bytes()),
            properties,
        })
    }
}

/// The same message of `queue` for the queue of dead letters, `dead`.
pub(in super::super) fn dead_letter(
    queue: &str,
    dead: ShortString,
    why: &str,
    message: Message,
) -> Message {
    // It may have come from another program: what has the broker send copies elsewhere goes.
    let goes = |name: &str| is_for_the_broker(name) || is_unprintable(name);
    let mut headers = kept_headers(&message.properties, |name| !goes(name));
    headers.insert("brigade-queue".into(), text(queue));
    headers.insert(REASON.into(), text(shortened(why)));
    let mut properties = copied(&message.properties, |text| !is_unprintable(text.as_str()))
        .with_headers(headers)
        .with_delivery_mode(2);
    if properties.message_id().is_none() {
        properties = properties.with_message_id(new_id().as_str().into());
    }
    Message {
        queue: dead,
        body: message.body,
        properties,
    }
}

/// Those headers of a message that are to stay with it.
fn kept_headers(properties: &BasicProperties, stays: impl Fn(&str) -> bool) -> FieldTable {
    let all = properties.headers().iter().flat_map(FieldTable::inner);
    let kept = all.filter(|(name, _)| stays(name.as_str()));
    let kept = kept.map(|(name, value)| (name.clone(), value.clone()));
    kept.collect::<BTreeMap<_, _>>().into()
}

/// For what is no longer to go by itself; without `user_id` and `cluster_id`, too.
pub(in super::super) fn without_expiration(properties: &BasicProperties) -> BasicProperties {
    copied(properties, |_| true)
}

/// A copy with those of the strings that are to be kept.
fn copied(properties: &BasicProperties, keeps: impl Fn(&ShortString) -> bool) -> BasicProperties {
    let mut kept = BasicProperties::default();
    macro_rules! keep {
        ($($get:ident $set:ident),* if $keeps:expr) => {
            $(if let Some(value) = properties.$get().clone().filter($keeps) { kept = kept.$set(value); })*
        };
    }
    keep!(
        content_type with_content_type, content_encoding with_content_encoding,
        correlation_id with_correlation_id, reply_to with_reply_to, message_id with_message_id,
        kind with_type, app_id with_app_id if &keeps
    );
    keep!(headers with_headers if |_| true);
    keep!(delivery_mode with_delivery_mode, priority with_priority if |_| true);
    keep!(timestamp with_timestamp if |_| true);
    kept
}

/// The broker takes a `user_id` only from that user.
fn without_user(properties: &BasicProperties) -> BasicProperties {
    let kept = without_expiration(properties);
    match properties.expiration() {
        Some(time) => kept.with_expiration(time.clone()),
        None => kept,
    }
}

/// Headers that the broker writes, or acts upon.
fn is_for_the_broker(name: &str) -> bool {
    name.starts_with("x-") || name == "CC" || name == "BCC"
}

/// Headers that say how a caller waits for the answer, and which workers passed it: they stay with
/// a message wherever it goes.
fn stays(name: &str) -> bool {
    name.starts_with("brigade-call") || name.starts_with("brigade-pass")
}

fn options_of(job: &Job) -> Result<Option<String>, Error> {
    // Its priority is a property, and its delay is over once it comes back from there.
    let mut options = job.options.clone();
    options.priority = None;
    (options.delay, options.at) = (None, None);
    // It has a header of its own, which other programs know.
    options.traceparent = None;
    if options == Options::default() {
        return Ok(None);
    }
    let text = json("options", &options)?;
    if text.len() > OPTIONS_BYTES_MAX {
        let text = format!(
            "push to {:?}: its options have {} bytes and {OPTIONS_BYTES_MAX} are allowed",
            job.queue,
            text.len()
        );
        return Err(Error::new(ErrorKind::BadOption, text));
    }
    Ok(Some(text))
}

fn json(what: &str, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| {
        Error::new(ErrorKind::Encode, format!("write the {what} of a job: {e}")).with_source(e)
    })
}

/// As much of it as fits: the older attempts lose their reports first, then go.
fn history_of(history: &[AttemptRecord]) -> Result<Option<String>, Error> {
    let mut kept = history.to_vec();
    for record in &mut kept {
        record
            .reason
            .truncate(record.reason.floor_char_boundary(REASON_BYTES_MAX));
    }
    while !kept.is_empty() {
        let text = json("history", &kept)?;
        if text.len() <= HISTORY_BYTES_MAX {
            return Ok(Some(text));
        }
        match kept.iter_mut().find(|record| record.report.is_some()) {
            Some(record) => record.report = None,
            None => drop(kept.remove(0)),
        }
    }
    Ok(None)
}
