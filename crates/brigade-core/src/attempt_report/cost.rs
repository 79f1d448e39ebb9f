//! [`Cost`]: the time and the memory that an attempt took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an attempt cost. What is not known is `None`, never zero.
///
/// | | the attempt ended, its worker lives | the attempt took its worker down |
/// |---|---|---|
/// | `wall` | of the attempt | of the attempt |
/// | `cpu` | of the attempt, if it ran for [`Cost::MEASURED_FROM`] or longer | of the worker process over its whole life |
/// | `memory_peak` | of the worker so far, if the attempt ran that long | of the worker over its whole life |
///
/// An attempt in the program's own process (a handler, or a task of a consumer that runs them
/// there) has a `wall` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cost {
    /// Time from the start of the attempt to its end: as its worker measured it if it ran for
    /// [`Cost::MEASURED_FROM`] or longer, otherwise as the pool saw it, so that it may be a little
    /// too long, up to that time.
    #[serde(with = "crate::codec::seconds")]
    pub wall: Duration,
    /// CPU time in user mode and in the kernel.
    ///
    /// Where the worker lives on: what the attempt used, and up to 0.1 ms that its worker used
    /// before it. In a worker with one slot it is the CPU time of the whole process, with all
    /// threads of the task; in one with more slots that of the attempt's thread, and `None` for an
    /// async task, which shares its thread. Where the worker ended: that of the process over its
    /// whole life, as the kernel counted it (`wait4(2)`).
    #[serde(default, with = "crate::codec::optional_seconds")]
    pub cpu: Option<Duration>,
    /// Largest resident memory in bytes that the worker process has had up to the end of the
    /// attempt (`VmHWM`): not the attempt's own, where the worker ran others before or runs others
    /// beside it.
    ///
    /// Where the worker ended: as it said at its end. If it could not (SIGKILL, `_exit`): the
    /// kernel's count (`ru_maxrss`) if that is more than what the host program had when it started
    /// the worker, which the count begins with; otherwise the largest that was seen, at each
    /// `check_interval` and before each signal.
    #[serde(default)]
    pub memory_peak: Option<u64>,
}

impl Cost {
    /// CPU time and memory of attempts that leave their worker alive are measured if they ran for
    /// at least this long: looking at both takes system calls, which would slow down short calls.
    pub const MEASURED_FROM: Duration = Duration::from_millis(1);

    /// A cost of which only the time is known.
    #[doc(hidden)]
    pub fn of_wall(wall: Duration) -> Self {
        Self {
            wall,
            ..Self::default()
        }
    }

    /// With what the worker's process used.
    #[doc(hidden)]
    pub fn with_process(self, cpu: Option<Duration>, memory_peak: Option<u64>) -> Self {
        Self {
            cpu,
            memory_peak,
            ..self
        }
    }

    /// Cuts what another process says to what could be true.
    #[doc(hidden)]
    pub fn bounded(self) -> Self {
        Self {
            wall: self.wall.min(TIME_MAX),
            cpu: self.cpu.map(|cpu| cpu.min(TIME_MAX)),
            ..self
        }
    }
}

/// No attempt lasts longer: a century.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
