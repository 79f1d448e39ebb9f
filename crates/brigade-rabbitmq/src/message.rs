//! A job as a message, and back.
//!
//! The body is the payload; what other clients know too is in the properties; the rest is in
//! headers that begin with `brigade-`. On a change: add headers, never change what one means. A
//! message without any of them, of another program, is a job of its queue with default options.
//!
//! | property, header | meaning |
//! |---|---|
//! | `message_id` | the job's id; a call of ours has none but its `correlation_id` |
//! | `priority` | its priority |
//! | `app_id` | `brigade` if we wrote it. What has no `brigade-seq` then has 0: most have no headers, as the broker takes them apart |
//! | `brigade-task` | task to run; without it, the task whose queue this is. A call has it only if that is another one |
//! | `brigade-options` | JSON: retries, pauses, timeout, memory, label |
//! | `traceparent` | the trace that it belongs to, as W3C Trace Context writes it |
//! | `brigade-seq` | how often it was written again: a message of one id and one number is always the same one |
//! | `brigade-failed`, `brigade-crashed`, `brigade-interrupted`, `brigade-lost` | counters |
//! | `brigade-deliveries` | earlier deliveries that the broker does not count, in a classic queue |
//! | `brigade-unserved`, `brigade-unserved-at` | how often no consumer could run it, since when: milliseconds since 1970 |
//! | `brigade-pushed-at` | milliseconds since 1970, if attempts have to begin within some time |
//! | `brigade-due` | milliseconds since 1970, if its delay was longer than the broker can keep it |
//! | `brigade-history` | JSON: its attempts that did not end well |
//! | `brigade-call`, `brigade-call-waits` | what the caller of a call wants besides the answer (`calls`) |
//! | `brigade-passed-by`, `brigade-pass-..` | who passed it, and why (`pass`) |
//! | `brigade-queue`, `brigade-reason` | of dead letters: where from, and why |
//! | `brigade-held` | whose lease it is, in the queue of what is held for long (`refresh`) |

mod write;

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::FieldTable;

pub(super) use self::write::{dead_letter, without_expiration};
use super::checks::{check_options, check_properties, check_seq};
use super::values::{header, new_id, number_of, str_of, text_of};
use crate::foreign::read_options;
use crate::job::{AttemptRecord, Job, JobId, Unserved};
use crate::policy::add_record;
use crate::traceparent::TraceParent;
use brigade_core::options::Options;

/// The `app_id` of our messages.
const OURS: &str = "brigade";
/// The header with our own count of deliveries.
const DELIVERIES: &str = "brigade-deliveries";
/// The header that tracing libraries use.
const TRACEPARENT: &str = "traceparent";
/// The header that makes a dead letter.
const REASON: &str = "brigade-reason";

/// A job, and what its message has besides.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) id: JobId,
    pub(super) job: Job,
    /// `None` for a message of another program.
    pub(super) seq: Option<u64>,
    pub(super) failed: u32,
    pub(super) crashed: u32,
    pub(super) interrupted: u32,
    pub(super) lost: u32,
    pub(super) unserved: Option<Unserved>,
    pub(super) pushed_at: SystemTime,
    pub(super) due: Option<SystemTime>,
    pub(super) history: Vec<AttemptRecord>,
    /// How often this very message was handed out before: the broker's count in a quorum queue,
    /// ours in a classic one.
    pub(super) deliveries: u64,
    /// How many of these this process gave back itself.
    pub(super) returned: u32,
    /// It was handed out before, and nothing counts that yet.
    pub(super) is_uncounted: bool,
    /// As it came; what we do not know goes along.
    pub(super) properties: BasicProperties,
}

/// A message that can never be run, as it came.
#[derive(Clone, Debug)]
pub(super) struct UnreadableMessage {
    pub(super) why: String,
    pub(super) properties: Box<BasicProperties>,
    pub(super) body: Bytes,
}

/// So many unexplained deliveries count as one holder that died with the job.
const DELIVERIES_OF_A_LOSS: u32 = 10;

impl Envelope {
    /// A job that is pushed now.
    pub(super) fn new(id: JobId, job: Job) -> Self {
        Self {
            id,
            job,
            seq: Some(0),
            failed: 0,
            crashed: 0,
            interrupted: 0,
            lost: 0,
            unserved: None,
            pushed_at: SystemTime::now(),
            due: None,
            history: Vec::new(),
            deliveries: 0,
            returned: 0,
            is_uncounted: false,
            properties: BasicProperties::default(),
        }
    }

