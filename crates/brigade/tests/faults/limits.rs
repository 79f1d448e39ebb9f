//! Limits of attempts, with real processes that go over them: A7.
//!
//! Each scenario runs three times: as root, where a control group holds what it can; as an ordinary
//! user; and in a mount namespace with read-only control groups, as in a container. What a tree
//! used is measured from outside: by the peak of a control group around the whole program, where
//! the test can make one.

#![expect(
    clippy::disallowed_methods,
    reason = "starts namespaces, and tasks start programs as users' tasks do"
)]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use brigade::{
    AttemptLimits, AttemptOutcome, CallError, Context, ErrorKind, Event, Exit, Failure, LimitHit,
    MemoryHold, MemoryLimit, Pool, Step, TimedOut, task,
};
use brigade_testkit::facts;
use brigade_testkit::program::Program;

use crate::stage::{
    command_by_descriptor, end, event, file, finish, scenarios, until, within, written,
};
use crate::tasks::{How, add, misbehave};

scenarios! {
    a7_limits_that_contradict_each_other_are_refused => contradictions,
    a7_a_task_with_limits_that_leaves_processes_loses_its_worker => left_behind;
    memory,
    cpu,
    memory_after_cpu,
    processes,
    files,
    file_size,
}

/// Limits in the roles that are run three times.
const MEMORY: u64 = 64 << 20;
/// What a tree may use beyond its limit: a tenth, and what the kernel and the program around take.
const SLACK: u64 = MEMORY / 10 + (4 << 20);

macro_rules! three_times {
    ($($role:ident: $root:ident, $user:ident, $namespace:ident;)*) => {
        $(
            #[test]
            fn $root() {
                around(Command::new(std::env::current_exe().unwrap()), stringify!($role));
            }

            #[test]
            fn $user() {
                if let Some(command) = as_user() {
                    around(command, stringify!($role));
                }
            }

            #[test]
            fn $namespace() {
                if let Some(command) = in_namespace() {
                    around(command, stringify!($role));
                }
            }
        )*
    };
}

three_times! {
    memory: a7_memory_is_held_over_the_tree, a7_memory_is_held_for_an_ordinary_user,
        a7_memory_is_held_without_rights_to_control_groups;
    cpu: a7_cpu_time_is_held_over_the_tree, a7_cpu_time_is_held_for_an_ordinary_user,
        a7_cpu_time_is_held_without_rights_to_control_groups;
    memory_after_cpu: a7_memory_is_held_when_the_cpu_time_is_over,
        a7_memory_is_held_for_a_user_when_the_cpu_time_is_over,
        a7_memory_is_held_without_rights_to_groups_when_the_cpu_time_is_over;
    processes: a7_processes_are_held_over_the_tree, a7_processes_are_held_for_an_ordinary_user,
        a7_processes_are_held_without_rights_to_control_groups;
    files: a7_open_files_are_held, a7_open_files_are_held_for_an_ordinary_user,
        a7_open_files_are_held_without_rights_to_control_groups;
    file_size: a7_the_size_of_files_is_held, a7_the_size_of_files_is_held_for_an_ordinary_user,
        a7_the_size_of_files_is_held_without_rights_to_control_groups;
}

/// This program as a user without rights; `None` if it is one already.
fn as_user() -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        println!("MISSING: another user to run as (root)");
        return None;
    }
    let mut command = command_by_descriptor();
    command.uid(65_534).gid(65_534);
    Some(command)
}

/// This program where control groups are read-only, as in most containers.
fn in_namespace() -> Option<Command> {
    let script = "for at in /sys/fs/cgroup /sys/fs/cgroup/*; do \
        mountpoint -q $at && { mount -o remount,bind,ro $at || exit 1; }; done; exec \"$@\"";
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ]);
        command
    };
    if !unshare()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("MISSING: a mount namespace of our own (root, util-linux)");
        return None;
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().unwrap());
    Some(command)
}

/// Runs a role within a control group of its own, which counts what all of it uses.
fn around(command: Command, role: &str) {
    let group = MemoryGroup::new();
    let program = Program::start_by(command, role).unwrap();
    if let Some(group) = &group {
        fs::write(group.0.join("cgroup.procs"), program.pid().to_string()).unwrap();
    }
    finish(program);
}

