//! Numbers and programs that turn out to be others': A10, A12.

#![expect(
    clippy::disallowed_methods,
    reason = "starts a namespace, a copy of this program and an innocent process"
)]

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use brigade::{CallError, ErrorKind, Event, Pool};
use brigade_testkit::facts::{self, signal_child};
use brigade_testkit::program::Program;
use rustix::process::Signal;

use crate::stage::{
    directory, end, event, file, finish, millis, scenarios, until, within, worker_pid, written,
};
use crate::tasks::{How, add, hold, misbehave};

scenarios! {
    a12_another_file_of_the_same_program_is_the_same_build => copied_program,
    a12_a_program_replaced_by_another_is_refused_until_it_is_back => replaced_program;
    reused_numbers,
    replaced_executable,
}

/// Needs a PID namespace, to choose the number of the next process.
#[test]
fn a10_a_reused_number_is_never_signalled() {
    let mut probe = Command::new("unshare");
    probe.args([
        "--pid",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        "test -w /proc/sys/kernel/ns_last_pid",
    ]);
    if !probe.status().is_ok_and(|status| status.success()) {
        println!(
            "MISSING: a PID namespace of our own (root, util-linux). The old handle is tested \
                without a reused number."
        );
        return crate::stage::run("reused_numbers");
    }
    let mut command = Command::new("unshare");
    // The shell is process 1 there and reaps what is orphaned.
    command
        .args([
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-c",
            "\"$0\"; exit $?",
        ])
        .arg(std::env::current_exe().unwrap());
    finish(Program::start_by(command, "reused_numbers").unwrap());
}

/// Starts an innocent process, with this number if that can be chosen.
fn innocent(pid: u32) -> Child {
    for _ in 0..50 {
        let chosen = std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_ok();
        let mut child = Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        if child.id() == pid || !chosen || std::process::id() > 100 {
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("the number {pid} never came");
}

fn check_innocent(mut child: Child, wanted: u32) {
    assert_eq!(
        child.try_wait().unwrap(),
        None,
        "the innocent process was hit"
    );
    println!(
        "innocent {} lives; the dead worker had {wanted}",
        child.id()
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn reused_numbers() {
    let pool = Pool::builder()
        .workers(1)
        .kill_after(millis(300), millis(100))
        .start()
        .await
        .unwrap();
    // A handle of a call that crashed.
    let pid = worker_pid(&pool);
    let handle = pool.call(misbehave(How::Segv));
    until("it is reaped", || facts::process(pid).is_none()).await;
    until("its replacement is there", || pool.stats().idle == 1).await;
    let child = innocent(pid);
    assert_eq!(within("the cancel", handle.cancel("late")).await, None);
    assert!(matches!(
        within("the outcome", handle).await,
        Err(CallError::Crashed(_))
    ));
    within("recycling", pool.recycle()).await.unwrap();
    check_innocent(child, pid);

    // A ladder that is being climbed when the worker ends by another hand.
    let handle = pool.call(hold(file("runs"), file("never")));
    let pid: u32 = written("runs").await.parse().unwrap();
    let receipt = handle.cancel("enough");
    assert!(signal_child(std::process::id(), pid, Signal::KILL));
    until("it is reaped", || facts::process(pid).is_none()).await;
    until("its replacement is there", || pool.stats().idle == 1).await;
    let child = innocent(pid);
    assert!(within("the receipt", receipt).await.is_some());
    // Longer than all steps of the ladder together.
    tokio::time::sleep(millis(600)).await;
    assert_eq!(
        facts::process(child.id()).map(|process| process.is_zombie()),
        Some(false)
    );
    within("the shutdown", pool.shutdown()).await;
    check_innocent(child, pid);
}

/// The executable of a running pool is deleted, then replaced; new workers are still of the old
/// build.
#[test]
fn a12_an_executable_replaced_under_a_running_pool_changes_nothing() {
    let own = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
    let copy = directory.path().join("program");
    std::fs::copy(&own, &copy).unwrap();
    finish(Program::start_by(Command::new(&copy), "replaced_executable").unwrap());
}

async fn replaced_executable() {
    let path = std::env::current_exe().unwrap();
    let pool = Pool::builder().workers(1).start().await.unwrap();
    for replacement in [None, Some("/bin/true")] {
        std::fs::remove_file(&path).ok();
        if let Some(other) = replacement {
            std::fs::copy(other, &path).unwrap();
        }
        let mut events = pool.events();
        let pid = worker_pid(&pool);
        assert!(signal_child(std::process::id(), pid, Signal::KILL));
        event(&mut events, "a new worker", |event| {
            matches!(event, Event::WorkerReady { .. }).then_some(())
        })
        .await;
        assert_ne!(worker_pid(&pool), pid);
        assert_eq!(
            within("by address", pool.run(|a: i64, b: i64| a * b, (3, 4)))
                .await
                .unwrap(),
            12
        );
        assert_eq!(within("by name", pool.call(add(3, 4))).await.unwrap(), 7);
    }
    end(pool).await;
}

/// Puts a program in the place of another in one step, as an installer does.
fn install(program: impl AsRef<std::path::Path>, path: &str) {
    let hidden = directory().join("hidden");
    std::fs::copy(program, &hidden).unwrap();
    std::fs::rename(hidden, path).unwrap();
}

fn hook() -> Result<u32, std::io::Error> {
    Ok(7)
}

async fn copied_program() {
    let copy = file("program");
    install(std::env::current_exe().unwrap(), &copy);
    let pool = Pool::builder()
        .workers(1)
        .program(&copy, [""; 0])
        .start()
        .await
        .unwrap();
    assert_eq!(within("by name", pool.call(add(3, 4))).await.unwrap(), 7);
    assert_eq!(
        within("by address", pool.run(|a: i64, b: i64| a * b, (3, 4)))
            .await
            .unwrap(),
        12
    );
    end(pool).await;
    // A hook is an address as well.
    let pool = within(
        "the start",
        Pool::builder()
            .workers(1)
            .program(&copy, [""; 0])
            .init(hook, &())
            .start(),
    )
    .await
    .unwrap();
    assert_eq!(within("by name", pool.call(add(3, 4))).await.unwrap(), 7);
    end(pool).await;
}

async fn replaced_program() {
    let path = file("program");
    install(std::env::current_exe().unwrap(), &path);
    let pool = Pool::builder()
        .workers(1)
        .program(&path, [""; 0])
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    install("/bin/true", &path);
    assert!(signal_child(
        std::process::id(),
        worker_pid(&pool),
        Signal::KILL
    ));
    let reason = event(&mut events, "the pool is degraded", |event| match event {
        Event::Degraded { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    println!("{}", reason.await);
    let error = within("a call", pool.call(add(1, 2))).await.unwrap_err();
    assert_eq!(error.rejected(), Some(ErrorKind::CannotStart), "{error}");
    install(std::env::current_exe().unwrap(), &path);
    event(&mut events, "it recovers", |event| {
        matches!(event, Event::Recovered).then_some(())
    })
    .await;
    assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    end(pool).await;
}
