//! What the parts of a pool share, and the one way to change its state.
//!
//! [`Shared::step`] locks the core, changes it, and has what comes of that carried out after the
//! lock is released (`carry_out`). The pool's own tasks hold this; its user's side is `Pool`.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::core::{Core, Effects};
use super::runtime_check::RuntimeProbe;
use crate::error::Error;
use crate::event::Event;
use crate::shutdown::Scope;
use crate::sync::lock;

pub(crate) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) core: Mutex<Core>,
    pub(super) scope: Scope,
    /// Places in the queue.
    pub(super) room: Arc<Semaphore>,
    pub(super) events: broadcast::Sender<Event>,
    /// Asks the runtime for a sign of life, for who waits outside of it.
    pub(super) probe: Mutex<RuntimeProbe>,
    /// Notifies the clock that the first deadline changed.
    pub(super) clock: Notify,
    /// Notifies `ready`, `recycle` and `shutdown` that they have to look again.
    pub(super) changed: Notify,
    /// Cancelled when every worker must go at once.
    pub(super) killed: CancellationToken,
    /// Where hosts may join.
    #[cfg(feature = "remote")]
    pub(super) listening: Vec<String>,
    /// Who was not let in there.
    #[cfg(feature = "remote")]
    pub(super) refusals: Vec<crate::remote::transport::RefusalCount>,
    /// For unfinished results of all hosts.
    #[cfg(feature = "remote")]
    pub(super) partial: crate::remote::Budget,
}

impl Shared {
    /// Changes the core and carries out what comes of it.
    pub(super) fn step(self: &Arc<Self>, change: impl FnOnce(&mut Core, &mut Effects)) {
        let mut effects = Effects::default();
        change(lock(&self.core).at(Instant::now()), &mut effects);
        self.carry_out(effects);
    }

    /// Asks the core.
    pub(super) fn peek<R>(&self, ask: impl FnOnce(&mut Core) -> R) -> R {
        ask(lock(&self.core).at(Instant::now()))
    }

    pub(super) fn emit(&self, event: impl FnOnce() -> Event) {
        if self.events.receiver_count() > 0 {
            self.events.send(event()).ok();
        }
    }

    /// Waits until the core gives an answer. Cancel safe.
    ///
    /// # Errors
    ///
    /// `NoRuntime` if the pool's runtime is not driven.
    pub(super) async fn until<R>(
        &self,
        mut answer: impl FnMut(&mut Core) -> Option<R>,
    ) -> Result<R, Error> {
        self.driven(async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(answer) = self.peek(&mut answer) {
                    return answer;
                }
                changed.await;
            }
        })
        .await
    }

    /// Sleeps until something falls due.
    pub(super) async fn keep_time(self: Arc<Self>, guard: RuntimeGuard) {
        let _guard = guard;
        loop {
            let next = self.peek(|core| core.next_deadline());
            let changed = self.clock.notified();
            match next {
                None => changed.await,
                Some(at) => tokio::select! {
                    () = sleep_until(at.into()) => self.step(|core, effects| core.on_time(effects)),
                    () = changed => {}
                },
            }
        }
    }
}

/// Ends every call when the runtime that the pool lives on is dropped while the pool is open:
/// they would never be answered.
pub(super) struct RuntimeGuard(pub(super) Arc<Shared>);

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        let shared = &self.0;
        if !shared.scope.is_closed() {
            shared.room.close();
            shared.killed.cancel();
            shared.step(|core, effects| core.give_up(&Core::runtime_ended(), effects));
        }
    }
}