/// A control group of version 1 below ours.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Option<Self> {
        let own = own_memory_group()?;
        let path = own.join(format!("around-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Some(Self(path)),
            Err(e) => {
                println!("MISSING: a control group around the program: {e}");
                None
            }
        }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A program that failed leaves the groups of its workers.
        let below = fs::read_dir(&self.0).into_iter().flatten().flatten();
        for path in below.map(|entry| entry.path()).chain([self.0.clone()]) {
            let gone = || fs::remove_dir(&path).is_ok() || !path.is_dir();
            facts::wait_until(Duration::from_secs(2), gone);
        }
    }
}

fn own_memory_group() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.split_once(":memory:"))?.1;
    Some(Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')))
}

/// What the program around uses now, and the most that it has used.
fn usage() -> Option<(u64, u64)> {
    let group = own_memory_group()?;
    let is_ours = group.file_name()?.to_str()?.starts_with("around-");
    let of = |file: &str| {
        fs::read_to_string(group.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    is_ours.then_some((
        of("memory.usage_in_bytes")?,
        of("memory.max_usage_in_bytes")?,
    ))
}

/// Runs a shell and waits for it; what it cannot do is a failure.
#[task]
fn shell(script: String) -> Result<i32, Failure> {
    let status = Command::new("sh").args(["-c", &script]).status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => Ok(0),
        other => Err(Failure::new(format!("{other:?}"))),
    }
}

/// Runs until it is asked to stop.
#[task]
fn neighbour(cx: &Context) {
    cx.progress(0.0, "started");
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn memory() {
    let pool = Pool::builder().workers(2).start().await.unwrap();
    let neighbour = pool.call(neighbour());
    within("the neighbour", neighbour.progress().next())
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    }
    let before = usage();
    let held = pool.call(add(1, 2).memory(MEMORY));
    let mut held = std::pin::pin!(held);
    within("a call with a limit", &mut held).await.unwrap();
    let hold = held.report().unwrap().memory_hold.unwrap();
    println!("held by {hold}");
    let is_by_group = hold != MemoryHold::Watch;
    assert_eq!(is_by_group, may_make_groups(), "{hold}");
    let hogs = [
        None,
        Some("for i in 1 2 3; do tail /dev/zero & done; wait; sleep 100"),
        // They leave the group, the session and the parent.
        Some("setsid sh -c 'setsid tail /dev/zero & setsid tail /dev/zero &'; sleep 100"),
    ];
    for hog in hogs {
        // The kernel is exact. The watch needs a CPU at the right moment, which it does not always
        // get on a loaded machine.
        let mut tries = 0;
        loop {
            let used = used_by(&pool, hog, hold).await;
            if let Some((before, _)) = before {
                // The caller does not wait for the end of all that was killed.
                let is_gone = || usage().is_some_and(|(now, _)| now < before + MEMORY / 10);
                until("the tree's memory is free", is_gone).await;
            }
            if used < MEMORY + SLACK {
                break;
            }
            tries += 1;
            assert!(!is_by_group && tries < 5, "{used} bytes");
        }
    }
    let receipt = within("the neighbour", neighbour.cancel("enough")).await;
    assert_eq!(receipt.unwrap().step, Step::Asked, "it is unharmed");
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    if let (Some((before, _)), Some((_, peak))) = (before, usage()) {
        let most = peak.saturating_sub(before);
        println!(
            "the tree used {} of {} KiB at its peak",
            most >> 10,
            MEMORY >> 10
        );
        assert!(!is_by_group || most < MEMORY + SLACK, "{most} bytes");
    }
    end(pool).await;
}

/// Runs a hog, which must end by its limit. Returns what it had then.
async fn used_by(pool: &Pool, hog: Option<&str>, hold: MemoryHold) -> u64 {
    let error = match hog {
        None => {
            let call = misbehave(How::Hog).memory(MEMORY);
            within("the hog", pool.call(call)).await.err()
        }
        Some(script) => {
            let call = shell(script.to_owned()).memory(MEMORY);
            within("the hogs", pool.call(call)).await.err()
        }
    };
    let error = error.expect("it goes over its limit");
    println!("{error}");
    let CallError::Crashed(report) = &error else {
        panic!("{error}")
    };
    let by = match hold {
        MemoryHold::Watch => MemoryLimit::Resident,
        _ => MemoryLimit::Cgroup,
    };
    assert_eq!(report.ended, AttemptOutcome::OutOfMemory(by));
    assert_eq!(report.memory_hold, Some(hold));
    match report.limit {
        Some(LimitHit::Memory {
            allowed: MEMORY,
            used,
        }) if used >= MEMORY => used,
        _ => panic!("{error}"),
    }
}

/// Whether this program may make control groups.
fn may_make_groups() -> bool {
    let Some(group) = own_memory_group() else {
        return false;
    };
    let path = group.join(format!("probe-{}", std::process::id()));
    let made = fs::create_dir(&path).is_ok();
    fs::remove_dir(&path).ok();
    made
}

async fn cpu() {
    let pool = Pool::builder()
        .workers(1)
        .kill_after(Duration::ZERO, Duration::from_millis(100))
        .start()
        .await
        .unwrap();
    let limit = Duration::from_millis(300);
    let scripts = [
        "while :; do :; done",
        // Children that are there, that were waited for, and that left.
        "for i in 1 2 3 4 5 6 7 8 9; do sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); \
            done'; done; setsid sh -c 'setsid sh -c \"while :; do :; done\" &'; sleep 100",
    ];
    for script in scripts {
        let call = shell(script.to_owned()).cpu(limit);
        let error = within("the loop", pool.call(call)).await.unwrap_err();
        println!("{error}");
        let CallError::TimedOut(TimedOut::Cpu(report)) = &error else {
            panic!("{error}")
        };
        assert_eq!(report.ended, AttemptOutcome::OverLimit);
        let Some(LimitHit::Cpu { allowed, used }) = report.limit else {
            panic!("{error}")
        };
        assert!(allowed == limit && used >= limit, "{error}");
        assert!(
            error.reason().contains("CPU limit 300"),
            "{}",
            error.reason()
        );
    }
    let call = shell("true".to_owned()).cpu(limit);
    assert_eq!(within("a short one", pool.call(call)).await.unwrap(), 0);
    end(pool).await;
}

/// Computes until it is asked to stop, and fills memory then.
#[task]
fn fills_memory_when_asked(cx: &Context) -> usize {
    while !cx.is_cancelled() {
        std::hint::spin_loop();
    }
    let filled: Vec<Vec<u8>> = (0..512).map(|_| vec![1; 1 << 20]).collect();
    filled.len()
}

/// The other limits hold until an attempt that used up its CPU time has ended.
async fn memory_after_cpu() {
    let long = Duration::from_secs(60);
    let pool = Pool::builder()
        .workers(1)
        .kill_after(long, long)
        .start()
        .await
        .unwrap();
    let call = fills_memory_when_asked()
        .cpu(Duration::from_millis(100))
        .memory(64 << 20);
    let error = within("both limits", pool.call(call)).await.unwrap_err();
    let CallError::TimedOut(TimedOut::Cpu(report)) = &error else {
        panic!("{error}")
    };
    let peak = report.cost.memory_peak.unwrap_or(u64::MAX);
    assert!(peak < 256 << 20, "{peak}: {error}");
    end(pool).await;
}

async fn processes() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let few = shell("sleep 0 & sleep 0 & wait".to_owned()).processes(8);
    assert_eq!(within("a few", pool.call(few)).await.unwrap(), 0);
    let script = "i=0; while [ $i -lt 200 ]; do sleep 100 & i=$((i+1)); done; wait";
    let mut handle = pool.call(shell(script.to_owned()).processes(8));
    let error = within("the bomb", &mut handle).await.unwrap_err();
    println!("{error}");
    let report = handle
        .report()
        .or_else(|| error.report().cloned().map(Box::new));
    let report = report.unwrap();
    let Some(LimitHit::Processes { allowed: 8, used }) = report.limit else {
        panic!("{report}")
    };
    match &error {
        // The kernel refused a fork, and the shell gave up.
        CallError::Failed(_) => assert_eq!(used, 8),
        CallError::Crashed(_) => {
            assert_eq!(report.ended, AttemptOutcome::OverLimit);
            assert!(used > 8, "{report}");
        }
        _ => panic!("{error}"),
    }
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

#[task]
fn open_files() -> usize {
    let open = |_| fs::File::open("/dev/null").ok();
    let files: Vec<_> = (0..1000).map_while(open).collect();
    files.len()
}

async fn files() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    for count in [1_u32, 20] {
        let open = within("the files", pool.call(open_files().files(count))).await;
        assert_eq!(open.unwrap(), count as usize);
    }
    let open = within("without a limit", pool.call(open_files()))
        .await
        .unwrap();
    assert!(open > 20, "the limit was taken back: {open}");
    assert_eq!(pool.stats().crashed, 0);
    end(pool).await;
}

