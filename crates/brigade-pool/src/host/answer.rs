//! The answer that a host sends for a call that ended.
//!
//! It encodes the outcome of a call for the pool that the host joined: the length of an
//! `AnswerHead` as four bytes, little endian, the head itself, what was captured of standard output
//! and error, and then the result.
//!
//! Invariants: a result over the limit is refused and not sent. Captured output is cut to the room
//! that the result leaves. Everything in the head is bounded, so it stays below
//! `ANSWER_HEAD_BYTES_MAX`. A call that another host may run is returned or passed, not refused.
//!
//! These are functions without state; sending and acknowledging answers is the session's work.

use crate::attempt_report::{Cost, Step, StopReceipt};
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, TimedOut};
use crate::output::Output;
use crate::pool::{EncodedOutcome, EndFacts};
use crate::wire::remote::{
    ANSWER_HEAD_BYTES_MAX, AnswerHead, OutputSizes, RefusalKind, RemoteOutcome,
};

use bytes::Bytes;

/// What stands before the usual result: the length of an [`AnswerHead`] that says *done* and
/// nothing else.
const DONE: &[u8] = &[3, 0, 0, 0, 0, 0, 0];
/// All reasons of passes together.
const REASONS_BYTES_MAX: usize = 64 << 10;

/// What stands before the result of an answer, and the result.
pub(super) fn answer(
    outcome: EncodedOutcome,
    facts: EndFacts,
    result_bytes_max: u64,
) -> (Bytes, Bytes) {
    let EndFacts {
        receipt,
        output,
        attempt,
    } = facts;
    let cost = attempt
        .filter(|attempt| attempt.cost.wall >= Cost::MEASURED_FROM)
        .map(|attempt| (attempt.pid, attempt.cost));
    let (ending, result) = match outcome {
        Ok(result) if result.len() as u64 > result_bytes_max => {
            let text = format!(
                "return a result: it has {} bytes and {result_bytes_max} are allowed \
                    (Builder::payload_max)",
                result.len()
            );
            (
                RemoteOutcome::Refused {
                    why: RefusalKind::TooLarge,
                    text,
                },
                Bytes::new(),
            )
        }
        Ok(result) => (RemoteOutcome::Done, result),
        Err(error) => (ending(error, receipt.as_ref()), Bytes::new()),
    };
    if let (RemoteOutcome::Done, None, None) = (&ending, &output, &cost) {
        return (Bytes::from_static(DONE), result);
    }
    let room = result_bytes_max.saturating_sub(result.len() as u64);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    (head(ending, output, cost, room).into(), result)
}

/// An ending of which there is no output and no result.
pub(super) fn head_of(ending: RemoteOutcome) -> Vec<u8> {
    head(ending, None, None, 0)
}

/// The message with its length, and the output; of that at most so many bytes.
fn head(
    ending: RemoteOutcome,
    output: Option<Output>,
    cost: Option<(u32, Cost)>,
    output_bytes_max: usize,
) -> Vec<u8> {
    let output = output.map(|Output { stdout, stderr, .. }| {
        let stdout = stdout.cut(output_bytes_max);
        let stderr = stderr.cut(output_bytes_max - stdout.text.len());
        (stdout, stderr)
    });
    let written = output.as_ref().map(|(stdout, stderr)| OutputSizes {
        stdout_bytes: stdout.text.len() as u64,
        stdout_dropped: stdout.dropped,
        stderr_bytes: stderr.text.len() as u64,
        stderr_dropped: stderr.dropped,
    });
    let message = postcard::to_stdvec(&AnswerHead {
        ending,
        output: written,
        cost,
    })
    .expect("flat types of our own always encode");
    debug_assert!(
        message.len() <= ANSWER_HEAD_BYTES_MAX,
        "all that can stand in it has a limit of its own"
    );
    let length = u32::try_from(message.len()).expect("it is short");
    let mut head = [&length.to_le_bytes()[..], &message].concat();
    if let Some((stdout, stderr)) = output {
        head.extend_from_slice(&stdout.text);
        head.extend_from_slice(&stderr.text);
    }
    head
}

/// As many of these as may travel.
fn some_of(mut reasons: Vec<String>) -> Vec<String> {
    let mut bytes = 0;
    let fits = reasons.iter().take_while(|reason| {
        bytes += reason.len() + size_of::<String>();
        bytes <= REASONS_BYTES_MAX
    });
    reasons.truncate(fits.count().max(1));
    reasons
}

fn ending(error: CallError, receipt: Option<&StopReceipt>) -> RemoteOutcome {
    match error {
        CallError::Failed(failure) => RemoteOutcome::Failed(failure),
        CallError::Panicked(report) => RemoteOutcome::Panicked(report),
        CallError::Crashed(report) => RemoteOutcome::Crashed(report),
        CallError::Lost(report) => RemoteOutcome::Lost(report),
        CallError::TimedOut(TimedOut::Run(report) | TimedOut::Cpu(report)) => {
            RemoteOutcome::TimedOut(report)
        }
        // `Queue` or `NoWorker`: it was sent ahead of its turn, and that did not come. `TimedOut`,
        // `CallError` and `ErrorKind` are non-exhaustive, so each match here has an open arm.
        CallError::TimedOut(_) => RemoteOutcome::Returned,
        CallError::Cancelled(cancelled) => {
            let step = receipt.map_or(Step::NotStarted, |receipt| receipt.step);
            RemoteOutcome::Stopped {
                report: cancelled.report,
                step,
            }
        }
        CallError::Passed(reasons) => RemoteOutcome::Passed(some_of(reasons)),
        CallError::Rejected(error) => refused(&error),
        other => refused(&Error::new(ErrorKind::Protocol, other.to_string())),
    }
}

/// What becomes of a call that could not be carried: one that another host may carry goes there.
pub(super) fn refused(error: &Error) -> RemoteOutcome {
    let why = match error.kind() {
        // This host ends.
        ErrorKind::Closed | ErrorKind::QueueFull => return RemoteOutcome::Returned,
        ErrorKind::CannotStart => return RemoteOutcome::Passed(vec![error.to_string()]),
        ErrorKind::UnknownTask => RefusalKind::UnknownTask,
        ErrorKind::BadArguments => RefusalKind::BadArguments,
        ErrorKind::OtherBuild => RefusalKind::OtherBuild,
        ErrorKind::Encode => RefusalKind::Encode,
        ErrorKind::TooLarge => RefusalKind::TooLarge,
        _ => RefusalKind::Other,
    };
    RemoteOutcome::Refused {
        why,
        text: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_head_is_what_encoding_it_gives() {
        assert_eq!(head_of(RemoteOutcome::Done), DONE);
    }
}
