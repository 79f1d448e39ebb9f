//! What ends a worker: any future, or the signals of a terminal and of a service manager.

use std::fmt;
use std::future::{Future, pending};
use std::io;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::WorkerHandle;
use crate::error::Error;

/// What may end a worker, see [`Worker::run_until`](crate::Worker::run_until): any future, or [`ctrl_c()`](ctrl_c).
pub trait StopSignal {
    /// Tells the worker when it comes. Ends with an error only.
    #[doc(hidden)]
    fn tell(self, worker: &WorkerHandle) -> impl Future<Output = Error>;
}

impl<F: Future> StopSignal for F {
    async fn tell(self, worker: &WorkerHandle) -> Error {
        self.await;
        worker.drain();
        pending().await
    }
}

/// SIGINT and SIGTERM, see [`ctrl_c`].
#[must_use = "give it to Worker::run_until"]
pub struct Interrupts(io::Result<[Signal; 2]>);

/// Ends a worker as people and service managers expect it: at the first SIGINT (Ctrl-C) or SIGTERM it
/// [drains](WorkerHandle::drain), at the second it [is killed](WorkerHandle::kill).
///
/// From this call on these signals do not end the process by themselves any more.
pub fn ctrl_c() -> Interrupts {
    let listen = || Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]);
    Interrupts(match Handle::try_current() {
        Ok(_) => listen(),
        Err(_) => Err(io::Error::other("there is no async runtime (tokio)")),
    })
}

impl StopSignal for Interrupts {
    async fn tell(self, worker: &WorkerHandle) -> Error {
        let [mut interrupt, mut terminate] = match self.0 {
            Ok(signals) => signals,
            Err(error) => return Error::os("listen for signals", error),
        };
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        tracing::info!("draining; once more to kill and give back");
        worker.drain();
        next().await;
        worker.kill();
        pending().await
    }
}

impl fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupts")
    }
}
