//! Waiting for a pool from outside of the runtime that it lives on.
//!
//! The pool's tasks run on the runtime that it was started on. A caller on another executor may
//! wait for work that is never done: the runtime is a current-thread one whose `block_on` has
//! returned, or its threads are blocked. These waits therefore check now and then, with a timer
//! that needs no runtime, whether the pool's runtime runs anything. If it has not for long, the
//! wait ends with an error. A wait on the pool's own runtime needs no check: it proves that the
//! runtime is driven.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_timer::Delay;
use rustix::process::Signal;

use super::core::Core;
use super::ids::CallId;
use super::runtime_check::{LOOK, RuntimeCheck};
use super::shared::Shared;
use super::worker_conn::WorkerConn;
use crate::error::{Error, ErrorKind};
use crate::sync::lock;

/// How long a runtime may run nothing: its threads may be blocked for a while by something that
/// ends.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The same for who waits for a call whose own time is over, and for so long already.
const IDLE_MAX_OVERDUE: Duration = Duration::from_secs(1);

impl Shared {
    /// For how long the runtime has run nothing, as far as that was looked at.
    fn idle_for(&self) -> Duration {
        let mut probe = lock(&self.probe);
        match &probe.0 {
            Some((since, ran)) if !ran.load(Ordering::Acquire) => since.elapsed(),
            _ => {
                probe.0 = Some((Instant::now(), self.scope.probe()));
                Duration::ZERO
            }
        }
    }

    /// Why what is waited for will not come: the pool's runtime is not driven. For a call, sooner
    /// if its own time is over.
    pub(super) fn undriven(&self, call: Option<CallId>) -> Option<Error> {
        let idle = self.idle_for();
        let is_overdue =
            || call.is_some_and(|call| self.peek(|core| core.overdue_by(call)) >= LOOK);
        if idle < IDLE_MAX_OVERDUE || idle < IDLE_MAX && !is_overdue() {
            return None;
        }
        Some(Error::new(
            ErrorKind::NoRuntime,
            format!(
                "wait for a pool: the async runtime that it was started on has run nothing for \
                    {idle:.1?}; calls, timeouts and stops are its work: \
                 keep its block_on going, or start the pool on a multi-thread runtime whose \
                 threads do not block"
            ),
        ))
    }

    /// Waits for what tasks of the pool do.
    pub(super) async fn driven<F: Future>(&self, future: F) -> Result<F::Output, Error> {
        let mut future = pin!(future);
        let mut look = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if !self.scope.is_current() && look.get_or_insert_with(RuntimeCheck::new).poll(cx) {
                return self
                    .undriven(None)
                    .map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
            }
            Poll::Pending
        })
        .await
    }

    /// Ends a pool whose runtime is not driven, as far as possible without its tasks: kills
    /// the workers and ends all calls. Returns the processes that are left.
    pub(super) async fn end_undriven(self: &Arc<Self>, error: &Error) -> Vec<u32> {
        self.killed.cancel();
        let processes = self.peek(|core| core.process_conns());
        for process in processes.iter().filter_map(|(conn, _)| conn.process()) {
            process.signal(Signal::KILL);
        }
        self.step(|core, effects| core.give_up(error, effects));
        self.scope.close();
        let is_left = |(conn, _): &&(Arc<dyn WorkerConn>, u32)| {
            conn.process().is_some_and(|process| !process.has_ended())
        };
        let until = Instant::now() + crate::process::KILL_BOUND;
        while Instant::now() < until && processes.iter().any(|process| is_left(&process)) {
            Delay::new(Duration::from_millis(10)).await;
        }
        let left = processes.iter().filter(is_left);
        left.map(|(_, pid)| *pid).collect()
    }
}

impl Core {
    /// The error for callers of a pool whose runtime has ended.
    pub(super) fn runtime_ended() -> Error {
        Error::new(
            ErrorKind::NoRuntime,
            "call a pool whose async runtime has ended: a pool lives on the runtime that it was \
                started on, and each #[tokio::test] has one of its \
             own; start it in each test, or on a runtime that outlives its users",
        )
    }
}
