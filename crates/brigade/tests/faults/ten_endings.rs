//! Ten ways to end at once, among neighbours: each outcome is right and its report whole, the
//! neighbours run on, the pool is at its full size again, and nothing is left.
//!
//! The same scenario runs as the user who runs the tests, as an ordinary user, and where no control
//! group can be made.

#![expect(
    clippy::disallowed_methods,
    reason = "starts namespaces, and processes that misbehave"
)]
#![expect(unsafe_code, reason = "forks, as hostile code does")]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use brigade::{
    AttemptOutcome, AttemptReport, Call, CallError, Context, Event, Events, Exit, LimitHit, Pool,
    Step, task,
};
use brigade_testkit::facts;
use brigade_testkit::program::Program;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::stage::{assert_childless, end, event, finish, millis, scenarios, until, within};
use crate::tasks::{How, add, harm};

scenarios! {
    x_ten_endings_at_once => ten_endings,
}

/// Workers that only wait for the end of the test.
const NEIGHBOURS: usize = 3;
const WORKERS: usize = NEIGHBOURS + 10;
/// Memory that one of them may use.
const MEMORY: u64 = 64 << 20;
/// Processes and threads that the fork bomb may have.
const PROCESSES: u32 = 40;

#[test]
fn x_ten_endings_at_once_of_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return println!("MISSING: root; `x_ten_endings_at_once` ran as an ordinary user");
    }
    let mut command = crate::stage::command_by_descriptor();
    command.uid(65_534).gid(65_534);
    finish(Program::start_by(command, "ten_endings").unwrap());
}

/// As in a container: the groups of the host are not there.
#[test]
fn x_ten_endings_at_once_without_control_groups() {
    let script = "mount -t tmpfs none /sys/fs/cgroup && exec \"$0\" \"$@\"";
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--cgroup", "sh", "-c", script]);
        command
    };
    let status = unshare().arg("true").status();
    if !status.is_ok_and(|status| status.success()) {
        return println!("MISSING: a mount namespace of our own (root, util-linux)");
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().unwrap());
    finish(Program::start_by(command, "ten_endings").unwrap());
}

// -- the tasks