#[task]
fn write_file(path: String, bytes: u64) -> u64 {
    let chunk = vec![7; 4096];
    let mut file = fs::File::create(path).unwrap();
    let mut written = 0;
    while written < bytes {
        std::io::Write::write_all(&mut file, &chunk).unwrap();
        written += 4096;
    }
    written
}

async fn file_size() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let path = || format!("/tmp/brigade-file-size-{}", std::process::id());
    let call = |bytes| write_file(path(), bytes).file_size(64 << 10);
    assert_eq!(
        within("a small one", pool.call(call(64 << 10)))
            .await
            .unwrap(),
        64 << 10
    );
    let error = within("a large one", pool.call(call(1 << 20)))
        .await
        .unwrap_err();
    println!("{error}");
    let CallError::Crashed(report) = &error else {
        panic!("{error}")
    };
    assert_eq!(report.ended, AttemptOutcome::OverLimit);
    assert_eq!(report.exit, Some(Exit::Signal(libc::SIGXFSZ)));
    assert_eq!(report.limit, Some(LimitHit::FileSize { allowed: 64 << 10 }));
    assert_eq!(fs::metadata(path()).unwrap().len(), 64 << 10);
    fs::remove_file(path()).unwrap();
    end(pool).await;
}

async fn contradictions() {
    let limits = AttemptLimits::new();
    let bad = [
        limits.memory(1),
        limits.memory(64 << 20).address_space(32 << 20),
        limits.cpu(Duration::from_millis(1)),
        limits.files(0),
    ];
    for limits in bad {
        let started = Pool::builder().workers(1).limits(limits).start().await;
        let error = started.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadOption, "{limits:?}: {error}");
    }
    let started = Pool::builder().workers(1).oom_score_adj(2000).start().await;
    assert_eq!(started.unwrap_err().kind(), ErrorKind::BadOption);
    // A call and the default of its pool, which fit alone.
    let limits = limits.address_space(1 << 30);
    let pool = Pool::builder()
        .workers(1)
        .limits(limits)
        .start()
        .await
        .unwrap();
    let error = within("a call", pool.call(add(1, 2).memory(2 << 30)))
        .await
        .unwrap_err();
    assert_eq!(error.rejected(), Some(ErrorKind::BadOption), "{error}");
    let mut held = pool.call(add(1, 2));
    within("a call", &mut held).await.unwrap();
    assert_eq!(
        held.report().unwrap().memory_hold,
        Some(MemoryHold::AddressSpace)
    );
    end(pool).await;
}

async fn left_behind() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let mut events = pool.events();
    let script = format!(
        "sleep 100 & echo $! > {0}.new; mv {0}.new {0}",
        file("left")
    );
    let call = shell(script).memory(256 << 20);
    assert_eq!(within("a call", pool.call(call)).await.unwrap(), 0);
    let left: u32 = written("left").await.parse().unwrap();
    event(&mut events, "its worker goes", |event| {
        matches!(event, Event::WorkerRetiring { reason, .. } if reason.contains("left processes"))
            .then_some(())
    })
    .await;
    until("what it left is gone", || !facts::is_alive(left)).await;
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}
