//! One worker process of ours, from its start to its reaping.
//!
//! [`live`] tells the story. Its stages are those of a worker in `core`: it moves the worker from
//! starting to ready and, at the end, reports its exit. While the worker serves, the data channel
//! has a reading and a writing task of its own, because that is where the speed is; everything rare
//! is one event loop in `service`.
//!
//! Modules: `start` (until it is ready), `service` (until its process has ended), `control` (what
//! it says besides answers), `health` (whether it answers pings), `finish` (reaping).

mod control;
mod finish;
mod health;
mod service;
mod start;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use self::control::FinalReports;
use self::health::PingState;
use super::super::core::StopOrder;
use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::super::{Shared, stop};
use super::{Health, OutgoingAttempt, TASK_NAME_BYTES_MAX, WorkerConn, target_of, written};
use crate::codec::Codec;
use crate::link::Channel;
use crate::outcome::{REASON_BYTES_MAX, shorten};
use crate::output::Output;
use crate::process::proc_fs::resident_bytes;
use crate::process::{Group, Pipe, Process};
use crate::wire::{CallMeta, CancelFrame, Decoder, kind};

/// A control message is small; progress and results go over the data channel.
const CONTROL_BYTES_MAX: usize = 1 << 20;
/// The name of a task and a few numbers.
const META_BYTES_MAX: usize = TASK_NAME_BYTES_MAX + 128;

/// A worker process that is ready.
pub(in super::super) struct WorkerProcess {
    id: WorkerId,
    process: Process,
    /// The worker's own number in `/proc`, if that shows it. Another one than that of `process`
    /// where a program stands between (a shell, strace).
    shown: Option<u32>,
    data: Arc<Channel>,
    control: Channel,
    stdout: Pipe,
    stderr: Pipe,
    /// Whether the output of its attempt is captured.
    is_capturing: AtomicBool,
    group: Option<Group>,
    /// Cancelled when it has nothing more to do.
    retire: CancellationToken,
    health: PingState,
    reports: Mutex<FinalReports>,
    /// Cancelled when it must be ended for what it did to its link.
    broken: CancellationToken,
    /// Whether it died before it had read all that it was sent.
    unread: AtomicBool,
    /// Whether it sends log events.
    logs: bool,
}

/// The life of one worker: start, shake hands, serve, end, reap.
pub(in super::super) async fn live(shared: Arc<Shared>, id: WorkerId) {
    let worker = match start::start(&shared, id).await {
        Ok(worker) => Arc::new(worker),
        Err(error) => {
            shared.step(|core, effects| core.on_start_failed(id, &error, effects));
            return;
        }
    };
    let reading = CancellationToken::new();
    // Also cancelled if the reading task is dropped.
    let read = reading.clone().drop_guard();
    let (to_read, for_reading) = (Arc::clone(&worker), Arc::clone(&shared));
    shared.scope.spawn(async move {
        service::read_data(&for_reading, &to_read).await;
        drop(read);
    });
    let writing = Arc::clone(&worker);
    shared.scope.spawn(async move {
        writing
            .process
            .gone
            .run_until_cancelled(writing.data.write_loop())
            .await;
    });
    let (conn, pid) = (Arc::clone(&worker) as Arc<dyn WorkerConn>, worker.pid());
    shared.step(|core, effects| core.on_ready(id, conn, pid, effects));

    let mut control = Decoder::new(CONTROL_BYTES_MAX);
    let service = service::serve(&shared, &worker, &mut control).await;
    finish::finish(&shared, &worker, &reading, control, service).await;
}

impl WorkerProcess {
    pub(in super::super) fn id(&self) -> WorkerId {
        self.id
    }

    fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Resident memory of the worker itself.
    pub(in super::super) fn resident_bytes(&self) -> u64 {
        resident_bytes(self.shown)
    }

    /// Waits until its process has been reaped and its tree is gone.
    pub(in super::super) async fn gone(&self) {
        self.process.gone.cancelled().await;
    }

