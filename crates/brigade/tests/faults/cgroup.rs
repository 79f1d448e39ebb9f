//! Memory, processes and process trees that outgrow their worker: A7, A8.
//!
//! Control groups need root or a delegated group. Where the library is refused one, the test checks
//! that it says so and goes on without.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use brigade::{
    AttemptOutcome, Builder, CallError, ErrorKind, Event, Exit, GroupLimits, MemoryLimit, Pool,
    Step,
};
use brigade_testkit::facts;
use brigade_testkit::program::Program;

use crate::stage::{
    assert_childless, end, event, file, finish, millis, scenarios, until, within, written,
};
use crate::tasks::{How, add, family, fork_bomb, misbehave};

scenarios! {
    a7_out_of_memory_by_address_space => address_space,
    a7_out_of_memory_by_cgroup => killed_by_the_kernel,
    a8_a_fork_bomb_stays_in_its_group => bomb,
    a8_no_grandchild_outlives_a_cancel => cancelled_family,
    a8_no_grandchild_outlives_a_crash => crashed_family,
    a8_two_pools_may_have_groups => two_pools;
    refused_group,
    grouped_parent,
    heir_of_groups,
}

/// A host that is killed cannot remove the groups of its workers; the next one does.
#[test]
fn a8_the_groups_of_a_killed_host_are_removed_by_the_next() {
    let mut program = Program::start("grouped_parent").unwrap();
    let line = program
        .line("workers ", crate::stage::BOUND)
        .unwrap_or_else(|| panic!("{}", program.log()));
    if line == "none" {
        return finish(program);
    }
    let left = || groups_of(line.parse().unwrap());
    assert!(!left().is_empty());
    assert!(program.signal(rustix::process::Signal::KILL));
    program.wait(crate::stage::BOUND).expect("SIGKILL ends it");
    // It is one of a live host for as long as that may be so.
    crate::stage::run("heir_of_groups");
    assert_eq!(
        left(),
        Vec::<String>::new(),
        "groups of a dead host are left"
    );
}

async fn grouped_parent() {
    let Some(_pool) = grouped(Pool::builder().workers(2), limits(None, Some(500))).await else {
        return println!("workers none");
    };
    println!("workers {}", std::process::id());
    tokio::time::sleep(Duration::from_secs(60)).await;
}

async fn heir_of_groups() {
    let Some(pool) = grouped(Pool::builder().workers(1), limits(None, Some(500))).await else {
        return;
    };
    let own = std::process::id();
    assert!(!groups_of(own).is_empty(), "its own stay");
    until("no group of a dead host", || {
        !all_groups().iter().any(|(pid, _)| !facts::is_alive(*pid))
    })
    .await;
    assert!(!groups_of(own).is_empty(), "its own stay");
    end(pool).await;
}

/// Without rights to make one, a group is refused with a kind of its own.
#[test]
fn a7_a_group_that_cannot_be_made_is_unsupported() {
    #[expect(
        clippy::disallowed_methods,
        reason = "starts this program without rights"
    )]
    let mut command = Command::new(std::env::current_exe().unwrap());
    if rustix::process::geteuid().is_root() {
        // An unprivileged user on every Unix (65534). The binary may lie where only root can look,
        // hence the descriptor.
        command = crate::stage::command_by_descriptor();
        command.uid(65_534).gid(65_534);
    }
    finish(Program::start_by(command, "refused_group").unwrap());
}

async fn refused_group() {
    assert!(!rustix::process::geteuid().is_root());
    let began = std::time::Instant::now();
    let error = within(
        "the start",
        Pool::builder()
            .workers(1)
            .cgroup(limits(Some(64 << 20), None))
            .start(),
    )
    .await
    .unwrap_err();
    println!("{error:?} after {:.1?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("control group"), "{error}");
    assert_childless();
}

fn limits(memory: Option<u64>, processes: Option<u64>) -> GroupLimits {
    let mut limits = GroupLimits::default();
    (limits.memory, limits.processes) = (memory, processes);
    limits
}

/// A pool with a group, or `None` where the host does not let us make one and the library said so.
async fn grouped(builder: Builder, limits: GroupLimits) -> Option<Pool> {
    match within("the start", builder.cgroup(limits.clone()).start()).await {
        Ok(pool) => Some(pool),
        Err(error) => {
            println!("MISSING: {limits:?} cannot be enforced here: {error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_childless();
            None
        }
    }
}

/// Groups of this process that are left.
fn groups() -> Vec<String> {
    groups_of(std::process::id())
}

fn groups_of(pid: u32) -> Vec<String> {
    all_groups()
        .into_iter()
        .filter(|(maker, _)| *maker == pid)
        .map(|(_, path)| path)
        .collect()
}

/// All groups of workers, with the process that made each.
fn all_groups() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut open = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Some(maker) = name
                    .strip_prefix("brigade-")
                    .and_then(|rest| rest.split('-').next()?.parse().ok())
                {
                    found.push((maker, entry.path().display().to_string()));
                }
                open.push(entry.path());
            }
        }
    }
    found
}

