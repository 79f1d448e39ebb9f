//! One worker process of ours, from its start to its reaping.
//!
//! [`live`] tells the story. Its states are those of a slot in `core`: it moves the slot from
//! starting to ready and, at the end, empties it. While the worker serves, the data channel has a
//! reading and a writing task of its own, because that is where the speed is; everything rare is
//! one event loop in `serve`.

mod start;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::builder::Config;
use super::super::core::{PingCounter, WorkerExit};
use super::super::logs;
use crate::attempt_report::Exit;
use crate::codec::Codec;
use crate::event::Event;
use crate::link::Channel;
use crate::outcome::{REASON_BYTES_MAX, shorten};
use crate::process::proc_fs::{share_of, state_of, thread_named};
use crate::process::{self, Group, Held, Pipe, Process};
use crate::sync::lock;
use crate::wire::{Cancel, CrashNote, Decoder, Frame, PanicNote, kind};

/// Why a worker has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum SilenceCause {
    /// Something keeps it from running, by its name.
    Stopped(String),
    /// A debugger has it: somebody is looking at it.
    Traced,
    /// It is ready to run, or waits for memory or a disk, and got no CPU to speak of.
    Starved,
    /// Nothing of that: it had its time.
    Unresponsive,
}

/// The thread of a worker that answers pings.
const LISTENER: &str = "brigade-monitor";
/// CPU time in which a ping is answered many times over.
const TIME_TO_ANSWER: Duration = Duration::from_millis(200);

/// A worker process that is ready.
pub(in super::super) struct WorkerProcess {
    pub(in super::super) epoch: u64,
    pub(in super::super) process: Process,
    /// The worker's own number in `/proc`, if that shows it. Another one than that of `process`
    /// where a program stands between (a shell, strace).
    pub(in super::super) shown: Option<u32>,
    pub(in super::super) data: Arc<Channel>,
    pub(in super::super) control: Channel,
    pub(in super::super) stdout: Pipe,
    pub(in super::super) stderr: Pipe,
    pub(in super::super) group: Option<Group>,
    /// Cancelled when it has nothing more to do.
    pub(in super::super) retire: CancellationToken,
    pub(in super::super) pings: PingCounter,
    /// The thread that answers pings, once it was looked for.
    listener: OnceLock<Option<u32>>,
    /// CPU time in nanoseconds that this thread had when a ping was first found unanswered.
    silent_since: AtomicU64,
    reports: Mutex<FinalReports>,
    /// Cancelled when it must be ended for what it did to its link.
    broken: CancellationToken,
    /// Whether it died before it had read all that it was sent.
    unread: AtomicBool,
    /// Whether it sends log events.
    logs: bool,
}

#[derive(Default)]
struct FinalReports {
    words: Option<(u64, CrashNote)>,
    /// Name of the thread that reports them.
    thread: Option<String>,
    /// The signal that it reports it dies of.
    signal: Option<i32>,
    /// What kept it from running when it was to be ended.
    stopped_by: Option<String>,
    panic: Option<(u64, PanicNote)>,
    broken: Option<String>,
    /// Breaking off meant closing a channel and nothing worse.
    closed: bool,
}

/// A control message is small; progress and results go over the data channel.
const CONTROL_BYTES_MAX: usize = 1 << 20;
/// Reads of a dead worker's control channel.
const LAST_READS_MAX: usize = 1024;
/// What stands before a payload in a frame.
const META_BYTES_MAX: usize = 64 << 10;

impl WorkerProcess {
    pub(in super::super) fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Asks an attempt to stop.
    pub(in super::super) fn ask_to_stop(&self, call: u64, reason: &str) {
        let reason = shorten(reason, REASON_BYTES_MAX).to_owned();
        if let Ok(body) = Codec::Postcard.encode(&Cancel { reason }) {
            self.control.send(kind::CANCEL, call, &body);
        }
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
        self.control
            .send(kind::END, 0, &[u8::try_from(signal.as_raw()).unwrap_or(0)]);
    }

