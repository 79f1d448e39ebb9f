//! The full check: state of the process that one attempt may leave behind for the next, as far as
//! the quick check does not cover it.
//!
//! It is made after attempts that are not part of a burst, because it costs about 20 us. What is
//! found changed makes the worker ask to be replaced; nothing is repaired.

#![expect(
    unsafe_code,
    reason = "asks the C library and the kernel for what no safe wrapper offers"
)]

use std::ffi::{CStr, c_int};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::process::{Resource, Rlimit, getrlimit};

use super::hash::{hash, mix};
use super::process_state::{
    SCHED_BYTES, each_variable, file, handler, handlers, scheduling, timer_is_set,
};

/// Enough for `/proc/thread-self/status` with many groups and CPUs; what comes after it is not
/// compared.
const STATUS_BYTES: usize = 16 << 10;

/// Lines of proc_pid_status(5) and what they are about.
const LINES: [(&str, &str); 17] = [
    ("Uid", "the user"),
    ("Gid", "the group"),
    ("Groups", "the groups"),
    ("SigBlk", "the signal mask"),
    ("SigIgn", "a signal handler"),
    ("SigCgt", "a signal handler"),
    ("CapInh", "the capabilities"),
    ("CapPrm", "the capabilities"),
    ("CapEff", "the capabilities"),
    ("CapBnd", "the capabilities"),
    ("CapAmb", "the capabilities"),
    ("NoNewPrivs", "no_new_privs"),
    ("Seccomp", "the seccomp mode"),
    ("Seccomp_filters", "the seccomp filters"),
    ("Cpus_allowed", "the CPU affinity"),
    ("Mems_allowed", "the memory nodes"),
    ("THP_enabled", "the use of huge pages"),
];

/// Masks of signals in [`LINES`], of which two belong to the C library.
const MASKS: [&str; 3] = ["SigBlk", "SigIgn", "SigCgt"];
const SIGNALS_OF_LIBC: u64 = 0b11 << 31;

const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// Namespaces that only a privileged task can change alone. An unprivileged one gets a user
/// namespace first, which shows in user and capabilities.
const NAMESPACES: [&CStr; 6] = [
    c"net",
    c"ipc",
    c"uts",
    c"cgroup",
    c"pid_for_children",
    c"time_for_children",
];
/// Bit of CAP_SYS_ADMIN in a capability set.
const SYS_ADMIN: u64 = 1 << 21;

/// ioprio_get(2) for this thread.
const IOPRIO_WHO_PROCESS: c_int = 1;
/// personality(2) that only asks.
const PERSONALITY_ASK: libc::c_ulong = 0xffff_ffff;

pub(super) struct Full {
    status: Option<File>,
    timers: Option<File>,
    namespaces: Option<File>,
    /// Signals that were not at their default, with their handlers. The masks in `status` show the
    /// others.
    handlers: Vec<(c_int, usize)>,
    before: FullState,
}

#[derive(PartialEq)]
struct FullState {
    lines: [u64; LINES.len()],
    stdin: Option<(u64, u64)>,
    scheduling: [u8; SCHED_BYTES],
    limits: [(Option<u64>, Option<u64>); RESOURCES.len()],
    timers: (bool, bool, u64),
    variables: u64,
    flags: [c_int; 3],
    root: (u64, u64),
    host_name: u64,
    settings: [c_int; 5],
    name: u64,
    personality: c_int,
    io_priority: libc::c_long,
    namespaces: u64,
}

impl Full {
    pub(super) fn new() -> Self {
        let status = File::open("/proc/thread-self/status").ok();
        // Missing where the kernel was built without checkpoints; then these timers are not
        // compared.
        let timers = File::open("/proc/self/timers").ok();
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open("/proc/self/ns")
            .ok();
        let privileged = status
            .as_ref()
            .is_some_and(|status| has_capability(status, SYS_ADMIN));
        let namespaces = directory.filter(|_| privileged);
        let before = FullState::now(status.as_ref(), timers.as_ref(), namespaces.as_ref());
        Self {
            status,
            timers,
            namespaces,
            handlers: handlers(),
            before,
        }
    }

    pub(super) fn changed(&self) -> Option<&'static str> {
        let (before, now) = (
            &self.before,
            FullState::now(
                self.status.as_ref(),
                self.timers.as_ref(),
                self.namespaces.as_ref(),
            ),
        );
        let line = before
            .lines
            .iter()
            .zip(&now.lines)
            .position(|(before, now)| before != now)
            .map(|index| LINES[index].1);
        let differences = [
            (
                self.handlers
                    .iter()
                    .any(|(signal, before)| handler(*signal) != *before),
                "a signal handler",
            ),
            (before.stdin != now.stdin, "standard input"),
            (
                before.scheduling != now.scheduling,
                "the niceness or scheduling policy",
            ),
            (before.limits != now.limits, "a resource limit"),
            (before.timers != now.timers, "a timer"),
            (before.variables != now.variables, "the environment"),
            (before.flags != now.flags, "the flags of a standard stream"),
            (before.root != now.root, "the root directory or the mounts"),
            (before.host_name != now.host_name, "the host name"),
            (before.settings != now.settings, "a setting (prctl)"),
            (before.name != now.name, "the name"),
            (before.personality != now.personality, "the personality"),
            (before.io_priority != now.io_priority, "the IO priority"),
            (before.namespaces != now.namespaces, "a namespace"),
            (
                descriptors_run_out(),
                "the descriptor table (over half of the allowed descriptors are open)",
            ),
        ];
        line.or_else(|| {
            differences
                .into_iter()
                .find_map(|(differs, what)| differs.then_some(what))
        })
    }
}

