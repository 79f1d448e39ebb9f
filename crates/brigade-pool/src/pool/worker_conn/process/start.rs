//! From the decision to start a worker to its handshake, or to the reason why there is none.
//!
//! The process is spawned, watched from then on by its pidfd, put in its control group, and given
//! its settings and its data socket. A start that fails ends and reaps the process and says why,
//! with the last line that it wrote.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::super::config::Config;
use super::super::super::ids::WorkerId;
use super::super::super::logs;
use super::super::super::shared::Shared;
use super::super::ProcessMemory;
use super::super::outgoing::TASK_NAME_BYTES_MAX;
use super::health::PingState;
use super::limits::LimitHolder;
use super::reports::FinalReports;
use super::service::pump;
use super::{CONTROL_BYTES_MAX, WorkerProcess};
use crate::address;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::link::{self, Channel};
use crate::policy::check_call;
use crate::process::proc_fs::{memory_of, starved_for};
use crate::process::{self, Command, ControlGroup, Pipe, Process, Spawned, WORKER_VARIABLE};
use crate::wire::{
    self, Decoder, Hello, MAGIC, Ready, StartFailed, TaskDefaults, VERSION, WorkerSettings, kind,
};
use brigade_runtime::mark::TREE_VARIABLE;

/// A worker that is ready, and what its program says of its tasks if that is another one.
pub(super) struct Started {
    pub(super) worker: WorkerProcess,
    pub(super) tasks: Vec<TaskDefaults>,
}

pub(super) async fn start(shared: &Shared, id: WorkerId) -> Result<Started, Error> {
    let config = &*shared.config;
    let cookie = process::cookie();
    let spawned = process::spawn(command(config, &cookie)).await?;
    let os = |what: &str, e| Error::os(format!("{what}: {e}"), e);
    let Spawned {
        pid,
        watch,
        control,
        stdout,
        stderr,
    } = spawned;
    let process = Process::new(pid, watch, cookie).map_err(|e| os("watch the worker", e))?;
    // From here on the process is ended and reaped on every way out, by its `Drop` if by nothing
    // else.
    let group = control_group(config, &process)?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| os("make a socket pair", e))?;
    let settings = settings(config, id.number);
    let logs = settings.log_level > 0;
    send_settings(&control, settings, &theirs)?;
    drop(theirs);
    let control = Channel::new(control).map_err(|e| os("register the control socket", e))?;
    let data = Channel::new(ours).map_err(|e| os("register the data socket", e))?;
    let stdout = Pipe::stdout(stdout, config.stdout_to_stderr)
        .map_err(|e| os("register standard output", e))?;
    let stderr = Pipe::stderr(stderr).map_err(|e| os("register standard error", e))?;

    let outcome = tokio::select! {
        outcome = in_own_time(config.start_timeout, process.shown, shake_hands(&control, config.runs_own_program())) => outcome,
        () = pump(&stdout, &stderr) => unreachable!("the pumps do not end"),
        () = given_up(shared) => Ok(Err(Error::new(ErrorKind::Closed, "start a worker: the pool is \
            gone"))),
    };
    let outcome = match outcome {
        Ok(shaken) => shaken.map_err(|error| error.to_string()),
        Err(late) => Err(late.to_string()),
    };
    let tasks = match outcome {
        Ok(tasks) => tasks,
        Err(reason) => return Err(failed(process, &control, &reason, &stderr).await),
    };
    let shown = process.shown;
    process.look_at_peak(shown);
    let [used, resident, peak] = memory_of(shown);
    let memory_at_ready = ProcessMemory {
        used,
        resident,
        peak,
    };
    let worker = WorkerProcess {
        id,
        process,
        shown,
        data: Arc::new(data),
        control,
        stdout,
        stderr,
        is_capturing: AtomicBool::new(false),
        limits: LimitHolder::new(group),
        retire: CancellationToken::new(),
        health: PingState::default(),
        memory_at_ready,
        reports: Mutex::new(FinalReports::default()),
        broken: CancellationToken::new(),
        unread: AtomicBool::new(false),
        logs,
    };
    Ok(Started { worker, tasks })
}

/// Puts the process into a control group of its own, if there are limits for one.
fn control_group(config: &Config, process: &Process) -> Result<Option<ControlGroup>, Error> {
    let group = match &config.group {
        Some(limits) => ControlGroup::create(&process.cookie, limits)?,
        // Made ahead of the first attempt.
        None if config.limits.needs_a_watch() => {
            match ControlGroup::create_if_possible(&process.cookie) {
                Some(group) => group,
                None => return Ok(None),
            }
        }
        None => return Ok(None),
    };
    group
        .add(process.pid.as_raw_nonzero().get().cast_unsigned())
        .map_err(|e| Error::os(format!("move the worker into its control group: {e}"), e))?;
    Ok(Some(group))
}