    /// Why it has not answered a ping: judged by what it got to run, not by the clock. To be asked
    /// again while it is silent.
    pub(in super::super) fn silence(&self) -> SilenceCause {
        match self.process.held() {
            Some(Held::Traced) => return SilenceCause::Traced,
            Some(held @ Held::Stopped(_)) => return SilenceCause::Stopped(held.to_string()),
            None => {}
        }
        let Some(shown) = self.shown else {
            return SilenceCause::Unresponsive;
        };
        let Some(listener) = *self.listener.get_or_init(|| thread_named(shown, LISTENER)) else {
            return SilenceCause::Unresponsive;
        };
        let ran = share_of(shown, listener).map_or(0, |share| {
            u64::try_from(share.ran.as_nanos()).unwrap_or(u64::MAX)
        });
        // What it had run when it was first found silent.
        let first = self
            .silent_since
            .compare_exchange(0, ran.max(1), Ordering::Relaxed, Ordering::Relaxed)
            .unwrap_or_else(|first| first);
        let had_time =
            first != 0 && Duration::from_nanos(ran.saturating_sub(first)) >= TIME_TO_ANSWER;
        match state_of(shown, listener) {
            Some('R' | 'D') if !had_time => SilenceCause::Starved,
            // It has answered, and it is this process that did not get to read that. Asked after
            // the state, or the answer might come in between.
            _ if self.control.has_unread() || self.pings.is_answered() => SilenceCause::Starved,
            _ => SilenceCause::Unresponsive,
        }
    }

    /// Notes what cannot be asked for once it has ended.
    fn note_state(&self) {
        self.process.look_at_peak(self.shown);
        if let Some(held) = self.process.held() {
            lock(&self.reports)
                .stopped_by
                .get_or_insert_with(|| held.to_string());
        }
    }

    /// Ends the worker at once because of what it did. The first reason counts.
    pub(in super::super) fn break_off(&self, how: &str) {
        lock(&self.reports)
            .broken
            .get_or_insert_with(|| how.to_owned());
        self.broken.cancel();
    }

    /// Ends the worker because a channel of its own ended, unless it is ending by itself.
    fn lost(&self, channel: &str) {
        let mut reports = lock(&self.reports);
        if reports.broken.is_none() {
            reports.broken = Some(format!("it closed its {channel} channel"));
            reports.closed = true;
        }
        self.broken.cancel();
    }