    /// Takes a step of the kill ladder: signals the worker's process tree, or has the worker do it
    /// where we may not.
    pub(in super::super) fn signal(&self, signal: Signal) {
        self.note_state();
        if self.process.signal(signal).is_err() {
            self.ask_to_end(signal);
        }
    }

    /// Ends the worker by SIGKILL. `false` if that did not end it in time, and it was given up.
    pub(in super::super) async fn kill(&self) -> bool {
        self.note_state();
        if let Some(group) = &self.group {
            group.kill();
        }
        self.process.kill(|| self.ask_to_end(Signal::KILL)).await
    }

    fn ask_to_end(&self, signal: Signal) {
        let signal = u8::try_from(signal.as_raw()).unwrap_or(0);
        self.control.send(kind::END, 0, &[signal]);
    }

    /// What the attempt wrote whose output is captured, if there is one: all that is in the pipes
    /// by now.
    fn end_capture(&self) -> Option<Output> {
        let was_capturing = self.is_capturing.swap(false, Ordering::AcqRel);
        was_capturing.then(|| Output::new(self.stdout.end_capture(), self.stderr.end_capture()))
    }
}

impl WorkerConn for WorkerProcess {
    fn append(&self, attempt: &OutgoingAttempt<'_>) {
        let request = attempt.request;
        let options = request.options();
        let origin = options.origin;
        let meta = CallMeta {
            target: target_of(request),
            attempt: origin.map_or(attempt.number, |origin| origin.attempt),
            codec: request.codec,
            timeout: options.timeout,
            memory: options.memory,
            tell_start: attempt.tell_start,
            tick: options.tick,
            number: origin.map(|origin| origin.call),
            job: options.job.as_deref().map(Cow::Borrowed),
            traceparent: options.traceparent.clone(),
        };
        let mut space = [0; META_BYTES_MAX];
        let meta = written(&meta, options, &mut space);
        let payload = request
            .payload
            .as_ref()
            .expect("a call that could not be encoded is not admitted");
        let call = attempt.call.to_wire();
        self.data.append(kind::CALL, call, &meta, payload);
    }

    /// What it is sent is bounded by its slots.
    fn is_congested(&self) -> bool {
        false
    }

    fn flush(&self) {
        self.data.flush();
    }

    fn kick(&self) {
        self.data.kick();
    }

    fn let_go(&self) {
        self.retire.cancel();
    }

    fn stop(self: Arc<Self>, shared: &Arc<Shared>, order: StopOrder) {
        let escalation = stop::escalate(Arc::clone(shared), order, self);
        shared.scope.spawn(escalation);
    }

    fn ask_to_stop(&self, call: CallId, reason: &StopReason, _hurry: bool) {
        let reason = shorten(reason.text(), REASON_BYTES_MAX).to_owned();
        if let Ok(body) = Codec::Postcard.encode(&CancelFrame { reason }) {
            self.control.send(kind::CANCEL, call.to_wire(), &body);
        }
    }

    fn watch_memory(self: Arc<Self>, shared: &Arc<Shared>, call: CallId, bytes_max: u64) {
        // Measured before the call is written, so that nothing of what it takes is taken for its
        // worker's own.
        let limit = self.resident_bytes().saturating_add(bytes_max);
        let watch = stop::check_memory(Arc::clone(shared), call, self, limit);
        shared.scope.spawn(watch);
    }

    fn begin_capture(&self, bytes_max: usize) {
        self.stdout.begin_capture(bytes_max);
        self.stderr.begin_capture(bytes_max);
        self.is_capturing.store(true, Ordering::Release);
    }

    fn stderr_tail(&self) -> String {
        self.stderr.tail()
    }

    fn look(&self, is_in_time: bool, wants_memory: bool) -> Option<Health> {
        let mut health = health::look(self, is_in_time);
        if wants_memory {
            health.resident_bytes = self.resident_bytes();
        }
        Some(health)
    }

    fn break_off(&self, reason: &str) {
        control::break_off(self, reason);
    }

    fn kill_undriven(&self) {
        self.signal(Signal::KILL);
    }

    fn has_ended(&self) -> bool {
        self.process.has_ended()
    }
}
