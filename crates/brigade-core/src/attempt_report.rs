//! The attempt report: everything known about an attempt that has ended.
//!
//! The code that ran the attempt makes its report at the end; from then on it belongs to the caller
//! or to the job's history. Of an attempt that returned, the pool keeps a few numbers, and its
//! handle makes the report of them when it is asked for it. Reports are values only: they are
//! stored with jobs and sent between hosts, so they serialize, and unknown endings of later
//! versions are additions, never changes.
//!
//! Invariants: of standard error only the last 64 KiB are kept, and messages are cut and put on one
//! line where an ending is printed. What is not known of a cost is missing, never zero.
//!
//! Nothing here observes processes or decides about retries.

pub mod brief;
mod cost;
mod exit;
mod limit_hit;
mod stop_receipt;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::printable::one_line;
use crate::progress::PROGRESS_BYTES_MAX;

pub use self::cost::Cost;
pub use self::exit::{Exit, signal_name};
pub use self::limit_hit::{LimitHit, MemoryHold};
pub use self::stop_receipt::{Step, StopReceipt};

/// Standard error that is kept for a report.
pub const TAIL_BYTES: usize = 64 << 10;

/// How an attempt ended, what it cost and what it wrote last. Errors carry the report of the
/// attempt that they are about; [`CallHandle::report`](crate::CallHandle::report) gives that of any
/// call that ran.
///
/// ```standalone_crate
/// use brigade::{CallError, Exit, Pool, task};
///
/// #[task]
/// fn aborts() {
///     eprintln!("about to abort");
///     std::process::abort();
/// }
///
/// #[brigade::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let pool = Pool::builder().workers(1).start().await?;
///     let Err(CallError::Crashed(report)) = pool.call(aborts()).await else {
///         panic!("it aborts");
///     };
///     assert_eq!(report.exit, Some(Exit::Signal(6)));
///     assert!(report.stderr.contains("about to abort"));
///     pool.shutdown().await;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttemptReport {
    /// Number of the worker within its pool, from 1; a replacement takes the number of the one it
    /// replaces.
    pub worker: u32,
    /// Process id the worker had. Of an attempt on another host that returned sooner than
    /// [`Cost::MEASURED_FROM`]: that of the program which joined the pool.
    pub pid: u32,
    /// Name of the host that it ran on, if that was another one that joined the pool; the process
    /// id is one of that host.
    #[serde(default)]
    pub host: Option<String>,
    /// Name of the thread that overflowed its stack or got a fatal signal, as far as the worker
    /// could report it; at most 15 bytes, `main` for the first thread.
    #[serde(default)]
    pub thread: Option<String>,
    /// Name of the task.
    pub task: String,
    /// Id of the call within its pool.
    pub call: u64,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// How it ended.
    pub ended: AttemptOutcome,
    /// How the process exited; `None` if it lives on.
    pub exit: Option<Exit>,
    /// Which step of the kill ladder ended it; `None` if it was not stopped.
    pub step: Option<Step>,
    /// What it cost.
    pub cost: Cost,
    /// Last progress that it reported, from 0 to 1, with its text if it was one.
    pub progress: Option<(f64, String)>,
    /// The last 64 KiB that the worker wrote to its standard error; empty if the attempt returned.
    #[serde(default)]
    pub stderr: String,
    /// What kept the worker from running when it was ended: the name of the signal that had stopped
    /// it (SIGTTIN and SIGTTOU are a terminal's), or `a debugger`. `None` if nothing did.
    #[serde(default)]
    pub stopped_by: Option<String>,
    /// The limit that ended it, if one did.
    #[serde(default)]
    pub limit: Option<LimitHit>,
    /// What held its memory limit; `None` if it had none.
    #[serde(default)]
    pub memory_hold: Option<MemoryHold>,
}

/// The worker's handler of this signal could not run.
const UNREPORTED: &str = " (its handler could not run, as after a stack overflow in a thread that \
    has no stack for signal handlers)";

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// It returned a value.
    Returned,
    /// Its code returned an error.
    Failed,
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
    /// It went over another limit, which [`AttemptReport::limit`] names.
    OverLimit,
    /// It was stopped because its run time was over.
    TimedOut,
    /// It was stopped by a cancel.
    Cancelled,
    /// It was stopped because the pool shut down.
    Shutdown,
    /// The worker closed or garbled its link; the text says how.
    LinkBroken(String),
    /// The worker was ended because of another attempt that shared it.
    Neighbour,
    /// The host that ran it was away for too long, or forgot it; the text says how. It may have run
    /// to its end.
    HostLost(String),
    /// The process ended, and how is not known: see [`Exit::Unknown`].
    Unknown,
}

