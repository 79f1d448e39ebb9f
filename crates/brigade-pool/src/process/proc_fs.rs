//! What `/proc` says of other processes, and whether its numbers are ours.
//!
//! A `/proc` that was mounted in another PID namespace (a container that was given its host's,
//! `unshare --pid` without a mount of its own) has other numbers than `kill` and `pidfd_open` take:
//! a look-up by number would find another process, or none. `/proc/self` is right in any case.
//! [`view`] returns which it is; every look-up by number goes through here.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// Whose numbers `/proc` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Those of this process's namespace.
    Own,
    /// Those of a namespace around ours; ours is so many levels below it.
    Outer(usize),
    /// Nothing can be looked up: it is not mounted, or is that of a namespace which does not hold
    /// this process.
    Unusable,
}

/// As it was when it was first asked for.
pub(crate) fn view() -> View {
    static VIEW: OnceLock<View> = OnceLock::new();
    *VIEW.get_or_init(|| {
        let shown = fs::read_link("/proc/self")
            .ok()
            .and_then(|link| link.to_str()?.parse::<u32>().ok());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        view_of(shown, std::process::id(), &numbers(&status))
    })
}

fn view_of(shown: Option<u32>, own: u32, numbers: &[u32]) -> View {
    match shown {
        Some(shown) if shown == own && numbers.len() <= 1 => View::Own,
        Some(_) if numbers.len() > 1 && numbers.last() == Some(&own) => {
            View::Outer(numbers.len() - 1)
        }
        _ => View::Unusable,
    }
}

/// The numbers that a process has in the namespaces from that of `/proc` to its own (`NSpid` of
/// proc_pid_status(5)).
fn numbers(status: &str) -> Vec<u32> {
    numbers_in(status, "NSpid:")
}

