//! What workers are made to do. One task misbehaves by argument.

#![expect(unsafe_code, reason = "provokes crashes")]
#![expect(
    clippy::disallowed_methods,
    reason = "tasks block and start programs as users' tasks do"
)]

use std::fs;
use std::os::fd::{FromRawFd as _, IntoRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use brigade::{Bytes, Context, task};
use brigade_testkit::ledger::{Event, Ledger};
use brigade_testkit::random::Random;
use serde::{Deserialize, Serialize};

/// Writes a whole line into a file that did not exist, in one step.
pub(crate) fn tell(path: &str, text: impl std::fmt::Display) {
    let hidden = format!("{path}.{}", std::process::id());
    fs::write(&hidden, format!("{text}\n")).unwrap();
    fs::rename(hidden, path).unwrap();
}

/// Waits until a file is there. Bounded, so that a test that failed leaves nothing running.
pub(crate) fn await_file(path: &str) {
    let began = Instant::now();
    while !fs::exists(path).unwrap() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[task]
pub(crate) fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
pub(crate) fn own_pid() -> u32 {
    std::process::id()
}

/// A job of the ledger: start, work, effect, end. Returns its attempt.
#[task]
pub(crate) fn job(cx: &Context, ledger: String, number: u64, micros: u64) -> u32 {
    let ledger = Ledger::open(ledger).unwrap();
    let note = |event| {
        ledger
            .attempt(number, cx.attempt(), cx.call(), cx.worker(), &event)
            .unwrap()
    };
    note(Event::Start);
    std::thread::sleep(Duration::from_micros(micros));
    note(Event::Effect);
    note(Event::End);
    cx.attempt()
}

/// As a job that takes its worker down in the middle.
#[task]
pub(crate) fn poison(cx: &Context, ledger: String, number: u64) {
    let ledger = Ledger::open(ledger).unwrap();
    ledger
        .attempt(number, cx.attempt(), cx.call(), cx.worker(), &Event::Start)
        .unwrap();
    ledger.fault(std::process::id()).unwrap();
    harm(How::Segv);
}

/// Says in one file that it runs, and goes on when the other is there. Heeds nothing.
#[task]
pub(crate) fn hold(note: String, go: String) -> u32 {
    tell_and_await(&note, &go)
}

fn tell_and_await(note: &str, go: &str) -> u32 {
    tell(note, std::process::id());
    await_file(go);
    std::process::id()
}

/// As [`hold`], and then returns this many bytes.
#[task]
pub(crate) fn produce(note: String, bytes: u32) -> Bytes {
    let payload = Bytes::from(vec![7; bytes as usize]);
    tell(&note, std::process::id());
    payload
}

#[task]
pub(crate) fn length(note: String, payload: Bytes) -> usize {
    tell(&note, std::process::id());
    payload.len()
}

/// Stops when asked.
#[task]
pub(crate) async fn polite(cx: &Context) {
    cx.cancelled().await;
}

/// A way to misbehave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum How {
    Segv,
    Bus,
    Ill,
    Abort,
    StackOverflow,
    Panic,
    PanicInDrop,
    DoublePanic,
    PanicThatMayNotUnwind,
    PanicWithPayloadThatPanics,
    Exit(i32),
    UnderscoreExit(i32),
    EndMainThread,
    Exec(String),
    Spin,
    SpinWithSignalsBlocked,
    Hog,
    CloseAllDescriptors,
    NoiseOnSockets(u64),
    FloodStdout(u64),
    FloodStderr(u64),
    CloseOutputs,
    StopSelf,
    ForkAndReturnTwice,
    KillPoolSignals,
}

/// Does it. Returns only where the misbehaviour lets it.
#[task]
pub(crate) fn misbehave(how: How) -> i64 {
    harm(how);
    42
}

pub(crate) fn harm(how: How) {
    // SAFETY: none: to do harm is the purpose. Nothing here harms more than this process and its
    // descendants.
    unsafe {
        match how {
            How::Segv => std::ptr::without_provenance_mut::<i32>(8).write_volatile(1),
            How::Bus => bus_error(),
            How::Ill => std::arch::asm!("ud2"),
            How::Abort => std::process::abort(),
            How::StackOverflow => assert!(recurse(1) > 0),
            How::Panic => panic!("a plain panic"),
            How::PanicInDrop => drop(PanicsWhenDropped),
            How::DoublePanic => {
                let _guard = PanicsWhenDropped;
                panic!("the first panic");
            }
            How::PanicThatMayNotUnwind => may_not_unwind(),
            How::PanicWithPayloadThatPanics => std::panic::panic_any(PanicsWhenDropped),
            How::Exit(code) => std::process::exit(code),
            How::UnderscoreExit(code) => libc::_exit(code),
            How::EndMainThread => libc::pthread_exit(std::ptr::null_mut()),
            How::Exec(program) => drop(Command::new(program).arg("1000").exec()),
            How::Spin => spin(),
            How::SpinWithSignalsBlocked => {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
                // Other threads of the worker would take it.
                libc::signal(libc::SIGTERM, libc::SIG_IGN);
                spin()
            }
            How::Hog => hog(),
            How::CloseAllDescriptors => drop(libc::close_range(3, u32::MAX, 0)),
            How::NoiseOnSockets(seed) => noise_on_sockets(seed),
            How::FloodStdout(bytes) => flood(1, bytes),
            How::FloodStderr(bytes) => flood(2, bytes),
            How::CloseOutputs => drop((libc::close(1), libc::close(2))),
            How::StopSelf => drop(libc::raise(libc::SIGSTOP)),
            How::ForkAndReturnTwice => drop(libc::fork()),
            How::KillPoolSignals => {
                for signal in [libc::SIGTERM, libc::SIGINT] {
                    assert_eq!(libc::kill(libc::getpid(), signal), 0);
                }
            }
        }
    }
}

/// Leaves orphans that end by themselves: in this group, and in sessions of their own.
#[task]
pub(crate) fn orphans() {
    for _ in 0..3 {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 0.2 & setsid sleep 0.3 & true"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        shell.wait().unwrap();
    }
}

/// Has so much memory for a moment, then misbehaves.
#[task]
pub(crate) fn grow(mib: usize, then: How) -> i64 {
    drop(std::hint::black_box(vec![1_u8; mib << 20]));
    harm(then);
    42
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a panic in drop");
    }
}