    fn listen(&self, number: u32, shared: &Shared, frame: &Frame) {
        match frame.kind {
            kind::PONG => {
                self.pings.answered();
                self.silent_since.store(0, Ordering::Relaxed);
            }
            kind::CRASH_NOTE => {
                let words = frame
                    .body
                    .first()
                    .and_then(|byte| CrashNote::from_byte(*byte));
                let mut reports = lock(&self.reports);
                reports.signal = reports
                    .signal
                    .or(frame.body.get(1).map(|signal| i32::from(*signal)));
                // The first says why; what follows it is the default taking its course.
                if let Some(words) = words
                    && reports
                        .words
                        .is_none_or(|(_, known)| known == CrashNote::Signal)
                {
                    reports.words = Some((frame.id, words));
                    reports.thread = frame.body.get(2..).and_then(thread_name);
                }
            }
            kind::PEAK => {
                if let Some(bytes) = frame.body.first_chunk() {
                    self.process.tell_peak(u64::from_le_bytes(*bytes));
                }
            }
            kind::PANIC => {
                let Ok(note) = Codec::Postcard.decode::<PanicNote>(&frame.body) else {
                    return self.break_off("it garbled a control message");
                };
                if frame.id == 0 {
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
                lock(&self.reports).panic = Some((frame.id, note));
            }
            _ => self.break_off("it sent a control message of unknown kind"),
        }
    }
}

/// The name of a thread as a worker sends it: up to the first zero, printable.
fn thread_name(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let name: String = String::from_utf8_lossy(name)
        .chars()
        .filter(|char| !char.is_control())
        .take(16)
        .collect();
    (!name.is_empty()).then_some(name)
}

/// The life of one worker: start, shake hands, serve, end, reap.
pub(in super::super) async fn live(shared: Arc<Shared>, number: u32, epoch: u64) {
    let child = match start::start(&shared, number, epoch).await {
        Ok(child) => Arc::new(child),
        Err(error) => {
            shared.step(|core, effects| core.on_start_failed(number, epoch, &error, effects));
            return;
        }
    };
    let reading = CancellationToken::new();
    // Also told if the reading task is dropped.
    let read = reading.clone().drop_guard();
    let (to_read, for_reading) = (Arc::clone(&child), Arc::clone(&shared));
    shared.scope.spawn(async move {
        read_data(&for_reading, number, &to_read).await;
        drop(read);
    });
    let writing = Arc::clone(&child);
    shared.scope.spawn(async move {
        writing
            .process
            .gone
            .run_until_cancelled(writing.data.write_loop())
            .await;
    });
    shared.step(|core, effects| core.on_ready(number, epoch, Arc::clone(&child), effects));

    let mut control = Decoder::new(CONTROL_BYTES_MAX);
    let service = serve(&shared, number, &child, &mut control).await;
    finish(&shared, number, &child, &reading, control, service).await;
}

// -- serve

async fn pump(stdout: &Pipe, stderr: &Pipe) {
    tokio::join!(stdout.pump(), stderr.pump());
    // Both are closed: a worker may do that, it tells nothing about its end.
    std::future::pending::<()>().await;
}

/// Looks at the worker's memory now and then while it runs something: of a process that has ended
/// nobody can tell its peak.
async fn look_at_peak(shared: &Shared, number: u32, child: &WorkerProcess) {
    loop {
        sleep(shared.config.check_interval).await;
        if shared.peek(|core| core.is_running(number, child.epoch)) {
            child.process.look_at_peak(child.shown);
        }
    }
}

/// What ends a worker's service.
enum EndSignal {
    Ended,
    Broken,
    Retired,
    Killed,
}

/// How a worker's service ended.
#[derive(Clone, Copy)]
enum ServiceEnd {
    /// By itself.
    Left,
    /// It was told to end.
    LetGo,
    /// It was killed for what it did to its link.
    BrokenOff,
}

/// Until the worker's process has ended, by itself or because it was told to.
async fn serve(
    shared: &Arc<Shared>,
    number: u32,
    child: &WorkerProcess,
    control: &mut Decoder,
) -> ServiceEnd {
    let signal = tokio::select! {
        () = child.process.ended() => EndSignal::Ended,
        () = child.broken.cancelled() => EndSignal::Broken,
        () = child.retire.cancelled() => EndSignal::Retired,
        () = shared.killed.cancelled() => EndSignal::Killed,
        () = read_control(shared, number, child, control) => unreachable!("reading goes on until \
            the process ends"),
        () = child.control.write_loop() => unreachable!("writing goes on until the process ends"),
        () = pump(&child.stdout, &child.stderr) => unreachable!("the pumps do not end"),
        () = look_at_peak(shared, number, child) => unreachable!("looking goes on until the \
            process ends"),
    };
    if !matches!(signal, EndSignal::Retired) {
        shared.step(|core, effects| core.on_ending(number, child.epoch, effects));
    }
    match signal {
        EndSignal::Ended => ServiceEnd::Left,
        EndSignal::Retired => {
            tokio::select! {
                () = end_gently(&shared.config, child) => {}
                () = pump(&child.stdout, &child.stderr) => unreachable!("the pumps do not end"),
            }
            ServiceEnd::LetGo
        }
        EndSignal::Broken => {
            // A process that is ending by itself closes its sockets a moment before it can be
            // waited for.
            if timeout(LINK_END_GRACE, child.process.ended()).await.is_ok() {
                return ServiceEnd::Left;
            }
            child.kill().await;
            ServiceEnd::BrokenOff
        }
        EndSignal::Killed => {
            child.kill().await;
            ServiceEnd::LetGo
        }
    }
}

/// From the end of its link to the end of its process, for a worker that is just exiting: a core of
/// 100 MiB is unmapped in less.
const LINK_END_GRACE: std::time::Duration = std::time::Duration::from_millis(100);

/// Lets the worker finish: end of data, teardown, exit; then the harder steps.
async fn end_gently(config: &Config, child: &WorkerProcess) {
    child.data.finish();
    if timeout(config.teardown_timeout, child.process.ended())
        .await
        .is_ok()
    {
        return;
    }
    child.signal(Signal::TERM);
    if timeout(config.terminate, child.process.ended())
        .await
        .is_err()
    {
        child.kill().await;
    }
}

async fn read_control(shared: &Shared, number: u32, child: &WorkerProcess, decoder: &mut Decoder) {
    while matches!(child.control.read(decoder).await, Ok(1..)) {
        hear(shared, number, child, decoder);
    }
    child.lost("control");
    std::future::pending::<()>().await;
}

fn hear(shared: &Shared, number: u32, child: &WorkerProcess, decoder: &mut Decoder) {
    loop {
        match decoder.next() {
            Ok(Some(frame)) => child.listen(number, shared, &frame),
            Ok(None) => return,
            Err(_) => return child.break_off("it garbled its control channel"),
        }
    }
}

/// Takes answers until the channel ends.
async fn read_data(shared: &Arc<Shared>, number: u32, child: &WorkerProcess) {
    let mut decoder = Decoder::new(shared.config.payload_bytes_max + META_BYTES_MAX);
    loop {
        let count = tokio::select! {
            biased;
            count = child.data.read(&mut decoder) => count.unwrap_or_else(|e| {
                child.unread.fetch_or(e.kind() == std::io::ErrorKind::ConnectionReset, Ordering::Relaxed);
                0
            }),
            // A grandchild may hold the channel open for ever.
            () = child.process.ended() => 0,
        };
        if !take_frames(shared, number, child, &mut decoder) {
            break;
        }
        if count == 0 {
            if !child.retire.is_cancelled() {
                child.lost("data");
            }
            break;
        }
    }
    // What a dying worker had written before it died counts.
    child.process.ended().await;
    child
        .unread
        .fetch_or(child.data.was_left_unread(), Ordering::Relaxed);
    let mut left = shared.config.payload_bytes_max + META_BYTES_MAX;
    while left > 0 {
        let count = child.data.read_now(&mut decoder);
        if count == 0 || !take_frames(shared, number, child, &mut decoder) {
            break;
        }
        left = left.saturating_sub(count);
    }
}

/// Hands whole frames to the dispatcher. `false` if they make no sense.
fn take_frames(
    shared: &Arc<Shared>,
    number: u32,
    child: &WorkerProcess,
    decoder: &mut Decoder,
) -> bool {
    let mut problem = None;
    let mut others = if child.logs {
        logs::take(number, decoder)
    } else {
        Vec::new()
    }
    .into_iter();
    shared.step(|core, effects| {
        let now = Instant::now();
        loop {
            let taken = match others.next().unwrap_or_else(|| decoder.next()) {
                Ok(Some(frame)) => core.on_frame(number, child.epoch, &frame, now, effects),
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
        child.break_off(&error.to_string());
    }
    problem.is_none()
}

// -- the end

/// Reaps the process and tells the dispatcher. All that the worker wrote before it died is taken
/// first.
async fn finish(
    shared: &Arc<Shared>,
    number: u32,
    child: &Arc<WorkerProcess>,
    reading: &CancellationToken,
    mut control: Decoder,
    service: ServiceEnd,
) {
    reading.cancelled().await;
    // A descendant that holds the socket may write for ever; a dying worker has little left to say.
    for _ in 0..LAST_READS_MAX {
        if child.control.read_now(&mut control) == 0 {
            break;
        }
        hear(shared, number, child, &mut control);
    }
    if let Some(group) = &child.group {
        group.kill();
    }
    tokio::join!(child.stdout.rest(), child.stderr.rest());
    let mut death = child.process.reap();
    let reports = std::mem::take(&mut *lock(&child.reports));
    if let Some(signal) = reports
        .signal
        .filter(|signal| tells_more(death.exit, *signal))
    {
        death.exit = Exit::Signal(signal);
    }
    let is_alive = death.exit == Exit::Alive;
    let worker_exit = WorkerExit {
        death,
        words: reports.words,
        thread: reports.thread,
        stopped_by: reports.stopped_by,
        panic: reports.panic,
        // A process that ended by itself closed its channels by that; then its end is what counts.
        broken: reports
            .broken
            .filter(|_| matches!(service, ServiceEnd::BrokenOff) || !reports.closed),
        cgroup_oom: child.group.as_ref().is_some_and(Group::was_out_of_memory),
        stderr: child.stderr.tail(),
        unread: child.unread.load(Ordering::Relaxed),
        expected: matches!(service, ServiceEnd::LetGo),
    };
    // Whoever stopped an attempt is told when nothing of it is left; whoever was crashed on need
    // not wait for that.
    let stopping = shared.peek(|core| core.is_stopping(number, child.epoch));
    let swept = if stopping {
        Some(process::sweep(&child.process).await)
    } else {
        None
    };
    shared.step(|core, effects| core.on_gone(number, child, &worker_exit, effects));
    let swept = match swept {
        Some(swept) => swept,
        None => process::sweep(&child.process).await,
    };
    let mut left = swept.left;
    if is_alive && !left.contains(&child.pid()) {
        left.push(child.pid());
    }
    shared.peek(|core| core.note_left(number, &left, swept.is_unknown));
    child.process.gone.cancel();
}

/// Whether the signal that a worker reports it dies of tells more than what the system says of the
/// process that we started: where another part of this program reaped it, or where that process is
/// a program between (a shell exits with 128 and the signal).
fn tells_more(exit: Exit, signal: i32) -> bool {
    exit == Exit::Unknown || exit == Exit::Code(128 + signal)
}
