//! What a pool and a host that joined it say to each other. One stream carries all of it, in the
//! frames of [`super::frame`].
//!
//! A message of more than [`PART_BYTES`] travels in parts, so that none holds up the others. When a
//! message changes: raise [`VERSION`] and change `docs/wire-protocol.md`. The first three fields of
//! [`Join`] and of [`Welcome`] stay as they are in every version, so that each side can say what
//! the other one speaks.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::RunTarget;
use super::message::RetryLine;
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::{AttemptReport, Cost, Step};
use crate::codec::Codec;
use crate::job_context::JobContext;
use crate::outcome::Failure;
use crate::sandbox::Sandbox;
use crate::traceparent::TraceParent;

/// Version of what is said between hosts. Peers of another version refuse each other.
pub(crate) const VERSION: u16 = 4;
/// First field of the handshake.
pub(crate) const MAGIC: [u8; 4] = *b"BRGR";
/// A longer message is cut into parts of this size.
pub(crate) const PART_BYTES: usize = 60 << 10;
/// Long messages under way at once, in each direction of a connection. What begins later waits
/// until one of them is whole.
pub(crate) const LONG_MESSAGES_MAX: usize = 4;
/// Longest body of a frame: a part and what stands before it, or a whole message.
pub(crate) const FRAME_BYTES_MAX: usize = PART_BYTES + (4 << 10);
/// A message of the handshake.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 4 << 20;

/// Calls that a host of so many slots is sent ahead of their turn, at most.
pub(crate) fn ahead_max(slots: u32) -> u32 {
    slots.saturating_mul(4).min(16)
}

/// Shorter beats than this are a mistake, and longer ones notice nothing.
const BEAT_MIN: Duration = Duration::from_millis(10);
const BEAT_MAX: Duration = Duration::from_secs(3600);
/// Longest time that a pool may wait for a host.
const KEEP_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether these times of a pool, its beat and how long it waits for a host, make sense to both
/// sides. Otherwise what they would do.
pub(crate) fn check_times(beat: Duration, keep: Duration) -> Result<(), &'static str> {
    match () {
        () if beat < BEAT_MIN => Err("set a heartbeat of less than 10 ms"),
        () if beat > BEAT_MAX => Err("set a heartbeat of more than an hour"),
        () if keep < beat => Err("give hosts up that are away for less than one heartbeat"),
        () if keep > KEEP_MAX => Err("wait for a host for more than a year"),
        () => Ok(()),
    }
}

/// Identifies a session or a pool, by chance.
pub(crate) type RandomId = [u8; 16];

/// Kinds of frames: 64-79 to the pool, 80-95 to the host, 96 and up both ways.
pub(crate) mod kind {
    /// [`Join`](super::Join): the first frame.
    pub(crate) const JOIN: u8 = 64;
    /// [`AnswerHead`](super::AnswerHead), then the result: how an attempt ended.
    pub(crate) const ANSWER: u8 = 65;
    /// As a worker's: the fraction as f64, the codec as u8, then the payload.
    pub(crate) const PROGRESS: u8 = 66;
    /// Empty: the host begins nothing more and leaves when it has finished.
    pub(crate) const LEAVING: u8 = 67;

    /// [`Welcome`](super::Welcome).
    pub(crate) const WELCOME: u8 = 80;
    /// [`TurnedAway`](super::TurnedAway): the handshake's other end.
    pub(crate) const TURNED_AWAY: u8 = 81;
    /// [`Run`](super::Run), then the arguments.
    pub(crate) const RUN: u8 = 82;
    /// [`StopCall`](super::StopCall): take the attempt up the kill ladder and answer.
    pub(crate) const STOP: u8 = 83;
    /// Ids as u64 each, little endian: these answers arrived and may be forgotten.
    pub(crate) const ACK: u8 = 84;
    /// Text: the session is over; stop and forget what is left of it.
    pub(crate) const BYE: u8 = 85;

    /// Empty; the id comes back in an ECHO.
    pub(crate) const BEAT: u8 = 96;
    pub(crate) const ECHO: u8 = 97;
    /// Kind of the message as u8, its length as u32, then some of its bytes, in order.
    pub(crate) const PART: u8 = 98;
}