extern "C" fn may_not_unwind() {
    panic!("a panic that may not unwind");
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

#[expect(unconditional_recursion, reason = "to run over the stack")]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    recurse(depth + 1) + frame[3]
}

fn hog() {
    let mut kept = Vec::new();
    loop {
        kept.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

/// Reads a mapping beyond the end of its file.
unsafe fn bus_error() {
    let file = tempfile::tempfile().unwrap();
    let fd = file.into_raw_fd();
    // SAFETY: a mapping of a descriptor of our own; what it gives is then read on purpose.
    unsafe {
        let address = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        );
        address.cast::<u8>().read_volatile();
    }
}

/// Writes random bytes into every socket of this process: the worker's own links.
fn noise_on_sockets(seed: u64) {
    let mut random = Random::new(seed);
    let noise: Vec<u8> = (0..200).map(|_| random.draw().to_le_bytes()[0]).collect();
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let sockets = open.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_socket = fs::read_link(entry.path())
            .ok()?
            .to_str()?
            .starts_with("socket:");
        is_socket.then(|| entry.file_name().to_str()?.parse::<RawFd>().ok())?
    });
    for fd in sockets.collect::<Vec<_>>() {
        // SAFETY: a descriptor that was open a moment ago; `send` reads the noise only.
        unsafe {
            libc::send(
                fd,
                noise.as_ptr().cast(),
                noise.len(),
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        };
    }
}

fn flood(fd: RawFd, bytes: u64) {
    use std::io::Write as _;
    // SAFETY: standard output and error are open; the file is not dropped, so they stay so.
    let mut file = std::mem::ManuallyDrop::new(unsafe { fs::File::from_raw_fd(fd) });
    let chunk = vec![b'x'; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left.min(chunk.len() as u64)).unwrap();
        file.write_all(&chunk[..part]).unwrap();
        left -= part as u64;
    }
}