impl FullState {
    fn now(status: Option<&File>, timers: Option<&File>, namespaces: Option<&File>) -> Self {
        Self {
            lines: status.map(lines).unwrap_or_default(),
            stdin: file(rustix::stdio::stdin()),
            scheduling: scheduling(),
            limits: RESOURCES.map(|resource| {
                let Rlimit { current, maximum } = getrlimit(resource);
                (current, maximum)
            }),
            timers: (
                timer_is_set(libc::ITIMER_VIRTUAL),
                timer_is_set(libc::ITIMER_PROF),
                timers.map_or(0, text),
            ),
            variables: variables(),
            flags: [0, 1, 2].map(|descriptor| {
                // SAFETY: only asks.
                unsafe { libc::fcntl(descriptor, libc::F_GETFL) }
            }),
            root: root(),
            host_name: hash(rustix::system::uname().nodename().to_bytes()),
            settings: settings(),
            name: rustix::thread::name().map_or(0, |name| hash(name.to_bytes())),
            // SAFETY: this value changes nothing.
            personality: unsafe { libc::personality(PERSONALITY_ASK) },
            // SAFETY: only asks.
            io_priority: unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) },
            namespaces: namespaces.map_or(0, links),
        }
    }
}

/// Hashes of the lines that are compared.
fn lines(status: &File) -> [u64; LINES.len()] {
    let mut buffer = [0; STATUS_BYTES];
    let mut hashes = [0; LINES.len()];
    // The lines come in another order than here, but each once.
    for (label, value) in read(status, &mut buffer)
        .split(|byte| *byte == b'\n')
        .filter_map(split)
    {
        if let Some(index) = LINES
            .iter()
            .position(|(wanted, _)| wanted.as_bytes() == label)
        {
            let mask = MASKS
                .iter()
                .any(|mask| mask.as_bytes() == label)
                .then(|| number(value))
                .flatten();
            hashes[index] = mask.map_or_else(|| hash(value), |mask| mask & !SIGNALS_OF_LIBC);
        }
    }
    hashes
}

fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn number(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn has_capability(status: &File, wanted: u64) -> bool {
    let mut buffer = [0; STATUS_BYTES];
    let effective = read(status, &mut buffer)
        .split(|byte| *byte == b'\n')
        .filter_map(split)
        .find(|(label, _)| *label == b"CapEff");
    effective
        .and_then(|(_, value)| number(value))
        .is_some_and(|set| set & wanted != 0)
}

fn read<'a>(file: &File, buffer: &'a mut [u8]) -> &'a [u8] {
    let count = file.read_at(buffer, 0).unwrap_or(0);
    &buffer[..count]
}

fn text(file: &File) -> u64 {
    let mut buffer = [0; 4 << 10];
    hash(read(file, &mut buffer))
}

/// Texts of all variables.
fn variables() -> u64 {
    let mut all = 0;
    each_variable(|variable| {
        // SAFETY: a variable is a text of the C library's, which ends with a NUL.
        all = mix(all, hash(unsafe { CStr::from_ptr(variable) }.to_bytes()));
    });
    all
}

/// The root directory and its mount, whose number changes with the mount namespace.
fn root() -> (u64, u64) {
    let mount = StatxFlags::INO.union(StatxFlags::MNT_ID);
    rustix::fs::statx(CWD, c"/", AtFlags::empty(), mount)
        .map_or((0, 0), |root| (root.stx_ino, root.stx_mnt_id))
}

/// Settings of the process and of this thread (prctl(2)).
fn settings() -> [c_int; 5] {
    let (mut reaper, mut death) = (0, 0);
    // SAFETY: only asks; two of these write a local.
    unsafe {
        libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut reaper);
        libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut death);
        [
            libc::prctl(libc::PR_GET_DUMPABLE),
            libc::prctl(libc::PR_GET_SECUREBITS),
            libc::prctl(libc::PR_GET_TIMERSLACK),
            reaper,
            death,
        ]
    }
}

/// Where the links in a directory lead to.
fn links(directory: &File) -> u64 {
    NAMESPACES.into_iter().fold(0, |all, name| {
        let mut buffer = [0_u8; 64];
        // SAFETY: writes at most the size of the buffer.
        let length = unsafe {
            libc::readlinkat(
                directory.as_raw_fd(),
                name.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        mix(all, hash(&buffer[..usize::try_from(length).unwrap_or(0)]))
    })
}

/// Whether the lowest free descriptor is beyond half of what the process may have: tasks leave some
/// open.
fn descriptors_run_out() -> bool {
    let Ok(lowest) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 0) else {
        return true;
    };
    let half = getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |most| most / 2);
    u64::try_from(lowest.as_raw_fd()).is_ok_and(|lowest| lowest > half)
}