fn numbers_in(status: &str, name: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Every process that `/proc` shows, by its number there.
pub(crate) fn all() -> Option<impl Iterator<Item = u32>> {
    let processes = fs::read_dir("/proc").ok()?;
    Some(processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// The number that the kernel takes for what `/proc` shows under this one; `None` if it is not of
/// our namespace.
pub(crate) fn to_own(shown: u32) -> Option<u32> {
    match view() {
        View::Own => Some(shown),
        View::Outer(level) => numbers(&fs::read_to_string(format!("/proc/{shown}/status")).ok()?)
            .get(level)
            .copied(),
        View::Unusable => None,
    }
}

/// The process group of what `/proc` shows under this number, as the kernel takes it; `None` if it
/// is not of our namespace.
pub(crate) fn own_group(shown: u32, stat: &Stat) -> Option<i32> {
    match view() {
        View::Own => Some(stat.group),
        View::Outer(level) => {
            let status = fs::read_to_string(format!("/proc/{shown}/status")).ok()?;
            numbers_in(&status, "NSpgid:")
                .get(level)
                .and_then(|group| i32::try_from(*group).ok())
        }
        View::Unusable => None,
    }
}

/// The number under which `/proc` shows this process.
pub(crate) fn shown_self() -> Option<u32> {
    fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// The number under which `/proc` shows a process of ours that a pidfd is open on.
pub(crate) fn shown(own: u32, pidfd: Option<impl AsFd>) -> Option<u32> {
    match view() {
        View::Own => Some(own),
        View::Outer(_) => {
            let info =
                fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd?.as_fd().as_raw_fd()))
                    .ok()?;
            info.lines()
                .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        }
        View::Unusable => None,
    }
}

/// What `stat` says of a process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// When it was started, in ticks since boot.
    pub(crate) started: u64,
}

impl Stat {
    /// `None` if nothing is shown under this number.
    pub(crate) fn of(shown: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{shown}/stat")).ok()?)
    }

    pub(super) fn parse(stat: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything; the state, field 3, follows the last of
        // them.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        let (parent, group, session) = (
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
        );
        Some(Self {
            state,
            parent,
            group,
            session,
            started: fields.nth(15)?.parse().ok()?,
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Threads that are looked at.
const THREADS_MAX: usize = 256;

/// The number of the first thread of this name.
pub(crate) fn thread_named(shown: u32, name: &str) -> Option<u32> {
    threads(shown)?.find(|thread| {
        fs::read_to_string(format!("/proc/{shown}/task/{thread}/comm"))
            .is_ok_and(|comm| comm.trim_end() == name)
    })
}

fn threads(shown: u32) -> Option<impl Iterator<Item = u32>> {
    let threads = fs::read_dir(format!("/proc/{shown}/task")).ok()?;
    Some(
        threads
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .take(THREADS_MAX),
    )
}

/// What a thread got of the CPUs (proc_schedstat): how long it ran, and how long it was ready to
/// and had to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) ran: Duration,
    pub(crate) waited: Duration,
}

pub(crate) fn share_of(shown: u32, thread: u32) -> Option<Share> {
    let text = fs::read_to_string(format!("/proc/{shown}/task/{thread}/schedstat")).ok()?;
    let mut numbers = text
        .split_ascii_whitespace()
        .map(|number| number.parse().map(Duration::from_nanos));
    Some(Share {
        ran: numbers.next()?.ok()?,
        waited: numbers.next()?.ok()?,
    })
}

/// The longest that a thread of a process has been waiting for a CPU.
pub(crate) fn starved_for(shown: Option<u32>) -> Duration {
    let shares = shown.and_then(|shown| Some((shown, threads(shown)?)));
    let waited = shares.into_iter().flat_map(|(shown, threads)| {
        threads.filter_map(move |thread| Some(share_of(shown, thread)?.waited))
    });
    waited.max().unwrap_or_default()
}

/// The state of a thread.
pub(crate) fn state_of(shown: u32, thread: u32) -> Option<char> {
    Some(Stat::parse(&fs::read_to_string(format!("/proc/{shown}/task/{thread}/stat")).ok()?)?.state)
}

/// The memory in bytes that a process fills itself, by its number in `/proc`: resident pages that
/// are of no file, with those that it shares with other processes. Zero if it is gone or cannot be
/// seen. Pages of files (its code, what it maps) are the kernel's cache: they come as code runs for
/// the first time and leave when memory is short.
pub(crate) fn used_bytes(shown: Option<u32>) -> u64 {
    let status = shown.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let bytes = |status: &str| bytes_in(status, "RssAnon:") + bytes_in(status, "RssShmem:");
    status.as_deref().map_or(0, bytes)
}

/// As [`used_bytes`], then what is resident in all, and the most that ever was.
pub(crate) fn memory_of(shown: Option<u32>) -> [u64; 3] {
    let status = shown.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let bytes = |status: &str| {
        let used = bytes_in(status, "RssAnon:") + bytes_in(status, "RssShmem:");
        [used, bytes_in(status, "VmRSS:"), bytes_in(status, "VmHWM:")]
    };
    status.as_deref().map_or([0; 3], bytes)
}

/// The memory in bytes that a process fills itself, as [`used_bytes`], with what of it is in swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    own: u64,
    /// In pages that other processes may map, too.
    pub(crate) shared: u64,
}

impl Filled {
    pub(crate) fn of(shown: u32) -> Self {
        let process = fs::read_to_string(format!("/proc/{shown}/status")).unwrap_or_default();
        let status = if process.contains(OWN_MEMORY) {
            process
        } else {
            // Its first thread has ended; the others have the memory.
            status_of_a_thread(shown).unwrap_or_default()
        };
        Self {
            own: bytes_in(&status, OWN_MEMORY) + bytes_in(&status, "VmSwap:"),
            shared: bytes_in(&status, "RssShmem:"),
        }
    }

    pub(crate) fn total(self) -> u64 {
        self.own.saturating_add(self.shared)
    }
}

/// Memory of no file, in `/proc/<pid>/status`.
const OWN_MEMORY: &str = "RssAnon:";

/// The status of the first thread that has memory.
fn status_of_a_thread(shown: u32) -> Option<String> {
    let threads = fs::read_dir(format!("/proc/{shown}/task")).ok()?;
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .find(|status| status.contains(OWN_MEMORY))
}

/// As [`Filled`], where what it shares with other processes counts by its part of it; `None`
/// where the kernel does not say. Slow: the kernel walks all pages.
pub(crate) fn share_of_memory(shown: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{shown}/smaps_rollup")).ok()?;
    let fields = ["Pss_Anon:", "Pss_Shmem:", "SwapPss:"];
    rollup
        .contains(fields[0])
        .then(|| fields.map(|field| bytes_in(&rollup, field)).iter().sum())
}

/// The largest resident memory in bytes that a process has had since its `execve`; zero if it is
/// gone or cannot be seen.
pub(crate) fn peak_bytes(shown: Option<u32>) -> u64 {
    let status = shown.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    status
        .as_deref()
        .map_or(0, |status| bytes_in(status, "VmHWM:"))
}

/// As [`peak_bytes`], of this process; `None` where `/proc` does not say.
pub(crate) fn own_peak_bytes() -> Option<u64> {
    fs::read_to_string("/proc/self/status")
        .ok()
        .as_deref()
        .map(|status| bytes_in(status, "VmHWM:"))
        .filter(|peak| *peak > 0)
}

/// A field of `/proc/<pid>/status` that is an amount of memory; zero where it is missing.
fn bytes_in(status: &str, field: &str) -> u64 {
    let kib = status.lines().find_map(|line| {
        line.strip_prefix(field)?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0).saturating_mul(1024)
}

/// The file of which this address of the process is mapped (proc_pid_maps(5)).
pub(crate) fn file_at(address: usize) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let holds = |line: &&str| {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        range.is_some_and(|(start, end)| (number(start)..number(end)).contains(&address))
    };
    let line = maps.lines().find(holds)?;
    line.find('/').map(|path| PathBuf::from(&line[path..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_of_another_namespace_is_known_by_its_numbers() {
        assert_eq!(view_of(Some(7), 7, &[7]), View::Own);
        assert_eq!(
            view_of(Some(7), 7, &[]),
            View::Own,
            "kernels before 4.1 do not tell"
        );
        assert_eq!(view_of(Some(4711), 7, &[4711, 7]), View::Outer(1));
        // The same number by chance.
        assert_eq!(view_of(Some(7), 7, &[7, 7]), View::Outer(1));
        assert_eq!(view_of(None, 7, &[]), View::Unusable);
        assert_eq!(view_of(Some(8), 7, &[]), View::Unusable);
        assert_eq!(numbers("Name:\tx\nNSpid:\t4711\t7\n"), [4711, 7]);
    }

    #[test]
    fn this_process_is_seen_under_its_number() {
        let own = std::process::id();
        if view() == View::Own {
            assert_eq!(to_own(own), Some(own));
            assert_eq!(shown(own, None::<std::os::fd::OwnedFd>), Some(own));
            let stat = Stat::of(own).unwrap();
            assert!(
                !stat.is_over() && stat.started > 0 && stat.parent > 0,
                "{stat:?}"
            );
        }
        assert!(
            peak_bytes(shown(own, None::<std::os::fd::OwnedFd>))
                >= used_bytes(shown(own, None::<std::os::fd::OwnedFd>)) / 2
        );
    }

    #[test]
    fn the_file_of_an_address_is_found() {
        let own = file_at((view_of as fn(Option<u32>, u32, &[u32]) -> View as *const ()).addr());
        assert_eq!(own, fs::read_link("/proc/self/exe").ok());
        assert_ne!(file_at((libc::getpid as *const ()).addr()), own);
        assert_eq!(file_at(1), None);
    }

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0";
        let stat = Stat::parse(&format!("9 (a) (b c) {tail}")).unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.group, stat.started),
            ('S', 1, 2, 4242)
        );
    }
}
