//! What the parts of a pool share, and the one way to change its state.
//!
//! [`Shared::step`] locks the core, changes it, and carries out what comes of that after the lock
//! is released. `carry_out` is the only place where the dispatcher's decisions meet processes,
//! sockets and callers.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::cell::Cell;
use super::config::Config;
use super::core::{Admission, Core, Effects, HealthCheck};
use super::event_log;
use super::outside::RuntimeProbe;
use super::worker_conn::{TASK_NAME_BYTES_MAX, WorkerConn, process};
use crate::call::{CallOptions, CallTarget, Request};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::registry;
use crate::shutdown::Scope;
use crate::sync::lock;
use crate::task;

pub(crate) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) core: Mutex<Core>,
    pub(super) scope: Scope,
    /// Places in the queue.
    pub(super) room: Arc<Semaphore>,
    pub(super) events: broadcast::Sender<Event>,
    /// Asks the runtime for a sign of life, for who waits outside of it.
    pub(super) probe: Mutex<RuntimeProbe>,
    /// Tells the clock that the first deadline changed.
    pub(super) clock: Notify,
    /// Tells `ready`, `recycle` and `shutdown` to look again.
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

    pub(super) fn admit(self: &Arc<Self>, request: Request, cell: &Arc<Cell>) -> Admission {
        match self.check(request) {
            Ok(request) => self.admit_checked(request, cell, false),
            Err(error) => Admission::Refused(error),
        }
    }

    /// Admits a call that waited for its place and has it now. If that fails the cell gets the
    /// error.
    pub(super) fn admit_with_place(
        self: &Arc<Self>,
        request: Request,
        cell: &Arc<Cell>,
    ) -> Admission {
        let admission = self.admit_checked(request, cell, true);
        match admission {
            Admission::Refused(error) => {
                self.room.add_permits(1);
                cell.finish(Err(error.into()), None, None);
                Admission::Refused(self.peek(|core| core.closed()))
            }
            admitted => admitted,
        }
    }

    fn admit_checked(
        self: &Arc<Self>,
        request: Request,
        cell: &Arc<Cell>,
        has_place: bool,
    ) -> Admission {
        let mut effects = Effects::default();
        let admission =
            lock(&self.core)
                .at(Instant::now())
                .admit(request, cell, has_place, &mut effects);
        self.carry_out(effects);
        admission
    }

    /// Admits many calls in one step.
    #[cfg(feature = "remote")]
    pub(super) fn admit_all(self: &Arc<Self>, calls: Vec<(Request, Arc<Cell>)>) -> Vec<Admission> {
        let checked: Vec<_> = calls
            .into_iter()
            .map(|(request, cell)| (self.check(request), cell))
            .collect();
        let mut effects = Effects {
            at_once: true,
            ..Effects::default()
        };
        let admissions = {
            let mut core = lock(&self.core);
            let core = core.at(Instant::now());
            let admit = |(request, cell): (Result<Request, Error>, Arc<Cell>)| match request {
                Ok(request) => core.admit(request, &cell, false, &mut effects),
                Err(error) => Admission::Refused(error),
            };
            checked.into_iter().map(admit).collect()
        };
        self.carry_out(effects);
        admissions
    }

    /// Refuses what could not run anywhere, and fills in what the task's registration says.
    fn check(&self, mut request: Request) -> Result<Request, Error> {
        request.encode();
        let max = self.config.payload_bytes_max;
        match std::mem::replace(&mut request.payload, Ok(bytes::Bytes::new())) {
            Err(error) => return Err(error),
            Ok(payload) if payload.len() > max => {
                let text = format!(
                    "call {:?}: its arguments have {} bytes and {max} are allowed \
                        (Builder::payload_max)",
                    request.task_name(),
                    payload.len()
                );
                return Err(Error::new(ErrorKind::TooLarge, text));
            }
            Ok(payload) => request.payload = Ok(payload),
        }
        self.check_target(&request)?;
        if let CallTarget::Task { name } = &request.target
            && self.config.runs_own_program()
            && let Some(task) = registry::find(name)
        {
            request.fill(task);
        }
        self.check_options(&request)?;
        Ok(request)
    }

    fn check_target(&self, request: &Request) -> Result<(), Error> {
        match &request.target {
            CallTarget::Task { name } if name.is_empty() || name.len() > TASK_NAME_BYTES_MAX => {
                let text = format!(
                    "call a task whose name has {} bytes: there are 1 to {TASK_NAME_BYTES_MAX}",
                    name.len()
                );
                Err(Error::new(ErrorKind::BadOption, text))
            }
            CallTarget::Task { name } => {
                if let (Some(signature), Some(entry)) = (request.signature, registry::find(name))
                    && !task::fits(signature(), (entry.signature)())
                {
                    let (called, is) = (signature(), (entry.signature)());
                    let text = format!("call {name:?} as {called}: it is {is}");
                    return Err(Error::new(ErrorKind::BadArguments, text));
                }
                Ok(())
            }
            #[cfg(feature = "remote")]
            CallTarget::Function { name, .. }
                if self.config.workers_max == 0 && registry::function_number(name).is_none() =>
            {
                let text = format!(
                    "run {name} on another host: list it with brigade::functions!({name}), or \
                        make it a #[task]"
                );
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            CallTarget::Function { .. } => Ok(()),
        }
    }

    fn check_options(&self, request: &Request) -> Result<(), Error> {
        let CallOptions {
            key,
            partition,
            unique,
            keep,
            labels,
            timeout,
            ..
        } = request.options();
        if key.is_some() || partition.is_some() || unique.is_some() || keep.is_some() {
            let text = "call a pool with a key, a partition, a unique key or a time to keep: \
                those are for jobs at a broker";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if !self.config.may_have_remote_hosts()
            && let Some(label) = labels
                .iter()
                .find(|label| !self.config.labels.contains(*label))
        {
            let text = format!(
                "call {:?} where {label:?} is: no worker of this pool may ever have that label",
                request.task_name()
            );
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            let text = "call with a timeout of zero: give it more time, or none";
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        Ok(())
    }

    /// Carries out what a step of the dispatcher asks for. The order matters: what an attempt wrote
    /// is read before its worker is sent the next one, and a worker's memory is measured and its
    /// output captured before it is sent the attempt that this is for.
    fn carry_out(self: &Arc<Self>, mut effects: Effects) {
        for end in &mut effects.ends {
            end.read_stderr();
        }
        for watch in effects.memory_watches {
            watch.conn.watch_memory(self, watch.call, watch.bytes_max);
        }
        for write in effects.writes {
            if write.is_now {
                write.conn.flush();
            } else {
                write.conn.kick();
            }
        }
        if effects.room > 0 {
            self.room.add_permits(effects.room);
        }
        for (cell, update) in effects.updates {
            cell.update(update);
        }
        for end in effects.ends {
            end.finish();
        }
        for worker in effects.starts {
            self.scope.spawn(process::live(Arc::clone(self), worker));
        }
        for order in effects.stops {
            Arc::clone(&order.conn).stop(self, order);
        }
        for request in effects.stop_requests {
            request
                .conn
                .ask_to_stop(request.call, &request.reason, request.hurry);
        }
        for (conn, reason) in effects.breaks {
            conn.break_off(&reason);
        }
        for conn in effects.let_go {
            conn.let_go();
        }
        drop(effects.dropped);
        for event in &effects.logged {
            event_log::log(event);
        }
        if effects.clock {
            self.clock.notify_one();
        }
        if effects.changed {
            self.changed.notify_waiters();
        }
        for capture in effects.captures {
            capture.conn.begin_capture(capture.bytes_max);
            self.step(|core, effects| {
                core.on_capture_began(capture.call, capture.worker, effects);
            });
        }
        if let Some(check) = effects.health_check {
            self.check_health(check);
        }
    }

    /// Looks at the workers and gives the dispatcher what it found.
    fn check_health(self: &Arc<Self>, check: HealthCheck) {
        let wants_memory = self.config.recycle_memory.is_some();
        let look = |(worker, conn): (_, Arc<dyn WorkerConn>)| {
            Some((worker, conn.look(check.is_in_time, wants_memory)?))
        };
        let found: Vec<_> = check.workers.into_iter().filter_map(look).collect();
        crate::process::reap_orphans();
        self.step(|core, effects| {
            for (worker, health) in &found {
                core.on_health(*worker, health, effects);
            }
            core.on_health_over(effects);
        });
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
