//! The pool: worker processes on this machine and the calls that they run.
//!
//! Modules: `builder` and `config` (settings), `core` (the dispatcher, pure), `shared` (the shell
//! that carries out what the dispatcher decides), `worker_conn` (a worker: a process or a remote
//! host), `stop` (the kill ladder), `handle` and `cell` (what the caller holds), `queue`,
//! `deadlines`, `restart`, `stats`, `events`, `event_log`.
//!
//! A call's way: `call` locks the core, which gives it to a free worker (its frame is appended to
//! the worker's channel and written before `call` returns) or lets it wait. The answer comes to the
//! worker's reading task, which locks the core once for all frames of one read, hands out what can
//! be handed out, and then wakes the callers. No task stands between caller and socket.

mod admit;
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
mod ids;
#[cfg(feature = "remote")]
mod listen;
mod logs;
mod map;
mod outside;
mod queue;
#[cfg(feature = "remote")]
mod relay;
mod restart;
mod runtime_check;
mod service;
mod shared;
mod stats;
mod stop;
mod stop_reason;
mod worker_conn;

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use self::cell::Cell;
use self::config::Config;
use self::core::{Admission, Core, Stage};
use self::runtime_check::within;
use self::shared::{RuntimeGuard, Shared};
use crate::call::Call;
use crate::call_handle::CallHandle;
use crate::entry::worker_entry_is_set;
use crate::error::{Error, ErrorKind};
use crate::place::Place;
use crate::registry;
use crate::shutdown::Scope;
use crate::task::{Args, Function};

#[cfg(feature = "remote")]
pub(crate) use self::ids::CallId;
#[cfg(feature = "remote")]
pub(crate) use cell::{Cell as RelayedCell, Outcome, Relay, Tag};
#[cfg(all(feature = "remote", any(test, fuzzing)))]
pub(crate) use worker_conn::remote_host::message::read_host_message;

pub use builder::Builder;
pub use config::Neighbours;
pub use count::WorkerCount;
pub use events::Events;
pub use map::Map;
pub use queue::Order;
pub use stats::{Stats, Times, WorkerInfo, WorkerState};

/// Worker processes that run calls. Cheap to clone; when the last clone is dropped, the workers are
/// killed: call [`shutdown`](Pool::shutdown) to let them finish.
#[derive(Clone)]
pub struct Pool(Arc<Owner>);

/// The user's side of a pool; the pool's own tasks hold only [`Shared`].
struct Owner(Arc<Shared>);

/// What a shutdown came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// Whether every accepted call could finish in time.
    pub drained: bool,
    /// How long it took until the last worker was gone.
    pub took: Duration,
    /// Processes of workers that could not be ended in the life of this pool, up to 1,024: they run
    /// as a user whom this program may not signal, or the kernel holds them.
    pub left: Vec<u32>,
    /// Descendants that left their worker's process group could not be looked for, because `/proc`
    /// does not show the processes of this PID namespace. Otherwise nothing but
    /// [`left`](Shutdown::left) is left.
    pub left_unseen: bool,
}

/// How long a shutdown waits for workers' last output to be written.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(1);
/// What callers that fill a pool suppose of hosts that have not joined yet.
#[cfg(feature = "remote")]
const SLOTS_OF_HOSTS_MIN: usize = 8;
/// Events that a reader may be behind before it misses some.
const EVENTS_MAX: usize = 4096;

