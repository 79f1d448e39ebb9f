//! [`Cost`]: the time and the memory that an attempt took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an attempt cost. CPU and memory are those of the worker process over its whole life; they
/// are zero while it lives on. CPU time is as the kernel counted it when the process ended
/// (`wait4(2)`).
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
    /// Largest resident memory in bytes of the worker itself (`VmHWM`), as it said at its end.
    /// Where it could not (SIGKILL, `_exit`), the kernel's count (`ru_maxrss`) if that is more than
    /// what the host program had when it started the worker, which the count begins with; otherwise
    /// the largest that was seen: at each `check_interval` and
    /// before each signal.
    pub memory_peak: u64,
}

impl Cost {
    /// User and kernel mode together.
    pub fn cpu(&self) -> Duration {
        self.cpu_user.saturating_add(self.cpu_system)
    }
}
