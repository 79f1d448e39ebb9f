//! A process that owns something other processes can see, by a name that no later one has: is it,
//! or one of its workers, still there?
//!
//! A name is `pid-start-namespace-boot-user-host`; the host is for people. A process is gone if the
//! kernel has no process of its number (`ESRCH`), or if that number has another start time by now.
//! Everything else counts as running, above all what cannot be seen: a process of another PID
//! namespace, host or boot; one that `/proc` hides (`hidepid`, `ProtectProc=`); any process where
//! `/proc` belongs to another PID namespace, so that its numbers mean other processes. The lease
//! then ends by its time.
//!
//! A parent that is killed takes its workers with it (`PR_SET_PDEATHSIG`), but not in the same
//! instant: for a moment they run on, and what they do must not be given to others yet. They are
//! found as `tree` finds them, by the environment that they inherited. Nothing here waits: who asks
//! holds a lock that others need.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::mark::mark_of;

/// For so long after an owner was found gone, any process that is ending may be one of its workers.
const END: Duration = Duration::from_millis(100);
/// `PF_EXITING` among the flags of proc_pid_stat(5): the environment of a process that is exiting
/// is gone already, so it is not known whose it was.
const EXITING: u64 = 0x4;
/// Hexadecimal digits of the boot id in a name.
const BOOT_DIGITS: usize = 8;

/// The name of this host, for people.
pub fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

/// This process.
pub fn own_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let start = stat("self").map(|stat| stat.start).unwrap_or_default();
        // As short text of one word, whatever the system calls itself.
        let host = host_name().replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', ".");
        let host = if host.is_empty() { "host" } else { &host };
        format!(
            "{}-{start}-{}-{}-{}-{host}",
            std::process::id(),
            namespace(),
            boot().unwrap_or_default(),
            geteuid().as_raw()
        )
    })
}

/// The beginning of this boot's id; `None` where it cannot be read.
pub fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits: String = id
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(BOOT_DIGITS)
            .collect();
        (digits.len() == BOOT_DIGITS).then_some(digits)
    };
    BOOT.get_or_init(read).as_deref()
}

/// Whether the process of this name runs. One that cannot be seen counts as running.
pub fn runs(name: &str) -> bool {
    Owner::parse(name).is_none_or(|owner| owner.runs())
}

/// A name taken apart, of a process whose number means the same here.
struct Owner<'a> {
    pid: Pid,
    start: &'a str,
    user: u32,
}

impl<'a> Owner<'a> {
    /// `None` for what cannot be seen from here.
    fn parse(name: &'a str) -> Option<Self> {
        let [pid, start, space, booted, user, _host] = name.splitn(6, '-').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let is_near =
            !space.is_empty() && space == namespace() && booted == boot().unwrap_or_default();
        let pid = pid.parse::<i32>().ok().and_then(Pid::from_raw)?;
        is_near.then_some(Self {
            pid,
            start,
            user: user.parse().ok()?,
        })
    }

    fn runs(&self) -> bool {
        // Only this error says that there is none. `EPERM` says that there is one.
        if test_kill_process(self.pid) == Err(Errno::SRCH) {
            return false;
        }
        let pid = self.pid.as_raw_nonzero();
        match proc_is_ours().then(|| stat(&pid.to_string())).flatten() {
            Some(stat) => !stat.is_dead() && (self.start.is_empty() || stat.start == self.start),
            None => true,
        }
    }
}

/// What is left of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It runs, or that is not known.
    Runs,
    /// It was first found gone so long ago, and one of its workers may be ending still. Ask again
    /// soon.
    Workers(Duration),
    /// What it owned can be given to others.
    Nothing,
}

/// Whether the jobs of a process can be given to others: neither it nor a worker of it runs.
#[derive(Default)]
pub struct Descendants {
    /// When an owner was first found gone, while workers of it may be left.
    ended: HashMap<Box<str>, Instant>,
}

impl Descendants {
    /// What is left of this process. Never waits.
    pub fn left(&mut self, name: &str) -> Left {
        let Some(owner) = Owner::parse(name).filter(|owner| !owner.runs()) else {
            self.ended.remove(name);
            return Left::Runs;
        };
        let since = *self.ended.entry(name.into()).or_insert_with(Instant::now);
        let left = owner.workers_left(since.elapsed());
        if !matches!(left, Left::Workers(_)) {
            self.ended.remove(name);
        }
        left
    }

    /// Forgets all but these.
    pub fn keep_only(&mut self, names: &[String]) {
        self.ended
            .retain(|name, _| names.iter().any(|known| **known == **name));
    }
}

impl Owner<'_> {
    fn workers_left(&self, ended_for: Duration) -> Left {
        // A worker has its owner's user, or cannot be looked at by another one than root.
        let is_foreign = self.user != geteuid().as_raw();
        let hides = is_foreign && !Path::new("/proc/1/stat").exists();
        let Some(processes) = fs::read_dir("/proc")
            .ok()
            .filter(|_| proc_is_ours() && !hides)
        else {
            return Left::Runs;
        };
        let pids =
            processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut left = Left::Nothing;
        for pid in pids.filter(|pid| *pid != std::process::id()) {
            let Some(stat) = stat(&pid.to_string()).filter(|stat| !stat.is_dead()) else {
                continue;
            };
            if stat.flags & EXITING != 0 {
                left = if ended_for < END {
                    Left::Workers(ended_for)
                } else {
                    left
                };
            } else if self.has_made(pid) {
                return Left::Workers(ended_for);
            } else if is_foreign && is_unreadable(pid) {
                return Left::Runs;
            }
        }
        left
    }

    /// Whether a cookie of a process's environment was made by this one; cookies begin with the
    /// number of their maker.
    fn has_made(&self, pid: u32) -> bool {
        let maker = self.pid.as_raw_nonzero().to_string();
        mark_of(&pid.to_string()).is_some_and(|mark| {
            mark.split('/')
                .any(|cookie| cookie.split('-').next() == Some(&*maker))
        })
    }
}