/// Sends the worker its settings, and its end of the data socket.
fn send_settings(
    control: &UnixStream,
    settings: WorkerSettings,
    theirs: &UnixStream,
) -> Result<(), Error> {
    let body = Codec::Postcard.encode(&Hello {
        magic: MAGIC,
        version: VERSION,
        build: address::build_id(),
        settings,
    })?;
    let hello = [&wire::encode(kind::HELLO, 0, body.len())[..], &body].concat();
    match link::send_with_descriptor(control, &hello, theirs.as_fd()) {
        // It has ended already: reading its answer shows how and why.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
        sent => sent.map_err(|e| Error::os(format!("send the handshake: {e}"), e))?,
    }
    Ok(())
}

/// A worker that was not ready in time.
struct Late {
    limit: Duration,
    took: Duration,
    /// For how long of that it was ready to run and got no CPU.
    starved: Duration,
    /// Its `main` has come to `brigade::init()`.
    entered: bool,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            limit,
            took,
            starved,
            entered,
        } = self;
        write!(f, "it was not ready within {limit:?}")?;
        if *starved > *took / 10 {
            write!(
                f,
                " of its own time: for {starved:.1?} of {took:.1?} it waited for a CPU, so the \
                    machine is busy; start fewer workers at once, or \
                 allow more time (Builder::start_timeout)"
            )
        } else if *entered {
            f.write_str(
                ": its init hook takes longer (Builder::init); allow more time \
                (Builder::start_timeout)",
            )
        } else {
            f.write_str(": does its main call brigade::init() first?")
        }
    }
}

/// A worker that gets next to no CPU is given up after so many times its time.
const STARVED_FACTOR_MAX: u32 = 30;
/// The time of a starting worker is not cut finer.
const START_SLICE: Duration = Duration::from_millis(20);

/// Gives a starting worker its time, of which what it waited for a CPU does not count: many that
/// load a model at once are no fault of one.
async fn in_own_time<F: Future>(
    limit: Duration,
    shown: Option<u32>,
    start: F,
) -> Result<F::Output, Late> {
    let (began, mut start) = (Instant::now(), pin!(start));
    let mut slice = limit;
    loop {
        if let Ok(output) = timeout(slice, start.as_mut()).await {
            return Ok(output);
        }
        let took = began.elapsed();
        let starved = starved_for(shown).min(took);
        slice = limit.saturating_sub(took - starved).max(START_SLICE);
        if took - starved >= limit || took >= limit.saturating_mul(STARVED_FACTOR_MAX) {
            let title = shown
                .and_then(|shown| std::fs::read(format!("/proc/{shown}/cmdline")).ok())
                .unwrap_or_default();
            return Err(Late {
                limit,
                took,
                starved,
                entered: title.starts_with(b"brigade: worker"),
            });
        }
    }
}

/// Until the start of a worker is given up: at once if the pool was dropped; in the
/// time of a teardown after a shutdown, so that an init hook which is nearly through can be undone
/// in good order.
async fn given_up(shared: &Shared) {
    tokio::select! {
        () = shared.killed.cancelled() => {}
        () = shared.scope.closed() => sleep(shared.config.teardown_timeout).await,
    }
}

/// Ends a process that did not become a worker and says why.
async fn failed(process: Process, control: &Channel, reason: &str, stderr: &Pipe) -> Error {
    // It has closed its socket or said no; a little patience shows how it ends by itself.
    let own_end = timeout(START_END_GRACE, process.ended()).await.is_ok();
    process
        .kill(|| control.send(kind::END, 0, &[libc::SIGKILL.to_le_bytes()[0]]))
        .await;
    let death = process.reap();
    process::sweep(&process).await;
    process.gone.cancel();
    let mut text = format!("start a worker: {reason}");
    if own_end {
        text.push_str(&format!(" ({})", death.exit));
    }
    let tail = stderr.tail();
    if let Some(last) = tail.lines().rev().find(|line| !line.trim().is_empty()) {
        text.push_str(&format!("; its last line: {last}"));
    }
    Error::new(ErrorKind::CannotStart, text)
}

/// The most tasks of another program whose options a pool keeps.
const PROGRAM_TASKS_MAX: usize = 10_000;
/// From a failed start to the end of the process.
const START_END_GRACE: Duration = Duration::from_millis(50);

