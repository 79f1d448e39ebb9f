//! What a host says of a call that ended.

use crate::certificate::{Receipt, Step};
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, TimedOut};
use crate::pool::Outcome;
use crate::process::Output;
use crate::wire::remote::{Answer, Ending, Refusal, Written};

use bytes::Bytes;

/// The head of the usual answer: a result and nothing beside.
const DONE: &[u8] = &[0, 0];

/// The head of an answer, encoded, and the result that stands behind it.
pub(super) fn answer(outcome: Outcome, receipt: Option<&Receipt>, output: Option<Output>, result_bytes_max: u64) -> (Bytes, Bytes) {
    let (ending, result) = match outcome {
        Ok(result) if result.len() as u64 > result_bytes_max => {
            let text = format!("return a result: it has {} bytes and {result_bytes_max} are allowed (Builder::payload_max)", result.len());
            (Ending::Refused { why: Refusal::TooLarge, text }, Bytes::new())
        }
        Ok(result) => (Ending::Done, result),
        Err(error) => (ending(error, receipt), Bytes::new()),
    };
    let output = output.map(|output| {
        let Output { stdout, stderr } = output;
        Box::new(Written { stdout: (stdout.text, stdout.dropped), stderr: (stderr.text, stderr.dropped) })
    });
    if let (Ending::Done, None) = (&ending, &output) {
        return (Bytes::from_static(DONE), result);
    }
    let head = postcard::to_stdvec(&Answer { ending, output }).expect("flat types of our own always encode");
    (head.into(), result)
}

fn ending(error: CallError, receipt: Option<&Receipt>) -> Ending {
    match error {
        CallError::Failed(failure) => Ending::Failed(failure),
        CallError::Panicked(certificate) => Ending::Panicked(certificate),
        CallError::Crashed(certificate) => Ending::Crashed(certificate),
        CallError::Lost(certificate) => Ending::Lost(certificate),
        CallError::TimedOut(TimedOut::Run(certificate)) => Ending::TimedOut(certificate),
        // It was sent ahead of its turn, and that did not come.
        CallError::TimedOut(TimedOut::Queue(_) | TimedOut::NoWorker(_)) => Ending::Returned,
        CallError::Cancelled(cancelled) => {
            let step = receipt.map_or(Step::NotStarted, |receipt| receipt.step);
            Ending::Stopped { certificate: cancelled.certificate, step }
        }
        CallError::Passed(reasons) => Ending::Passed(reasons),
        CallError::Rejected(error) => refused(&error),
    }
}

/// What becomes of a call that could not be carried: one that another host may carry goes there.
pub(super) fn refused(error: &Error) -> Ending {
    let why = match error.kind() {
        // This host ends.
        ErrorKind::Closed | ErrorKind::QueueFull => return Ending::Returned,
        ErrorKind::CannotStart => return Ending::Passed(vec![error.to_string()]),
        ErrorKind::UnknownTask => Refusal::UnknownTask,
        ErrorKind::BadArguments => Refusal::BadArguments,
        ErrorKind::OtherBuild => Refusal::OtherBuild,
        ErrorKind::Encode => Refusal::Encode,
        ErrorKind::TooLarge => Refusal::TooLarge,
        _ => Refusal::Other,
    };
    Ending::Refused { why, text: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_head_is_what_encoding_it_gives() {
        assert_eq!(postcard::to_stdvec(&Answer { ending: Ending::Done, output: None }).unwrap(), DONE);
    }
}