/// Waits until the other side closes the connection; returns this process.
#[task]
fn wait_for_close(port: u16) -> u32 {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.read_to_end(&mut Vec::new()).ok();
    std::process::id()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Ending {
    Harm(How),
    HogByChildren,
    ForkBomb,
}

/// Says that it begins, then ends.
#[task]
fn end_by(cx: &Context, name: String, ending: Ending) -> i64 {
    eprintln!("{name} begins");
    cx.progress(0.5, &name);
    match ending {
        Ending::Harm(how) => harm(how),
        Ending::HogByChildren => hog_by_children(),
        Ending::ForkBomb => fork_bomb(),
    }
    42
}

/// Four children fill 100 MiB each, step by step, while this process itself takes nothing.
fn hog_by_children() {
    const STEP: usize = 1 << 20;
    for _ in 0..4 {
        // SAFETY: the child only makes calls that are safe after a fork, and fills memory that it
        // has just mapped.
        unsafe {
            if libc::fork() == 0 {
                for _ in 0..100 {
                    let memory = libc::mmap(
                        std::ptr::null_mut(),
                        STEP,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                        -1,
                        0,
                    );
                    if memory != libc::MAP_FAILED {
                        memory.cast::<u8>().write_bytes(1, STEP);
                    }
                    libc::usleep(1000);
                }
                loop {
                    libc::pause();
                }
            }
        }
    }
    harm(How::Spin);
}

/// Starts shells that start more, in sessions of their own; never more than ninety.
fn fork_bomb() {
    for _ in 0..30 {
        let script = "setsid sleep 1000 & sleep 1000 & wait";
        let shell = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .spawn();
        drop(shell);
    }
    harm(How::Spin);
}

// -- the scenario

/// The ten, with what is special in their options.
fn calls() -> Vec<(&'static str, Call<i64>)> {
    let call = |name: &'static str, ending| (name, end_by(name.to_owned(), ending));
    let harmful = |name, how| call(name, Ending::Harm(how));
    let timed = |(name, call): (_, Call<i64>)| (name, call.timeout(millis(500)));
    let limited = |(name, call): (_, Call<i64>)| (name, call.memory(MEMORY));
    let bomb = timed(call("fork bomb", Ending::ForkBomb));
    vec![
        harmful("segfault", How::Segv),
        harmful("stack overflow", How::StackOverflow),
        harmful("abort", How::Abort),
        limited(harmful("hog", How::Hog)),
        limited(call("hog by children", Ending::HogByChildren)),
        harmful("exit", How::Exit(3)),
        timed(harmful("loop", How::Spin)),
        timed(harmful("deaf loop", How::SpinWithSignalsBlocked)),
        timed(harmful("stopped", How::StopSelf)),
        (bomb.0, bomb.1.processes(PROCESSES)),
    ]
}

async fn ten_endings() {
    let builder = Pool::builder()
        .workers(WORKERS)
        .kill_after(millis(100), millis(100));
    let pool = within("the start", builder.start()).await.unwrap();
    within("the workers", pool.ready(WORKERS)).await.unwrap();
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gate.local_addr().unwrap().port();
    let neighbours: Vec<_> = (0..NEIGHBOURS)
        .map(|_| pool.call(wait_for_close(port)))
        .collect();
    let mut held = Vec::new();
    for _ in 0..NEIGHBOURS {
        held.push(within("a neighbour", gate.accept()).await.unwrap());
    }
    let busy: BTreeSet<u32> = busy_workers(&pool);
    assert_eq!(busy.len(), NEIGHBOURS);

    let size = tokio::spawn(last_death_to_full_size(pool.events()));
    let calls: Vec<_> = calls()
        .into_iter()
        .map(|(name, call)| (name, pool.call(call)))
        .collect();
    for (name, call) in calls {
        let outcome = within(name, call).await;
        let error = outcome.expect_err(name);
        println!("{name}: {error}");
        check(name, &error);
    }
    let took = within("full size", size).await.unwrap();
    println!("full size {took:.1?} after the last death");
    assert_eq!(busy_workers(&pool), busy, "the neighbours run on");
    let stats = pool.stats();
    assert_eq!((stats.workers, stats.busy), (WORKERS, NEIGHBOURS));

    drop(held);
    let mut done = BTreeSet::new();
    for neighbour in neighbours {
        done.insert(within("a neighbour", neighbour).await.unwrap());
    }
    assert_eq!(done, busy, "each ended in the worker that it began in");
    let sums: Vec<_> = (0..20).map(|n| pool.call(add(n, n))).collect();
    for (n, sum) in (0..).zip(sums) {
        assert_eq!(within("a sum", sum).await.unwrap(), 2 * n);
    }
    until("nothing but the workers is left", || {
        facts::children(std::process::id()).len() == WORKERS
    })
    .await;
    end(pool).await;
    assert_childless();
}

fn busy_workers(pool: &Pool) -> BTreeSet<u32> {
    let workers = pool.workers();
    let busy = workers.iter().filter(|worker| worker.running > 0);
    busy.filter_map(|worker| worker.pid).collect()
}

/// From the moment at which the last of the ten workers was gone until ten others were ready.
async fn last_death_to_full_size(mut events: Events) -> Duration {
    let (mut gone, mut ready, mut last) = (0, 0, Instant::now());
    while gone < 10 || ready < 10 {
        let is_end = event(&mut events, "a worker", |event| match event {
            Event::WorkerGone { .. } => Some(true),
            Event::WorkerReady { .. } => Some(false),
            _ => None,
        });
        if is_end.await {
            (gone, last) = (gone + 1, Instant::now());
        } else {
            ready += 1;
        }
    }
    last.elapsed()
}

fn check(name: &str, error: &CallError) {
    let report = error.report().unwrap_or_else(|| panic!("{name}: {error}"));
    check_whole(name, report);
    let signal = |signal| Some(Exit::Signal(signal));
    match name {
        "segfault" => {
            assert_eq!(report.ended, AttemptOutcome::Signalled, "{error}");
            assert_eq!(report.exit, signal(libc::SIGSEGV), "{error}");
        }
        "stack overflow" => {
            assert_eq!(report.ended, AttemptOutcome::StackOverflow, "{error}");
        }
        "abort" => {
            assert_eq!(report.ended, AttemptOutcome::Signalled, "{error}");
            assert_eq!(report.exit, signal(libc::SIGABRT), "{error}");
        }
        "hog" | "hog by children" => {
            let is_over = matches!(report.ended, AttemptOutcome::OutOfMemory(_));
            assert!(is_over, "{name}: {error}");
            assert!(report.memory_hold.is_some(), "{name}: {report:?}");
        }
        "exit" => {
            assert_eq!(report.ended, AttemptOutcome::Exited, "{error}");
            assert_eq!(report.exit, Some(Exit::Code(3)), "{error}");
        }
        "loop" => stopped(error, report, Step::Terminated),
        "deaf loop" => stopped(error, report, Step::Killed),
        "stopped" => {
            stopped(error, report, Step::Killed);
            assert_eq!(report.stopped_by.as_deref(), Some("SIGSTOP"), "{error}");
        }
        // In a control group its next process is refused, and it runs on until its time is over.
        "fork bomb" => match report.ended {
            AttemptOutcome::TimedOut => stopped(error, report, Step::Terminated),
            _ => {
                assert_eq!(report.ended, AttemptOutcome::OverLimit, "{error}");
                let is_by = matches!(report.limit, Some(LimitHit::Processes { .. }));
                assert!(is_by, "{error}");
            }
        },
        _ => unreachable!("{name} is one of the ten"),
    }
    let is_crash = matches!(error, CallError::Crashed(_));
    assert_eq!(
        is_crash,
        report.ended != AttemptOutcome::TimedOut,
        "{error}"
    );
}

/// It ran out of time, and this step of the kill ladder ended it; on a busy machine a harder one.
fn stopped(error: &CallError, report: &AttemptReport, step: Step) {
    assert!(matches!(error, CallError::TimedOut(_)), "{error}");
    assert_eq!(report.ended, AttemptOutcome::TimedOut, "{error}");
    assert!(report.step >= Some(step), "{error}");
}

/// What each report says, whatever the ending.
fn check_whole(name: &str, report: &AttemptReport) {
    assert_eq!(report.task, "end_by");
    assert_eq!(report.attempt, 1);
    assert!(report.worker > 0 && report.pid > 0, "{report:?}");
    assert!(report.exit.is_some(), "{report:?}");
    assert!(report.cost.wall > Duration::ZERO, "{report:?}");
    assert!(report.cost.cpu.is_some(), "{report:?}");
    assert!(report.cost.memory_peak.is_some(), "{report:?}");
    assert_eq!(report.progress, Some((0.5, name.to_owned())), "{report:?}");
    assert!(
        report.stderr.contains(&format!("{name} begins")),
        "{report:?}"
    );
}
