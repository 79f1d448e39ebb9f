//! Groups that programs left which were killed before they could remove them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::hierarchy::Hierarchies;
use crate::shutdown::spawn_thread;
use brigade_runtime::owner::runs;

/// Names of groups: this, the name of the process that made it, the separator, the cookie of the
/// worker.
pub(super) const PREFIX: &str = "brigade-";
pub(super) const SEPARATOR: char = '.';

/// How often a group is tried that was just emptied, and the pause before that: what is killed in
/// it takes a moment to end.
const REMOVALS: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// Removes groups of other makers that are gone: killed, they could not. Once for this process,
/// by a thread of its own.
pub(super) fn remove_left_over() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Where no thread can be had the next program does it.
        spawn_thread("brigade-groups", 128 << 10, || {
            let Ok(found) = Hierarchies::of_this_process() else {
                return;
            };
            for parent in [found.unified, found.memory, found.pids]
                .into_iter()
                .flatten()
            {
                let entries = fs::read_dir(parent).into_iter().flatten().flatten();
                entries
                    .filter(|entry| entry.file_name().to_str().is_some_and(is_left_over))
                    .for_each(|entry| remove(&entry.path()));
            }
        })
        .ok();
    });
}

/// Whether a group was made by a process that has ended for certain. One of another PID namespace,
/// boot or version may be in use.
fn is_left_over(name: &str) -> bool {
    let maker = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once(SEPARATOR));
    maker.is_some_and(|(maker, _)| !runs(maker))
}

/// Removes a group that is about to be empty, by a thread of its own if it is not yet.
pub(super) fn remove_soon(path: &Path) {
    if matches!(fs::remove_dir(path), Err(e) if e.kind() == io::ErrorKind::ResourceBusy) {
        let path = path.to_owned();
        // Where no thread can be had the next program does it.
        spawn_thread("brigade-groups", 128 << 10, move || remove(&path)).ok();
    }
}

/// Ends what is in a group and removes it.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, and there is no notice when a group becomes empty"
)]
fn remove(path: &Path) {
    for _ in 0..REMOVALS {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => kill_members(path),
            _ => return,
        }
        std::thread::sleep(REMOVAL_PAUSE);
    }
}

/// Kills what is in a group now: at once where the kernel can (version 2, from 5.14 on).
pub(super) fn kill_members(path: &Path) {
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let members = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let members = members
        .lines()
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
    members.for_each(|pid| {
        // What ended meanwhile is as wanted.
        kill_process(pid, Signal::KILL).ok();
    });
}