/// Starts grandchildren of every kind, writes their numbers, and heeds nothing: a plain child, one
/// in a session of its own, a daemon forked twice, and one forked without exec that keeps all
/// descriptors of the worker.
#[task]
#[expect(
    clippy::zombie_processes,
    reason = "they are the pool's to find and end"
)]
pub(crate) fn family(note: String, then: How) -> i64 {
    let sleeper = || {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        command
    };
    let plain = sleeper().spawn().unwrap();
    let own_session = Command::new("setsid")
        .args(["sleep", "1000"])
        .spawn()
        .unwrap();
    let daemon_file = format!("{note}.daemon");
    let script = format!(
        "setsid sh -c 'sleep 1000 & echo $! > {daemon_file}.part; mv {daemon_file}.part \
            {daemon_file}' &"
    );
    let mut shell = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    shell.wait().unwrap();
    await_file(&daemon_file);
    let daemon = fs::read_to_string(&daemon_file).unwrap().trim().to_owned();
    // SAFETY: the child only makes calls that are safe after a fork.
    let forked = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::setsid();
            loop {
                libc::sleep(1000);
            }
        }
        pid
    };
    tell(
        &note,
        format!("{} {} {daemon} {forked}", plain.id(), own_session.id()),
    );
    harm(then);
    42
}

/// Starts processes until that fails; returns how many there were.
#[task]
pub(crate) fn fork_bomb() -> usize {
    let start = |_| Command::new("sleep").arg("1000").spawn().ok();
    (0..200).map_while(start).count()
}

/// A way to change the process for those who come after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Directory,
    Umask,
    Limit,
    Handler,
    SignalMask,
    Environment,
    Locale,
    Stdin,
    Nice,
}

impl Change {
    pub(crate) const ALL: [Self; 9] = [
        Self::Directory,
        Self::Umask,
        Self::Limit,
        Self::Handler,
        Self::SignalMask,
        Self::Environment,
        Self::Locale,
        Self::Stdin,
        Self::Nice,
    ];
}

/// Changes the process; returns its number.
#[task]
pub(crate) fn change(what: Change) -> u32 {
    // SAFETY: this worker has one slot, so no other thread reads what is changed here.
    unsafe {
        match what {
            Change::Directory => std::env::set_current_dir("/").unwrap(),
            Change::Umask => drop(libc::umask(0)),
            Change::Limit => {
                let limit = libc::rlimit {
                    rlim_cur: 77,
                    rlim_max: 77,
                };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
            Change::Handler => drop(libc::signal(libc::SIGTERM, libc::SIG_IGN)),
            Change::SignalMask => {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
            }
            Change::Environment => std::env::set_var("BRIGADE_FAULT_LEFT", "behind"),
            Change::Locale => assert!(
                !libc::setlocale(libc::LC_ALL, c"C.UTF-8".as_ptr()).is_null(),
                "C.UTF-8 is built in"
            ),
            Change::Stdin => drop(libc::close(0)),
            Change::Nice => assert!(libc::nice(3) >= 0),
        }
    }
    std::process::id()
}

/// What the next task sees of each change, and its process.
#[task]
pub(crate) fn look() -> (String, u32) {
    // SAFETY: only reads, except for the umask, which is put back.
    let seen = unsafe {
        let mask = libc::umask(0o22);
        libc::umask(mask);
        let mut limit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let handler = libc::signal(libc::SIGTERM, libc::SIG_DFL);
        libc::signal(libc::SIGTERM, handler);
        let mut blocked = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut blocked);
        let locale =
            std::ffi::CStr::from_ptr(libc::setlocale(libc::LC_ALL, std::ptr::null())).to_owned();
        format!(
            "{:?} {mask:o} {} {} {} {:?} {locale:?} {:?} {}",
            std::env::current_dir(),
            limit.rlim_cur,
            handler == libc::SIG_IGN,
            libc::sigismember(&raw const blocked, libc::SIGTERM),
            std::env::var("BRIGADE_FAULT_LEFT"),
            fs::read_link("/proc/self/fd/0").ok(),
            libc::getpriority(libc::PRIO_PROCESS, 0),
        )
    };
    (seen, std::process::id())
}

/// Takes the parent-death signal away and runs on.
#[task]
pub(crate) fn hold_without_death_signal(note: String, go: String) -> u32 {
    // SAFETY: a request of this process about itself.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) }, 0);
    tell_and_await(&note, &go)
}

#[task]
pub(crate) fn flood_and_crash(bytes: u64) {
    flood(2, bytes);
    eprintln!("\nthe last words");
    harm(How::Segv);
}
