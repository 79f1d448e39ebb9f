//! A worker process while it serves: its channels are read and written until its process has ended.
//!
//! `serve` waits for what ends the service; `read_data` is the reading task of the data channel,
//! which hands all frames of one read to the dispatcher in one step. What is slow or may run code
//! of the user, log events and captured output, is done before that step.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::super::super::config::Config;
use super::super::super::core::is_answer;
use super::super::super::ids::CallId;
use super::super::super::logs;
use super::super::super::shared::Shared;
use super::super::OwnProcess as _;
use super::{WorkerProcess, control};
use crate::error::Error;
use crate::process::Pipe;
use crate::wire::{Decoder, Frame};

/// What stands before a payload in a frame.
const META_BYTES_MAX: usize = 64 << 10;
/// From the end of its link to the end of its process, for a worker that is just exiting: a core of
/// 100 MiB is unmapped in less.
const LINK_END_GRACE: Duration = Duration::from_millis(100);

/// What ends a worker's service.
enum EndSignal {
    Ended,
    Broken,
    Retired,
    Killed,
}

/// How a worker's service ended.
#[derive(Clone, Copy)]
pub(super) enum ServiceEnd {
    /// By itself.
    Left,
    /// The pool ended it.
    LetGo,
    /// It was killed for what it did to its link.
    BrokenOff,
}

/// Until the worker's process has ended, by itself or because the pool ended it.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    worker: &WorkerProcess,
    decoder: &mut Decoder,
) -> ServiceEnd {
    let signal = tokio::select! {
        () = worker.process.ended() => EndSignal::Ended,
        () = worker.broken.cancelled() => EndSignal::Broken,
        () = worker.retire.cancelled() => EndSignal::Retired,
        () = shared.killed.cancelled() => EndSignal::Killed,
        () = control::read(shared, worker, decoder) => unreachable!("reading goes on until the \
            process ends"),
        () = worker.control.write_loop() => unreachable!("writing goes on until the process ends"),
        () = pump(&worker.stdout, &worker.stderr) => unreachable!("the pumps do not end"),
        () = look_at_peak(shared, worker) => unreachable!("looking goes on until the process ends"),
    };
    if !matches!(signal, EndSignal::Retired) {
        shared.step(|core, effects| core.on_ending(worker.id, effects));
    }
    match signal {
        EndSignal::Ended => ServiceEnd::Left,
        EndSignal::Retired => {
            tokio::select! {
                () = end_gently(&shared.config, worker) => {}
                () = pump(&worker.stdout, &worker.stderr) => unreachable!("the pumps do not end"),
            }
            ServiceEnd::LetGo
        }
        EndSignal::Broken => {
            // A process that is ending by itself closes its sockets a moment before it can be
            // waited for.
            if timeout(LINK_END_GRACE, worker.process.ended())
                .await
                .is_ok()
            {
                return ServiceEnd::Left;
            }
            worker.kill().await;
            ServiceEnd::BrokenOff
        }
        EndSignal::Killed => {
            worker.kill().await;
            ServiceEnd::LetGo
        }
    }
}

/// Reads the worker's standard output and error.
pub(super) async fn pump(stdout: &Pipe, stderr: &Pipe) {
    tokio::join!(stdout.pump(), stderr.pump());
    // Both are closed: a worker may do that, it says nothing about its end.
    std::future::pending::<()>().await;
}

/// Looks at the worker's memory now and then while it runs something: the peak of a process that
/// has ended is not known.
async fn look_at_peak(shared: &Shared, worker: &WorkerProcess) {
    loop {
        sleep(shared.config.check_interval).await;
        if shared.peek(|core| core.is_running(worker.id)) {
            worker.process.look_at_peak(worker.shown);
        }
    }
}

/// Lets the worker finish: end of data, teardown, exit; then the harder steps.
async fn end_gently(config: &Config, worker: &WorkerProcess) {
    worker.data.finish();
    if timeout(config.teardown_timeout, worker.process.ended())
        .await
        .is_ok()
    {
        return;
    }
    worker.signal(Signal::TERM);
    if timeout(config.terminate, worker.process.ended())
        .await
        .is_err()
    {
        worker.kill().await;
    }
}

/// Takes answers until the channel ends.
pub(super) async fn read_data(shared: &Arc<Shared>, worker: &WorkerProcess) {
    let bytes_max = shared.config.payload_bytes_max + META_BYTES_MAX;
    let mut decoder = Decoder::new(bytes_max);
    loop {
        let count = tokio::select! {
            biased;
            count = worker.data.read(&mut decoder) => count.unwrap_or_else(|e| {
                worker.note_unread(e.kind() == io::ErrorKind::ConnectionReset);
                0
            }),
            // A grandchild may hold the channel open for ever.
            () = worker.process.ended() => 0,
        };
        if !take_frames(shared, worker, &mut decoder) {
            break;
        }
        if count == 0 {
            if !worker.retire.is_cancelled() {
                worker.lose("data");
            }
            break;
        }
    }
    // What a dying worker had written before it died counts.
    worker.process.ended().await;
    worker.note_unread(worker.data.was_left_unread());
    let mut left = bytes_max;
    while left > 0 {
        let count = worker.data.read_now(&mut decoder);
        if count == 0 || !take_frames(shared, worker, &mut decoder) {
            break;
        }
        left = left.saturating_sub(count);
    }
}

/// Hands whole frames to the dispatcher, in one step. `false` if they make no sense.
fn take_frames(shared: &Arc<Shared>, worker: &WorkerProcess, decoder: &mut Decoder) -> bool {
    let mut problem = None;
    let mut frames = if worker.logs {
        logs::take(worker.id.number, decoder)
    } else {
        Vec::new()
    };
    let mut output = None;
    if worker.is_capturing.load(Ordering::Acquire) {
        // Its one attempt has the worker for itself. Once its answer is here, all that it wrote is
        // in the pipes. They are read before the dispatcher is locked.
        read_ahead(decoder, &mut frames);
        if frames.iter().flatten().flatten().any(is_answer) {
            output = worker.end_capture();
        }
    }
    if worker.limits.is_held() {
        // Before the dispatcher is locked: what the kernel refused the attempt may be why it
        // answers so.
        read_ahead(decoder, &mut frames);
        let mut answers = frames
            .iter()
            .flatten()
            .flatten()
            .filter(|frame| is_answer(frame));
        if let Some(call) = answers.next().map(|frame| CallId::from_wire(frame.id))
            && let Some(hit) = worker.limits.met()
        {
            shared.step(|core, effects| core.on_limit_met((call, worker.id), hit, effects));
        }
    }
    let mut frames = frames.into_iter();
    shared.step(|core, effects| {
        loop {
            let taken = match frames.next().unwrap_or_else(|| decoder.next()) {
                Ok(Some(frame)) => {
                    let output = if is_answer(&frame) {
                        output.take()
                    } else {
                        None
                    };
                    core.on_frame(worker.id, &frame, output, effects)
                }
                Ok(None) => break,
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                problem = Some(error);
                break;
            }
        }
        core.on_frames_over(effects);
    });
    if let Some(error) = &problem {
        worker.break_off(&error.to_string());
    }
    problem.is_none()
}

/// Decodes whole frames, up to and including the first error.
fn read_ahead(decoder: &mut Decoder, frames: &mut Vec<Result<Option<Frame>, Error>>) {
    if matches!(frames.last(), Some(Err(_))) {
        return;
    }
    loop {
        let next = decoder.next();
        match &next {
            Ok(None) => return,
            Ok(Some(_)) => frames.push(next),
            Err(_) => return frames.push(next),
        }
    }
}