/// Which memory limit was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemoryLimit {
    /// An allocation failed at the address space limit (`RLIMIT_AS`), or for lack of memory on the
    /// host.
    AddressSpace,
    /// The memory that the process tree fills, pages of files aside, grew past the limit and the
    /// pool killed the worker.
    Resident,
    /// The kernel's OOM killer ended a process of the worker's control group.
    Cgroup,
    /// The attempt alone took more than the memory budget of its pool.
    Budget,
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned => f.write_str("returned"),
            Self::Failed => f.write_str("failed"),
            Self::Panicked { message, location } => {
                write!(
                    f,
                    "panicked at {}: {}",
                    one_line(location, NAME_BYTES_MAX),
                    one_line(message, TEXT_BYTES_MAX)
                )
            }
            Self::Exited => f.write_str("exited in the middle of the task"),
            Self::Signalled => f.write_str("killed by a signal"),
            Self::StackOverflow => f.write_str("stack overflow"),
            Self::OutOfMemory(MemoryLimit::AddressSpace) => {
                f.write_str("out of memory (an allocation failed)")
            }
            Self::OutOfMemory(MemoryLimit::Resident) => {
                f.write_str("out of memory (resident memory over its limit)")
            }
            Self::OutOfMemory(MemoryLimit::Cgroup) => {
                f.write_str("out of memory (killed by the kernel)")
            }
            Self::OverLimit => f.write_str("over a limit"),
            Self::OutOfMemory(MemoryLimit::Budget) => {
                f.write_str("out of memory (alone over the memory budget of its pool)")
            }
            Self::TimedOut => f.write_str("timed out"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Shutdown => f.write_str("stopped by shutdown"),
            Self::LinkBroken(how) => write!(f, "broke its link: {}", one_line(how, TEXT_BYTES_MAX)),
            Self::Neighbour => f.write_str("its worker ended because of another attempt"),
            Self::HostLost(how) => {
                write!(f, "lost with its host: {}", one_line(how, TEXT_BYTES_MAX))
            }
            Self::Unknown => f.write_str("its process ended"),
        }
    }
}

impl fmt::Display for AttemptReport {
    /// One line, as in a log, whatever the strings hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, true)
    }
}

/// A report whose reader knows already that the attempt timed out, was cancelled or panicked.
pub struct WithoutEnding<'a>(pub &'a AttemptReport);

impl fmt::Display for WithoutEnding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, false)
    }
}

