//! The serve loop: frames in, attempts run, answers out.
//!
//! With one slot it is a plain loop on the main thread: read, run, write. With many slots attempts
//! may block, and then another thread must go on; but waking a thread for each of many tiny
//! attempts costs more than they do. So one thread runs what it reads, one after the other, and the
//! *ticker* looks once a millisecond whether an attempt has held it up; only then does a helper
//! take over the reading. While attempts keep blocking, each reader wakes the next at once
//! (`eager`). A thread without work parks; no thread spins.
//!
//! Answers gather while frames are waiting and are written when none is, or by the ticker.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, TryLockError};
use std::time::{Duration, Instant};

use bytes::BufMut as _;

use super::crash_note;
use crate::codec::Codec;
use crate::context::{Context, Sink, State};
use crate::link;
use crate::sandbox::Sandbox;
use crate::shutdown::spawn_thread;
use crate::sync::lock;
use crate::wire::{Decoder, Frame, WorkerSettings, encode, kind};

/// How often the ticker looks.
const TICK: Duration = Duration::from_millis(1);
/// How long the ticker goes on looking after the last attempt, so that a steady trickle does not
/// restart it each time.
const TICKER_LINGERS: Duration = Duration::from_millis(50);
/// How long readers stay eager after an attempt held one up.
const EAGER_FOR: Duration = Duration::from_millis(100);
/// Answers are written at this size even if frames are waiting.
const ANSWERS_BYTES: usize = 32 << 10;
/// Stops that came before their call are remembered up to the number of slots, but so many at
/// least.
const EARLY_CANCELS_MIN: usize = 64;

pub(crate) struct Worker {
    pub(super) settings: WorkerSettings,
    pub(super) same_build: bool,
    /// The sandbox that this process has taken on.
    pub(super) sandbox: Mutex<Option<Sandbox>>,
    pub(super) state: Option<State>,
    pub(super) control: UnixStream,
    data: UnixStream,
    inbox: Mutex<IncomingFrames>,
    answers: Mutex<Vec<u8>>,
    attempts: Mutex<Attempts>,
    pub(super) runtime: OnceLock<tokio::runtime::Runtime>,
    /// Why this worker begins nothing more.
    retired: AtomicBool,
    crew: Crew,
}

struct IncomingFrames {
    decoder: Decoder,
    ended: bool,
}

#[derive(Default)]
struct Attempts {
    running: Vec<(u64, Context)>,
    early_cancels: VecDeque<u64>,
}

/// The threads of a worker with many slots.
#[derive(Default)]
struct Crew {
    threads: AtomicUsize,
    parked: Mutex<usize>,
    wake: Condvar,
    /// Attempts begun and not ended; those of async tasks too.
    busy: AtomicUsize,
    /// Counts the reads of frames, so that the ticker sees whether reading goes on.
    taken: AtomicU64,
    reading: AtomicBool,
    eager: AtomicBool,
    ended: AtomicBool,
    ticker_sleeps: AtomicBool,
    ticker: Condvar,
    ticker_lock: Mutex<()>,
}

/// Runs until the pool says that nothing more comes, and all attempts have ended.
pub(super) fn run(worker: &Arc<Worker>) {
    if worker.settings.slots > 1 {
        worker.crew.threads.store(1, Ordering::Relaxed);
        let ticking = Arc::clone(worker);
        if spawn_thread("brigade-ticker", 128 << 10, move || ticking.tick()).is_err() {
            return;
        }
    }
    worker.work();
    // Attempts of other threads and of async tasks are still to be answered.
    while worker.crew.busy.load(Ordering::Acquire) > 0 {
        let parked = lock(&worker.crew.parked);
        drop(worker.crew.wake.wait_timeout(parked, TICK));
    }
    worker.flush();
}

