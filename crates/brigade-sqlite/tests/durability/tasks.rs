//! What workers are made to do.

#![expect(
    unsafe_code,
    reason = "locks of the file, which the library of types does not have; and kills its parent"
)]
#![expect(clippy::disallowed_methods, reason = "tasks block as users' tasks do")]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brigade::{Context, Failure, task};
use brigade_testkit::ledger::Event;

use crate::stage::Stage;

/// A job of the ledger. Returns what distinguishes this attempt from all others.
#[task]
pub(crate) fn job(cx: &Context, stage: String, number: u64, micros: u64) -> u64 {
    attempt(
        &Stage::new(stage),
        number,
        cx.attempt(),
        cx.worker(),
        |_| std::thread::sleep(Duration::from_micros(micros)),
    )
}

/// As [`job`], and ends the process of its pool at a step, on its first attempt.
#[task]
pub(crate) fn kills_its_parent(cx: &Context, stage: String, number: u64, step: String) -> u64 {
    let stage = Stage::new(stage);
    let first = !stage.path("killed").exists();
    let kill_at = |now: &str| {
        if first && step == now {
            stage.tell("killed");
            // SAFETY: signals the process that started this one.
            unsafe { libc::kill(libc::getppid(), libc::SIGKILL) };
            // Its worker must not outlive it.
            std::thread::sleep(Duration::from_secs(60));
        }
    };
    kill_at("leased");
    let token = attempt(&stage, number, cx.attempt(), cx.worker(), |_| {
        kill_at("running")
    });
    kill_at("recorded");
    token
}

/// As [`job`], and waits in the middle for a file that is named after the process of its pool.
#[task]
pub(crate) fn waits(cx: &Context, stage: String, number: u64) -> u64 {
    let stage = Stage::new(stage);
    attempt(&stage, number, cx.attempt(), cx.worker(), |_| {
        let go = stage.path(&format!("go-{}", std::os::unix::process::parent_id()));
        let began = Instant::now();
        // Bounded, so that a test that failed leaves nothing running.
        while !go.exists() && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
    })
}

#[task]
pub(crate) fn good(number: u64) -> u64 {
    number
}

#[task]
pub(crate) fn poison(number: u64) -> u64 {
    // SAFETY: ends this very process.
    unsafe { libc::kill(libc::getpid(), libc::SIGSEGV) };
    number
}

/// Whether what [`depends`] depends on is there.
pub(crate) static DEPENDENCY: AtomicBool = AtomicBool::new(false);

#[task]
pub(crate) fn depends(number: u64) -> Result<u64, Failure> {
    if DEPENDENCY.load(Ordering::Relaxed) {
        Ok(number)
    } else {
        Err(Failure::new("no answer"))
    }
}

/// One attempt as the ledger sees it. No other attempt of the job may run at the same time, in any
/// process.
pub(crate) fn attempt(
    stage: &Stage,
    number: u64,
    attempt: u32,
    worker: u32,
    work: impl FnOnce(u64),
) -> u64 {
    let alone = Alone::claim(&stage.path("locks"), number);
    let own = std::process::id();
    if alone.is_none() {
        append(stage, "overlaps", &format!("job {number} in {own}\n"));
    }
    let parent = std::os::unix::process::parent_id();
    append(stage, "workers", &format!("{own} {parent}\n"));
    let (ledger, token) = (stage.ledger(), token());
    let note = |event| {
        ledger
            .attempt(number, attempt, token, worker, &event)
            .unwrap()
    };
    note(Event::Start);
    work(token);
    note(Event::Effect);
    note(Event::End);
    token
}

/// Adds a line to a file of the stage.
fn append(stage: &Stage, name: &str, line: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(stage.path(name))
        .unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

/// Unlike that of any other attempt.
fn token() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    (u64::from(std::process::id()) << 20) + COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A lock on one byte of a file, which the kernel takes back when the process is gone, and not
/// before.
struct Alone(#[expect(dead_code, reason = "holds the lock")] File);

impl Alone {
    fn claim(path: &Path, number: u64) -> Option<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .unwrap();
        // SAFETY: zero is valid for this structure of numbers, which lives through the call.
        let locked = unsafe {
            let mut lock: libc::flock = std::mem::zeroed();
            (lock.l_type, lock.l_whence) = (
                i16::try_from(libc::F_WRLCK).unwrap(),
                i16::try_from(libc::SEEK_SET).unwrap(),
            );
            (lock.l_start, lock.l_len) = (i64::try_from(number).unwrap(), 1);
            libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock)
        };
        (locked == 0).then_some(Self(file))
    }
}
