//! [`Builder`]: how a pool is set up.
//!
//! Each setter names its default and its range. Settings are checked by `start` (`Config::check`),
//! not by the setters, so that a program can set them in any order; the first setter that was given
//! nonsense is what `start` reports.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::Pool;
use super::config::{Config, Neighbours};
use super::count::WorkerCount;
use super::queue::Order;
use crate::address;
use crate::args::Args;
use crate::attempt_limits::AttemptLimits;
use crate::codec::Codec;
use crate::context::State;
use crate::error::{Error, ErrorKind};
use crate::function::Function;
use crate::outcome::Failure;
use crate::process::GroupLimits;
use crate::retry::Retry;
use crate::sandbox::Sandbox;
use crate::wire::HookCall;

/// Settings of a pool: [`Pool::builder`]. Every setter names its default; `start` refuses what
/// makes no sense.
///
/// ```
/// use std::time::Duration;
///
/// use brigade::Pool;
///
/// let second = Duration::from_secs(1);
/// let builder = Pool::builder()
///     .workers(4)
///     .queue_max(10_000) // calls that may wait
///     .kill_after(second, second) // after it was asked, and after SIGTERM
///     .recycle_after(1_000); // a new process after so many calls
/// # drop(builder);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    pub(super) config: Config,
    error: Option<Arc<str>>,
    state_of_init: Option<TypeId>,
    state_of_teardown: Option<TypeId>,
}

impl Builder {
    pub(super) fn set(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(&mut self.config);
        self
    }

    fn refuse(&mut self, text: impl Into<Arc<str>>) {
        self.error.get_or_insert(text.into());
    }

    /// How many worker processes: `4`, or `1..=8` to grow and shrink with the load. Default: none
    /// at first, up to one per CPU that this process may use (cgroup quotas count). At most 4,096;
    /// at least 1, unless workers may join from other hosts.
    pub fn workers(self, count: impl WorkerCount) -> Self {
        let (min, max) = count.bounds();
        self.set(|config| {
            config.workers_min = min;
            config.workers_max = max.unwrap_or(config.workers_max.max(min));
        })
    }

    /// Workers that stand by, ready, for one that dies or is replaced, from the start of the pool
    /// on, in addition to those that [`Builder::workers`] allows. Each is replaced as soon as it is
    /// used. Default: 0.
    pub fn spares(self, count: usize) -> Self {
        self.set(|config| config.spares = count)
    }

    /// Attempts that one worker may run at once: sync tasks on threads, async tasks on one runtime.
    /// Default: 1, which keeps each call safe from all others. At most 65,536.
    pub fn slots(self, slots: u32) -> Self {
        self.set(|config| config.slots = slots)
    }

    /// What becomes of the others when one attempt of a worker with many slots is stopped by force
    /// or crashes. Default: [`Neighbours::Spare`].
    pub fn neighbours(self, neighbours: Neighbours) -> Self {
        self.set(|config| config.neighbours = neighbours)
    }

    /// Order of waiting calls within one priority. Default: first in, first out.
    pub fn order(self, order: Order) -> Self {
        self.set(|config| config.order = order)
    }

    /// How many calls may wait; running ones do not count. Then `call` waits for room and
    /// `try_call` refuses. Default: 100,000; at least 1.
    pub fn queue_max(self, calls: usize) -> Self {
        self.set(|config| config.queue_max = calls)
    }

    /// Largest arguments and largest result in bytes. Default: 64 MiB; at least 1 KiB, at most 1
    /// GiB.
    pub fn payload_max(self, bytes: usize) -> Self {
        self.set(|config| config.payload_bytes_max = bytes)
    }

    /// Runs another program as the worker, with these arguments: one that calls `brigade::init()`
    /// and has the tasks. Default: this program itself, without arguments: workers do not get those
    /// of this process, which a task must be given in its own arguments, by [`Builder::init`] or by
    /// [`Builder::env`]. The first argument, `argv[0]`, is as this program was started.
    ///
    /// What a call or a job does not say, the registration in that program says: timeout, memory
    /// and retries (`#[task(timeout = "1s")]`). A worker brings these options when it is ready. The
    /// options of this program's tasks do not count, nor does another option of that program's:
    /// priority, labels and queue timeout decide where a call waits before any worker is there.
    pub fn program<A: Into<OsString>>(
        self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.set(|config| {
            config.program = program.into();
            config.arguments = arguments.into_iter().map(Into::into).collect();
        })
    }