impl AttemptReport {
    /// A report that knows no more than this.
    #[doc(hidden)]
    pub fn new(task: impl Into<String>, attempt: u32, ended: AttemptOutcome) -> Self {
        Self {
            worker: 0,
            pid: 0,
            host: None,
            thread: None,
            task: task.into(),
            call: 0,
            attempt,
            ended,
            exit: None,
            step: None,
            cost: Cost::default(),
            progress: None,
            stderr: String::new(),
            stopped_by: None,
            limit: None,
            memory_hold: None,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, tell_end: bool) -> fmt::Result {
        let task = one_line(&self.task, NAME_BYTES_MAX);
        let (attempt, pid) = (self.attempt, self.pid);
        // Workers and calls of a pool are numbered from 1: without a pool there are none.
        match (self.call, self.worker) {
            (0, 0) => write!(f, "{task} (attempt {attempt}), pid {pid}")?,
            (call, worker) => write!(
                f,
                "{task} (call {call}, attempt {attempt}) on worker {worker}, pid {pid}"
            )?,
        }
        if let Some(host) = &self.host {
            write!(f, " on {}", one_line(host, NAME_BYTES_MAX))?;
        }
        f.write_str(": ")?;
        match (&self.ended, self.exit) {
            (AttemptOutcome::Panicked { message, location }, _) if !tell_end => {
                write!(
                    f,
                    "{} (at {})",
                    one_line(message, TEXT_BYTES_MAX),
                    one_line(location, NAME_BYTES_MAX)
                )?;
            }
            (AttemptOutcome::Signalled, Some(exit @ Exit::Signal(signal))) => {
                write!(f, "killed by {exit}")?;
                if self.thread.is_none() && matches!(signal, libc::SIGSEGV | libc::SIGBUS) {
                    f.write_str(UNREPORTED)?;
                }
            }
            (ended, _) if tell_end || self.step.is_none() => write!(f, "{ended}")?,
            _ => {}
        }
        if let (Some(thread), AttemptOutcome::StackOverflow) = (&self.thread, &self.ended) {
            write!(f, " in thread \"{}\"", one_line(thread, NAME_BYTES_MAX))?;
        }
        // The signal of a step says nothing that the step does not.
        let told = match (&self.ended, self.step, self.exit) {
            (AttemptOutcome::Signalled, _, Some(Exit::Signal(_)))
            | (AttemptOutcome::OutOfMemory(MemoryLimit::Cgroup), ..) => None,
            (_, Some(Step::Terminated), Some(Exit::Signal(libc::SIGTERM)))
            | (_, Some(Step::Killed), Some(Exit::Signal(libc::SIGKILL))) => None,
            (.., exit) => exit,
        };
        let has_end = tell_end
            || self.step.is_none()
            || !matches!(
                self.ended,
                AttemptOutcome::TimedOut | AttemptOutcome::Cancelled | AttemptOutcome::Shutdown
            );
        let comma = |first: bool| if first { "" } else { ", " };
        if let Some(step) = self.step {
            write!(f, "{}{step}", comma(!has_end))?;
        }
        if let Some(exit) = told {
            write!(f, "{}{exit}", comma(!has_end && self.step.is_none()))?;
        }
        self.write_cost(f)
    }

    /// The limit that it went over, and what it cost.
    fn write_cost(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(limit) = &self.limit {
            write!(f, ", {limit}")?;
        }
        write!(f, " after {:.1?}", self.cost.wall)?;
        if let Some(by) = &self.stopped_by {
            write!(
                f,
                ", while it was stopped by {}",
                one_line(by, NAME_BYTES_MAX)
            )?;
        }
        if let Some(cpu) = self.cost.cpu {
            write!(f, ", cpu {cpu:.1?}")?;
        }
        if let Some(peak) = self.cost.memory_peak {
            write!(f, ", peak memory {} MiB", peak / (1 << 20))?;
        }
        Ok(())
    }

    /// Cuts what another host says to what could be true of one of ours.
    #[doc(hidden)]
    pub fn bounded(mut self: Box<Self>) -> Box<Self> {
        let cut = |text: &mut String, bytes_max| text.truncate(text.floor_char_boundary(bytes_max));
        self.cost = self.cost.bounded();
        cut(&mut self.stderr, TAIL_BYTES);
        if let Some((_, text)) = &mut self.progress {
            cut(text, PROGRESS_BYTES_MAX);
        }
        for name in [&mut self.stopped_by, &mut self.thread]
            .into_iter()
            .flatten()
        {
            cut(name, NAME_BYTES_MAX);
        }
        match &mut self.ended {
            AttemptOutcome::Panicked { message, location } => {
                cut(message, TEXT_BYTES_MAX);
                cut(location, NAME_BYTES_MAX);
            }
            AttemptOutcome::LinkBroken(how) | AttemptOutcome::HostLost(how) => {
                cut(how, TEXT_BYTES_MAX)
            }
            _ => {}
        }
        self
    }
}

/// Names of tasks, hosts and places in a line.
const NAME_BYTES_MAX: usize = 256;
/// Messages in a line.
const TEXT_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_absurd_report_of_another_host_is_one_printable_line() {
        let evil = "x\u{1b}[2J\n2026-01-01 INFO forged\r\u{202e}".to_owned();
        let cost = Cost {
            wall: Duration::MAX,
            cpu: Some(Duration::MAX),
            memory_peak: Some(u64::MAX),
        };
        let report = |ended| AttemptReport {
            worker: 1,
            pid: u32::MAX,
            host: Some(evil.clone()),
            task: evil.clone(),
            call: u64::MAX,
            attempt: u32::MAX,
            ended,
            exit: Some(Exit::Signal(i32::MIN)),
            step: Some(Step::Killed),
            cost,
            progress: Some((f64::NAN, evil.repeat(10_000))),
            stderr: evil.repeat(100_000),
            stopped_by: Some(evil.clone()),
            thread: Some(evil.clone()),
            limit: Some(LimitHit::Cpu {
                allowed: Duration::MAX,
                used: Duration::MAX,
            }),
            memory_hold: Some(MemoryHold::Watch),
        };
        let ends = [
            AttemptOutcome::Panicked {
                message: evil.clone(),
                location: evil.clone(),
            },
            AttemptOutcome::LinkBroken(evil.repeat(10_000)),
            AttemptOutcome::HostLost(evil.clone()),
            AttemptOutcome::StackOverflow,
        ];
        for ended in ends {
            for report in [
                Box::new(report(ended.clone())),
                Box::new(report(ended)).bounded(),
            ] {
                let told = [
                    report.to_string(),
                    WithoutEnding(&report).to_string(),
                    crate::CallError::Panicked(report).to_string(),
                ];
                assert!(
                    told.iter()
                        .all(|line| !line.chars().any(char::is_control)
                            && !line.contains('\u{202e}')),
                    "{told:?}"
                );
            }
        }
        let bounded = Box::new(report(AttemptOutcome::Unknown)).bounded();
        assert!(
            bounded.cost.cpu < Some(Duration::MAX) && bounded.stderr.len() <= TAIL_BYTES,
            "{bounded}"
        );
    }
}