async fn address_space() {
    let pool = Pool::builder().workers(2).start().await.unwrap();
    let before = facts::resident_bytes(std::process::id());
    let error = within(
        "the hog",
        pool.call(misbehave(How::Hog).address_space(64 << 20)),
    )
    .await
    .unwrap_err();
    println!("{error}");
    let CallError::Crashed(report) = &error else {
        panic!("{error}")
    };
    let by = AttemptOutcome::OutOfMemory(MemoryLimit::AddressSpace);
    assert_eq!(report.ended, by, "{error}");
    assert!(report.cost.memory_peak < Some(512 << 20), "{error}");
    assert!(facts::resident_bytes(std::process::id()) < before + (64 << 20));
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

async fn killed_by_the_kernel() {
    let Some(pool) = grouped(Pool::builder().workers(1), limits(Some(96 << 20), None)).await else {
        return;
    };
    let error = within("the hog", pool.call(misbehave(How::Hog)))
        .await
        .unwrap_err();
    println!("{error}");
    let CallError::Crashed(report) = &error else {
        panic!("{error}")
    };
    assert_eq!(
        report.ended,
        AttemptOutcome::OutOfMemory(MemoryLimit::Cgroup)
    );
    assert_eq!(report.exit, Some(Exit::Signal(libc::SIGKILL)));
    // A plain kill in a group is not taken for the kernel's.
    let error = within(
        "the loop",
        pool.call(misbehave(How::StopSelf).timeout(millis(100))),
    )
    .await
    .unwrap_err();
    assert_eq!(
        error.report().unwrap().ended,
        AttemptOutcome::TimedOut,
        "{error}"
    );
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
    assert_eq!(groups(), Vec::<String>::new(), "groups are left");
}

async fn bomb() {
    let Some(pool) = grouped(Pool::builder().workers(1), limits(None, Some(64))).await else {
        return;
    };
    let mut handle = pool.call(fork_bomb());
    let started = within("the bomb", &mut handle).await.unwrap();
    println!("started {started} processes, 64 are allowed with all threads");
    assert!(started < 64);
    let error = within("the crash", pool.call(misbehave(How::Segv)))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Crashed(_)), "{error}");
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
    until("no group", || groups().is_empty()).await;
}

async fn two_pools() {
    let limits = limits(None, Some(500));
    let Some(first) = grouped(Pool::builder().workers(1), limits.clone()).await else {
        return;
    };
    let second = within(
        "the second pool",
        Pool::builder().workers(0..=1).cgroup(limits).start(),
    )
    .await
    .unwrap();
    let mut events = second.events();
    assert_eq!(within("a call", second.call(add(1, 2))).await.unwrap(), 3);
    let started = event(&mut events, "its worker", |event| match event {
        Event::WorkerReady { .. } => Some(true),
        Event::WorkerStartFailed { .. } => Some(false),
        _ => None,
    });
    assert!(started.await, "its group clashes with the other pool's");
    for pool in [&first, &second] {
        assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    }
    first.shutdown().await;
    assert_eq!(
        within("a call", second.call(add(1, 2))).await.unwrap(),
        3,
        "one pool's end is not the other's"
    );
    end(second).await;
}

fn numbers(text: &str) -> Vec<u32> {
    text.split(' ').map(|pid| pid.parse().unwrap()).collect()
}

/// "A task that started three grandchildren is cancelled: none alive when the receipt is there."
async fn cancelled_family() {
    let pool = Pool::builder()
        .workers(1)
        .kill_after(millis(50), millis(50))
        .start()
        .await
        .unwrap();
    for how in [How::Spin, How::SpinWithSignalsBlocked] {
        let handle = pool.call(family(file("family"), how));
        let family = numbers(&written("family").await);
        assert!(family.iter().all(|pid| facts::is_alive(*pid)), "{family:?}");
        let receipt = within("the cancel", handle.cancel("enough")).await.unwrap();
        // At this very moment: nothing is waited for.
        let alive: Vec<&u32> = family.iter().filter(|pid| facts::is_alive(**pid)).collect();
        assert!(alive.is_empty(), "of {family:?} these are alive: {alive:?}");
        println!("{} after {:.1?}", receipt.step, receipt.took);
        assert!(receipt.step >= Step::Terminated);
        let Err(CallError::Cancelled(cancelled)) = within("the outcome", handle).await else {
            panic!("it was cancelled")
        };
        assert_eq!(cancelled.reason, "enough");
        std::fs::remove_file(file("family")).unwrap();
        std::fs::remove_file(file("family.daemon")).unwrap();
    }
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

/// A grandchild keeps the worker's descriptors open; the pool does not wait for their end.
async fn crashed_family() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let handle = pool.call(family(file("family"), How::Segv));
    let error = within("the crash", handle).await.unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGSEGV), "{error}");
    let family = numbers(&written("family").await);
    let took = until("no grandchild is alive", || {
        !family.iter().any(|pid| facts::is_alive(*pid))
    })
    .await;
    println!("all gone {took:.1?} after the outcome");
    assert!(took < Duration::from_secs(5));
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}