impl Pool {
    /// A pool with settings of your own; `Pool::builder().start()` has the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn start(
        #[cfg_attr(
            not(feature = "remote"),
            expect(unused_mut, reason = "with hosts that join")
        )]
        mut config: Config,
    ) -> Result<Self, Error> {
        check_program(&config)?;
        let no_runtime = || {
            Error::new(
                ErrorKind::Unsupported,
                "start a pool outside of an async runtime (tokio)",
            )
        };
        let scope = Scope::current().ok_or_else(no_runtime)?;
        #[cfg(feature = "remote")]
        let listeners = config.hosts.bind().await?;
        let config = Arc::new(config);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let room = Arc::new(Semaphore::new(config.queue_max));
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(
                Arc::clone(&config),
                events.clone(),
                Arc::clone(&room),
                RandomState::new().hash_one(0_u8),
                Instant::now(),
            )),
            scope,
            room,
            events,
            probe: Mutex::default(),
            clock: Notify::new(),
            changed: Notify::new(),
            killed: CancellationToken::new(),
            #[cfg(feature = "remote")]
            listening: listeners
                .iter()
                .map(|listener| listener.url().to_owned())
                .collect(),
            #[cfg(feature = "remote")]
            partial: crate::remote::Budget::new(listen::PARTIAL_BYTES_MAX),
            #[cfg(feature = "remote")]
            refusals: listeners
                .iter()
                .map(crate::remote::transport::Listener::refusals)
                .collect(),
            config,
        });
        let pool = Self(Arc::new(Owner(Arc::clone(&shared))));
        shared
            .scope
            .spawn_until_closed(Arc::clone(&shared).keep_time(RuntimeGuard(Arc::clone(&shared))));
        // Starts the smallest number of workers.
        shared.step(|core, effects| core.advance(Stage::Open, effects));
        #[cfg(feature = "remote")]
        for listener in listeners {
            shared
                .scope
                .spawn_until_closed(listen::open(Arc::clone(&shared), listener));
        }
        match pool.ready(shared.config.workers_min).await {
            Ok(()) => Ok(pool),
            Err(error) => {
                pool.kill().await;
                Err(error)
            }
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Makes a call. It starts now: at once if a worker is free, otherwise in its turn. Where the
    /// queue is full, it waits for room while the handle is awaited.
    pub fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T> {
        let (shared, codec) = (self.shared(), call.request.codec);
        let cell = Arc::new(Cell::with_handle(shared.as_call_pool()));
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
    /// `QueueFull`, and whatever else keeps the call from being made (`Closed`, `TooLarge`,
    /// `Encode` ..).
    pub fn try_call<T: DeserializeOwned>(&self, call: Call<T>) -> Result<CallHandle<T>, Error> {
        let (shared, codec) = (self.shared(), call.request.codec);
        let cell = Arc::new(Cell::with_handle(shared.as_call_pool()));
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

    /// Makes a call for each item of a stream, a bounded number ahead of the reader.
    pub fn map<S, F, T>(&self, inputs: S, call: F) -> Map<S, F>
    where
        S: Stream,
        F: FnMut(S::Item) -> Call<T>,
    {
        Map::new(self.clone(), inputs, call, 2 * self.slots())
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

    /// Takes nothing new, lets accepted calls finish (waiting ones too) for as long as
    /// [`Builder::shutdown_timeout`] says, stops the rest, ends the workers; one that is still
    /// starting by then is given [`Builder::teardown_timeout`]. Returns when every process is gone,
    /// and reports those that could not be ended ([`Shutdown::left`]). Safe to call twice, and on
    /// any executor: where the pool's own runtime is not driven, workers are killed at once and
    /// every call ends as [`NoRuntime`](ErrorKind::NoRuntime).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the pool closed to new calls; call it again to go on.
    pub async fn shutdown(&self) -> Shutdown {
        self.shutdown_within(self.shared().config.shutdown_timeout)
            .await
    }

    /// Stops everything at once: `shutdown_within(Duration::ZERO)`. Attempts still get the steps of
    /// the kill ladder.
    pub async fn kill(&self) -> Shutdown {
        self.shutdown_within(Duration::ZERO).await
    }

    /// As [`shutdown`](Pool::shutdown), with this much time for accepted calls.
    pub async fn shutdown_within(&self, time: Duration) -> Shutdown {
        let (shared, began) = (self.shared(), Instant::now());
        shared.step(|core, effects| core.advance(Stage::Draining, effects));
        shared.room.close();
        let (drained, undriven) = match self.end_within(time).await {
            Ok(drained) => (drained, Vec::new()),
            Err(error) => (false, shared.end_undriven(&error).await),
        };
        // A terminal that takes nothing must not keep the caller.
        within(CONSOLE_TIMEOUT, crate::process::flush_console()).await;
        let (mut left, left_unseen) = shared.peek(|core| core.left());
        left.extend(undriven);
        Shutdown {
            drained,
            took: began.elapsed(),
            left,
            left_unseen,
        }
    }

    /// Lets accepted calls finish for so long, stops the rest and lets the workers go. Returns
    /// whether all could finish.
    async fn end_within(&self, time: Duration) -> Result<bool, Error> {
        let shared = self.shared();
        let empty = || shared.until(|core| core.is_empty().then_some(()));
        let drained = within(time, empty()).await.transpose()?.is_some();
        if !drained {
            shared.step(|core, effects| core.stop_all(effects));
            empty().await?;
        }
        shared.step(|core, effects| {
            core.advance(Stage::Closed, effects);
            core.retire_all(effects);
        });
        shared.scope.close();
        shared.driven(shared.scope.ended()).await?;
        Ok(drained)
    }
}

/// Whether this program can have workers.
///
/// # Errors
///
/// `NotInitialized`, `DuplicateTask` or `Unsupported`, if it cannot.
fn check_program(config: &Config) -> Result<(), Error> {
    if config.workers_max > 0 && config.runs_own_program() && !worker_entry_is_set() {
        return Err(Error::new(
            ErrorKind::NotInitialized,
            "start a pool: workers are this program started again, and its main never called \
                brigade::init(); \
             put #[brigade::main] on main, or brigade::init() on its first line (in a test \
             file: brigade::test_workers!();)",
        ));
    }
    if config.workers_max > 0 && config.runs_own_program() {
        check_own_program()?;
    }
    registry::check()?;
    crate::process::check_children_are_kept()
}

/// Whether this program started again has this code.
///
/// # Errors
///
/// `Unsupported` if another program loaded it, as Python loads an extension: that program, without
/// its arguments, would be no worker.
fn check_own_program() -> Result<(), Error> {
    let code = crate::process::proc_fs::file_at(
        (check_own_program as fn() -> Result<(), Error> as *const ()).addr(),
    );
    match (code, std::fs::read_link("/proc/self/exe")) {
        (Some(code), Ok(program)) if code != program => {
            let text = format!(
                "start a pool: workers are {} started again without arguments, but this code lies \
                    in {}, which that has loaded; name a program that \
                 loads it and calls brigade::init(), with its arguments (Builder::program)",
                program.display(),
                code.display()
            );
            Err(Error::new(ErrorKind::Unsupported, text))
        }
        _ => Ok(()),
    }
}

impl Place for Pool {
    fn call<T: DeserializeOwned>(&self, call: Call<T>) -> CallHandle<T> {
        Self::call(self, call)
    }
}

impl Drop for Owner {
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
