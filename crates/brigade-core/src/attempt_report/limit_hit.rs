//! [`LimitHit`]: the limit that ended an attempt, and [`MemoryHold`]: what held its memory.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limit that ended an attempt, with what it allowed and what was used when it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LimitHit {
    /// Memory of the process tree, in bytes beyond what the worker had before the attempt.
    Memory {
        /// The limit.
        allowed: u64,
        /// What was used. At a control group no more than the limit: the kernel refuses the rest.
        used: u64,
    },
    /// Address space of one process, in bytes beyond what the worker had before the attempt.
    AddressSpace {
        /// The limit.
        allowed: u64,
    },
    /// CPU time of the process tree.
    Cpu {
        /// The limit.
        allowed: Duration,
        /// What was used.
        used: Duration,
    },
    /// Descriptors that were open in one process.
    Files {
        /// The limit.
        allowed: u32,
    },
    /// Processes and threads of the tree, beyond those that the worker had before the attempt.
    Processes {
        /// The limit.
        allowed: u32,
        /// What there was. At a control group no more than the limit: the kernel refuses the rest.
        used: u32,
    },
    /// Size of one file that was written, in bytes.
    FileSize {
        /// The limit.
        allowed: u64,
    },
}

impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Memory { allowed, used } => {
                write!(
                    f,
                    "memory limit {}, used {}",
                    ByteCount(allowed),
                    ByteCount(used)
                )
            }
            Self::AddressSpace { allowed } => {
                write!(f, "address space limit {}", ByteCount(allowed))
            }
            Self::Cpu { allowed, used } => {
                write!(f, "CPU limit {allowed:.1?}, used {used:.1?}")
            }
            Self::Files { allowed } => write!(f, "limit of {allowed} open files"),
            Self::Processes { allowed, used } => {
                write!(f, "limit of {allowed} processes and threads, had {used}")
            }
            Self::FileSize { allowed } => write!(f, "file size limit {}", ByteCount(allowed)),
        }
    }
}

/// An amount, as people read it.
struct ByteCount(u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        match self.0 {
            bytes if bytes >= 10 * MIB => write!(f, "{} MiB", bytes / MIB),
            bytes if bytes >= 10 * KIB => write!(f, "{} KiB", bytes / KIB),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

/// What held the memory limit of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemoryHold {
    /// The kernel, by a control group of version 2.
    ControlGroupV2,
    /// The kernel, by a control group of version 1.
    ControlGroupV1,
    /// The pool, which measures the process tree and ends it.
    Watch,
    /// The kernel, by a limit on the address space of each process.
    AddressSpace,
}

impl fmt::Display for MemoryHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlGroupV2 => "control group (version 2)",
            Self::ControlGroupV1 => "control group (version 1)",
            Self::Watch => "watch",
            Self::AddressSpace => "address space limit",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_says_what_it_allowed_and_what_was_used() {
        let hit = LimitHit::Memory {
            allowed: 256 << 20,
            used: 260 << 20,
        };
        assert_eq!(hit.to_string(), "memory limit 256 MiB, used 260 MiB");
        let hit = LimitHit::Cpu {
            allowed: Duration::from_secs(10),
            used: Duration::from_millis(10_020),
        };
        assert_eq!(hit.to_string(), "CPU limit 10.0s, used 10.0s");
    }
}
