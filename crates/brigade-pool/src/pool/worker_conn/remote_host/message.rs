//! What a host says, decoded before the dispatcher sees it.
//!
//! A host that has proved itself may still send nonsense, and reading it must not hold up the other
//! hosts. What is decoded is bounded ([`ANSWER_HEAD_BYTES_MAX`]); results stay undecoded until
//! their callers await them.

use bytes::Bytes;

use crate::attempt_report::{AttemptReport, Cost};
use crate::error::{Error, ErrorKind};
use crate::outcome::REASON_BYTES_MAX;
use crate::output::{Captured, Output};
use crate::printable::printable;
use crate::wire::Frame;
use crate::wire::remote::{ANSWER_HEAD_BYTES_MAX, AnswerHead, OutputSizes, RemoteOutcome, kind};

/// More reasons than this say nothing more to a person.
const REASONS_MAX: usize = 64;

/// What a host says of a call, or of itself.
pub(in super::super::super) enum HostMessage {
    Answer {
        ending: RemoteOutcome,
        output: Option<Output>,
        /// Of an ending without a report: the worker's process id, and what the attempt cost.
        cost: Option<(u32, Cost)>,
        result: Bytes,
    },
    /// Fraction, codec and payload, as a worker sends them.
    Progress(Bytes),
    Leaving,
}

impl HostMessage {
    /// # Errors
    ///
    /// `Protocol` if it makes no sense.
    pub(super) fn read(frame: &Frame) -> Result<Self, Error> {
        match frame.kind {
            kind::ANSWER => answer(&frame.body),
            kind::PROGRESS => Ok(Self::Progress(frame.body.clone())),
            kind::LEAVING => Ok(Self::Leaving),
            unknown => Err(Error::new(
                ErrorKind::Protocol,
                format!("it sent a frame of unknown kind {unknown}"),
            )),
        }
    }

    pub(super) fn result_bytes(&self) -> usize {
        match self {
            Self::Answer { result, .. } => result.len(),
            Self::Progress(_) | Self::Leaving => 0,
        }
    }
}

/// For the fuzzer: an answer, whatever the bytes are.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_host_message(body: &[u8]) {
    answer(&Bytes::copy_from_slice(body)).ok();
}

fn answer(body: &Bytes) -> Result<HostMessage, Error> {
    let garbled = |how: &str| Error::new(ErrorKind::Protocol, format!("read an answer: {how}"));
    let (length, _) = body
        .split_first_chunk()
        .ok_or_else(|| garbled("it is too short"))?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > ANSWER_HEAD_BYTES_MAX {
        return Err(garbled(&format!(
            "its head has {length} bytes and {ANSWER_HEAD_BYTES_MAX} are allowed"
        )));
    }
    let mut rest = body.slice(size_of::<u32>()..);
    let mut take = |bytes: u64| match usize::try_from(bytes) {
        Ok(bytes) if bytes <= rest.len() => Ok(rest.split_to(bytes)),
        _ => Err(garbled("it announces more than came")),
    };
    let head = take(length as u64)?;
    let (head, left) = postcard::take_from_bytes::<AnswerHead>(&head)
        .map_err(|e| garbled("its head is garbled").with_source(e))?;
    if !left.is_empty() {
        return Err(garbled("its head is longer than it should be"));
    }
    let AnswerHead {
        ending,
        output,
        cost,
    } = head;
    let output = match output {
        None => None,
        Some(OutputSizes {
            stdout_bytes,
            stdout_dropped,
            stderr_bytes,
            stderr_dropped,
        }) => {
            let stdout = Captured::new(take(stdout_bytes)?.to_vec(), stdout_dropped);
            let stderr = Captured::new(take(stderr_bytes)?.to_vec(), stderr_dropped);
            Some(Output::new(stdout, stderr))
        }
    };
    Ok(HostMessage::Answer {
        ending: ending.bounded(),
        output,
        cost: cost.map(|(pid, cost)| (pid, cost.bounded())),
        result: rest,
    })
}

