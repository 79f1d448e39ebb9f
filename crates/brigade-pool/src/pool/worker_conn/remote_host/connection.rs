//! What a host says once it has joined, handed to the dispatcher in batches.
//!
//! A batch is decoded before the dispatcher is locked, and bounded, because decoding makes more of
//! it. Answers are acknowledged within the step that takes them, before calls are handed out.
//! What came before nonsense counts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::super::ids::{CallId, WorkerId};
use super::super::super::shared::Shared;
use super::RemoteHost;
use super::message::HostMessage;
use crate::error::Error;
use crate::remote::{FrameHandler, Messages};
use crate::wire::remote::kind;

/// Progress with its fraction and codec goes in one part: parts of two messages of one call and
/// kind would be taken for one message.
const _: () = assert!(crate::progress::PROGRESS_BYTES_MAX + 9 <= crate::wire::remote::PART_BYTES);

/// An answer of at least this is acknowledged at once.
const LARGE_BYTES: usize = 64 << 10;
/// Messages that are handed to the dispatcher in one step, and the bytes of their frames.
const BATCH_MESSAGES_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 256 << 10;

/// A connection, as the pool reads it.
pub(super) struct JoinedHost<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) worker: WorkerId,
    pub(super) host: &'a RemoteHost,
}

/// What is handed to the dispatcher in one step. It is decoded before the dispatcher is locked, and
/// bounded, since decoding makes more of it.
struct MessageBatch {
    messages: Vec<(CallId, HostMessage)>,
    end: BatchEnd,
}

enum BatchEnd {
    Full,
    NothingMore,
    /// What came before it counts.
    Nonsense(Error),
}

impl MessageBatch {
    fn read(messages: &mut Messages<'_>) -> Self {
        let (mut batch, mut bytes) = (
            Self {
                messages: Vec::new(),
                end: BatchEnd::Full,
            },
            0,
        );
        while batch.messages.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let frame = match messages.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    return Self {
                        end: BatchEnd::NothingMore,
                        ..batch
                    };
                }
                Err(error) => {
                    return Self {
                        end: BatchEnd::Nonsense(error),
                        ..batch
                    };
                }
            };
            bytes += frame.body.len();
            match HostMessage::read(&frame) {
                Ok(message) => batch.messages.push((CallId::from_wire(frame.id), message)),
                Err(error) => {
                    return Self {
                        end: BatchEnd::Nonsense(error),
                        ..batch
                    };
                }
            }
        }
        batch
    }
}

impl JoinedHost<'_> {
    fn take(&self, heard: Vec<(CallId, HostMessage)>) -> Result<(), Error> {
        let was_large = heard
            .iter()
            .any(|(_, message)| message.result_bytes() > LARGE_BYTES);
        let (mut answered, mut problem) = (Vec::new(), None);
        self.shared.step(|core, effects| {
            for (call, message) in heard {
                match core.on_host_message(self.worker, call, message, effects) {
                    Ok(is_answer) => answered.extend(is_answer.then_some(call)),
                    Err(error) => {
                        problem = Some(error);
                        break;
                    }
                }
            }
            // Before calls are handed out: one that came back may go there again, and what is
            // acknowledged must be the answer before that.
            if !answered.is_empty() {
                let ids: Vec<u8> = answered
                    .iter()
                    .flat_map(|call: &CallId| call.to_wire().to_le_bytes())
                    .collect();
                self.host.outbox.append(kind::ACK, 0, &ids, &Bytes::new());
            }
            core.on_frames_over(effects);
        });
        // The next call takes it along; only an answer that keeps much memory occupied there is
        // acknowledged at once.
        if was_large {
            self.host.outbox.kick();
        }
        problem.map_or(Ok(()), Err)
    }
}

impl FrameHandler for JoinedHost<'_> {
    fn recv(&self, messages: &mut Messages<'_>) -> Result<(), Error> {
        loop {
            let batch = MessageBatch::read(messages);
            if !batch.messages.is_empty() {
                self.take(batch.messages)?;
            }
            match batch.end {
                BatchEnd::Full => {}
                BatchEnd::NothingMore => return Ok(()),
                BatchEnd::Nonsense(error) => return Err(error),
            }
        }
    }

    /// Only of calls that run there.
    fn expects(&self, kind: u8, call: u64) -> bool {
        let call = CallId::from_wire(call);
        let runs_there = || self.shared.peek(|core| core.runs_on(call, self.worker));
        kind == kind::ANSWER && runs_there()
    }

    fn relieved(&self) {
        self.shared
            .step(|core, effects| core.on_relieved(self.worker, effects));
    }

    fn echoed(&self, after: Duration) {
        self.shared
            .step(|core, effects| core.on_round_trip(self.worker, after, effects));
    }
}
