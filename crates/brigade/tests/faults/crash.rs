//! Tasks that take their worker down, each in its own way: A4, A5, A6.

use std::time::{Duration, Instant};

use brigade::{AttemptOutcome, AttemptReport, CallError, Exit, Pool, Step, TimedOut};

use crate::stage::{end, file, millis, scenarios, within, written};
use crate::tasks::{How, add, hold, misbehave};

scenarios! {
    a4_each_crash_has_its_own_error => crashes,
    a4_other_workers_are_undisturbed => undisturbed,
    a5_an_exit_is_never_a_success => exits,
    a5_another_program_in_place_of_the_worker_is_ended => another_program,
    a6_an_endless_loop_ends_at_its_deadline => endless,
}

async fn pool(workers: usize) -> Pool {
    Pool::builder()
        .workers(workers)
        .kill_after(millis(100), millis(100))
        .start()
        .await
        .unwrap()
}

async fn outcome(pool: &Pool, how: &How) -> Result<i64, CallError> {
    // A generous timeout: a way to die that does not kill must not hang the test.
    within(
        &format!("{how:?}"),
        pool.call(misbehave(how.clone()).timeout(Duration::from_secs(10))),
    )
    .await
}

fn report(error: &CallError) -> &AttemptReport {
    error
        .report()
        .unwrap_or_else(|| panic!("no report: {error}"))
}

async fn crashes() {
    let pool = pool(2).await;
    let signals = [
        (How::Segv, libc::SIGSEGV),
        (How::Bus, libc::SIGBUS),
        (How::Ill, libc::SIGILL),
        (How::Abort, libc::SIGABRT),
    ];
    for (how, signal) in signals {
        let error = outcome(&pool, &how).await.unwrap_err();
        println!("{how:?}: {error}");
        assert!(matches!(error, CallError::Crashed(_)), "{how:?}: {error}");
        assert_eq!(
            (&report(&error).ended, error.signal()),
            (&AttemptOutcome::Signalled, Some(signal)),
            "{how:?}"
        );
    }
    let error = outcome(&pool, &How::StackOverflow).await.unwrap_err();
    assert!(
        matches!(error, CallError::Crashed(_))
            && report(&error).ended == AttemptOutcome::StackOverflow,
        "{error}"
    );

    // Panics that can be caught leave the worker alive; the others are reported as panics as well.
    let panics = [
        (How::Panic, "a plain panic", false),
        (How::PanicInDrop, "a panic in drop", false),
        (
            How::PanicWithPayloadThatPanics,
            "payload is not text",
            false,
        ),
        (How::DoublePanic, "a panic in drop", true),
        (
            How::PanicThatMayNotUnwind,
            "a panic that may not unwind",
            true,
        ),
    ];
    for (how, text, dies) in panics {
        let error = outcome(&pool, &how).await.unwrap_err();
        println!("{how:?}: {error}");
        let CallError::Panicked(report) = &error else {
            panic!("{how:?}: {error}")
        };
        let AttemptOutcome::Panicked { message, location } = &report.ended else {
            panic!("{how:?}: {error}")
        };
        assert!(message.contains(text), "{how:?}: {message}");
        assert!(location.contains("tasks.rs"), "{how:?}: {location}");
        assert_eq!(
            report.exit,
            dies.then_some(Exit::Signal(libc::SIGABRT)),
            "{how:?}"
        );
    }
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

async fn undisturbed() {
    let pool = pool(2).await;
    let bystander = pool.call(hold(file("runs"), file("go")));
    let pid: u32 = written("runs").await.parse().unwrap();
    for how in [
        How::Segv,
        How::Abort,
        How::StackOverflow,
        How::Exit(1),
        How::DoublePanic,
        How::CloseAllDescriptors,
    ] {
        assert!(outcome(&pool, &how).await.is_err(), "{how:?}");
    }
    crate::tasks::tell(&file("go"), "go");
    assert_eq!(within("the bystander", bystander).await.unwrap(), pid);
    end(pool).await;
}

async fn exits() {
    let pool = pool(1).await;
    let ways = [
        (How::Exit(0), Some(Exit::Code(0))),
        (How::Exit(1), Some(Exit::Code(1))),
        (How::UnderscoreExit(0), Some(Exit::Code(0))),
        (How::UnderscoreExit(7), Some(Exit::Code(7))),
        (How::Exec("/bin/true".to_owned()), Some(Exit::Code(0))),
        // How this ends depends on the C library; that it is no success does not.
        (How::EndMainThread, None),
    ];
    for (how, exit) in ways {
        let began = Instant::now();
        let error = outcome(&pool, &how).await.unwrap_err();
        println!("{how:?} after {:.1?}: {error}", began.elapsed());
        assert!(matches!(error, CallError::Crashed(_)), "{how:?}: {error}");
        if exit.is_some() {
            assert_eq!(
                (report(&error).exit, &report(&error).ended),
                (exit, &AttemptOutcome::Exited),
                "{how:?}"
            );
        }
    }
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

async fn another_program() {
    let pool = pool(1).await;
    let error = outcome(&pool, &How::Exec("/bin/sleep".to_owned()))
        .await
        .unwrap_err();
    println!("{error}");
    assert!(matches!(error, CallError::Crashed(_)), "{error}");
    assert!(
        matches!(report(&error).ended, AttemptOutcome::LinkBroken(_)),
        "{error}"
    );
    end(pool).await;
}

async fn endless() {
    let (ask, terminate, timeout) = (millis(100), millis(100), millis(200));
    let pool = Pool::builder()
        .workers(1)
        .kill_after(ask, terminate)
        .start()
        .await
        .unwrap();
    for (how, step) in [
        (How::Spin, Step::Terminated),
        (How::SpinWithSignalsBlocked, Step::Killed),
    ] {
        let began = Instant::now();
        let handle = pool.call(misbehave(how.clone()).timeout(timeout));
        let Err(CallError::TimedOut(TimedOut::Run(report))) = within("the loop", handle).await
        else {
            panic!("{how:?}")
        };
        let due = timeout
            + ask
            + if step == Step::Killed {
                terminate
            } else {
                Duration::ZERO
            };
        println!(
            "{how:?}: {report}; overshoot {:.1?}",
            began.elapsed().saturating_sub(due)
        );
        assert_eq!(
            (report.ended, report.step),
            (AttemptOutcome::TimedOut, Some(step)),
            "{how:?}"
        );
        assert!(
            began.elapsed() >= due && began.elapsed() < due + Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }
    end(pool).await;
}