    /// Reads a message of this queue.
    pub(super) fn read(
        queue: &str,
        properties: BasicProperties,
        body: Vec<u8>,
        bytes_max: usize,
    ) -> Result<Self, UnreadableMessage> {
        let unreadable = |why, body: Vec<u8>| UnreadableMessage {
            why,
            properties: Box::new(properties.clone()),
            body: body.into(),
        };
        if let Err(why) = check_properties(&properties) {
            return Err(unreadable(why, body));
        }
        let payload = match payload_of(body, bytes_max) {
            Ok(payload) => payload,
            Err((body, why)) => return Err(unreadable(why, body)),
        };
        let options = match options_in(&properties) {
            Ok(options) => options,
            Err(why) => return Err(unreadable(why, payload.into_bytes())),
        };
        let mut job = Job::new(queue, None, payload);
        job.options = options;
        Ok(Self::of(job, properties))
    }

    /// With what the headers say besides.
    fn of(mut job: Job, properties: BasicProperties) -> Self {
        let none = FieldTable::default();
        let headers = properties.headers().as_ref().unwrap_or(&none);
        let number = |name: &str| number_of(headers, name);
        let count = |name: &str| {
            number(name)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0)
        };
        let moment = |name: &str| {
            number(name).and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)))
        };
        let deliveries = ["x-delivery-count", "x-acquired-count", DELIVERIES];
        job.task = text_of(headers, "brigade-task").map(Into::into);
        job.options.traceparent =
            text_of(headers, TRACEPARENT).and_then(|text| TraceParent::read(&text));
        Self {
            id: id_in(&properties).unwrap_or_else(new_id),
            job,
            seq: check_seq(number("brigade-seq").or(is_ours(&properties).then_some(0))),
            failed: count("brigade-failed"),
            crashed: count("brigade-crashed"),
            interrupted: count("brigade-interrupted"),
            lost: count("brigade-lost"),
            unserved: moment("brigade-unserved-at").map(|since| Unserved {
                times: count("brigade-unserved"),
                since,
            }),
            pushed_at: moment("brigade-pushed-at").unwrap_or_else(SystemTime::now),
            due: moment("brigade-due"),
            history: text_of(headers, "brigade-history")
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
            deliveries: deliveries.into_iter().filter_map(number).max().unwrap_or(0),
            returned: 0,
            is_uncounted: false,
            properties,
        }
    }

    /// From 1; passes and interruptions do not count.
    pub(super) fn attempt(&self) -> u32 {
        self.failed.saturating_add(self.crashed).saturating_add(1)
    }

    /// Holders that fell silent with the job.
    ///
    /// What the broker hands out again although this process did not give it back may come from a
    /// holder that died with the job; also from another process that stopped and gave back what it
    /// had not begun, or from a connection that broke. So only many of them are taken for a loss:
    /// no number of restarts that a fleet lives through makes a dead letter of a job that never
    /// ran.
    pub(super) fn losses(&self) -> u32 {
        let deliveries = u32::try_from(self.deliveries).unwrap_or(u32::MAX);
        self.lost
            .saturating_add(deliveries.saturating_sub(self.returned) / DELIVERIES_OF_A_LOSS)
    }

    /// The same, with one more delivery counted: a classic queue only says that there was one.
    pub(super) fn recounted(&self) -> Self {
        let next = self.next();
        Self {
            lost: self.lost,
            deliveries: self.deliveries.saturating_add(1),
            ..next
        }
    }

    /// Whether a caller waits for the answer.
    pub(super) fn is_call(&self) -> bool {
        has_caller(&self.properties)
    }

    /// What no other message has.
    pub(super) fn mark(&self) -> Option<(JobId, u64)> {
        Some((self.id.clone(), self.seq?))
    }

    /// Until when an attempt has to begin.
    pub(super) fn begins_by(&self) -> Option<SystemTime> {
        self.pushed_at.checked_add(self.job.options.retry().within?)
    }

    /// The same, to be written again.
    pub(super) fn next(&self) -> Self {
        // Other programs may give the same id to several messages, so the numbers of theirs begin
        // anywhere.
        let seq = self
            .seq
            .map_or_else(|| RandomState::new().hash_one(0) >> 12, |seq| seq + 1);
        Self {
            seq: Some(seq),
            due: None,
            lost: self.losses(),
            deliveries: 0,
            returned: 0,
            is_uncounted: false,
            ..self.clone()
        }
    }

    pub(super) fn note(&mut self, record: AttemptRecord) {
        self.unserved = Unserved::after(self.unserved, record.kind, record.at);
        add_record(&mut self.history, record);
    }
}

/// The id of a message; of a call of ours, that of its answer.
fn id_in(properties: &BasicProperties) -> Option<JobId> {
    let id = match str_of(properties.message_id()) {
        "" if is_ours(properties) && has_caller(properties) => str_of(properties.correlation_id()),
        own => own,
    };
    (!id.is_empty()).then(|| JobId::new(id))
}

