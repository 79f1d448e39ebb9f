//! Descendants of workers whose parents have ended, where the kernel gives them to this process:
//! the first process of a container, or a subreaper.
//!
//! No other process would reap them. But this program may have other children, whose ends other
//! parts of it wait for, so only a child that surely descends from a worker is reaped: one in the
//! process group or the session of a worker, or one that was seen alive with a worker's cookie.
//! This module owns the groups and sessions that are remembered for that, [`REMEMBERED_MAX`] of
//! each.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::proc_fs::{self, Stat};
use crate::sync::lock;
use brigade_runtime::mark::mark_of;

pub(super) fn adopts_orphans() -> bool {
    std::process::id() == 1 || matches!(rustix::process::child_subreaper(), Ok(Some(_)))
}

/// Notes the process group of a worker: what is in it, but for the worker itself, is never a child
/// that other parts of this program started.
pub(super) fn note_group(group: i32) {
    note(&GROUPS, group);
}

/// Notes the session of a worker's descendant, if it made one of its own: the same goes for all of
/// that.
pub(super) fn note_session(stat: &Stat) {
    let own = proc_fs::shown_self()
        .and_then(Stat::of)
        .map(|own| own.session);
    if own.is_some_and(|own| own != stat.session) && stat.session != 0 {
        note(&SESSIONS, stat.session);
    }
}

fn note(remembered: &Mutex<VecDeque<i32>>, number: i32) {
    let mut remembered = lock(remembered);
    if remembered.contains(&number) {
        return;
    }
    if remembered.len() == REMEMBERED_MAX {
        remembered.pop_front();
    }
    remembered.push_back(number);
}

static GROUPS: Mutex<VecDeque<i32>> = Mutex::new(VecDeque::new());
/// By their numbers in `/proc`.
static SESSIONS: Mutex<VecDeque<i32>> = Mutex::new(VecDeque::new());
/// Groups of workers and sessions below them that are remembered: an orphan outlives its worker.
const REMEMBERED_MAX: usize = 4096;
/// Orphans that are remembered.
const ORPHANS_MAX: usize = 4096;

/// Children that this process did not start: descendants of workers whose parents have ended.
#[derive(Default)]
pub(super) struct Orphans {
    /// Those that were seen while they lived, outside of their worker's group: number and start.
    seen: HashSet<(u32, u64)>,
}

impl Orphans {
    /// Reaps those that have ended. What other parts of this program started is left to them.
    pub(super) fn reap(&mut self) {
        let Some(own) = proc_fs::shown_self()
            .filter(|_| adopts_orphans())
            .and_then(|own| i32::try_from(own).ok())
        else {
            return;
        };
        let processes = proc_fs::all()
            .into_iter()
            .flatten()
            .filter_map(|shown| Some((shown, Stat::of(shown)?)));
        let children: Vec<(u32, Stat)> = processes.filter(|(_, stat)| stat.parent == own).collect();
        self.seen.retain(|(seen, started)| {
            children
                .iter()
                .any(|(child, stat)| child == seen && stat.started == *started)
        });
        for (shown, stat) in children {
            let Some(pid) = proc_fs::to_own(shown).and_then(|pid| i32::try_from(pid).ok()) else {
                continue;
            };
            let group =
                proc_fs::own_group(shown, &stat).filter(|group| lock(&GROUPS).contains(group));
            if group == Some(pid) {
                // A worker.
                continue;
            }
            let name = (shown, stat.started);
            if !stat.is_over() {
                if self.seen.len() < ORPHANS_MAX
                    && !self.seen.contains(&name)
                    && is_descendant(shown)
                {
                    note_session(&stat);
                    self.seen.insert(name);
                }
            } else if (self.seen.remove(&name)
                || group.is_some()
                || lock(&SESSIONS).contains(&stat.session))
                && let Some(pid) = Pid::from_raw(pid)
            {
                waitid(
                    WaitId::Pid(pid),
                    WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
                )
                .ok();
            }
        }
    }
}

/// Whether it descends from a worker of this process: cookies begin with the number of their maker.
fn is_descendant(shown: u32) -> bool {
    let own = std::process::id().to_string();
    mark_of(&shown.to_string()).is_some_and(|mark| {
        mark.split('/')
            .any(|cookie| cookie.split('-').next() == Some(&*own))
    })
}