/// Waits for READY. Returns the tasks that it brings.
async fn shake_hands(control: &Channel, own_program: bool) -> Result<Vec<TaskDefaults>, Error> {
    let mut decoder = Decoder::new(CONTROL_BYTES_MAX);
    loop {
        if let Some(frame) = decoder.next()? {
            match frame.kind {
                // A panic of the init hook is repeated in START_FAILED.
                kind::PANIC | kind::CRASH_NOTE => continue,
                kind::START_FAILED => {
                    let failed: StartFailed = Codec::Postcard.decode(&frame.body)?;
                    return Err(broke(&failed.message));
                }
                kind::READY => {
                    let ready: Ready = Codec::Postcard.decode(&frame.body)?;
                    if ready.magic != MAGIC || ready.version != VERSION {
                        return Err(broke(&format!(
                            "it speaks version {} of the protocol, this pool {VERSION}",
                            ready.version
                        )));
                    }
                    // Its executable is what this process runs, unless the builder names another.
                    if own_program && ready.build != address::build_id() {
                        return Err(broke(
                            "it is another build of this program, although it was started from the \
                                same file",
                        ));
                    }
                    return check_tasks(ready.tasks, own_program);
                }
                _ => return Err(broke("its first message is not a handshake")),
            }
        }
        if !matches!(control.read(&mut decoder).await, Ok(1..)) {
            return Err(broke("it ended before it was ready"));
        }
    }
}

fn broke(how: &str) -> Error {
    Error::new(ErrorKind::CannotStart, how.to_owned())
}

/// The options of the tasks of another program. This program's own pool knows its tasks itself.
fn check_tasks(tasks: Vec<TaskDefaults>, own_program: bool) -> Result<Vec<TaskDefaults>, Error> {
    if own_program && !tasks.is_empty() {
        return Err(broke("it names tasks, which only another program does"));
    }
    if tasks.len() > PROGRAM_TASKS_MAX {
        return Err(broke(&format!(
            "it has {} tasks, {PROGRAM_TASKS_MAX} at most are allowed",
            tasks.len()
        )));
    }
    let is_valid = |task: &TaskDefaults| {
        task.name.len() <= TASK_NAME_BYTES_MAX && check_call(&task.options()).is_ok()
    };
    if !tasks.iter().all(is_valid) {
        return Err(broke(
            "a task of it has a name that is too long, or a timeout of zero",
        ));
    }
    Ok(tasks)
}

fn command(config: &Config, cookie: &str) -> Command {
    // First, because its memory follows the arguments', and padded, so that the worker's title has
    // room there.
    let mut environment: Vec<(OsString, OsString)> = vec![(
        WORKER_VARIABLE.into(),
        format!("{:<96}", std::process::id()).into(),
    )];
    environment.extend(
        config
            .environment
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    let tree = match std::env::var(TREE_VARIABLE) {
        Ok(outer) => format!("{outer}/{cookie}"),
        Err(_) => cookie.to_owned(),
    };
    environment.push((TREE_VARIABLE.into(), tree.into()));
    Command {
        program: config.program.clone(),
        argv0: config.argv0(),
        args: config.arguments.clone(),
        environment,
        directory: config.directory.clone(),
    }
}

fn settings(config: &Config, number: u32) -> WorkerSettings {
    let cpu = config.pinned.then(|| allowed_cpu(number)).flatten();
    WorkerSettings {
        worker: number,
        slots: config.slots,
        payload_bytes_max: config.payload_bytes_max as u64,
        cpu,
        nice: config.nice,
        init: config.init.clone(),
        teardown: config.teardown,
        drop_after: config.ask / 2,
        log_level: logs::level(config.logs),
        report_tasks: !config.runs_own_program(),
        oom_score_adj: config.oom_score_adj,
        core_dumps: config.core_dumps,
        runs_once: config.recycle_calls == Some(1),
    }
}

/// The worker's CPU: one of those that this process may use, in turn.
fn allowed_cpu(number: u32) -> Option<u32> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    let allowed: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect();
    let cpu = allowed.get((number as usize - 1) % allowed.len().max(1))?;
    u32::try_from(*cpu).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn task(name: &str, timeout: Option<Duration>) -> TaskDefaults {
        let options = Options {
            timeout,
            ..Options::default()
        };
        TaskDefaults::new(name, options)
    }

    #[test]
    fn tasks_of_another_program_are_checked() {
        let many = |count| (0..count).map(|n| task(&n.to_string(), None)).collect();
        assert_eq!(
            check_tasks(many(PROGRAM_TASKS_MAX), false).unwrap().len(),
            PROGRAM_TASKS_MAX
        );
        check_tasks(many(PROGRAM_TASKS_MAX + 1), false).unwrap_err();
        check_tasks(many(0), true).unwrap();
        check_tasks(many(1), true).unwrap_err();
        let longest = "n".repeat(TASK_NAME_BYTES_MAX);
        check_tasks(vec![task(&longest, None)], false).unwrap();
        check_tasks(vec![task(&format!("{longest}n"), None)], false).unwrap_err();
        check_tasks(vec![task("zero", Some(Duration::ZERO))], false).unwrap_err();
    }
}
