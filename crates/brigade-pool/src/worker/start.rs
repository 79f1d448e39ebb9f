//! From `exec` to ready: takes the settings that the pool sends, before any code of the user runs.
//!
//! `identity` decides whether this process is a worker at all. Then come, in this order, the
//! control socket, signal handlers, the handshake with settings and data socket, limits, logs, the
//! init hook, and the READY message. A start that fails says why and ends the process.

#![expect(
    unsafe_code,
    reason = "takes over descriptor 0, which no safe value owns"
)]

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::{fs, io, process};

use rustix::process::{Pid, Resource, Rlimit, Signal};

use super::failed_start::{EXIT_START_FAILED, give_up};
use super::serve::Worker;
use super::{crash_note, hooks, hygiene, identity, logs, monitor, panics, serve, title};
use crate::address;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::link;
use crate::options::Options;
use crate::registry::{self, TaskEntry};
use crate::shutdown::spawn_thread;
use crate::wire::{
    Decoder, HEADER_BYTES, Hello, MAGIC, Ready, StartFailed, TaskDefaults, VERSION, WorkerSettings,
    encode, kind,
};

/// A handshake of more than this is not ours.
const HELLO_BYTES_MAX: usize = 1 << 20;
/// Turns this process into a worker if a pool started it as one; then it never returns.
pub(crate) fn enter_if_worker() {
    let Some(pool) = identity::claimed_pool() else {
        return;
    };
    title::prepare();
    if tokio::runtime::Handle::try_current().is_err() {
        live(pool);
    }
    // `init` was called within an async runtime, whose threads must not block on another one, as
    // async tasks do.
    let started = spawn_thread("brigade-main", serve::SLOT_STACK_BYTES, move || live(pool));
    if let Err(e) = started {
        give_up(&format!("a worker could not start its main thread: {e}"));
    }
    monitor::park()
}

/// The life of a worker.
fn live(pool: Pid) -> ! {
    let control = take_control()
        .unwrap_or_else(|e| give_up(&format!("a worker could not take its control socket: {e}")));
    let refused = identity::check_parent(pool, &control);
    match refused.and_then(|()| set_up(&control, pool)) {
        Ok(worker) => {
            serve::run(&worker);
            let logs = logs::enter();
            hooks::tear_down(&worker.settings, worker.state.as_ref());
            drop(logs);
            process::exit(0);
        }
        Err(error) => {
            let message = StartFailed {
                message: error.to_string(),
            };
            send(&control, kind::START_FAILED, &message).ok();
            process::exit(EXIT_START_FAILED);
        }
    }
}

fn set_up(control: &UnixStream, pool: Pid) -> Result<Arc<Worker>, Error> {
    crash_note::install(control.as_fd(), pool)
        .map_err(|e| Error::os("install signal handlers", e))?;
    die_with(pool).map_err(|e| Error::os("tie the worker to its pool", e))?;
    let (hello, data) = receive_hello(control)?;
    check(&hello)?;
    let same_build = hello.build == address::build_id();
    confine(&hello.settings).map_err(|e| Error::os("confine the worker", e))?;
    panics::install(control.as_fd(), hello.settings.slots > 1);
    title::set(&format!("brigade: worker {}", hello.settings.worker));
    if !same_build && (hello.settings.init.is_some() || hello.settings.teardown.is_some()) {
        let text = "run the pool's hooks: this worker is another build of the program, where their \
            addresses mean nothing";
        return Err(Error::new(ErrorKind::OtherBuild, text));
    }
    logs::install(hello.settings.log_level);
    let state = {
        let _logs = logs::enter();
        hooks::build_state(&hello.settings)?
    };
    registry::check()?;
    let ready = Ready {
        magic: MAGIC,
        version: VERSION,
        build: address::build_id(),
        tasks: if hello.settings.report_tasks {
            task_defaults()?
        } else {
            Vec::new()
        },
    };
    let control_copy = control
        .try_clone()
        .map_err(|e| Error::os("copy the control socket", e))?;
    let worker = Worker::new(hello.settings, same_build, state, data, control_copy);
    let worker = Arc::new(worker);
    monitor::start(&worker).map_err(|e| Error::os("start the monitor thread", e))?;
    hygiene::take_baseline();
    send(control, kind::READY, &ready)?;
    logs::connect(&worker);
    Ok(worker)
}

