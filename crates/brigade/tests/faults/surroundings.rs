//! Where a program with a pool runs: as the first process of a container, with the `/proc` of
//! another namespace, loaded by another program.

#![expect(
    clippy::disallowed_methods,
    reason = "starts namespaces and the dynamic linker"
)]

use std::process::Command;

use brigade::{CallError, ErrorKind, Pool};
use brigade_testkit::facts;
use brigade_testkit::program::Program;

use crate::stage::{end, file, finish, millis, scenarios, until, within, written};
use crate::tasks::{How, add, family, misbehave, orphans};

scenarios! {
    ; first_process,
    foreign_proc,
    loaded_by_another,
}

/// Runs a role in a PID namespace of its own.
fn run_in_namespace(options: &[&str], role: &str) {
    let unshare = || {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child"])
            .args(options);
        command
    };
    if !unshare()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("MISSING: a PID namespace of our own (root, util-linux)");
        return;
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().unwrap());
    finish(Program::start_by(command, role).unwrap());
}

/// The first process of a container is given what is orphaned, and must reap it.
#[test]
fn x_a_pool_that_is_process_1_leaves_no_zombies_and_takes_no_children() {
    run_in_namespace(&["--mount-proc"], "first_process");
}

/// Its numbers are those of the namespace around.
#[test]
fn x_a_proc_of_another_namespace_misleads_nobody() {
    run_in_namespace(&[], "foreign_proc");
}

/// A program that another one has loaded: here the dynamic linker, started as a program; elsewhere
/// Python.
#[test]
fn x_code_that_another_program_loaded_says_what_to_name() {
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let Some(loader) = loaders
        .into_iter()
        .find(|loader| std::path::Path::new(loader).exists())
    else {
        return println!("MISSING: the dynamic linker of glibc");
    };
    let mut command = Command::new(loader);
    command.arg(std::env::current_exe().unwrap());
    finish(Program::start_by(command, "loaded_by_another").unwrap());
}

async fn loaded_by_another() {
    let error = within("the start", Pool::builder().workers(1).start())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error.to_string().contains("Builder::program") && error.to_string().contains("ld-linux"),
        "{error}"
    );
    // With its name and arguments it works.
    let builder = Pool::builder().workers(1).program(
        std::fs::read_link("/proc/self/exe").unwrap(),
        [std::env::args_os().next().unwrap()],
    );
    let pool = within("the start", builder.start()).await.unwrap();
    assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    end(pool).await;
}

async fn first_process() {
    assert_eq!(std::process::id(), 1);
    let pool = Pool::builder()
        .workers(1)
        .check_interval(millis(20))
        .start()
        .await
        .unwrap();
    // A child of the program's own, which ends while the program does not wait for it.
    let mut other = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
    let zombies = || {
        facts::children(1)
            .into_iter()
            .filter(|child| child.is_zombie())
            .map(|child| child.pid)
            .collect::<Vec<_>>()
    };
    let other_pid = other.id();
    until("the other child has ended", || zombies() == [other_pid]).await;
    // Orphans in the worker's group and in sessions of their own, which end by themselves.
    within("the orphans", pool.call(orphans())).await.unwrap();
    until("the orphans have ended", || facts::children(1).len() == 2).await;
    assert_eq!(zombies(), [other_pid]);
    // A tree that is killed.
    within("the crash", pool.call(family(file("family"), How::Segv)))
        .await
        .unwrap_err();
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    until("the family is gone", || facts::children(1).len() == 2).await;
    assert_eq!(
        other.wait().unwrap().code(),
        Some(7),
        "the program that started it learns its end"
    );
    end(pool).await;
}

async fn foreign_proc() {
    assert_ne!(
        std::fs::read_link("/proc/self").unwrap().to_str(),
        Some(&*std::process::id().to_string())
    );
    let pool = Pool::builder()
        .workers(1)
        .kill_after(millis(100), millis(100))
        .check_interval(millis(20))
        .start()
        .await
        .unwrap();
    let error = within("the hog", pool.call(misbehave(How::Hog).memory(64 << 20)))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Crashed(_)), "{error}");
    let error = within("the crash", pool.call(family(file("family"), How::Segv)))
        .await
        .unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGSEGV), "{error}");
    let exists = |pid: &str| {
        rustix::process::test_kill_process(
            rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap(),
        )
        .is_ok()
    };
    let family = written("family").await;
    until("no grandchild is left", || !family.split(' ').any(exists)).await;
    let end = within("the shutdown", pool.shutdown()).await;
    assert!(
        end.drained && end.left.is_empty() && !end.left_unseen,
        "{end:?}"
    );
}
