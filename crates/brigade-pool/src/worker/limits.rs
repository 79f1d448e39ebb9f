//! The limits that a worker sets on itself for one attempt: descriptors, size of files, address
//! space. And what lets the pool hold the others: while the attempt runs, the worker adopts the
//! orphans among its descendants, so that no process leaves its tree.
//!
//! They are set before the attempt and taken back after it, so that `hygiene` finds the process as
//! it was. Only the soft limits are set, because a hard one cannot be taken back; where the worker
//! runs nothing after this attempt, the hard ones are set, too.

use std::os::fd::AsRawFd as _;

use rustix::fs::{Dir, Mode, OFlags, open};
use rustix::process::{Resource, Rlimit, WaitId, WaitIdOptions, getrlimit, setrlimit, waitid};

use crate::attempt_limits::AttemptLimits;

/// The limits of one attempt; dropping it restores those before.
pub(super) struct LimitsInForce {
    limits: AttemptLimits,
    is_last: bool,
    before: Vec<(Resource, Rlimit)>,
    /// Whether it adopted orphans before.
    adopted_before: Option<bool>,
}

impl LimitsInForce {
    /// `is_last`: this process runs nothing after the attempt.
    pub(super) fn set(limits: AttemptLimits, is_last: bool) -> Self {
        let mut set = Self {
            limits,
            is_last,
            before: Vec::new(),
            adopted_before: None,
        };
        set.set_address_space();
        if let Some(count) = limits.files {
            set.limit(Resource::Nofile, first_beyond(count));
        }
        if let Some(bytes) = limits.file_size {
            set.limit(Resource::Fsize, bytes);
        }
        if limits.needs_a_watch() {
            set.adopted_before = Some(adopts());
            adopt(true);
        }
        set
    }

    /// Without the limit on address space, for what the worker makes for itself.
    pub(super) fn lift_address_space(&mut self) {
        let place = self
            .before
            .iter()
            .position(|(resource, _)| *resource == Resource::As);
        if let Some(place) = place {
            let (resource, before) = self.before.swap_remove(place);
            setrlimit(resource, before).ok();
        }
    }

    pub(super) fn set_address_space(&mut self) {
        let used = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|statm| statm.split(' ').next()?.parse::<u64>().ok())
            .map(|pages| pages * rustix::param::page_size() as u64);
        if let (Some(bytes), Some(used)) = (self.limits.address_space, used) {
            self.limit(Resource::As, used.saturating_add(bytes));
        }
    }

    /// Sets a limit, unless a stricter one is in force.
    fn limit(&mut self, resource: Resource, most: u64) {
        let before = getrlimit(resource);
        let stricter = |limit: Option<u64>| limit.map_or(most, |limit| limit.min(most));
        let current = Some(stricter(before.current));
        let maximum = if self.is_last {
            Some(stricter(before.maximum))
        } else {
            before.maximum
        };
        // Lowering a soft limit is always allowed.
        if setrlimit(resource, Rlimit { current, maximum }).is_ok() {
            self.before.push((resource, before));
        }
    }

    /// Whether the attempt had limits on its tree and left processes behind, which no limit would
    /// hold from now on.
    pub(super) fn left_processes(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.limits.needs_a_watch() && waitid(WaitId::All, options).is_ok()
    }
}

impl Drop for LimitsInForce {
    fn drop(&mut self) {
        for (resource, before) in self.before.drain(..) {
            // The hard limit of a worker that runs nothing more stays.
            setrlimit(resource, before).ok();
        }
        if let Some(adopted) = self.adopted_before {
            adopt(adopted);
        }
    }
}

fn adopts() -> bool {
    matches!(rustix::process::child_subreaper(), Ok(Some(_)))
}

/// Has the kernel give this process the orphans among its descendants, or not.
fn adopt(adopts: bool) {
    let reaper = adopts.then(rustix::process::getpid);
    // Without it a process that leaves its parent is only missed by the watch, not by the sweep.
    rustix::process::set_child_subreaper(reaper).ok();
}

/// The number that the first descriptor beyond so many new ones would have: the lowest free numbers
/// are given out first.
fn first_beyond(count: u32) -> u64 {
    let mut open = open_descriptors();
    open.sort_unstable();
    open.into_iter().fold(u64::from(count), |most, number| {
        if number < most { most + 1 } else { most }
    })
}

fn open_descriptors() -> Vec<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = open("/proc/self/fd", flags, Mode::empty()) else {
        return Vec::new();
    };
    // Closed again when all are listed.
    let own = u64::try_from(directory.as_raw_fd()).unwrap_or(0);
    Dir::new(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok())
        .filter(|number| *number != own)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_for_an_attempt_and_taken_back() {
        let before = [Resource::Nofile, Resource::Fsize].map(getrlimit);
        let limits = AttemptLimits::new()
            .files(3)
            .file_size(1 << 40)
            .cpu(std::time::Duration::from_secs(1));
        let was = adopts();
        let set = LimitsInForce::set(limits, false);
        let files: Vec<_> = (0..3)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        std::fs::File::open("/dev/null").unwrap_err();
        drop(files);
        assert_eq!(getrlimit(Resource::Fsize).current, Some(1 << 40));
        assert!(adopts());
        drop(set);
        assert_eq!([Resource::Nofile, Resource::Fsize].map(getrlimit), before);
        assert_eq!(adopts(), was);
    }
}