impl Worker {
    pub(super) fn new(
        settings: WorkerSettings,
        same_build: bool,
        state: Option<State>,
        data: UnixStream,
        control: UnixStream,
    ) -> Self {
        let payload_bytes_max = usize::try_from(settings.payload_bytes_max).unwrap_or(usize::MAX);
        // A frame holds a payload and the few fields before it.
        let decoder = Decoder::new(payload_bytes_max.saturating_add(64 << 10));
        Self {
            settings,
            same_build,
            sandbox: Mutex::default(),
            state,
            control,
            data,
            inbox: Mutex::new(IncomingFrames {
                decoder,
                ended: false,
            }),
            answers: Mutex::default(),
            attempts: Mutex::default(),
            runtime: OnceLock::new(),
            retired: AtomicBool::new(false),
            crew: Crew::default(),
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.settings.slots > 1
    }

    fn work(self: &Arc<Self>) {
        while let Some(frame) = self.next() {
            self.begin_busy();
            self.run_frame(&frame);
        }
        // The thread that finds the end wakes the others, which may be parked, the main thread
        // among them.
        let parked = lock(&self.crew.parked);
        self.crew.ended.store(true, Ordering::Release);
        drop(parked);
        self.crew.wake.notify_all();
    }

    /// The next frame; `None` when nothing more comes. Only one thread reads at a time, the others
    /// park.
    fn next(self: &Arc<Self>) -> Option<Frame> {
        loop {
            match self.inbox.try_lock() {
                Ok(mut inbox) => {
                    self.crew.reading.store(true, Ordering::Relaxed);
                    let frame = self.read(&mut inbox);
                    self.crew.reading.store(false, Ordering::Relaxed);
                    self.crew.taken.fetch_add(1, Ordering::Relaxed);
                    let more = inbox.decoder.is_inside_frame();
                    drop(inbox);
                    if more && self.crew.eager.load(Ordering::Relaxed) {
                        self.wake_helper();
                    }
                    return frame;
                }
                Err(TryLockError::Poisoned(_)) => return None,
                Err(TryLockError::WouldBlock) => {
                    // The reader may wait long for a frame; the pool may be waiting for these very
                    // answers.
                    self.flush();
                    if !self.park() {
                        return None;
                    }
                }
            }
        }
    }

    fn read(&self, inbox: &mut IncomingFrames) -> Option<Frame> {
        loop {
            match inbox.decoder.next() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) if !inbox.ended => {}
                // A garbled stream cannot be read on; the pool notices that we leave.
                Ok(None) | Err(_) => return None,
            }
            self.flush();
            match link::read_into(&self.data, inbox.decoder.buffer()) {
                Ok(0) => inbox.ended = true,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // The link is broken (a task may have closed our descriptors): end as the pool will
                // see it.
                Err(_) => return None,
            }
        }
    }

    // -- answers

    /// Answers an attempt, exactly once.
    pub(super) fn answer(&self, kind: u8, call: u64, body: &[u8]) {
        lock(&self.attempts)
            .running
            .retain(|(running, _)| *running != call);
        self.send(kind, call, body);
    }

    /// Ends what `begin_busy` began: the attempt was answered.
    pub(super) fn end_busy(&self) {
        self.crew.busy.fetch_sub(1, Ordering::AcqRel);
    }

    /// Appends a frame to what is to be written, and writes it at once where nothing else would.
    pub(super) fn send(&self, kind: u8, call: u64, body: &[u8]) {
        let mut answers = lock(&self.answers);
        answers.put_slice(&encode(kind, call, body.len()));
        if body.len() >= ANSWERS_BYTES {
            // Written from where it is: copying it behind the others would cost more than a system
            // call.
            self.write(&mut answers);
            (&self.data).write_all(body).ok();
            return;
        }
        answers.put_slice(body);
        let now = !self.is_shared()
            || answers.len() >= ANSWERS_BYTES
            || self.crew.eager.load(Ordering::Relaxed);
        if now {
            self.write(&mut answers);
        }
    }

    /// Appends a small frame, which is written with the next one.
    pub(super) fn append(&self, kind: u8, call: u64, body: &[u8]) {
        let mut answers = lock(&self.answers);
        answers.put_slice(&encode(kind, call, body.len()));
        answers.put_slice(body);
    }

    pub(super) fn flush(&self) {
        let mut answers = lock(&self.answers);
        self.write(&mut answers);
    }

    fn write(&self, answers: &mut Vec<u8>) {
        if !answers.is_empty() {
            // Where the pool is gone the monitor ends this process.
            (&self.data).write_all(answers).ok();
            if answers.capacity() > 4 * ANSWERS_BYTES {
                *answers = Vec::new();
            }
            answers.clear();
        }
    }

    /// Sends a small frame on the control channel.
    pub(super) fn send_control(&self, kind: u8, call: u64, body: &[u8]) {
        let frame = [&encode(kind, call, body.len())[..], body].concat();
        (&self.control).write_all(&frame).ok();
    }

    /// The call that runs, if it is only one.
    pub(super) fn only_call(&self) -> Option<u64> {
        let attempts = lock(&self.attempts);
        match &attempts.running[..] {
            [(call, _)] => Some(*call),
            _ => None,
        }
    }

    /// Task and number of a running attempt.
    pub(super) fn attempt_of(&self, call: u64) -> Option<(String, u32)> {
        let attempts = lock(&self.attempts);
        attempts
            .running
            .iter()
            .find(|(running, _)| *running == call)
            .map(|(_, context)| (context.task().to_owned(), context.attempt()))
    }

    // -- stops

    /// Registers an attempt before it begins. `false` if it was stopped already or this worker
    /// begins nothing more.
    pub(super) fn register(&self, call: u64, context: &Context) -> bool {
        let mut attempts = lock(&self.attempts);
        if let Some(index) = attempts
            .early_cancels
            .iter()
            .position(|early| *early == call)
        {
            attempts.early_cancels.remove(index);
            return false;
        }
        if self.retired.load(Ordering::Acquire) {
            return false;
        }
        attempts.running.push((call, context.clone()));
        true
    }

    /// Asks an attempt to stop. If its call has not been read yet, it will not begin.
    pub(super) fn cancel(&self, call: u64, reason: &str) {
        let context = {
            let mut attempts = lock(&self.attempts);
            let context = attempts
                .running
                .iter()
                .find(|(running, _)| *running == call)
                .map(|(_, context)| context.clone());
            if context.is_none() {
                // It may also have ended already; its number does not come again, so remembering it
                // does no harm.
                attempts.early_cancels.push_back(call);
                if attempts.early_cancels.len()
                    > EARLY_CANCELS_MIN.max(self.settings.slots as usize)
                {
                    attempts.early_cancels.pop_front();
                }
            }
            context
        };
        if let Some(context) = context {
            context.cancel(reason);
        }
    }

    /// Begins nothing more and asks to be replaced.
    pub(super) fn retire(&self, reason: &str) {
        if !self.retired.swap(true, Ordering::AcqRel) {
            self.send(kind::RETIRE, 0, reason.as_bytes());
        }
    }

    // -- the crew

    fn begin_busy(&self) {
        if self.is_shared() {
            // Against the ticker's store and load in `tick`: one of the two must see the other.
            self.crew.busy.fetch_add(1, Ordering::SeqCst);
            if self.crew.ticker_sleeps.swap(false, Ordering::SeqCst) {
                drop(lock(&self.crew.ticker_lock));
                self.crew.ticker.notify_one();
            }
        } else {
            self.crew.busy.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the ticker or an eager reader calls for help. `false` if the worker ends.
    fn park(&self) -> bool {
        let mut parked = lock(&self.crew.parked);
        if self.crew.ended.load(Ordering::Acquire) {
            return false;
        }
        *parked += 1;
        let mut parked = self
            .crew
            .wake
            .wait(parked)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *parked -= 1;
        !self.crew.ended.load(Ordering::Acquire)
    }

    fn wake_helper(self: &Arc<Self>) {
        if *lock(&self.crew.parked) > 0 {
            self.crew.wake.notify_one();
        } else if self.crew.threads.load(Ordering::Relaxed) < self.settings.slots as usize {
            self.crew.threads.fetch_add(1, Ordering::Relaxed);
            let helper = Arc::clone(self);
            let run = move || {
                crash_note::prepare_thread();
                helper.work();
            };
            if spawn_thread("brigade-slot", SLOT_STACK_BYTES, run).is_err() {
                self.crew.threads.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// The ticker's loop.
    fn tick(self: &Arc<Self>) {
        let (mut seen, mut last_busy, mut eager_until) = (0, Instant::now(), Instant::now());
        loop {
            let guard = lock(&self.crew.ticker_lock);
            let busy = self.crew.busy.load(Ordering::Acquire) > 0;
            let now = Instant::now();
            if busy {
                last_busy = now;
            } else if now - last_busy > TICKER_LINGERS {
                self.crew.ticker_sleeps.store(true, Ordering::SeqCst);
                // An attempt that began just before the store is seen here; one after it wakes us.
                if self.crew.busy.load(Ordering::SeqCst) == 0 {
                    // Where this thread got no CPU for so long, an attempt may have come and gone
                    // since the last flush, and its thread may be parked.
                    self.flush();
                    drop(self.crew.ticker.wait(guard));
                    // The attempt that woke us may be over already, and its answer waits to be
                    // written all the same.
                    last_busy = Instant::now();
                    continue;
                }
            }
            drop(self.crew.ticker.wait_timeout(guard, TICK));
            self.flush();
            let taken = self.crew.taken.load(Ordering::Relaxed);
            let held_up = busy && taken == seen && !self.crew.reading.load(Ordering::Relaxed);
            seen = taken;
            if held_up {
                eager_until = now + EAGER_FOR;
                self.wake_helper();
            }
            self.crew.eager.store(now < eager_until, Ordering::Relaxed);
        }
    }
}

/// As the main thread's usual stack, so that a task behaves alike on every slot.
pub(super) const SLOT_STACK_BYTES: usize = 8 << 20;

/// Progress goes out with the answers, in order.
impl Sink for Worker {
    fn progress(&self, call: u64, fraction: f64, codec: Codec, payload: &[u8]) {
        let running = lock(&self.attempts)
            .running
            .iter()
            .any(|(running, _)| *running == call);
        if !running {
            return;
        }
        let mut body = Vec::with_capacity(9 + payload.len());
        body.extend_from_slice(&fraction.to_le_bytes());
        body.push(codec.number());
        body.extend_from_slice(payload);
        self.send(kind::PROGRESS, call, &body);
        if self.is_shared() {
            self.flush();
        }
    }
}
