//! What decodes bytes from outside, one function for each decoder: it gives a value or says what is
//! wrong, in bounded memory, and never panics.
//!
//! The tests feed these functions with damaged bytes of a seed (`fuzz.rs`), the targets of `fuzz/`
//! with what a coverage-guided fuzzer finds. Both begin with the inputs in `fuzz/corpus`. A
//! function panics where a promise is broken.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attempt_report::AttemptReport;
use crate::codec::Codec;
use crate::outcome::Failure;
use crate::payload::Bytes;
use crate::refused::Refused;
#[cfg(feature = "remote")]
use crate::wire;
use crate::wire::{
    CallMeta, CancelFrame, CrashNote, Decoder, Hello, PanicNote, Ready, StartFailed,
};

pub(crate) fn packed(value: &impl Serialize) -> Vec<u8> {
    Codec::Postcard
        .encode(value)
        .expect("what was decoded can be encoded")
}

/// Decodes; what was decoded can be encoded again and comes out the same, but for the last digits
/// of a number in JSON.
fn there_and_back<T: Serialize + DeserializeOwned>(codec: Codec, bytes: &[u8]) {
    if let Ok(value) = codec.decode::<T>(bytes) {
        let again = codec
            .encode(&value)
            .expect("what was decoded can be encoded");
        let once_more = codec.encode(&codec.decode::<T>(&again).expect("and decoded again"));
        assert!(codec == Codec::Json || once_more.ok() == Some(again));
    }
}

/// Each message between a pool and its workers, whatever the bytes were meant to be.
pub fn control_messages(bytes: &[u8]) {
    let codec = Codec::Postcard;
    there_and_back::<Hello>(codec, bytes);
    there_and_back::<Ready>(codec, bytes);
    there_and_back::<StartFailed>(codec, bytes);
    there_and_back::<CancelFrame>(codec, bytes);
    there_and_back::<PanicNote>(codec, bytes);
    there_and_back::<Refused>(codec, bytes);
    there_and_back::<Failure>(codec, bytes);
    there_and_back::<AttemptReport>(codec, bytes);
    there_and_back::<Vec<(String, Option<u64>)>>(codec, bytes);
    there_and_back::<Bytes>(codec, bytes);
    bytes.first().copied().map(CrashNote::from_byte);
    if let Ok((call, rest)) = postcard::take_from_bytes::<CallMeta<'_>>(bytes) {
        assert!(rest.len() < bytes.len());
        packed(&call);
    }
}

/// A stream of frames, however it is cut: the first byte says into pieces of which length.
pub fn frames(bytes: &[u8]) {
    let Some((piece, stream)) = bytes.split_first() else {
        return;
    };
    let mut decoder = Decoder::new(4096);
    for chunk in stream.chunks(usize::from(*piece).max(1)) {
        decoder.buffer().extend_from_slice(chunk);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => assert!(frame.body.len() <= 4096),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Values in JSON.
pub fn json_values(bytes: &[u8]) {
    there_and_back::<serde_json::Value>(Codec::Json, bytes);
    there_and_back::<(i64, String, Option<u8>, bool)>(Codec::Json, bytes);
    there_and_back::<Bytes>(Codec::Json, bytes);
}

/// Values in the default format.
pub fn packed_values(bytes: &[u8]) {
    there_and_back::<serde_json::Value>(Codec::default(), bytes);
    there_and_back::<(i64, String, Option<Option<u8>>, bool)>(Codec::default(), bytes);
    there_and_back::<Bytes>(Codec::default(), bytes);
}

/// Messages between a pool and a host that joined it.
#[cfg(feature = "remote")]
pub fn host_messages(bytes: &[u8]) {
    use wire::remote::{AnswerHead, Join, Run, StopCall, TurnedAway, Welcome};
    let codec = Codec::Postcard;
    there_and_back::<Join>(codec, bytes);
    there_and_back::<Welcome>(codec, bytes);
    there_and_back::<TurnedAway>(codec, bytes);
    there_and_back::<AnswerHead>(codec, bytes);
    if let Ok((run, _)) = postcard::take_from_bytes::<Run<'_>>(bytes) {
        packed(&run);
    }
    if let Ok(stop) = postcard::from_bytes::<StopCall<'_>>(bytes) {
        packed(&stop);
    }
    crate::pool::read_host_message(bytes);
}

#[cfg(feature = "remote")]
pub use crate::remote::transport::fuzzing::{handshakes, records, urls};

pub use with_brokers::{jobs, schedules};

mod with_brokers {
    use std::time::Duration;

    use super::there_and_back;
    use crate::codec::Codec;
    use brigade_core::job::{AttemptRecord, Job};
    use brigade_core::limits::Limits;
    use brigade_core::schedule::{Recurrence, Schedule, SchedulePlan};

    /// What stores keep of jobs, in JSON.
    pub fn jobs(bytes: &[u8]) {
        there_and_back::<Job>(Codec::Json, bytes);
        there_and_back::<Limits>(Codec::Json, bytes);
        there_and_back::<AttemptRecord>(Codec::Json, bytes);
    }

    /// Plans in JSON, and cron expressions: the first eight bytes are the moment at which it is
    /// asked what comes next.
    pub fn schedules(bytes: &[u8]) {
        let Some((time, text)) = bytes.split_first_chunk() else {
            return;
        };
        let time = i64::from_le_bytes(*time);
        let job = || Job::new("emails", None, "null");
        if let Ok(plan) = Codec::Json.decode::<SchedulePlan>(text) {
            if let Ok(next) = plan.after(time) {
                assert!(next > time, "{plan:?} after {time}: {next}");
            }
            plan.due(time, time.saturating_add(1_000_000_000)).ok();
            if let Recurrence::Cron { expression, zone } = &plan.recurrence {
                Schedule::cron("again", expression.as_str(), job())
                    .map(|schedule| schedule.zone(zone.as_str()))
                    .ok();
            }
        }
        if let Ok(text) = std::str::from_utf8(text) {
            Schedule::cron("text", text, job()).ok();
        }
        Schedule::every("often", Duration::from_millis(time.unsigned_abs()), job()).ok();
    }
}
