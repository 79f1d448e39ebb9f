//! Where the dispatcher's decisions meet processes, sockets and callers.
//!
//! [`Shared::step`] calls `carry_out` after each step, without the lock of the dispatcher. `admit`
//! does the same for what it admits. `outside` and `handle` end what has no running pool or was
//! never admitted. Two kinds of effects lead to another step.

use std::sync::Arc;

use super::core::{Effects, EndedSpan, HealthCheck, Preparation, SpanRequest};
use super::event_log;
use super::memory_use;
use super::shared::Shared;
use super::stop;
use super::worker_conn::WorkerConn;
use super::worker_conn::process::life::live;

impl Shared {
    /// Carries out what a step of the dispatcher asks for. The order matters: what an attempt wrote
    /// is read before its worker is sent the next one, and a worker's limits are held and its
    /// output is captured before it is sent the attempt that this is for.
    pub(super) fn carry_out(self: &Arc<Self>, mut effects: Effects) {
        for end in &mut effects.ends {
            end.read_stderr();
        }
        for measure in effects.memory_measures {
            self.scope
                .spawn(memory_use::follow(Arc::clone(self), measure));
        }
        for write in effects.writes {
            if write.is_now {
                write.conn.flush();
            } else {
                write.conn.kick();
            }
        }
        effects.spans.into_iter().for_each(EndedSpan::end);
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
            self.scope.spawn(live(Arc::clone(self), worker));
        }
        for order in effects.stops {
            self.scope.spawn(stop::stop(Arc::clone(self), order));
        }
        for request in effects.stop_requests {
            request
                .conn
                .ask_to_stop(request.call, &request.reason, request.hurry);
        }
        for (conn, reason) in effects.breaks {
            if let Some(process) = conn.process() {
                process.break_off(&reason);
            }
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
        for preparation in effects.preparations {
            self.prepare(preparation);
        }
        if let Some(check) = effects.health_check {
            self.check_health(check);
        }
    }

    /// Does what an attempt needs before it is sent.
    fn prepare(self: &Arc<Self>, preparation: Preparation) {
        if let (Some(bytes_max), Some(process)) = (preparation.capture, preparation.conn.process())
        {
            process.begin_capture(bytes_max);
        }
        let (call, worker) = (preparation.call, preparation.worker);
        if let Some(limits) = preparation.limits {
            match stop::hold_limits(self, &preparation.conn, (call, worker), limits) {
                Ok(hold) => self.peek(|core| core.on_held(call, worker, hold)),
                Err(error) => {
                    return self
                        .step(|core, effects| core.on_not_held(call, worker, error, effects));
                }
            }
        }
        let mut span = preparation.span.map(SpanRequest::begin);
        self.step(|core, effects| core.on_prepared(call, worker, &mut span, effects));
        // Where the attempt has ended meanwhile, its span ends here, without the lock.
        drop(span);
    }

    /// Looks at the workers and gives the dispatcher what it found.
    fn check_health(self: &Arc<Self>, check: HealthCheck) {
        let wants_memory = self.config.recycle_memory.is_some();
        let has_budget = self.config.memory_budget.is_some();
        let look = |(worker, conn): (_, Arc<dyn WorkerConn>)| {
            let process = conn.process()?;
            let mut health = process.look(check.is_in_time);
            if wants_memory {
                health.used_bytes = process.used_bytes();
            }
            if has_budget {
                health.grown_bytes = process.grown_bytes();
            }
            Some((worker, health))
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
}
