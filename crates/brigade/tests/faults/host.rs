//! What a host program does to itself: it gives up its privileges, reaps every child, is large,
//! runs in a sandbox, stands where it may not be.

#![expect(
    unsafe_code,
    reason = "changes of the program's own users, signals and system calls"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "starts namespaces, load and a debugger"
)]

use std::process::Command;
use std::time::Duration;

use brigade::{AttemptOutcome, CallError, ErrorKind, Event, Exit, Pool, Step};
use brigade_testkit::facts;
use brigade_testkit::program::Program;

use crate::stage::{
    directory, end, event, file, finish, millis, scenarios, until, within, worker_pid, written,
};
use crate::tasks::{How, add, family, grow, misbehave, orphans, own_pid};

scenarios! {
    /// Workers that were started before run as root still, and may not be signalled.
    x_stops_work_after_the_privileges_were_dropped => dropped_privileges,
    x_a_worker_that_cannot_be_ended_is_told_and_holds_up_nothing => unendable,
    x_what_a_worker_said_counts_where_the_program_reaps_every_child => reaped_by_others,
    x_the_peak_of_memory_is_the_worker_s_own => own_peak,
    x_a_sandbox_without_pidfds => without_pidfds,
    x_a_directory_that_cannot_be_entered_is_named => directories,
    x_idle_workers_of_a_busy_machine_are_left_alone => busy_machine,
    x_a_stopped_worker_is_told_as_stopped => stopped,
    x_a_worker_that_a_debugger_has_is_left_alone => debugged,
    x_many_slow_starts_share_the_machine => slow_starts;
    first_process,
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
    // Somebody else's child, which ends while nobody waits for it.
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
        "its end is told to who started it"
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

/// Programs that use every CPU until they are dropped.
struct Load(Vec<std::process::Child>);

impl Load {
    fn of(programs: usize) -> Self {
        let spin = |_| {
            Command::new("timeout")
                .args(["40", "sh", "-c", "while :; do :; done"])
                .spawn()
                .unwrap()
        };
        Self((0..programs).map(spin).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // `timeout` passes it on.
            facts::signal(child.id(), rustix::process::Signal::TERM);
            drop(child.wait());
        }
    }
}

async fn busy_machine() {
    let pool = Pool::builder()
        .workers(6)
        .nice(19)
        .check_interval(millis(50))
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    let pids: Vec<_> = pool.workers().iter().map(|worker| worker.pid).collect();
    let load = Load::of(16);
    // Eighty looks: a worker that gets no CPU for 50 ms was killed before.
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(load);
    assert_eq!(
        pool.workers()
            .iter()
            .map(|worker| worker.pid)
            .collect::<Vec<_>>(),
        pids
    );
    assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    drop(pool);
    within("the rest", async {
        while let Some(event) = events.next().await {
            println!("{event:?}")
        }
    })
    .await;
}

async fn stopped() {
    let pool = Pool::builder()
        .workers(1)
        .check_interval(millis(50))
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    for signal in [rustix::process::Signal::STOP, rustix::process::Signal::TTIN] {
        let pid = worker_pid(&pool);
        assert!(facts::signal(pid, signal));
        let by = event(&mut events, "it is stopped", |event| match event {
            Event::WorkerStopped {
                pid: stopped, by, ..
            } if *stopped == pid => Some(by.to_string()),
            _ => None,
        });
        assert_eq!(
            by.await,
            if signal == rustix::process::Signal::STOP {
                "SIGSTOP"
            } else {
                "SIGTTIN"
            }
        );
        let reason = event(&mut events, "it is replaced", |event| match event {
            Event::WorkerRetiring { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        let reason = reason.await;
        assert!(reason.contains("stopped by SIG"), "{reason}");
        event(&mut events, "the next is there", |event| {
            matches!(event, Event::WorkerReady { .. }).then_some(())
        })
        .await;
    }
    // One that runs something: what stopped it stands in its report.
    let error = within(
        "the timeout",
        pool.call(misbehave(How::StopSelf).timeout(millis(200))),
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("stopped by SIGSTOP"), "{error}");
    end(pool).await;
}

async fn debugged() {
    let pool = Pool::builder()
        .workers(1)
        .check_interval(millis(20))
        .start()
        .await
        .unwrap();
    let (mut events, pid) = (pool.events(), worker_pid(&pool));
    let (release, released) = std::sync::mpsc::channel::<()>();
    let debugger = std::thread::spawn(move || {
        let threads: Vec<libc::pid_t> = std::fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        // SAFETY: attaches to threads of a child of ours, waits for their stops and lets them go.
        unsafe {
            for thread in &threads {
                assert_eq!(
                    libc::ptrace(libc::PTRACE_ATTACH, *thread, 0, 0),
                    0,
                    "{}",
                    std::io::Error::last_os_error()
                );
                assert_eq!(
                    libc::waitpid(*thread, std::ptr::null_mut(), libc::__WALL),
                    *thread
                );
            }
            released.recv().unwrap();
            for thread in &threads {
                libc::ptrace(libc::PTRACE_DETACH, *thread, 0, 0);
            }
        }
    });
    let by = event(&mut events, "it is stopped", |event| match event {
        Event::WorkerStopped { by, .. } => Some(by.to_string()),
        _ => None,
    });
    assert_eq!(by.await, "a debugger");
    assert_eq!(pool.workers()[0].state, brigade::WorkerState::Stopped);
    // Fifty looks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(worker_pid(&pool), pid);
    release.send(()).unwrap();
    debugger.join().unwrap();
    assert_eq!(within("a call", pool.call(own_pid())).await.unwrap(), pid);
    end(pool).await;
}

/// Uses so much of a CPU, as one who loads a model.
fn load(millis: u64) -> Result<(), std::io::Error> {
    let used = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    while used().tv_sec.unsigned_abs() * 1000 + used().tv_nsec.unsigned_abs() / 1_000_000 < millis {
    }
    Ok(())
}

fn sleep_on() -> Result<(), std::io::Error> {
    std::thread::sleep(Duration::from_secs(3600));
    Ok(())
}

async fn slow_starts() {
    let _load = Load::of(4);
    let cpus = std::thread::available_parallelism().unwrap().get();
    let pool = Pool::builder()
        .workers(8 * cpus)
        .init(load, &(300,))
        .start_timeout(Duration::from_secs(1))
        .start();
    let pool = within("the start", pool).await.unwrap();
    assert_eq!(pool.stats().idle, 8 * cpus);
    end_pool_of_a_loaded_machine(pool).await;
    let error = within(
        "the start",
        Pool::builder()
            .workers(1)
            .init(sleep_on, &())
            .start_timeout(Duration::from_secs(2))
            .start(),
    )
    .await;
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("init hook takes longer") || text.contains("waited for a CPU"),
        "{text}"
    );
}

async fn end_pool_of_a_loaded_machine(pool: Pool) {
    assert!(
        within("the shutdown", pool.shutdown())
            .await
            .left
            .is_empty()
    );
}

/// As daemons do once their port is bound. `false` where this program is not root.
fn drop_privileges() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("MISSING: root");
        return false;
    }
    // SAFETY: changes the users of this process.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setgid(65_534), 0);
        assert_eq!(libc::setuid(65_534), 0);
    }
    true
}

