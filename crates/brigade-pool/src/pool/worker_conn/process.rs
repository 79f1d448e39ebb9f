//! One worker process of ours, from its start to its reaping.
//!
//! This file has the process and what can be done with it. `life` has its life in order, whose
//! stages are those of a worker in `core`: it moves the worker from starting to ready and, at the
//! end, reports its exit. While the worker serves, the data channel has a reading and a writing
//! task of its own, because that is where the speed is; everything rare is one event loop in
//! `service`.
//!
//! Modules, from bottom to top: `reports` (what it said of its end), `health` (whether it answers
//! pings), `limits` (what it may use, held from outside); `start` (until it is ready), `control`
//! (what it says besides answers), `service` (until its process has ended), `finish` (reaping);
//! `life`.

mod control;
mod finish;
mod health;
pub(in super::super) mod life;
mod limits;
mod reports;
mod service;
mod start;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use self::health::PingState;
use self::limits::LimitHolder;
use self::reports::FinalReports;
use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::outgoing::{OutgoingAttempt, TASK_NAME_BYTES_MAX, target_of, written};
use super::{Health, OwnProcess, ProcessMemory, WorkerConn};
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::MemoryHold;
use crate::codec::Codec;
use crate::error::Error;
use crate::link::Channel;
use crate::outcome::REASON_BYTES_MAX;
use crate::output::Output;
use crate::process::proc_fs::used_bytes;
use crate::process::{LimitedAttempt, Pipe, Process, TreeUse};
use crate::sync::lock;
use crate::wire::{CallMeta, CancelFrame, kind};
use brigade_core::printable::shorten;

/// A control message is small; progress and results go over the data channel.
const CONTROL_BYTES_MAX: usize = 1 << 20;
/// The name of a task and a few numbers.
const META_BYTES_MAX: usize = TASK_NAME_BYTES_MAX + 192;

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
    limits: LimitHolder,
    /// Cancelled when it has nothing more to do.
    retire: CancellationToken,
    health: PingState,
    memory_at_ready: ProcessMemory,
    reports: Mutex<FinalReports>,
    /// Cancelled when it must be ended for what it did to its link.
    broken: CancellationToken,
    /// Whether it died before it had read all that it was sent.
    unread: AtomicBool,
    /// Whether it sends log events.
    logs: bool,
}

impl WorkerProcess {
    fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().cast_unsigned()
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

    /// Notes what cannot be read any more once it has ended.
    fn note_state(&self) {
        self.process.look_at_peak(self.shown);
        if let Some(held) = self.process.held() {
            lock(&self.reports)
                .stopped_by
                .get_or_insert_with(|| held.to_string());
        }
    }

    /// Notes that it died before it had read all that it was sent, if it did.
    fn note_unread(&self, is_unread: bool) {
        self.unread.fetch_or(is_unread, Ordering::Relaxed);
    }

    /// Ends the worker because a channel of its own ended, unless it is ending by itself.
    fn lose(&self, channel: &str) {
        let mut reports = lock(&self.reports);
        if reports.broken.is_none() {
            reports.broken = Some(format!("it closed its {channel} channel"));
            reports.closed = true;
        }
        self.broken.cancel();
    }
}

impl WorkerConn for WorkerProcess {
    fn append(&self, attempt: &OutgoingAttempt<'_>) {
        let request = attempt.request;
        let options = request.options();
        let of = request.attempt_of();
        let meta = CallMeta {
            target: target_of(request),
            attempt: of.call.map_or(attempt.number, |call| call.attempt),
            codec: request.codec,
            timeout: options.timeout,
            limits: options.limits(),
            sandbox: attempt.sandbox.cloned(),
            tell_start: attempt.tell_start,
            tick: of.tick,
            number: of.call.map(|call| call.call),
            job: of.job.as_deref().map(Cow::Borrowed),
            traceparent: attempt.traceparent.cloned(),
        };
        let mut space = [0; META_BYTES_MAX];
        let is_long = of.job.is_some() || attempt.sandbox.is_some();
        let meta = written(&meta, is_long, &mut space);
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

    fn ask_to_stop(&self, call: CallId, reason: &StopReason, _hurry: bool) {
        let reason = shorten(reason.text(), REASON_BYTES_MAX).to_owned();
        if let Ok(body) = Codec::Postcard.encode(&CancelFrame { reason }) {
            self.control.send(kind::CANCEL, call.to_wire(), &body);
        }
    }

    fn process(&self) -> Option<&dyn OwnProcess> {
        Some(self)
    }
}

impl OwnProcess for WorkerProcess {
    /// Where we may not signal it, has the worker do it.
    fn signal(&self, signal: Signal) {
        self.note_state();
        if self.process.signal(signal).is_err() {
            self.ask_to_end(signal);
        }
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        self.note_state();
        self.limits.kill();
        let ended = self.process.kill(|| self.ask_to_end(Signal::KILL));
        ended.map(drop).boxed()
    }

    fn break_off(&self, reason: &str) {
        lock(&self.reports)
            .broken
            .get_or_insert_with(|| reason.to_owned());
        self.broken.cancel();
    }

    fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        self.process.gone.cancelled().boxed()
    }

    fn hold_limits(
        &self,
        limits: AttemptLimits,
        attempt: Box<dyn LimitedAttempt>,
    ) -> Result<Option<MemoryHold>, Error> {
        self.limits.hold(&self.process, limits, attempt)
    }

    /// That of the worker itself, also where another program stands between.
    fn used_bytes(&self) -> u64 {
        used_bytes(self.shown)
    }

    fn grown_bytes(&self) -> u64 {
        let tree = self.process.shown.map(TreeUse::of).unwrap_or_default();
        let used = tree.memory_shared_out();
        used.saturating_sub(self.memory_at_ready.used)
    }

    fn memory_at_ready(&self) -> ProcessMemory {
        self.memory_at_ready
    }

    fn look(&self, is_in_time: bool) -> Health {
        self.health
            .look(&self.process, self.shown, &self.control, is_in_time)
    }

    fn begin_capture(&self, bytes_max: usize) {
        self.stdout.begin_capture(bytes_max);
        self.stderr.begin_capture(bytes_max);
        self.is_capturing.store(true, Ordering::Release);
    }

    fn stderr_tail(&self) -> String {
        self.stderr.tail()
    }
}
