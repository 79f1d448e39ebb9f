//! The death certificate: everything known about an attempt that did not end by its own return.
//!
//! Values only: they are stored with jobs and sent between hosts, so they serialize, and unknown endings of later
//! versions are additions, never changes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How an attempt ended that did not end by its own return, what it cost and what it said last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Certificate {
    /// Number of the worker within its pool, from 1; a replacement takes the number of the one it replaces.
    pub worker: u32,
    /// Process id the worker had.
    pub pid: u32,
    /// Name of the host that it ran on, if that was another one that joined the pool; the process id is one of that host.
    #[serde(default)]
    pub host: Option<String>,
    /// Name of the thread that overflowed its stack or got a fatal signal, as far as the worker could report it; at most 15 bytes, `main` for the
    /// first thread.
    #[serde(default)]
    pub thread: Option<String>,
    /// Name of the task.
    pub task: String,
    /// Id of the call within its pool.
    pub call: u64,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// How it ended.
    pub ended: Ended,
    /// How the process exited; `None` if it lives on.
    pub exit: Option<Exit>,
    /// Which step of the kill ladder ended it; `None` if nobody asked for a stop.
    pub step: Option<Step>,
    /// What it cost.
    pub cost: Cost,
    /// Last progress that it told, from 0 to 1, with its text if it was one.
    pub progress: Option<(f64, String)>,
    /// The last 64 KiB that the worker wrote to its standard error.
    pub stderr: String,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ended {
    /// It panicked.
    Panicked {
        /// The panic's message.
        message: String,
        /// `file:line:column`.
        location: String,
    },
    /// The process exited in the middle of it.
    Exited,
    /// A signal ended the process.
    Signalled,
    /// The stack ran over; no other address was at fault.
    StackOverflow,
    /// It wanted more memory than it may have.
    OutOfMemory(MemoryLimit),
    /// It was stopped because its run time was over.
    TimedOut,
    /// It was stopped because somebody asked for it.
    Cancelled,
    /// It was stopped because the pool shut down.
    Shutdown,
    /// The worker closed or garbled its link; the text says how.
    LinkBroken(String),
    /// The worker was ended because of another attempt that shared it.
    Neighbour,
    /// The host that ran it was away for too long, or forgot it; the text says how. It may have run to its end.
    HostLost(String),
}

/// Which memory limit was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemoryLimit {
    /// An allocation failed at the address space limit (`RLIMIT_AS`), or for lack of memory on the host.
    AddressSpace,
    /// The resident memory grew past the limit and the pool killed the worker.
    Resident,
    /// The kernel's OOM killer ended a process of the worker's control group.
    Cgroup,
}

/// How a process exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// A step of the kill ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// It had not started, so nothing had to be stopped.
    NotStarted,
    /// It was asked and stopped by itself; its worker lives on.
    Asked,
    /// SIGTERM ended its process tree.
    Terminated,
    /// SIGKILL ended its process tree.
    Killed,
}

/// What a stop did and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The step that did it.
    pub step: Step,
    /// When nothing of the attempt was left.
    pub at: std::time::SystemTime,
    /// From the request to that moment.
    #[serde(with = "crate::codec::seconds")]
    pub took: Duration,
}

impl Receipt {
    /// A receipt of this moment, for a holder of a lease that has its own way to stop what it runs.
    pub fn new(step: Step, took: Duration) -> Self {
        Self { step, at: std::time::SystemTime::now(), took }
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:.1?}", self.step, self.took)
    }
}

/// What an attempt cost. CPU and memory are those of the worker process over its whole life, as the kernel
/// counted them when the process ended (`wait4(2)`); they are zero while it lives on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cost {
    /// Time from the start of the attempt to its end.
    #[serde(with = "crate::codec::seconds")]
    pub wall: Duration,
    /// CPU time in user mode.
    #[serde(with = "crate::codec::seconds")]
    pub cpu_user: Duration,
    /// CPU time in the kernel.
    #[serde(with = "crate::codec::seconds")]
    pub cpu_system: Duration,
    /// Largest resident memory in bytes.
    pub memory_peak: u64,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked { message, location } => write!(f, "panicked at {location}: {message}"),
            Self::Exited => f.write_str("exited in the middle of the task"),
            Self::Signalled => f.write_str("killed by a signal"),
            Self::StackOverflow => f.write_str("stack overflow"),
            Self::OutOfMemory(MemoryLimit::AddressSpace) => f.write_str("out of memory (an allocation failed)"),
            Self::OutOfMemory(MemoryLimit::Resident) => f.write_str("out of memory (resident memory over its limit)"),
            Self::OutOfMemory(MemoryLimit::Cgroup) => f.write_str("out of memory (killed by the kernel)"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Shutdown => f.write_str("stopped by shutdown"),
            Self::LinkBroken(how) => write!(f, "broke its link: {how}"),
            Self::Neighbour => f.write_str("its worker ended because of another attempt"),
            Self::HostLost(how) => write!(f, "lost with its host: {how}"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "{name}"),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "it had not started",
            Self::Asked => "stopped when asked",
            Self::Terminated => "stopped by SIGTERM",
            Self::Killed => "stopped by SIGKILL",
        })
    }
}

impl fmt::Display for Certificate {
    /// One line, as in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (call {}, attempt {}) on worker {}, pid {}", self.task, self.call, self.attempt, self.worker, self.pid)?;
        if let Some(host) = &self.host {
            write!(f, " on {host}")?;
        }
        write!(f, ": {}", self.ended)?;
        if let (Some(thread), Ended::StackOverflow) = (&self.thread, &self.ended) {
            write!(f, " in thread \"{thread}\"")?;
        }
        if let Some(exit) = self.exit {
            write!(f, ", {exit}")?;
        }
        if let Some(step) = self.step {
            write!(f, ", {step}")?;
        }
        write!(f, " after {:.1?}", self.cost.wall)?;
        if self.exit.is_some() {
            let mib = self.cost.memory_peak / (1 << 20);
            write!(f, ", cpu {:.1?}, peak memory {mib} MiB", self.cost.cpu_user + self.cost.cpu_system)?;
        }
        Ok(())
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}