fn is_unreadable(pid: u32) -> bool {
    fs::File::open(format!("/proc/{pid}/environ"))
        .is_err_and(|e| e.kind() == ErrorKind::PermissionDenied)
}

/// Whether numbers in `/proc` are those of this process's own PID namespace: one may be mounted
/// from another.
fn proc_is_ours() -> bool {
    fs::read_link("/proc/self")
        .is_ok_and(|link| link.to_str() == Some(&*std::process::id().to_string()))
}

/// The namespace of process numbers; empty where there is no `/proc`.
fn namespace() -> &'static str {
    static NAMESPACE: OnceLock<String> = OnceLock::new();
    NAMESPACE.get_or_init(|| {
        let link = fs::read_link("/proc/self/ns/pid").ok();
        let digits = link
            .iter()
            .flat_map(|link| link.to_str())
            .flat_map(str::chars)
            .filter(char::is_ascii_digit);
        digits.collect()
    })
}

/// What proc_pid_stat(5) says of a process.
struct OwnerStat {
    state: String,
    flags: u64,
    threads: u64,
    /// In ticks since boot.
    start: String,
}

impl OwnerStat {
    /// A zombie whose other threads run is none: its first thread ended.
    fn is_dead(&self) -> bool {
        self.state == "X" || self.state == "Z" && self.threads < 2
    }
}

/// `None` if it is gone, or hidden.
fn stat(pid: &str) -> Option<OwnerStat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // From field 3 on: the name before it may have spaces and brackets.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(OwnerStat {
        state: (*fields.first()?).to_owned(),
        flags: number(9)?,
        threads: number(20)?,
        start: number(22)?.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name like this process's own, with other parts.
    fn name(change: impl FnOnce(&mut Vec<String>)) -> String {
        let mut parts: Vec<String> = own_name().split('-').map(str::to_owned).collect();
        change(&mut parts);
        parts.join("-")
    }

    /// Above any process's number.
    const NOBODY: u32 = 900_000_000;

    #[test]
    fn a_name_is_of_one_process_and_of_what_can_be_seen() {
        assert!(runs(own_name()) && Descendants::default().left(own_name()) == Left::Runs);
        assert!(
            !runs(&name(|parts| parts[1].push('1'))),
            "a later process of this number"
        );
        assert!(!runs(&name(|parts| parts[0] = NOBODY.to_string())));
        let elsewhere = |part: usize| {
            name(|parts| (parts[0], parts[part]) = (NOBODY.to_string(), "1".to_owned()))
        };
        assert!(runs(&elsewhere(2)), "of another container");
        assert!(runs(&elsewhere(3)), "of another boot or host");
        assert!(
            runs(&name(
                |parts| (parts[0], parts[2]) = (NOBODY.to_string(), String::new())
            )),
            "of a place without /proc"
        );
        assert!(runs("host7"), "of a holder that is none of ours");
    }

    #[test]
    fn in_words_a_name_is_the_number_of_the_process_and_its_host() {
        let words = brigade_core::job::holder_in_words(own_name());
        let host = own_name().splitn(6, '-').last().unwrap();
        let pid = std::process::id();
        assert_eq!(words, format!("process {pid} on {host}"));
        assert!(host_name().starts_with(&host[..1]), "{host}");
    }

    #[test]
    fn a_process_without_a_known_start_is_gone_only_by_its_number() {
        assert!(runs(&name(|parts| parts[1].clear())));
        assert!(!runs(&name(
            |parts| (parts[0], parts[1]) = (NOBODY.to_string(), String::new())
        )));
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "starts what a worker may leave behind"
    )]
    fn what_a_worker_left_is_waited_for() {
        struct Running(std::process::Child);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.kill().ok();
                self.0.wait().ok();
            }
        }
        let parent = NOBODY + std::process::id();
        let gone = name(|parts| parts[0] = parent.to_string());
        let mut descendants = Descendants::default();
        let until = |descendants: &mut Descendants, wanted: Left| {
            // Another process that is ending may have been one of its workers.
            let bound = Instant::now() + Duration::from_secs(30);
            while descendants.left(&gone) != wanted {
                assert!(Instant::now() < bound, "{wanted:?}");
                std::thread::yield_now();
            }
        };
        until(&mut descendants, Left::Nothing);
        let mut command = std::process::Command::new("sleep");
        let running = Running(
            command
                .arg("1000")
                .env(crate::mark::TREE_VARIABLE, format!("7-1-0/{parent}-2-0"))
                .spawn()
                .unwrap(),
        );
        assert!(
            matches!(descendants.left(&gone), Left::Workers(_))
                && matches!(descendants.left(&gone), Left::Workers(_))
        );
        descendants.keep_only(&[]);
        assert!(descendants.ended.is_empty());
        drop(running);
        until(&mut descendants, Left::Nothing);
    }
}
