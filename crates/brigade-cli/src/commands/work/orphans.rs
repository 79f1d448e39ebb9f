//! Reaps orphans where this process is the first of its PID namespace, as in a container: a process
//! that loses its parent there becomes a child of this one, and stays a zombie until it is reaped.
//!
//! The programs of `brigade work` and its guard are waited for by those who started them. They are
//! known here by their numbers and left alone: one that was reaped here would have no exit status.
//! A number is known before anything else can run on this task, and until after the process was
//! reaped.

use std::cell::RefCell;
use std::collections::HashSet;
use std::mem::MaybeUninit;

use anyhow::Context as _;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) struct Orphans {
    /// `None` if orphans go elsewhere.
    children: Option<RefCell<HashSet<Pid>>>,
}

impl Orphans {
    pub(super) fn new() -> Self {
        Self {
            children: (std::process::id() == 1).then(RefCell::default),
        }
    }

    /// A child was started that other code waits for.
    pub(super) fn leave(&self, child: Pid) {
        if let Some(children) = &self.children {
            children.borrow_mut().insert(child);
        }
    }

    /// That child was reaped.
    pub(super) fn reaped(&self, child: Pid) {
        if let Some(children) = &self.children {
            children.borrow_mut().remove(&child);
            // It may have stood before others.
            reap(&children.borrow());
        }
    }

    /// Reaps orphans as they end. Never returns, except with an error.
    pub(super) async fn watch(&self) -> anyhow::Error {
        let Some(children) = &self.children else {
            return std::future::pending().await;
        };
        let listening: anyhow::Result<Signal> =
            signal(SignalKind::child()).context("cannot listen for the ends of processes");
        let mut ended = match listening {
            Ok(ended) => ended,
            Err(error) => return error,
        };
        loop {
            reap(&children.borrow());
            ended.recv().await;
        }
    }
}

/// Reaps what has ended, up to the first that is left alone: the kernel names the first one only.
/// That one is reaped soon, and then the rest.
fn reap(children: &HashSet<Pid>) {
    while let Some(child) = first_ended() {
        if children.contains(&child) {
            return;
        }
        if waitid(
            WaitId::Pid(child),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )
        .is_err()
        {
            return;
        }
    }
}

/// A child that has ended and is not reaped.
#[expect(unsafe_code, reason = "rustix's waitid does not return the process")]
fn first_ended() -> Option<Pid> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is writable and of the type that waitid writes; all zeros are a valid value of
    // it, which stays where no child has ended.
    let (result, pid) = unsafe {
        let result = libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options);
        (result, info.assume_init().si_pid())
    };
    if result == 0 {
        Pid::from_raw(pid)
    } else {
        None
    }
}