/// A host introduces itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    /// Version of the library, for people.
    pub(crate) brigade: String,
    /// Which build the program is, the same on every host that runs it.
    pub(crate) build: u64,
    pub(crate) session: RandomId,
    /// The pool that it was last welcome at.
    pub(crate) pool: Option<RandomId>,
    /// Calls that it runs for that pool, or has answers of, and which attempt of each.
    pub(crate) held: Vec<(u64, u32)>,
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// Attempts that it may run at once.
    pub(crate) slots: u32,
    pub(crate) labels: Vec<String>,
    /// Whether it runs plain functions for pools of the same build.
    pub(crate) functions: bool,
    /// It begins nothing more.
    pub(crate) leaving: bool,
    pub(crate) tasks: Vec<TaskLine>,
}

/// A task that a host has.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TaskLine {
    pub(crate) name: String,
    pub(crate) signature: String,
    pub(crate) idempotent: bool,
    /// What its registration there says of retries, for calls that do not say it.
    pub(crate) retries: Option<u32>,
    pub(crate) retry: Option<RetryLine>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    pub(crate) brigade: String,
    pub(crate) build: u64,
    pub(crate) pool: RandomId,
    /// Number of the host among the pool's workers.
    pub(crate) worker: u32,
    /// Whether the pool still knows the session; otherwise the host drops what it holds of it.
    pub(crate) resumed: bool,
    /// Of what it holds, calls that the pool has given up.
    pub(crate) drop: Vec<u64>,
    pub(crate) payload_bytes_max: u64,
    pub(crate) beat: Duration,
    /// How long the session outlives its connection.
    pub(crate) keep: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TurnedAway {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    pub(crate) brigade: String,
    pub(crate) reason: String,
}

/// What stands before the arguments of a call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run<'a> {
    #[serde(borrow)]
    pub(crate) target: RunTarget<'a>,
    /// Number of the call in its pool.
    pub(crate) number: u64,
    pub(crate) attempt: u32,
    pub(crate) codec: Codec,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limits: AttemptLimits,
    pub(crate) sandbox: Option<Sandbox>,
    /// Keep what it writes, up to so many bytes.
    pub(crate) capture: Option<u64>,
    pub(crate) alone: bool,
    pub(crate) fresh: bool,
    /// All slots are taken: it is sent ahead of its turn, and given back if that does not come
    /// soon.
    pub(crate) ahead: bool,
    pub(crate) tick: Option<SystemTime>,
    /// The job that the call is an attempt of.
    pub(crate) job: Option<Cow<'a, JobContext>>,
    /// The trace that the call belongs to.
    #[serde(deserialize_with = "TraceParent::read_field")]
    pub(crate) traceparent: Option<TraceParent>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StopCall<'a> {
    #[serde(borrow)]
    pub(crate) reason: Cow<'a, str>,
    /// Take the last step of the ladder at once.
    pub(crate) hurry: bool,
}

/// How an attempt ended, and how much it wrote if that was to be kept.
///
/// An ANSWER is the length of this message (u32, little endian, at most [`ANSWER_HEAD_BYTES_MAX`]),
/// the message, the standard output and error that it announces, and the result. So nothing of any
/// length is decoded, and what is decoded has a bound.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnswerHead {
    pub(crate) ending: RemoteOutcome,
    pub(crate) output: Option<OutputSizes>,
    /// For an ending that has no report: the process id of the worker and what the attempt cost, if
    /// it ran for [`Cost::MEASURED_FROM`] or longer.
    pub(crate) cost: Option<(u32, Cost)>,
}

/// Longest [`AnswerHead`]. A report has 64 KiB of output and at most about as much of anything
/// else.
pub(crate) const ANSWER_HEAD_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RemoteOutcome {
    /// The result stands behind the message.
    Done,
    Failed(Box<Failure>),
    Panicked(Box<AttemptReport>),
    Crashed(Box<AttemptReport>),
    TimedOut(Box<AttemptReport>),
    /// Stopped. Without a report it had not begun.
    Stopped {
        report: Option<Box<AttemptReport>>,
        step: Step,
    },
    Passed(Vec<String>),
    Lost(Box<AttemptReport>),
    /// It was not begun; nothing is charged.
    Returned,
    /// It cannot run there or its result cannot travel.
    Refused {
        why: RefusalKind,
        text: String,
    },
}

/// Kinds of errors that travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RefusalKind {
    UnknownTask,
    BadArguments,
    OtherBuild,
    Encode,
    TooLarge,
    Other,
}

/// Standard output and error of an attempt: how many bytes of each follow, and how many were
/// dropped.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct OutputSizes {
    pub(crate) stdout_bytes: u64,
    pub(crate) stdout_dropped: u64,
    pub(crate) stderr_bytes: u64,
    pub(crate) stderr_dropped: u64,
}
