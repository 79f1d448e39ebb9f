//! The settings of a pool, their defaults, and what of them is refused.
//!
//! [`Config`] is the data behind [`Builder`](super::builder::Builder). It does not change once the
//! pool runs; the dispatcher, the workers and the listeners share it. `check` refuses what is out
//! of range before anything is started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::queue::Order;
use crate::attempt_limits::AttemptLimits;
use crate::error::{Error, ErrorKind};
use crate::policy::check_limits;
use crate::process::GroupLimits;
use crate::request::Request;
use crate::retry::Retry;
use crate::sandbox::Sandbox;
use crate::wire::HookCall;

/// What happens to the other attempts of a worker with many slots when one of them has to be
/// stopped by force or takes it down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Neighbours {
    /// A call with a timeout, a memory limit or captured output gets a worker of its own. Any other
    /// call that is cancelled is asked to stop; if it does not, its worker gets nothing new and is
    /// ended when the neighbours have finished. Only a crash hurts them: then they are
    /// [`Lost`](brigade_core::CallError::Lost).
    #[default]
    Spare,
    /// They end as [`Lost`](brigade_core::CallError::Lost) at once.
    Lose,
    /// They are run again, without charge. For tasks that may run twice.
    RunAgain,
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
    pub(super) init: Option<HookCall>,
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
    pub(super) memory_budget: Option<u64>,
    pub(super) check_interval: Duration,
    pub(super) retry: Retry,
    pub(super) group: Option<GroupLimits>,
    /// Of attempts that do not say others.
    pub(super) limits: AttemptLimits,
    pub(super) oom_score_adj: i16,
    pub(super) core_dumps: bool,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) labels: Vec<Box<str>>,
    pub(super) monitor: Option<PathBuf>,
    #[cfg(feature = "remote")]
    pub(super) hosts: super::host_settings::HostSettings,
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

    /// Refuses a call that could never run here: `BadOption`.
    pub(super) fn check_call(&self, request: &Request) -> Result<(), Error> {
        self.check_labels(request)?;
        let options = request.options();
        let limits = options.limits().or(options.default_limits).or(self.limits);
        if limits.is_empty() {
            return Ok(());
        }
        self.check_attempt_limits(&format!("call {:?}", request.task_name()), &limits)?;
        if self.may_have_remote_hosts() {
            return Ok(());
        }
        let (Some(budget), Some(memory)) = (self.memory_budget, limits.memory) else {
            return Ok(());
        };
        if memory <= budget {
            return Ok(());
        }
        let text = format!(
            "call {:?} with {memory} bytes of memory: the calls of this pool may take {budget} \
             together (Builder::memory_budget); lower the one or raise the other",
            request.task_name()
        );
        Err(Error::new(ErrorKind::BadOption, text))
    }

    /// Refuses limits that contradict each other, or those of the workers' control groups.
    fn check_attempt_limits(&self, what: &str, limits: &AttemptLimits) -> Result<(), Error> {
        check_limits(what, limits)?;
        let group = self.group.as_ref();
        let contradicts = |what: &str, limit: u64, of_group: u64, unit: &str| {
            let text = format!(
                "{what} with {limit} {unit}, where a worker has {of_group} at most \
                    (Builder::cgroup): give the attempt less, or the worker more"
            );
            Err(Error::new(ErrorKind::BadOption, text))
        };
        match (limits.memory, group.and_then(|group| group.memory)) {
            (Some(limit), Some(of_group)) if limit > of_group => {
                return contradicts(what, limit, of_group, "bytes of memory");
            }
            _ => {}
        }
        match (
            limits.processes.map(u64::from),
            group.and_then(|group| group.processes),
        ) {
            (Some(limit), Some(of_group)) if limit > of_group => {
                contradicts(what, limit, of_group, "processes")
            }
            _ => Ok(()),
        }
    }

    /// Refuses points for the OOM killer that this process may not give.
    fn check_oom_score_adj(&self) -> Result<(), Error> {
        let wanted = self.oom_score_adj;
        if !(-1000..=1000).contains(&wanted) {
            return bad(format!(
                "give workers {wanted} points for the OOM killer: there are -1000 to 1000"
            ));
        }
        let own = std::fs::read_to_string("/proc/self/oom_score_adj")
            .ok()
            .and_then(|own| own.trim().parse::<i16>().ok());
        match own {
            Some(own) if wanted < own && wanted != OOM_SCORE_ADJ && !may_lower_oom_score() => {
                let text = format!(
                    "give workers {wanted} points for the OOM killer: this process has {own}, and \
                        only one with CAP_SYS_RESOURCE may give less; give them {own} or more"
                );
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a call whose labels no worker of this pool may ever have: `BadOption`.
    fn check_labels(&self, request: &Request) -> Result<(), Error> {
        if self.may_have_remote_hosts() {
            return Ok(());
        }
        let mut labels = request.options().labels.iter();
        let Some(label) = labels.find(|label| !self.labels.contains(label)) else {
            return Ok(());
        };
        let text = format!(
            "call {:?} where {label:?} is: no worker of this pool may ever have that label",
            request.task_name()
        );
        Err(Error::new(ErrorKind::BadOption, text))
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

/// Points for the OOM killer: about as much as a tenth of the host's memory, so that it chooses a
/// worker before the pool, and neither of them before a program that uses much more.
const OOM_SCORE_ADJ: i16 = 100;

/// Whether this process has CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5)).
fn may_lower_oom_score() -> bool {
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .is_some_and(|effective| effective & SYS_RESOURCE != 0)
}

/// More workers than this are a mistake in the caller's arithmetic.
const WORKERS_MAX: usize = 4096;
/// Less than any call takes.
const BUDGET_BYTES_MIN: u64 = 1 << 20;
pub(super) const SLOTS_MAX: u32 = 65_536;

impl Default for Config {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let environment = INHERITED
            .iter()
            .filter_map(|name| Some((name.into(), std::env::var_os(name)?)))
            .collect();
        Self {
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
            memory_budget: None,
            check_interval: Duration::from_secs(1),
            retry: Retry::default(),
            group: None,
            limits: AttemptLimits::default(),
            oom_score_adj: OOM_SCORE_ADJ,
            core_dumps: false,
            sandbox: None,
            labels: Vec::new(),
            monitor: None,
            #[cfg(feature = "remote")]
            hosts: super::host_settings::HostSettings::default(),
        }
    }
}

fn bad(text: String) -> Result<(), Error> {
    Err(Error::new(ErrorKind::BadOption, text))
}

impl Config {
    /// # Errors
    ///
    /// `BadOption` for settings out of range.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (min, max) = (self.workers_min, self.workers_max);
        if max == 0 && !self.may_have_remote_hosts()
            || max > WORKERS_MAX
            || min > max
            || self.spares > WORKERS_MAX
        {
            return bad(format!(
                "start {min} to {max} workers and {} spares: there are 1 to {WORKERS_MAX}",
                self.spares
            ));
        }
        if self.slots == 0 || self.slots > SLOTS_MAX {
            return bad(format!(
                "give workers {} slots: there are 1 to {SLOTS_MAX}",
                self.slots
            ));
        }
        if self.queue_max == 0 || self.queue_max > 1 << 30 {
            return bad(format!(
                "let {} calls wait: there are 1 to 2^30; use try_call to refuse what would wait",
                self.queue_max
            ));
        }
        self.check_budget()?;
        self.check_limits()
    }

    fn check_budget(&self) -> Result<(), Error> {
        let Some(budget) = self.memory_budget else {
            return Ok(());
        };
        if budget < BUDGET_BYTES_MIN {
            return bad(format!(
                "set a memory budget of {budget} bytes: it is at least {BUDGET_BYTES_MIN}"
            ));
        }
        if self.slots > 1 {
            return bad(format!(
                "set a memory budget where workers have {} slots: what one attempt takes can only \
                 be measured with 1 (Builder::slots)",
                self.slots
            ));
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Error> {
        if !(1 << 10..=1 << 30).contains(&self.payload_bytes_max) {
            return bad(format!(
                "allow payloads of {} bytes: there are 1 KiB to 1 GiB",
                self.payload_bytes_max
            ));
        }
        if !(0..=19).contains(&self.nice) {
            return bad(format!(
                "make workers nice by {}: there are 0 to 19",
                self.nice
            ));
        }
        self.check_attempt_limits("start a pool for attempts", &self.limits)?;
        self.check_oom_score_adj()?;
        if self.start_timeout.is_zero() || self.check_interval < Duration::from_millis(10) {
            return bad(
                "set a start timeout of nothing or a check interval below 10 ms".to_owned(),
            );
        }
        #[cfg(feature = "remote")]
        self.hosts.check()?;
        if self.recycle_calls == Some(0) {
            return bad("replace a worker after 0 calls: there is at least 1".to_owned());
        }
        Ok(())
    }
}
