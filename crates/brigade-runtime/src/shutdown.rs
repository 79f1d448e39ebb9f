//! Starting and ending the tasks and threads of this crate. The only place that spawns.
//!
//! A [`Scope`] owns the tasks of one pool: `close` says that they should end, `ended` waits until
//! all have.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one owner.
#[derive(Clone, Debug)]
pub struct Scope {
    runtime: Handle,
    tracker: TaskTracker,
    closing: CancellationToken,
}

impl Scope {
    /// A scope whose tasks run on the current runtime.
    pub fn current() -> Option<Self> {
        let runtime = Handle::try_current().ok()?;
        Some(Self {
            runtime,
            tracker: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
    }

    pub fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(self.tracker.spawn_on(future, &self.runtime));
    }

    /// Spawns a task that is dropped at its next await once the scope closes.
    pub fn spawn_until_closed<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let closing = self.closing.clone();
        self.spawn(async move {
            closing.run_until_cancelled(future).await;
        });
    }

    /// Whether the caller runs on the runtime of this scope, so that it is certainly driven.
    pub fn is_current(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id())
    }

    /// The runtime of this scope.
    pub fn runtime_id(&self) -> tokio::runtime::Id {
        self.runtime.id()
    }

    /// A flag that is set as soon as the runtime runs anything.
    pub fn probe(&self) -> Arc<AtomicBool> {
        let ran = Arc::new(AtomicBool::new(false));
        let probe = Arc::clone(&ran);
        drop(
            self.runtime
                .spawn(async move { probe.store(true, Ordering::Release) }),
        );
        ran
    }

    pub fn close(&self) {
        self.closing.cancel();
        self.tracker.close();
    }

    /// Waits until the scope closes. Cancel safe.
    pub async fn closed(&self) {
        self.closing.cancelled().await;
    }

    pub fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Waits until every task has ended. Cancel safe.
    pub async fn ended(&self) {
        self.tracker.wait().await;
    }
}

/// Starts a thread that lives as long as the process or its loop.
pub fn spawn_thread(
    name: &str,
    stack_bytes: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(stack_bytes)
        .spawn(run)
        .map(drop)
}
