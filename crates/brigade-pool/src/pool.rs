//! The pool: worker processes on this machine and the calls that they run.
//!
//! A call's way: `call` locks the dispatcher, which gives the call to a free worker (its frame is
//! appended to the worker's channel and written before `call` returns) or lets it wait. The answer
//! comes to the worker's reading task, which locks the dispatcher once for all frames of one read,
//! hands out what can be handed out, and then wakes the callers. No task stands between caller and
//! socket.
//!
//! Layers, from bottom to top; a file imports only files of its own layer or of those below:
//!
//! 1. Values: `ids`, `answered`, `stop_reason`, `count`, `queue`, `deadlines`, `restart`, `stats`,
//!    `events`, `event_log`, `logs`, `cell`, `runtime_check`, `host_settings`, `program_tasks`,
//!    `config`, `monitor_line`, `learnt_memory`.
//! 2. Workers as the pool sees them: the trait in `worker_conn`, and `worker_conn::outgoing`.
//! 3. The dispatcher, pure: `core`, over its data (`core::call_entry`, `core::worker_slot`,
//!    `core::budget`, `core::host_info`, `core::effects`); the other files of `core` act on that.
//! 4. The shell around it: `shared` (state and `step`), `admit`, `outside`.
//! 5. Workers: `worker_conn::process`, `worker_conn::remote_host`.
//! 6. `stop` (the kill ladder), `memory_use`, and `carry_out`, where the dispatcher's decisions
//!    meet all others.
//! 7. The user's side: `handle`, then `Pool` in this file, then what gives or takes one: `builder`,
//!    `start`, `shutdown`, `listen`, `map`, `monitor`, `relay`, `service`.

mod admit;
mod answered;
mod builder;
mod carry_out;
mod cell;
mod config;
mod core;
mod count;
mod deadlines;
mod event_log;
mod events;
mod handle;
#[cfg(feature = "remote")]
mod host_settings;
mod ids;
mod learnt_memory;
#[cfg(feature = "remote")]
mod listen;
mod logs;
mod map;
mod memory_use;
mod monitor;
mod monitor_line;
mod outside;
mod program_tasks;
mod queue;
#[cfg(feature = "remote")]
mod relay;
mod restart;
mod runtime_check;
mod service;
mod shared;
mod shutdown;
mod start;
mod stats;
mod stop;
mod stop_reason;
mod worker_conn;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::core::{Admission, Stage};
use self::shared::Shared;
use crate::args::Args;
use crate::call::Call;
use crate::call_handle::CallHandle;
use crate::error::{Error, ErrorKind};
use crate::function::Function;
use crate::place::Place;

#[cfg(feature = "remote")]
pub(crate) use self::cell::{Cell as RelayedCell, EncodedOutcome, EndFacts, Relay, Tag};
#[cfg(feature = "remote")]
pub(crate) use self::ids::CallId;
#[cfg(all(feature = "remote", any(test, fuzzing)))]
pub(crate) use self::worker_conn::remote_host::message::read_host_message;

pub use self::builder::Builder;
pub use self::config::Neighbours;
pub use self::count::WorkerCount;
pub use self::events::Events;
pub use self::map::Map;
pub use self::monitor_line::{MonitorLine, MonitoredCall, MonitoredStats, MonitoredWorker};
pub use self::queue::Order;
pub use self::shutdown::Shutdown;
pub use self::stats::{BudgetUse, Stats, Times, WorkerInfo, WorkerState};

/// Worker processes that run calls. Cheap to clone; when the last clone is dropped, the workers are
/// killed: call [`shutdown`](Pool::shutdown) to let them finish.
///
/// ```standalone_crate
/// use brigade::{Pool, task};
///
/// #[task]
/// fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// #[brigade::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let pool = Pool::builder().workers(1).start().await?;
///     assert_eq!(pool.call(add(3, 4)).await?, 7);
///     assert_eq!(pool.run(|a: i64, b: i64| a * b, (3, 4)).await?, 12);
///     pool.shutdown().await;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Pool(Arc<PoolOwner>);

/// The user's side of a pool; the pool's own tasks hold only [`Shared`].
struct PoolOwner(Arc<Shared>);

/// What callers that fill a pool suppose of hosts that have not joined yet.
#[cfg(feature = "remote")]
const SLOTS_OF_HOSTS_MIN: usize = 8;

impl Pool {
    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Makes a call. It starts now: at once if a worker is free, otherwise in its turn. Where the
    /// queue is full, it waits for room while the handle is awaited. A call that cannot be made
    /// ends as [`Rejected`](crate::outcome::CallError#rejected-calls).
    pub fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T> {
        let (shared, codec) = (self.shared(), call.request.codec);
        let cell = shared.cell();
        match shared.admit(call.request, &cell) {
            Admission::Admitted(id) => cell.admitted(id),
            Admission::Full(request) => cell.wait_for_room(shared.waiting(request, &cell)),
            Admission::Refused(error) => return CallHandle::rejected(error),
        }
        CallHandle::new(cell, codec)
    }