async fn dropped_privileges() {
    let pool = Pool::builder()
        .workers(3)
        .kill_after(millis(100), millis(1500))
        .start()
        .await
        .unwrap();
    let kin = pool.call(family(file("family"), How::Spin).timeout(millis(1500)));
    let family: Vec<u32> = written("family")
        .await
        .split(' ')
        .map(|pid| pid.parse().unwrap())
        .collect();
    if !drop_privileges() {
        return;
    }
    for (how, step) in [
        (How::Spin, Step::Terminated),
        (How::SpinWithSignalsBlocked, Step::Killed),
    ] {
        let error = within(
            "the timeout",
            pool.call(misbehave(how).timeout(millis(100))),
        )
        .await
        .unwrap_err();
        assert!(matches!(error, CallError::TimedOut(_)), "{error}");
        assert_eq!(error.report().unwrap().step, Some(step), "{error}");
    }
    let error = within("the family's timeout", kin).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut(_)), "{error}");
    let alive: Vec<&u32> = family.iter().filter(|pid| facts::is_alive(**pid)).collect();
    assert!(alive.is_empty(), "of {family:?} these are alive: {alive:?}");
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    let shutdown = within("the shutdown", pool.shutdown()).await;
    assert_eq!(
        (shutdown.drained, shutdown.left.len()),
        (true, 0),
        "{shutdown:?}"
    );
    crate::stage::assert_childless();
}

async fn unendable() {
    let pool = Pool::builder()
        .workers(1)
        .kill_after(millis(100), millis(100))
        .start()
        .await
        .unwrap();
    assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    let pid = worker_pid(&pool);
    if !drop_privileges() {
        return;
    }
    // Stopped, it hears nothing, and nobody may signal it.
    let error = within(
        "the timeout",
        pool.call(misbehave(How::StopSelf).timeout(millis(100))),
    )
    .await
    .unwrap_err();
    println!("{error}");
    let report = error.report().unwrap();
    assert_eq!(
        (report.exit, report.stopped_by.as_deref(), report.pid),
        (Some(Exit::Alive), Some("SIGSTOP"), pid),
        "{error}"
    );
    let shutdown = within("the shutdown", pool.shutdown()).await;
    assert_eq!(shutdown.left, [pid], "{shutdown:?}");
}