    /// Working directory of workers. Default: this process's.
    pub fn directory(self, directory: impl Into<PathBuf>) -> Self {
        self.set(|config| config.directory = Some(directory.into()))
    }

    /// Sets a variable for workers. They start with nothing but PATH, HOME, USER, the language, TZ,
    /// TMPDIR, LD_LIBRARY_PATH, RUST_BACKTRACE, RUST_LOG and NO_COLOR.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref(), value.as_ref());
        let bytes = name.as_encoded_bytes();
        if bytes.is_empty()
            || bytes.iter().any(|byte| matches!(byte, b'=' | 0))
            || value.as_encoded_bytes().contains(&0)
        {
            self.refuse(format!(
                "set the variable {name:?}: a name is not empty and has no '=', neither has a NUL"
            ));
        }
        self.config
            .environment
            .insert(name.to_owned(), value.to_owned());
        self
    }

    /// Passes variables of this process on to workers, where they are set.
    pub fn inherit_env<N: AsRef<OsStr>>(self, names: impl IntoIterator<Item = N>) -> Self {
        names
            .into_iter()
            .fold(self, |builder, name| match std::env::var_os(&name) {
                Some(value) => builder.env(name, value),
                None => builder,
            })
    }

    /// Starts workers with no variables but those set after this.
    pub fn clear_env(self) -> Self {
        self.set(|config| config.environment.clear())
    }

    /// Passes the workers' standard output on to this program's standard error, for programs whose
    /// standard output is a protocol or data. What [`Call::capture`](brigade_core::Call::capture)
    /// keeps is not affected. Default: no.
    pub fn stdout_to_stderr(self, redirected: bool) -> Self {
        self.set(|config| config.stdout_to_stderr = redirected)
    }

    /// Most detailed level of `tracing` events that workers send to this program's subscriber.
    /// Default: info. `LevelFilter::OFF` for none.
    ///
    /// An event of a worker has its own level, target, place and fields, and the fields `worker`,
    /// `call`, `task` and `attempt`. This program's subscriber filters it as any other. Workers
    /// that start while no subscriber is set send nothing. A subscriber that the init hook or a
    /// task sets in the worker takes the events instead. Spans are not sent, and neither are events
    /// of threads that a task starts itself. A worker sends up to 1,000 events per second and 4 KiB
    /// per value; how many it dropped is a warning.
    pub fn logs(self, most: impl Into<LevelFilter>) -> Self {
        self.set(|config| config.logs = most.into())
    }

    /// Keeps each worker on one of the CPUs that this process may use, in turn. Default: no.
    pub fn pin(self, pinned: bool) -> Self {
        self.set(|config| config.pinned = pinned)
    }

    /// Niceness of workers relative to this process, from 0 to 19 (setpriority(2)). Default: 0.
    pub fn nice(self, nice: i32) -> Self {
        self.set(|config| config.nice = nice)
    }

    /// Builds a state once in every worker, before its first call: `function(args..)`. Tasks read
    /// it with [`Context::state`](brigade_core::Context::state). If it fails or panics, the worker
    /// does not start; neither does one of another build of this program ([`Builder::program`]),
    /// which could not find the hook.
    pub fn init<F, A, S, E>(mut self, function: F, args: &A) -> Self
    where
        A: Args,
        F: Function<A, Output = Result<S, E>>,
        S: Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let _ = function;
        self.state_of_init = Some(TypeId::of::<S>());
        let hook: fn(&[u8]) -> Result<State, Box<Failure>> = run_init::<F, A, S, E>;
        match (
            address::offset_of(hook as *const ()),
            args.encode(Codec::default()),
        ) {
            (Ok(offset), Ok(args)) => self.config.init = Some(HookCall { offset, args }),
            (Err(error), _) | (_, Err(error)) => self.refuse(format!("set the init hook: {error}")),
        }
        self
    }

    /// Runs in every worker that ends in good order, with the state of [`Builder::init`], within
    /// [`Builder::teardown_timeout`].
    pub fn teardown<F, S>(mut self, function: F) -> Self
    where
        F: Fn(&S) + Copy + Send + Sync + 'static,
        S: Send + Sync + 'static,
    {
        let _ = function;
        self.state_of_teardown = Some(TypeId::of::<S>());
        let hook: fn(&State) = run_teardown::<F, S>;
        match address::offset_of(hook as *const ()) {
            Ok(offset) => self.config.teardown = Some(offset),
            Err(error) => self.refuse(format!("set the teardown hook: {error}")),
        }
        self
    }

    /// How long a worker may take from its start until it is ready, the init hook included. Time in
    /// which it was ready to run and no CPU was free does not count, up to 30 times as much.
    /// Default: 10 s.
    pub fn start_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.start_timeout = timeout)
    }

    /// The kill ladder: how long an attempt that was asked to stop may take before SIGTERM, and its
    /// process tree then before SIGKILL. Default: 500 ms each.
    pub fn kill_after(self, ask: Duration, terminate: Duration) -> Self {
        self.set(|config| (config.ask, config.terminate) = (ask, terminate))
    }

    /// How long a worker that was let go may take to finish its teardown. Default: 2 s.
    pub fn teardown_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.teardown_timeout = timeout)
    }

    /// How long [`Pool::shutdown`] lets accepted calls finish. Default: 30 s.
    pub fn shutdown_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.shutdown_timeout = timeout)
    }

    /// Ends a worker that had nothing to do for this long, down to the smallest number. Default:
    /// never.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.idle_timeout = Some(timeout))
    }

    /// Replaces a worker after about this many calls: each draws its own number from the upper
    /// fifth, so that they are not all replaced at once. Default: never.
    pub fn recycle_after(self, calls: u64) -> Self {
        self.set(|config| config.recycle_calls = Some(calls))
    }

    /// Replaces a worker at this age, between two calls. Default: never.
    pub fn recycle_age(self, age: Duration) -> Self {
        self.set(|config| config.recycle_age = Some(age))
    }

    /// Replaces a worker whose resident memory, pages of files aside, is over this many bytes
    /// between two calls. Default: never.
    pub fn recycle_memory(self, bytes: u64) -> Self {
        self.set(|config| config.recycle_memory = Some(bytes))
    }

    /// What the calls that run on this pool's own processes may take of the machine's memory
    /// together, in bytes. Default: no limit; at least 1 MiB. It needs workers with one slot.
    ///
    /// A call begins to run when what it is expected to take fits with what runs: what it
    /// declares ([`Call::memory`](brigade_core::Call::memory)), otherwise what earlier attempts of
    /// its task took, and a quarter of the budget for a task that has not run yet. Calls keep their
    /// order: the first one that does not fit waits until enough of the others have ended, and the
    /// calls behind it wait with it, so small calls never starve a large one.
    /// [`Stats::memory`](crate::Stats::memory) and
    /// [`Event::CallWaitsForMemory`](brigade_core::Event::CallWaitsForMemory) show that.
    ///
    /// What the calls really take is measured about every 10 ms, large trees less often, with all
    /// processes that they start: everything beyond what their workers held when they became ready,
    /// so what earlier calls left in a worker counts as well. A worker that keeps more than half of
    /// its share of the budget is replaced. Over the budget the largest attempt is stopped. Its
    /// call is not charged and runs again from its beginning, while nothing else runs; tasks must
    /// bear that, and calls of code that you do not trust should have a memory limit and a timeout
    /// of their own. If it is over the budget once more, it ends as
    /// [`Crashed`](brigade_core::CallError::Crashed), with
    /// [`MemoryLimit::Budget`](brigade_core::MemoryLimit::Budget) in its report.
    ///
    /// A call that declares more than the budget is refused (`BadOption`), unless hosts may join;
    /// attempts there do not count, and here it runs alone.
    pub fn memory_budget(self, bytes: u64) -> Self {
        self.set(|config| config.memory_budget = Some(bytes))
    }

    /// A fresh process for each call. With [`Builder::spares`] the next ones are ready in advance:
    /// as long as some are, a call begins as fast as in a worker that is used again. A process
    /// takes one or two milliseconds of CPU time to start, so that much is the price of each call,
    /// and the spares should be as many as calls come in a burst.
    pub fn fresh_per_call(self) -> Self {
        self.recycle_after(1)
    }

    /// How often workers are checked: pings, age, memory. One that leaves a ping
    /// unanswered for two looks, although it got to run, is killed and replaced; one that a
    /// debugger has is left alone. Default: 1 s; at least 10 ms.
    pub fn check_interval(self, interval: Duration) -> Self {
        self.set(|config| config.check_interval = interval)
    }

    /// Pauses between the attempts of calls with retries.
    pub fn retry(self, retry: Retry) -> Self {
        self.set(|config| config.retry = retry)
    }

    /// What an attempt may use that does not say so itself, nor by its task's registration.
    /// Default: no limits. `start` refuses limits that contradict each other; `docs/workers.md` has
    /// a table of what holds each.
    ///
    /// ```
    /// use brigade::{AttemptLimits, Pool};
    ///
    /// let limits = AttemptLimits::new().memory(512 << 20).files(256);
    /// let builder = Pool::builder().limits(limits);
    /// # drop(builder);
    /// ```
    pub fn limits(self, limits: AttemptLimits) -> Self {
        self.set(|config| config.limits = limits)
    }

    /// Points that workers have for the kernel's OOM killer (`/proc/pid/oom_score_adj`), from -1000
    /// to 1000: each counts as a thousandth of the host's memory. With more than the pool's program
    /// has, a worker is ended before it. Userspace OOM killers look at it too. Default: 100. Less
    /// than this process has takes CAP_SYS_RESOURCE.
    pub fn oom_score_adj(self, points: i16) -> Self {
        self.set(|config| config.oom_score_adj = points)
    }

    /// Whether a worker that crashes may leave a core dump, as far as this process's own limit
    /// allows (`RLIMIT_CORE`). A dump of a large process takes seconds, in which its worker is not
    /// replaced. Default: no.
    pub fn core_dumps(self, allowed: bool) -> Self {
        self.set(|config| config.core_dumps = allowed)
    }

    /// Puts each worker in a control group of its own with these limits, where the host lets us
    /// make one (as root, or with a delegated group); otherwise `start` is refused. Then no
    /// descendant escapes a kill and the kernel's OOM killer is recognised. Default: a worker whose
    /// attempt has limits gets a group where one can be made.
    pub fn cgroup(self, limits: GroupLimits) -> Self {
        self.set(|config| config.group = Some(limits))
    }

    /// The sandbox of calls that have none of their own, neither by themselves nor by their task:
    /// see [`Sandbox`]. A worker takes it on with its first call, after the init hook. What the
    /// hook has opened stays open, and processes that it started are not restricted. Default: none.
    pub fn sandbox(self, sandbox: Sandbox) -> Self {
        self.set(|config| config.sandbox = Some(sandbox))
    }

    /// Labels of the pool's own workers, for calls that ask for some
    /// ([`Call::labels`](brigade_core::Call::labels)). Default: none.
    pub fn labels<L: Into<Box<str>>>(self, labels: impl IntoIterator<Item = L>) -> Self {
        self.set(|config| config.labels = labels.into_iter().map(Into::into).collect())
    }

    /// Starts the pool, and the smallest number of its workers, on the current async runtime.
    ///
    /// # Errors
    ///
    /// `BadOption` for options out of range, `NotInitialized` if this program never called
    /// `brigade::init()`, `DuplicateTask`, `Unsupported` if the host does not offer what
    /// [`Builder::cgroup`] or [`Builder::sandbox`] asks for, or in a setuid, setgid or file-capability program, which is
    /// never a worker, and `CannotStart` if its first workers fail to start.
    pub async fn start(self) -> Result<Pool, Error> {
        let config = self.check()?;
        // On the heap: most of it is settings, and it lives within the futures of callers.
        Box::pin(Pool::start(config)).await
    }

    fn check(self) -> Result<Config, Error> {
        let Self {
            config,
            error,
            state_of_init,
            state_of_teardown,
        } = self;
        let bad = |text: String| Err(Error::new(ErrorKind::BadOption, text));
        if let Some(text) = error {
            return Err(Error::new(ErrorKind::BadOption, &*text));
        }
        config.check()?;
        if config.teardown.is_some()
            && (config.init.is_none() || state_of_init != state_of_teardown)
        {
            return bad(
                "set a teardown hook without an init hook that builds the state that it takes"
                    .to_owned(),
            );
        }
        crate::process::check_pool_rights(config.runs_own_program())?;
        Ok(config)
    }
}

impl Pool {
    /// A pool with settings of your own; `Pool::builder().start()` has the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

fn run_init<F, A, S, E>(args: &[u8]) -> Result<State, Box<Failure>>
where
    A: Args,
    F: Function<A, Output = Result<S, E>>,
    S: Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let args = A::decode(Codec::default(), args).map_err(|e| Box::new(Failure::new(e)))?;
    match address::stateless::<F>().apply(args) {
        Ok(state) => Ok(Arc::new(state)),
        Err(error) => {
            let error: Box<dyn std::error::Error + Send + Sync> = error.into();
            Err(Box::new(Failure::from_error(
                &*error,
                std::any::type_name::<E>(),
            )))
        }
    }
}

fn run_teardown<F, S>(state: &State)
where
    F: Fn(&S) + Copy + Send + Sync + 'static,
    S: Send + Sync + 'static,
{
    if let Some(state) = state.downcast_ref::<S>() {
        address::stateless::<F>()(state);
    }
}