    /// Makes a call, or refuses where the queue is full.
    ///
    /// # Errors
    ///
    /// `QueueFull`, and what a [call is rejected for](crate::outcome::CallError#rejected-calls)
    /// when it is made.
    pub fn try_call<T: DeserializeOwned>(&self, call: Call<T>) -> Result<CallHandle<T>, Error> {
        let (shared, codec) = (self.shared(), call.request.codec);
        let cell = shared.cell();
        match shared.admit(call.request, &cell) {
            Admission::Admitted(id) => {
                cell.admitted(id);
                Ok(CallHandle::new(cell, codec))
            }
            Admission::Full(_) => {
                let text = format!(
                    "queue a call: {} are waiting already (Builder::queue_max)",
                    shared.config.queue_max
                );
                Err(Error::new(ErrorKind::QueueFull, text))
            }
            Admission::Refused(error) => Err(error),
        }
    }

    /// Runs any function item or capture-free closure of this program: `pool.run(mul, (3,
    /// 4)).await`.
    ///
    /// It needs no registration. Workers must be the same build of this program, as they are unless
    /// [`Builder::program`] says otherwise; then the call ends as `OtherBuild`. For options, or
    /// values in another format, make the call with [`Call::of`] and [`Call::of_json`].
    pub fn run<F, A>(&self, function: F, args: A) -> CallHandle<F::Output>
    where
        A: Args,
        F: Function<A>,
        F::Output: Serialize + DeserializeOwned,
    {
        self.call(Call::of(function, &args))
    }

    /// Waits until at least this many workers are ready. A host that joined counts as one, whatever
    /// it offers.
    ///
    /// # Errors
    ///
    /// `CannotStart` if workers keep failing at start, `Closed` after a shutdown, `BadOption` if
    /// the pool may never have so many.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn ready(&self, workers: usize) -> Result<(), Error> {
        let shared = self.shared();
        if workers > shared.config.workers_max && !shared.config.may_have_remote_hosts() {
            let text = format!(
                "wait for {workers} workers: the pool has at most {}",
                shared.config.workers_max
            );
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        shared.step(|core, effects| core.set_min_workers(workers, effects));
        let ready = shared
            .until(|core| {
                if core.ready_count() >= workers && core.stage() != Stage::Closed {
                    return Some(Ok(()));
                }
                if core.stage() != Stage::Open {
                    return Some(Err(core.closed()));
                }
                core.failing().map(Err)
            })
            .await;
        shared.step(|core, effects| core.set_min_workers(0, effects));
        ready?
    }

    /// Every worker, by number.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.shared().peek(|core| core.workers(SystemTime::now()))
    }

    /// Counts and times.
    pub fn stats(&self) -> Stats {
        self.shared().peek(|core| core.stats())
    }

    /// What happens from now on. A reader that falls 4,096 events behind gets
    /// [`Event::Missed`](brigade_core::Event::Missed).
    pub fn events(&self) -> Events {
        Events(self.shared().events.subscribe())
    }

    /// Cancels every call that waits; what runs is left alone. Returns how many there were.
    pub fn cancel_waiting(&self, reason: &str) -> usize {
        let mut count = 0;
        self.shared()
            .step(|core, effects| count = core.cancel_waiting(reason, effects));
        count
    }

    /// Replaces every worker process of its own that is there now, one after the other, each when
    /// it has finished what it runs. Returns when the last replacement is ready.
    ///
    /// # Errors
    ///
    /// As [`ready`](Pool::ready), if a replacement cannot be started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the workers that were not reached as they are.
    pub async fn recycle(&self) -> Result<(), Error> {
        let shared = self.shared();
        for worker in shared.peek(|core| core.started_processes()) {
            let ready = shared
                .peek(|core| core.ready_count())
                .min(shared.config.workers_min);
            shared.step(|core, effects| core.recycle(worker, effects));
            shared
                .until(|core| {
                    (!core.started_processes().contains(&worker) || core.stage() != Stage::Open)
                        .then_some(())
                })
                .await?;
            self.ready(ready).await?;
        }
        Ok(())
    }

    /// Whether its workers are this program, so that they have the tasks of this process.
    #[doc(hidden)]
    pub fn runs_own_program(&self) -> bool {
        self.shared().config.runs_own_program()
    }

    /// Attempts that can run at once when all workers are there. Of hosts those count that have
    /// joined by now; where none has, a few.
    #[doc(hidden)]
    pub fn slots(&self) -> usize {
        let config = &self.shared().config;
        let own = config.workers_max * config.slots as usize;
        #[cfg(feature = "remote")]
        if config.may_have_remote_hosts() {
            return (own + self.shared().peek(|core| core.slots_of_hosts()))
                .max(SLOTS_OF_HOSTS_MIN);
        }
        own
    }

    /// Whether a shutdown has begun.
    pub fn is_closed(&self) -> bool {
        self.shared().peek(|core| core.stage() != Stage::Open)
    }
}

impl Place for Pool {
    fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T> {
        Self::call(self, call)
    }
}

impl Drop for PoolOwner {
    fn drop(&mut self) {
        let shared = &self.0;
        shared.room.close();
        shared.killed.cancel();
        shared.step(|core, effects| {
            core.advance(Stage::Closed, effects);
            core.stop_all(effects);
            // The workers are killed in any case.
            effects.stops.clear();
            core.retire_all(effects);
        });
        shared.scope.close();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("workers", &self.workers().len())
            .finish_non_exhaustive()
    }
}