/// The tasks whose registration has options that a pool of another program must be given, by each
/// of their names.
fn task_defaults() -> Result<Vec<TaskDefaults>, Error> {
    let of_task = |task: &'static TaskEntry| {
        let options = task.call_options();
        (options != Options::default()).then_some((task, options))
    };
    let tasks = registry::tasks()?.filter_map(of_task);
    Ok(tasks
        .flat_map(|(task, options)| {
            task.names()
                .map(move |name| TaskDefaults::new(name, options.clone()))
        })
        .collect())
}

/// Moves the control socket away from descriptor 0, which becomes `/dev/null`.
fn take_control() -> io::Result<UnixStream> {
    // SAFETY: descriptor 0 is open for the whole life of the process: it is only ever replaced.
    let zero = unsafe { BorrowedFd::borrow_raw(0) };
    let control = rustix::io::fcntl_dupfd_cloexec(zero, 3)?;
    let null = fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(UnixStream::from(control))
}

/// The kernel sends SIGHUP when the pool's process ends; the handler then ends our whole group.
fn die_with(pool: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::HUP))?;
    if rustix::process::getppid() == Some(pool) {
        Ok(())
    } else {
        process::exit(0)
    }
}

fn receive_hello(control: &UnixStream) -> Result<(Hello, UnixStream), Error> {
    let os = |e| Error::os("receive the handshake", e);
    let mut decoder = Decoder::new(HELLO_BYTES_MAX);
    let mut data = None;
    loop {
        let mut buffer = [0; 4096];
        let (count, descriptor) =
            link::receive_with_descriptor(control, &mut buffer).map_err(os)?;
        if count == 0 {
            // The pool gave this worker up.
            process::exit(0);
        }
        data = data.or(descriptor);
        decoder.buffer().extend_from_slice(&buffer[..count]);
        if let Some(frame) = decoder.next()? {
            let hello: Hello = Codec::Postcard.decode(&frame.body)?;
            let data = data.ok_or_else(|| {
                Error::new(
                    ErrorKind::Protocol,
                    "receive the data socket: it did not come",
                )
            })?;
            return Ok((hello, data.into()));
        }
    }
}

fn check(hello: &Hello) -> Result<(), Error> {
    if hello.magic != MAGIC || hello.version != VERSION {
        let text = format!(
            "agree on a protocol: the pool speaks version {} and this worker {VERSION}",
            hello.version
        );
        return Err(Error::new(ErrorKind::Protocol, text));
    }
    Ok(())
}

/// Niceness, CPU, core dumps, points for the OOM killer, no way to more privileges.
fn confine(settings: &WorkerSettings) -> io::Result<()> {
    if !settings.core_dumps {
        rustix::process::setrlimit(
            Resource::Core,
            Rlimit {
                current: Some(0),
                maximum: Some(0),
            },
        )?;
    }
    // The pool must not be the victim of what its workers use. Without /proc the kernel chooses by
    // size; less than what the pool has was refused where it is not allowed (`Config::check`).
    fs::write(
        "/proc/self/oom_score_adj",
        settings.oom_score_adj.to_string(),
    )
    .ok();
    rustix::thread::set_no_new_privs(true)?;
    if settings.nice != 0 {
        let nice = rustix::process::getpriority_process(None)? + settings.nice;
        rustix::process::setpriority_process(None, nice.min(19))?;
    }
    if let Some(cpu) = settings.cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu as usize);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    Ok(())
}

fn send(control: &UnixStream, kind: u8, message: &impl serde::Serialize) -> Result<(), Error> {
    let body = Codec::Postcard.encode(message)?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&encode(kind, 0, body.len()));
    frame.extend_from_slice(&body);
    (&*control)
        .write_all(&frame)
        .map_err(|e| Error::os("write to the control socket", e))
}
