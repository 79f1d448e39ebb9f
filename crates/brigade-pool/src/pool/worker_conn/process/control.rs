//! What a worker process says over its control channel: pongs, the note of its signal handler, its
//! peak memory, panics.
//!
//! What it says of its end is kept in `FinalReports` until it is reaped. A worker that garbles this
//! channel is broken off.

use super::super::super::ids::CallId;
use super::super::super::shared::Shared;
use super::super::OwnProcess as _;
use super::WorkerProcess;
use crate::codec::Codec;
use crate::event::Event;
use crate::sync::lock;
use crate::wire::{CrashNote, Decoder, Frame, PanicNote, kind};

/// Longest name of a thread, as the kernel keeps it.
const THREAD_NAME_BYTES_MAX: usize = 16;

/// Reads until the channel ends. Never returns: the end of the process follows.
pub(super) async fn read(shared: &Shared, worker: &WorkerProcess, decoder: &mut Decoder) {
    while matches!(worker.control.read(decoder).await, Ok(1..)) {
        recv_all(shared, worker, decoder);
    }
    worker.lose("control");
    std::future::pending::<()>().await;
}

/// Takes all whole frames.
pub(super) fn recv_all(shared: &Shared, worker: &WorkerProcess, decoder: &mut Decoder) {
    loop {
        match decoder.next() {
            Ok(Some(frame)) => recv(shared, worker, &frame),
            Ok(None) => return,
            Err(_) => return worker.break_off("it garbled its control channel"),
        }
    }
}

fn recv(shared: &Shared, worker: &WorkerProcess, frame: &Frame) {
    match frame.kind {
        kind::PONG => worker.health.answered(),
        kind::CRASH_NOTE => note_crash(worker, frame),
        kind::PEAK => {
            if let Some(bytes) = frame.body.first_chunk() {
                worker
                    .process
                    .note_reported_peak(u64::from_le_bytes(*bytes));
            }
        }
        kind::PANIC => note_panic(shared, worker, frame),
        _ => worker.break_off("it sent a control message of unknown kind"),
    }
}

fn note_crash(worker: &WorkerProcess, frame: &Frame) {
    let note = frame
        .body
        .first()
        .and_then(|byte| CrashNote::from_byte(*byte));
    let signal = frame.body.get(1).map(|signal| i32::from(*signal));
    let mut reports = lock(&worker.reports);
    reports.signal = reports.signal.or(signal);
    // The first says why; what follows it is the default taking its course.
    let is_first = reports
        .crash_note
        .is_none_or(|(_, known)| known == CrashNote::Signal);
    if let Some(note) = note.filter(|_| is_first) {
        reports.crash_note = Some((CallId::from_wire(frame.id), note));
        reports.thread = frame.body.get(2..).and_then(thread_name);
    }
}

fn note_panic(shared: &Shared, worker: &WorkerProcess, frame: &Frame) {
    let Ok(note) = Codec::Postcard.decode::<PanicNote>(&frame.body) else {
        return worker.break_off("it garbled a control message");
    };
    if frame.id == 0 {
        let number = worker.id.number;
        tracing::warn!(
            worker = number,
            location = note.location,
            message = note.message,
            "a worker panicked outside of any call"
        );
        shared.emit(|| Event::StrayPanic {
            worker: number,
            message: note.message.as_str().into(),
            location: note.location.as_str().into(),
        });
    }
    lock(&worker.reports).panic = Some((CallId::from_wire(frame.id), note));
}

/// The name of a thread as a worker sends it: up to the first zero, printable.
fn thread_name(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let name: String = String::from_utf8_lossy(name)
        .chars()
        .filter(|char| !char.is_control())
        .take(THREAD_NAME_BYTES_MAX)
        .collect();
    (!name.is_empty()).then_some(name)
}
