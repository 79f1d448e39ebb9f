//! How a pool is set up, and what of that is refused.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::Pool;
use super::count::WorkerCount;
use super::queue::Order;
use crate::address;
use crate::codec::Codec;
use crate::context::State;
use crate::error::{Error, ErrorKind};
use crate::outcome::Failure;
use crate::process::GroupLimits;
use crate::retry::Retry;
use crate::task::{Args, Function};
use crate::wire::Hook;

/// What happens to the other attempts of a worker with many slots when one of them has to be
/// stopped by force or takes it down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Neighbours {
    /// A call with a timeout, a memory limit or captured output gets a worker of its own. Any other
    /// call that is cancelled is asked to stop; if it does not, its worker gets nothing new and is
    /// ended when the neighbours have finished. Only a crash hurts them: then they are
    /// [`Lost`](crate::CallError::Lost).
    #[default]
    Spare,
    /// They end as [`Lost`](crate::CallError::Lost) at once.
    Lose,
    /// They are run again, without charge. For tasks that may run twice.
    RunAgain,
}

/// Settings of a pool: [`Pool::builder`]. Every setter names its default; `start` refuses what
/// makes no sense.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    pub(super) config: Config,
    error: Option<Arc<str>>,
    state_of_init: Option<TypeId>,
    state_of_teardown: Option<TypeId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(super) workers_min: usize,
    pub(super) workers_max: usize,
    pub(super) spares: usize,
    pub(super) slots: u32,
    pub(super) neighbours: Neighbours,
    pub(super) order: Order,
    pub(super) queue_max: usize,
    pub(super) payload_bytes_max: usize,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) directory: Option<PathBuf>,
    pub(super) environment: BTreeMap<OsString, OsString>,
    pub(super) logs: LevelFilter,
    pub(super) stdout_to_stderr: bool,
    pub(super) pinned: bool,
    pub(super) nice: i32,
    pub(super) init: Option<Hook>,
    pub(super) teardown: Option<u64>,
    pub(super) start_timeout: Duration,
    pub(super) ask: Duration,
    pub(super) terminate: Duration,
    pub(super) teardown_timeout: Duration,
    pub(super) shutdown_timeout: Duration,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) recycle_calls: Option<u64>,
    pub(super) recycle_age: Option<Duration>,
    pub(super) recycle_memory: Option<u64>,
    pub(super) check_interval: Duration,
    pub(super) retry: Retry,
    pub(super) group: Option<GroupLimits>,
    pub(super) labels: Vec<Box<str>>,
    #[cfg(feature = "remote")]
    pub(super) hosts: super::listen::Hosts,
}

impl Config {
    pub(super) fn runs_own_program(&self) -> bool {
        self.program.as_os_str() == OWN_PROGRAM
    }

    /// A worker's first argument: as this program was started, or the path of another program.
    pub(super) fn argv0(&self) -> OsString {
        let own = if self.runs_own_program() {
            std::env::args_os().next()
        } else {
            None
        };
        own.unwrap_or_else(|| self.program.clone().into())
    }

    /// Whether workers may join from elsewhere.
    #[cfg(feature = "remote")]
    pub(super) fn may_have_remote_hosts(&self) -> bool {
        !self.hosts.listeners.is_empty()
    }

    #[cfg(not(feature = "remote"))]
    #[expect(clippy::unused_self, reason = "as with hosts that join")]
    pub(super) fn may_have_remote_hosts(&self) -> bool {
        false
    }
}

/// What this process runs, even if its file was replaced or deleted since.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Variables that workers inherit unless the builder says otherwise: what programs need to find
/// their libraries, their language and their logs.
const INHERITED: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "NO_COLOR",
    "LLVM_PROFILE_FILE",
];

/// More workers than this are a mistake in the caller's arithmetic.
const WORKERS_MAX: usize = 4096;
pub(super) const SLOTS_MAX: u32 = 65_536;