async fn reaped_by_others() {
    let pool = Pool::builder()
        .workers(1)
        .kill_after(millis(100), millis(100))
        .start()
        .await
        .unwrap();
    // As programs do that wait for any child: the kernel reaps all of them at once.
    // SAFETY: changes the disposition of a signal.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let error = within("the crash", pool.call(misbehave(How::Segv)))
        .await
        .unwrap_err();
    assert_eq!(
        (error.signal(), &error.report().unwrap().ended),
        (Some(libc::SIGSEGV), &AttemptOutcome::Signalled),
        "{error}"
    );
    for how in [How::Exit(7), How::UnderscoreExit(7)] {
        let error = within("the exit", pool.call(misbehave(how)))
            .await
            .unwrap_err();
        let report = error.report().unwrap();
        assert_eq!(
            (report.exit, &report.ended),
            (Some(Exit::Unknown), &AttemptOutcome::Unknown),
            "{error}"
        );
        assert!(error.to_string().contains("reaped"), "{error}");
    }
    let error = within(
        "the timeout",
        pool.call(misbehave(How::Spin).timeout(millis(100))),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, CallError::TimedOut(_)), "{error}");
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

const MIB: u64 = 1 << 20;

async fn own_peak() {
    let ballast = std::hint::black_box(vec![1_u8; 500 << 20]);
    let pool = Pool::builder()
        .workers(1)
        .kill_after(millis(50), millis(50))
        .check_interval(millis(20))
        .start()
        .await
        .unwrap();
    let peak = async |how: How, mib: usize| {
        let time = Duration::from_secs(if matches!(how, How::Spin) { 3 } else { 60 });
        let error = within("the end", pool.call(grow(mib, how.clone()).timeout(time)))
            .await
            .unwrap_err();
        let peak = error.report().unwrap().cost.memory_peak / MIB;
        println!("{how:?} after {mib} MiB: {peak} MiB");
        peak
    };
    // One that says it itself, by a signal or an exit; one that is looked at, before our own
    // signals or now and then.
    for how in [How::Abort, How::Segv, How::Exit(3), How::Spin] {
        let (idle, grown) = (peak(how.clone(), 0).await, peak(how, 200).await);
        assert!(
            (1..200).contains(&idle) && (200..400).contains(&grown),
            "{idle} {grown}"
        );
    }
    assert!((1..200).contains(&peak(How::UnderscoreExit(3), 0).await));
    // More than the host ever had can only be its own, however it ends.
    assert!((700..900).contains(&peak(How::UnderscoreExit(3), 700).await));
    drop(ballast);
    end(pool).await;
}

async fn without_pidfds() {
    forbid(libc::SYS_pidfd_open);
    forbid(libc::SYS_pidfd_send_signal);
    let pool = Pool::builder()
        .workers(2)
        .kill_after(millis(100), millis(100))
        .start()
        .await
        .unwrap();
    assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    for (how, exit) in [
        (How::Segv, Exit::Signal(libc::SIGSEGV)),
        (How::Exit(7), Exit::Code(7)),
        (How::SpinWithSignalsBlocked, Exit::Signal(libc::SIGKILL)),
    ] {
        let error = within("the end", pool.call(misbehave(how).timeout(millis(500))))
            .await
            .unwrap_err();
        assert_eq!(error.report().unwrap().exit, Some(exit), "{error}");
    }
    let kin = pool.call(family(file("family"), How::Segv));
    let error = within("the crash", kin).await.unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGSEGV), "{error}");
    let family: Vec<u32> = written("family")
        .await
        .split(' ')
        .map(|pid| pid.parse().unwrap())
        .collect();
    until("no grandchild is alive", || {
        !family.iter().any(|pid| facts::is_alive(*pid))
    })
    .await;
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

/// Answers a system call with EPERM from now on, as the filters of container runtimes do with what
/// they do not know.
fn forbid(call: libc::c_long) {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(0x20, 0, 0, 0), // load the number of the call
        step(0x15, 0, 1, u32::try_from(call).unwrap()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | 1), // EPERM
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the filter lives here and is copied; `TSYNC` has all threads of this program under
    // it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        );
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}

async fn directories() {
    std::fs::write(file("no_directory"), "").unwrap();
    for missing in ["no_directory", "nowhere"] {
        let path = directory().join(missing);
        let error = within(
            "the start",
            Pool::builder().workers(1).directory(&path).start(),
        )
        .await
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotStart);
        let text = error.to_string();
        assert!(
            text.contains("working directory") && text.contains(path.to_str().unwrap()),
            "{text}"
        );
    }
    // Where this program stands it need not go.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir(file("mine")).unwrap();
    std::fs::set_permissions(file("mine"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::env::set_current_dir(file("mine")).unwrap();
    if !drop_privileges() {
        return;
    }
    let error = within(
        "the start",
        Pool::builder().workers(1).directory(file("mine")).start(),
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("working directory"), "{error}");
    let pool = Pool::builder().workers(1).start().await.unwrap();
    assert_eq!(within("a call", pool.call(add(1, 2))).await.unwrap(), 3);
    end(pool).await;
}
