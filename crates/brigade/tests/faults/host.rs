//! What a program with a pool does to itself: it gives up its privileges, reaps every child, is
//! large, runs in a sandbox, stands where it may not be.

#![expect(
    unsafe_code,
    reason = "changes of the program's own users, signals and system calls"
)]

use std::time::Duration;

use brigade::{AttemptOutcome, CallError, ErrorKind, Exit, Pool, Step};
use brigade_testkit::facts;

use crate::stage::{directory, end, file, millis, scenarios, until, within, worker_pid, written};
use crate::tasks::{How, add, family, grow, misbehave};

scenarios! {
    /// Workers that were started before run as root still, and may not be signalled.
    x_stops_work_after_the_privileges_were_dropped => dropped_privileges,
    x_a_worker_that_cannot_be_ended_is_told_and_holds_up_nothing => unendable,
    x_what_a_worker_said_counts_where_the_program_reaps_every_child => reaped_by_others,
    x_the_peak_of_memory_is_the_worker_s_own => own_peak,
    x_a_sandbox_without_pidfds => without_pidfds,
    x_a_directory_that_cannot_be_entered_is_named => directories,
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
    // Stopped, it hears nothing, and this program may not signal it.
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
        let peak = error.report().unwrap().cost.memory_peak.unwrap() / MIB;
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