/// The options of a job; why they cannot be read.
fn options_in(properties: &BasicProperties) -> Result<Options, String> {
    let none = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&none);
    let read = match text_of(headers, "brigade-options") {
        None => Ok(Options::default()),
        Some(text) if is_ours(properties) => {
            serde_json::from_str(&text).map_err(|error| error.to_string())
        }
        Some(text) => read_options(&text),
    };
    let mut options = read.map_err(|why| format!("its options cannot be read: {why}"))?;
    check_options(&mut options)?;
    options.priority = properties.priority().map(i32::from);
    // A dead letter is there for a person, who takes it when there is time.
    if headers.contains_key(REASON)
        && let Some(retry) = &mut options.retry
    {
        retry.within = None;
    }
    Ok(options)
}

/// Whether this library wrote it, not another program.
pub(super) fn is_ours(properties: &BasicProperties) -> bool {
    str_of(properties.app_id()) == OURS
}

/// Whether the broker counts how often it hands this message out: in a quorum queue.
pub(super) fn is_counted(properties: &BasicProperties) -> bool {
    let counts = ["x-delivery-count", "x-acquired-count"];
    counts.iter().any(|name| header(properties, name).is_some())
}

/// Whether a caller waits for the answer to a message.
pub(super) fn has_caller(properties: &BasicProperties) -> bool {
    !str_of(properties.reply_to()).is_empty()
}

/// JSON text, or the body as it was and why it is none.
fn payload_of(body: Vec<u8>, bytes_max: usize) -> Result<String, (Vec<u8>, String)> {
    if body.len() > bytes_max {
        let why = format!(
            "its body has {} bytes and {bytes_max} are allowed",
            body.len()
        );
        return Err((body, why));
    }
    let text = String::from_utf8(body).map_err(|e| {
        let why = format!("its body is not UTF-8: {e}");
        (e.into_bytes(), why)
    })?;
    match serde_json::from_str::<&serde_json::value::RawValue>(&text) {
        Ok(_) => Ok(text),
        Err(e) => {
            let why = format!("its body is not JSON: {e}");
            Err((text.into_bytes(), why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign() -> Envelope {
        let properties = BasicProperties::default()
            .with_user_id("somebody".into())
            .with_cluster_id("theirs".into())
            .with_message_id("order-7".into())
            .with_expiration("1000".into());
        Envelope::read("orders", properties, b"[7]".to_vec(), 100).unwrap()
    }

    #[test]
    fn a_message_of_another_program_is_written_anew_by_us() {
        let next = foreign().next();
        let written = next.write("shop.orders".into()).unwrap().properties;
        assert!(
            written.user_id().is_none() && written.cluster_id().is_none(),
            "the broker takes a user's id from that user alone"
        );
        assert_eq!(
            written.expiration().as_ref().map(|time| time.as_str()),
            Some("1000")
        );
        assert_eq!(
            written.message_id().as_ref().map(|id| id.as_str()),
            Some("order-7")
        );
        // Another message of the same id is no copy of it.
        assert!(foreign().mark().is_none() && next.mark() != foreign().next().mark());
        assert_eq!(
            next.next().mark().map(|mark| mark.1),
            next.mark().map(|mark| mark.1 + 1)
        );
    }

    /// Each stop of another consumer counts at the server, so a few deliveries say nothing of the
    /// job.
    #[test]
    fn restarts_of_a_fleet_make_no_loss_and_a_job_that_kills_each_holder_does() {
        for (deliveries, returned, losses) in [
            (0, 0, 0),
            (9, 0, 0),
            (12, 3, 0),
            (10, 0, 1),
            (50, 0, 5),
            (u64::MAX, 0, u32::MAX / 10),
            (3, 9, 0),
        ] {
            let job = Envelope {
                deliveries,
                returned,
                ..foreign()
            };
            let counts = (job.losses(), job.next().lost, job.next().losses());
            assert_eq!(
                counts,
                (losses, losses, losses),
                "{deliveries} deliveries, {returned} of them given back here"
            );
        }
    }

    #[test]
    fn deliveries_that_no_broker_counts_are_counted_in_the_message() {
        let mut job = Envelope {
            lost: 1,
            ..foreign()
        };
        for deliveries in 1..=20 {
            let written = job.recounted().write("shop.orders".into()).unwrap();
            job = Envelope::read("orders", written.properties, written.body.to_vec(), 100).unwrap();
            assert_eq!((job.deliveries, job.lost), (deliveries, 1));
        }
        assert_eq!(job.losses(), 3);
        // An end of an attempt is known, so the count begins again.
        let next = job.next();
        assert_eq!((next.deliveries, next.lost), (0, 3));
    }
}
