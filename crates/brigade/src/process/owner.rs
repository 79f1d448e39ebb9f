//! A process that owns something other processes can see, by a name that no later one has: is it, or a worker of its, still there?
//!
//! A parent that is killed takes its workers with it (`PR_SET_PDEATHSIG`), but not in the same instant: for a moment they run on, and
//! what they do must not be given to others yet. They are found as `tree` finds them, by the environment that they inherited.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::mark::mark_of;

/// How long workers of a dead process are waited for. They are being killed, so they end within milliseconds.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long one that is ending is waited for, whosever it is.
const END: Duration = Duration::from_millis(50);
/// `PF_EXITING` among the flags of proc_pid_stat(5): the environment of such a process is gone already, so nobody can tell whose it was.
const EXITING: u64 = 0x4;

/// This process: its number, when it was started, and the namespace that its number is of.
pub(crate) fn own_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let pid = std::process::id();
        format!("{pid}-{}-{}", started(pid).unwrap_or_default(), namespace())
    })
}

/// Whether the process of this name runs. One of another container or host cannot be seen, and counts as running.
pub(crate) fn runs(name: &str) -> bool {
    let mut parts = name.split('-');
    let (pid, start) = (parts.next().and_then(|pid| pid.parse().ok()), parts.next());
    match (pid, start) {
        (Some(pid), Some(start)) if parts.next() == Some(namespace()) => started(pid).as_deref() == Some(start),
        _ => true,
    }
}

/// Tells whether what a process owns can be given to others: neither it nor a worker of its runs.
#[derive(Default)]
pub(crate) struct Heirs {
    /// Those whose workers were waited for once; what is left of them then goes on by itself.
    waited_for: HashSet<Box<str>>,
}

impl Heirs {
    /// Whether nothing of this process is left. The first time that only workers are, this waits for their end, which is near.
    pub(crate) fn is_gone(&mut self, name: &str) -> bool {
        if runs(name) {
            return false;
        }
        let bound = if self.waited_for.insert(name.into()) { PATIENCE } else { Duration::ZERO };
        let pid = name.split('-').next().unwrap_or_default();
        let is_gone = workers_end(pid, Instant::now() + bound);
        if is_gone {
            self.waited_for.remove(name);
        }
        is_gone
    }
}

fn workers_end(parent: &str, until: Instant) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != std::process::id());
    pids.filter_map(|pid| left_over(pid, parent)).all(|left| match left {
        LeftOver::Worker(process) => ends(&process, until),
        LeftOver::Ending(process) => {
            ends(&process, Instant::now() + END);
            true
        }
    })
}

/// What may run on after its parent.
enum LeftOver {
    /// It descends from one of the parent's workers.
    Worker(OwnedFd),
    /// It is ending, and may have been one.
    Ending(OwnedFd),
}

fn left_over(pid: u32, parent: &str) -> Option<LeftOver> {
    let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let look = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        // State and flags are fields 3 and 9.
        let (state, flags) = (fields.next()?, fields.nth(5)?.parse::<u64>().ok()?);
        let make = if flags & EXITING != 0 { LeftOver::Ending } else { LeftOver::Worker };
        (!matches!(state, "Z" | "X") && (flags & EXITING != 0 || is_of(pid, parent))).then_some(make)
    };
    look()?;
    let process = pidfd_open(number, PidfdFlags::empty()).ok()?;
    // Looked at again now that a pidfd holds the number.
    Some(look()?(process))
}

/// Whether a cookie of its environment was made by this process; cookies begin with the number of their maker.
fn is_of(pid: u32, parent: &str) -> bool {
    mark_of(pid).is_some_and(|mark| mark.split('/').any(|cookie| cookie.split('-').next() == Some(parent)))
}

fn ends(process: &OwnedFd, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)).is_ok_and(|ended| ended > 0)
}

/// The namespace of process numbers; empty where there is no `/proc`.
fn namespace() -> &'static str {
    static NAMESPACE: OnceLock<String> = OnceLock::new();
    NAMESPACE.get_or_init(|| {
        let link = fs::read_link("/proc/self/ns/pid").ok();
        let digits = link.iter().flat_map(|link| link.to_str()).flat_map(str::chars).filter(char::is_ascii_digit);
        digits.collect()
    })
}

/// When a process was started, in ticks since boot (field 22 of proc_pid_stat(5)); `None` if it is gone or a zombie.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_one_process_and_of_what_can_be_seen() {
        assert!(runs(own_name()) && !Heirs::default().is_gone(own_name()));
        let [pid, start, namespace] = own_name().split('-').collect::<Vec<_>>()[..] else { panic!("{}", own_name()) };
        assert!(!runs(&format!("{pid}-{start}1-{namespace}")), "a later process of this number");
        assert!(!runs(&format!("4000000000-{start}-{namespace}")));
        assert!(runs(&format!("4000000000-{start}-1")), "of another container");
        assert!(runs("host7"), "of a holder that is none of ours");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "starts what a worker may leave behind")]
    fn what_a_worker_left_is_waited_for_once() {
        struct Left(std::process::Child);
        impl Drop for Left {
            fn drop(&mut self) {
                self.0.kill().ok();
                self.0.wait().ok();
            }
        }
        // Above any process's number, and no other run's.
        let parent = 4_000_000_000 + std::process::id();
        let gone = format!("{parent}-1-{}", namespace());
        let mut heirs = Heirs::default();
        assert!(heirs.is_gone(&gone));
        let mut command = std::process::Command::new("sleep");
        let left = Left(command.arg("1000").env(super::super::TREE_VARIABLE, format!("7-1-0/{parent}-2-0")).spawn().unwrap());
        assert!(!heirs.is_gone(&gone) && !heirs.is_gone(&gone));
        drop(left);
        assert!(heirs.is_gone(&gone));
    }
}
