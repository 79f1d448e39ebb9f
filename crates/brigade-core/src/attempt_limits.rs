//! [`AttemptLimits`]: what one attempt may use, with all processes that it starts.
//!
//! A call says its own limits; what it leaves open, the task's registration says, then the consumer
//! that took the job, then the pool ([`AttemptLimits::or`], in this order). How each limit is held
//! is the business of the pool: `docs/workers.md` has the table. `policy::admission` refuses limits
//! that contradict each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one attempt may use, with all processes that it starts. What is `None` is not limited.
///
/// ```
/// use std::time::Duration;
///
/// use brigade::AttemptLimits;
///
/// let limits = AttemptLimits::new()
///     .memory(256 << 20)
///     .cpu(Duration::from_secs(10))
///     .processes(8);
/// assert_eq!(limits.memory, Some(256 << 20));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttemptLimits {
    /// See [`Call::memory`](crate::Call::memory).
    pub memory: Option<u64>,
    /// See [`Call::address_space`](crate::Call::address_space).
    pub address_space: Option<u64>,
    /// See [`Call::cpu`](crate::Call::cpu).
    pub cpu: Option<Duration>,
    /// See [`Call::files`](crate::Call::files).
    pub files: Option<u32>,
    /// See [`Call::processes`](crate::Call::processes).
    pub processes: Option<u32>,
    /// See [`Call::file_size`](crate::Call::file_size).
    pub file_size: Option<u64>,
}

impl AttemptLimits {
    /// No limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`Call::memory`](crate::Call::memory).
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        Self {
            memory: Some(bytes),
            ..self
        }
    }

    /// See [`Call::address_space`](crate::Call::address_space).
    #[must_use]
    pub fn address_space(self, bytes: u64) -> Self {
        Self {
            address_space: Some(bytes),
            ..self
        }
    }

    /// See [`Call::cpu`](crate::Call::cpu).
    #[must_use]
    pub fn cpu(self, time: Duration) -> Self {
        Self {
            cpu: Some(time),
            ..self
        }
    }

    /// See [`Call::files`](crate::Call::files).
    #[must_use]
    pub fn files(self, count: u32) -> Self {
        Self {
            files: Some(count),
            ..self
        }
    }

    /// See [`Call::processes`](crate::Call::processes).
    #[must_use]
    pub fn processes(self, count: u32) -> Self {
        Self {
            processes: Some(count),
            ..self
        }
    }

    /// See [`Call::file_size`](crate::Call::file_size).
    #[must_use]
    pub fn file_size(self, bytes: u64) -> Self {
        Self {
            file_size: Some(bytes),
            ..self
        }
    }

    /// These, and for what they leave open the others.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            memory: self.memory.or(others.memory),
            address_space: self.address_space.or(others.address_space),
            cpu: self.cpu.or(others.cpu),
            files: self.files.or(others.files),
            processes: self.processes.or(others.processes),
            file_size: self.file_size.or(others.file_size),
        }
    }

    /// These, and none above those of `outer`.
    #[must_use]
    pub fn within(self, outer: Self) -> Self {
        Self {
            memory: lower(self.memory, outer.memory),
            address_space: lower(self.address_space, outer.address_space),
            cpu: lower(self.cpu, outer.cpu),
            files: lower(self.files, outer.files),
            processes: lower(self.processes, outer.processes),
            file_size: lower(self.file_size, outer.file_size),
        }
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the process tree of the attempt has to be watched, or held by a control group.
    #[doc(hidden)]
    pub fn needs_a_watch(&self) -> bool {
        self.memory.is_some() || self.cpu.is_some() || self.processes.is_some()
    }
}

fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_within_others_are_never_above_them() {
        let outer = AttemptLimits::new().memory(100).processes(4);
        let own = AttemptLimits::new().memory(200).processes(2).files(3);
        assert_eq!(
            own.within(outer),
            AttemptLimits::new().memory(100).processes(2).files(3)
        );
    }
}