impl RemoteOutcome {
    /// Cuts what a host says to what could be true.
    fn bounded(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(failure.bounded()),
            Self::Panicked(report) => Self::Panicked(report.bounded()),
            Self::Crashed(report) => Self::Crashed(report.bounded()),
            Self::TimedOut(report) => Self::TimedOut(report.bounded()),
            Self::Lost(report) => Self::Lost(report.bounded()),
            Self::Stopped { report, step } => Self::Stopped {
                report: report.map(AttemptReport::bounded),
                step,
            },
            Self::Passed(reasons) => {
                let reasons = reasons.iter().take(REASONS_MAX);
                Self::Passed(
                    reasons
                        .map(|reason| printable(reason, REASON_BYTES_MAX))
                        .collect(),
                )
            }
            Self::Refused { why, text } => Self::Refused {
                why,
                text: printable(&text, REASON_BYTES_MAX),
            },
            Self::Done | Self::Returned => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(head: &[u8], rest: &[u8]) -> Frame {
        let length = u32::try_from(head.len()).unwrap().to_le_bytes();
        Frame {
            kind: kind::ANSWER,
            id: 1,
            body: [&length[..], head, rest].concat().into(),
        }
    }

    fn head(ending: RemoteOutcome, output: Option<OutputSizes>) -> Vec<u8> {
        postcard::to_stdvec(&AnswerHead {
            ending,
            output,
            cost: None,
        })
        .unwrap()
    }

    #[test]
    fn an_answer_comes_apart_as_it_was_put_together() {
        let written = OutputSizes {
            stdout_bytes: 3,
            stdout_dropped: 7,
            stderr_bytes: 2,
            stderr_dropped: 0,
        };
        let read = HostMessage::read(&frame(
            &head(RemoteOutcome::Done, Some(written)),
            b"outerresult",
        ))
        .unwrap();
        let HostMessage::Answer {
            ending: RemoteOutcome::Done,
            output: Some(output),
            result,
            ..
        } = read
        else {
            panic!("an answer")
        };
        assert_eq!(
            (
                &output.stdout.text[..],
                output.stdout.dropped,
                &output.stderr.text[..]
            ),
            (&b"out"[..], 7, &b"er"[..])
        );
        assert_eq!(&result[..], b"result");
    }

    #[test]
    fn nonsense_is_refused_before_much_is_made_of_it() {
        let done = head(RemoteOutcome::Done, None);
        let liar = |bytes| OutputSizes {
            stdout_bytes: bytes,
            stdout_dropped: 0,
            stderr_bytes: bytes,
            stderr_dropped: 0,
        };
        let wrong = [
            frame(&[], b""),
            frame(&[0xff; 40], b""),
            frame(&[&done[..], b"more"].concat(), b""),
            frame(&head(RemoteOutcome::Done, Some(liar(u64::MAX))), b"short"),
            frame(&head(RemoteOutcome::Done, Some(liar(3))), b"short"),
            frame(
                &head(
                    RemoteOutcome::Passed(vec![String::new(); ANSWER_HEAD_BYTES_MAX]),
                    None,
                ),
                b"",
            ),
            Frame {
                kind: kind::ANSWER,
                id: 1,
                body: Bytes::from_static(&[1, 0]),
            },
            Frame {
                kind: kind::ANSWER,
                id: 1,
                body: Bytes::from_static(&[255, 255, 255, 255, 0, 0]),
            },
            Frame {
                kind: 200,
                id: 1,
                body: Bytes::new(),
            },
        ];
        for frame in wrong {
            assert_eq!(
                HostMessage::read(&frame).err().map(|error| error.kind()),
                Some(ErrorKind::Protocol),
                "{:.60?}",
                frame.body
            );
        }
    }

    #[test]
    fn a_million_reasons_are_a_few() {
        let read = HostMessage::read(&frame(
            &head(RemoteOutcome::Passed(vec![String::new(); 200_000]), None),
            b"",
        ))
        .unwrap();
        let HostMessage::Answer {
            ending: RemoteOutcome::Passed(reasons),
            ..
        } = read
        else {
            panic!("passed")
        };
        assert_eq!(
            (reasons.len(), reasons.capacity()),
            (REASONS_MAX, REASONS_MAX)
        );
    }
}
