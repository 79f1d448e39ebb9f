//! What the kernel knows of processes, from `/proc` (proc(5)).

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's number.
    pub parent: u32,
    /// Its state as one letter: `R`, `S`, `D`, `T`, `Z` ..
    pub state: char,
}

impl Process {
    /// Whether it has ended and was not reaped.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The process of this number, if there is one.
pub fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so the fields are counted from its end.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    Some(Process {
        pid,
        parent: fields.next()?.parse().ok()?,
        state,
    })
}

/// The states of its threads; none if it is gone.
pub fn threads(pid: u32) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    stats
        .filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next())
        .collect()
}

/// All processes.
pub fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| process(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// The children of a process, zombies included.
pub fn children(pid: u32) -> Vec<Process> {
    processes()
        .into_iter()
        .filter(|process| process.parent == pid)
        .collect()
}

/// Whether the process is there and no zombie.
pub fn is_alive(pid: u32) -> bool {
    process(pid).is_some_and(|process| !process.is_zombie())
}

/// Living processes whose environment has this text in this variable.
pub fn marked(variable: &str, text: &str) -> Vec<u32> {
    let has_mark = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| {
            let entry = String::from_utf8_lossy(entry);
            entry
                .split_once('=')
                .is_some_and(|(name, value)| name == variable && value.contains(text))
        })
    };
    processes()
        .into_iter()
        .filter(|process| !process.is_zombie())
        .map(|process| process.pid)
        .filter(|pid| has_mark(*pid))
        .collect()
}

/// How many descriptors the process has open.
pub fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory in bytes; zero if it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Resident pages of files in bytes; zero if it is gone.
pub fn file_bytes(pid: u32) -> u64 {
    status_bytes(pid, "RssFile:")
}

/// The most resident memory that the process ever had, in bytes; zero if it is gone.
pub fn peak_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix(field)?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}

/// CPU time that the process has used, in clock ticks.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    // utime and stime are fields 14 and 15; the state after the name is field 3.
    [11, 12]
        .iter()
        .filter_map(|index| fields.get(*index)?.parse::<u64>().ok())
        .sum()
}

/// Number of the system call in which the process's main thread waits; `None` while it runs.
pub fn waits_in(pid: u32) -> Option<i64> {
    fs::read_to_string(format!("/proc/{pid}/syscall"))
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

/// Sends a signal to a process while it is a child of `parent`. Returns whether it was sent.
pub fn signal_child(parent: u32, pid: u32, signal: Signal) -> bool {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    let Ok(pidfd) = pidfd_open(number, PidfdFlags::empty()) else {
        return false;
    };
    // The descriptor holds the number, so what is seen now is what is signalled.
    process(pid).is_some_and(|process| process.parent == parent && !process.is_zombie())
        && pidfd_send_signal(pidfd, signal).is_ok()
}

/// Sends a signal to a process that the caller knows to be its own.
pub fn signal(pid: u32, signal: Signal) -> bool {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    pidfd_open(number, PidfdFlags::empty())
        .is_ok_and(|pidfd| pidfd_send_signal(pidfd, signal).is_ok())
}

/// Whether all threads of a process are stopped by a signal. They stop one after the other.
pub fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        state.is_some_and(|state| state.starts_with(['T', 'Z', 'X']))
    })
}

/// Waits, bounded, until a fact of the system is so. Returns how long that took; `None` if it never
/// was.
#[expect(
    clippy::disallowed_methods,
    reason = "facts of other processes have no event to wait for"
)]
pub fn wait_until(bound: Duration, mut is_so: impl FnMut() -> bool) -> Option<Duration> {
    let began = Instant::now();
    loop {
        if is_so() {
            return Some(began.elapsed());
        }
        if began.elapsed() > bound {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_as_it_is() {
        let own = std::process::id();
        let seen = process(own).unwrap();
        assert!(!seen.is_zombie());
        assert_eq!(
            i64::from(seen.parent),
            i64::from(rustix::process::getppid().unwrap().as_raw_nonzero().get())
        );
        assert!(
            open_descriptors(own) >= 3
                && resident_bytes(own) > 0
                && peak_bytes(own) >= resident_bytes(own) / 2
        );
        assert!(children(seen.parent).iter().any(|child| child.pid == own));
        assert!(marked("PATH", "/").contains(&own));
        assert_eq!(process(u32::MAX), None);
    }
}