impl Default for Builder {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let environment = INHERITED
            .iter()
            .filter_map(|name| Some((name.into(), std::env::var_os(name)?)))
            .collect();
        let config = Config {
            workers_min: 0,
            workers_max: cpus,
            spares: 0,
            slots: 1,
            neighbours: Neighbours::Spare,
            order: Order::Fifo,
            queue_max: 100_000,
            payload_bytes_max: 64 << 20,
            program: PathBuf::from(OWN_PROGRAM),
            arguments: Vec::new(),
            directory: None,
            environment,
            logs: LevelFilter::INFO,
            stdout_to_stderr: false,
            pinned: false,
            nice: 0,
            init: None,
            teardown: None,
            start_timeout: Duration::from_secs(10),
            ask: Duration::from_millis(500),
            terminate: Duration::from_millis(500),
            teardown_timeout: Duration::from_secs(2),
            shutdown_timeout: Duration::from_secs(30),
            idle_timeout: None,
            recycle_calls: None,
            recycle_age: None,
            recycle_memory: None,
            check_interval: Duration::from_secs(1),
            retry: Retry::default(),
            group: None,
            labels: Vec::new(),
            #[cfg(feature = "remote")]
            hosts: super::listen::Hosts::default(),
        };
        Self {
            config,
            error: None,
            state_of_init: None,
            state_of_teardown: None,
        }
    }
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

    /// Workers that stand by, ready, for one that dies. Default: 0.
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
    /// standard output is a protocol or data. What [`Call::capture`](crate::Call::capture) keeps is
    /// not affected. Default: no.
    pub fn stdout_to_stderr(self, redirected: bool) -> Self {
        self.set(|config| config.stdout_to_stderr = redirected)
    }

    /// Most detailed level of `tracing` events that workers send to this program's subscriber.
    /// Default: info. `LevelFilter::OFF` for none.
    ///
    /// Such an event has its own level, target, place and fields, and the fields `worker`, `call`,
    /// `task` and `attempt`. This program's subscriber filters it as any other. Workers that start
    /// while no subscriber is set send nothing. A subscriber that the init hook or a task sets in
    /// the worker takes the events instead. Spans are not sent, and neither are events of threads
    /// that a task starts itself. A worker sends up to 1,000 events per second and 4 KiB per value;
    /// how many it dropped is a warning.
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
    /// it with [`Context::state`](crate::Context::state). If it fails or panics, the worker does
    /// not start; neither does one of another build of this program ([`Builder::program`]), which
    /// could not find the hook.
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
            (Ok(offset), Ok(args)) => self.config.init = Some(Hook { offset, args }),
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

    /// How long a worker that was told to end may take to finish its teardown. Default: 2 s.
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

    /// Replaces a worker whose resident memory is over this many bytes between two calls. Default:
    /// never.
    pub fn recycle_memory(self, bytes: u64) -> Self {
        self.set(|config| config.recycle_memory = Some(bytes))
    }

    /// A fresh process for each call. With [`Builder::spares`] the next one is ready in advance.
    pub fn fresh_per_call(self) -> Self {
        self.recycle_after(1)
    }

    /// How often idle workers are looked after: pinged, aged, weighed. One that leaves a ping
    /// unanswered for two looks, although it got to run, is killed and replaced; one that a
    /// debugger has is left alone. Default: 1 s; at least 10 ms.
    pub fn check_interval(self, interval: Duration) -> Self {
        self.set(|config| config.check_interval = interval)
    }

    /// Pauses between the attempts of calls with retries.
    pub fn retry(self, retry: Retry) -> Self {
        self.set(|config| config.retry = retry)
    }

    /// Puts each worker in a control group of its own with these limits, where the host lets us
    /// make one (as root, or with a delegated group). Then no descendant escapes a kill and the
    /// kernel's OOM killer is told apart. Default: none.
    pub fn cgroup(self, limits: GroupLimits) -> Self {
        self.set(|config| config.group = Some(limits))
    }

    /// Labels of the pool's own workers, for calls that ask for some
    /// ([`Call::labels`](crate::Call::labels)). Default: none.
    pub fn labels<L: Into<Box<str>>>(self, labels: impl IntoIterator<Item = L>) -> Self {
        self.set(|config| config.labels = labels.into_iter().map(Into::into).collect())
    }

    /// Starts the pool, and the smallest number of its workers, on the current async runtime.
    ///
    /// # Errors
    ///
    /// `BadOption` for options out of range, `NotInitialized` if this program never called
    /// `brigade::init()`, `DuplicateTask`, `Unsupported` if the host does not offer what
    /// [`Builder::cgroup`] asks for, or in a setuid, setgid or file-capability program, which is
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
        let (min, max) = (config.workers_min, config.workers_max);
        if max == 0 && !config.may_have_remote_hosts()
            || max > WORKERS_MAX
            || min > max
            || config.spares > WORKERS_MAX
        {
            return bad(format!(
                "start {min} to {max} workers and {} spares: there are 1 to {WORKERS_MAX}",
                config.spares
            ));
        }
        if config.slots == 0 || config.slots > SLOTS_MAX {
            return bad(format!(
                "give workers {} slots: there are 1 to {SLOTS_MAX}",
                config.slots
            ));
        }
        if config.queue_max == 0 || config.queue_max > 1 << 30 {
            return bad(format!(
                "let {} calls wait: there are 1 to 2^30; use try_call to refuse what would wait",
                config.queue_max
            ));
        }
        if !(1 << 10..=1 << 30).contains(&config.payload_bytes_max) {
            return bad(format!(
                "allow payloads of {} bytes: there are 1 KiB to 1 GiB",
                config.payload_bytes_max
            ));
        }
        if !(0..=19).contains(&config.nice) {
            return bad(format!(
                "make workers nice by {}: there are 0 to 19",
                config.nice
            ));
        }
        if config.start_timeout.is_zero() || config.check_interval < Duration::from_millis(10) {
            return bad(
                "set a start timeout of nothing or a check interval below 10 ms".to_owned(),
            );
        }
        #[cfg(feature = "remote")]
        config.hosts.check()?;
        if config.recycle_calls == Some(0) {
            return bad("replace a worker after 0 calls: there is at least 1".to_owned());
        }
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
