//! Workers that harm their own links and outputs, and callers that change their minds: A9 and
//! further attacks.

use std::time::Duration;

use brigade::{AttemptOutcome, CallError, ErrorKind, Pool};
use brigade_testkit::{count, facts, random::Random};

use crate::stage::{assert_childless, end, file, millis, scenarios, until, within, written};
use crate::tasks::{How, add, hold, misbehave, own_pid, polite, tell};

scenarios! {
    a9_a_worker_that_closes_its_descriptors_is_ended => closes_descriptors,
    a9_noise_on_the_links_ends_the_worker => noise,
    a9_a_flood_of_output_is_capped => flood,
    a9_a_flood_that_is_passed_through_ends => flood_passed_through,
    a9_closed_outputs_hurt_nobody => closed_outputs,
    x_a_task_that_forks_and_returns_twice_is_accepted_once => returns_twice,
    x_cancels_race_with_completions => race,
    x_handles_dropped_at_random => dropped,
    x_a_shutdown_in_a_storm_of_crashes_ends => storm,
    x_a_kill_in_a_storm_of_crashes_ends => killed_storm,
    x_a_cancel_while_the_worker_starts => cancel_at_start,
    x_a_pool_that_is_dropped_in_the_middle_leaves_nothing => dropped_pool,
    x_many_workers_start_at_once => many,
    x_a_place_in_a_full_queue_is_given_back => full_queue,
}

async fn closes_descriptors() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let error = within("the call", pool.call(misbehave(How::CloseAllDescriptors)))
        .await
        .unwrap_err();
    println!("{error}");
    let CallError::Crashed(report) = &error else {
        panic!("{error}")
    };
    assert!(
        matches!(
            report.ended,
            AttemptOutcome::LinkBroken(_) | AttemptOutcome::Exited | AttemptOutcome::Signalled
        ),
        "{error}"
    );
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

async fn noise() {
    let mut random = Random::from_env();
    let pool = Pool::builder().workers(2).start().await.unwrap();
    let before = facts::resident_bytes(std::process::id());
    for _ in 0..count(20, 1000) {
        // The noise may look like the begin of a long frame, for the rest of which the pool waits:
        // hence a timeout.
        let call = misbehave(How::NoiseOnSockets(random.draw())).timeout(Duration::from_secs(3));
        let error = within("the call", pool.call(call)).await.unwrap_err();
        assert!(
            matches!(error, CallError::Crashed(_) | CallError::TimedOut(_)),
            "{error}"
        );
        if let CallError::Crashed(report) = &error {
            assert!(
                matches!(report.ended, AttemptOutcome::LinkBroken(_)),
                "{error}"
            );
        }
        assert_eq!(
            within("the next call", pool.call(add(1, 2))).await.unwrap(),
            3
        );
    }
    let grown = facts::resident_bytes(std::process::id()).saturating_sub(before);
    println!("the parent grew by {} KiB", grown >> 10);
    assert!(grown < 64 << 20);
    end(pool).await;
}

async fn flood() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let (cap, bytes) = (10_000, count(64 << 20, 1 << 30) as u64);
    let before = facts::resident_bytes(std::process::id());
    for (how, is_error) in [
        (How::FloodStdout(bytes), false),
        (How::FloodStderr(bytes), true),
    ] {
        let mut handle = pool.call(misbehave(how).capture(cap));
        assert_eq!(within("the flood", &mut handle).await.unwrap(), 42);
        let output = handle.output().unwrap();
        let captured = if is_error {
            output.stderr
        } else {
            output.stdout
        };
        assert_eq!(
            (captured.text.len(), captured.dropped),
            (cap, bytes - cap as u64)
        );
    }
    let grown = facts::resident_bytes(std::process::id()).saturating_sub(before);
    println!(
        "the parent grew by {} KiB for {} MiB of output",
        grown >> 10,
        bytes >> 19
    );
    assert!(grown < 32 << 20);
    // Standard error in a report is cut as well.
    let error = within(
        "the crash",
        pool.call(crate::tasks::flood_and_crash(4 << 20).capture(cap)),
    )
    .await
    .unwrap_err();
    let stderr = &error.report().unwrap().stderr;
    assert!(
        stderr.len() <= 64 << 10 && stderr.ends_with("the last words\n"),
        "{} bytes",
        stderr.len()
    );
    end(pool).await;
}

/// Output that is not captured goes through to our own, here a file that is thrown away.
async fn flood_passed_through() {
    let pool = Pool::builder().workers(2).start().await.unwrap();
    let handle = pool.call(misbehave(How::FloodStdout(8 << 20)));
    assert_eq!(
        within("a call during the flood", pool.call(add(1, 2)))
            .await
            .unwrap(),
        3
    );
    assert_eq!(within("the flood", handle).await.unwrap(), 42);
    within("shutdown", pool.shutdown()).await;
    assert_childless();
    // Made short again, so that it is not printed.
    let log = std::fs::OpenOptions::new()
        .write(true)
        .open(file("log"))
        .unwrap();
    let written = log.metadata().unwrap().len();
    log.set_len(0).unwrap();
    assert!(written >= 8 << 20, "{written} bytes came through");
}

async fn closed_outputs() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    for _ in 0..3 {
        assert_eq!(
            within("the call", pool.call(misbehave(How::CloseOutputs)))
                .await
                .unwrap(),
            42
        );
    }
    // Whatever was opened as descriptor 1 and 2 since, calls go on.
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    let idle = facts::cpu_ticks(std::process::id());
    tokio::time::sleep(millis(300)).await;
    let spent = facts::cpu_ticks(std::process::id()) - idle;
    assert!(
        spent < 15,
        "the pool spins on closed pipes: {spent} ticks in 300 ms"
    );
    end(pool).await;
}

async fn returns_twice() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    for _ in 0..5 {
        // One of the two answers is taken, or the link is found broken first; never both, and
        // nothing hangs.
        let outcome = within("the call", pool.call(misbehave(How::ForkAndReturnTwice))).await;
        assert!(
            matches!(outcome, Ok(42) | Err(CallError::Crashed(_))),
            "{outcome:?}"
        );
        let next = within("the next call", pool.call(add(1, 2)).into_settled()).await;
        println!("then {next:?}");
    }
    until("one worker", || pool.stats().idle == 1).await;
    end(pool).await;
}

/// A call may be hurt by what the task before it left behind; it ends in any case.
trait Settled {
    fn into_settled(self) -> impl Future<Output = String>;
}

impl Settled for brigade::CallHandle<i64> {
    async fn into_settled(self) -> String {
        match self.await {
            Ok(value) => {
                assert_eq!(value, 3);
                "3".to_owned()
            }
            Err(error) => {
                assert!(
                    matches!(error, CallError::Crashed(_) | CallError::Lost(_)),
                    "{error}"
                );
                error.to_string()
            }
        }
    }
}

/// Cancels fall before, in and after the end of short calls: each call has one outcome, which fits
/// its receipt.
async fn race() {
    let mut random = Random::from_env();
    let pool = Pool::builder()
        .workers(2)
        .kill_after(Duration::from_secs(10), millis(100))
        .start()
        .await
        .unwrap();
    let (mut done, mut cancelled) = (0, 0);
    for number in (0..).take(count(2_000, 100_000)) {
        let handle = pool.call(add(number, 1));
        let pause = random.within(0..120);
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_micros(pause) {
            tokio::task::yield_now().await;
        }
        let receipt = within("the receipt", handle.cancel("raced")).await;
        match within("the outcome", handle).await {
            Ok(value) => {
                assert_eq!(value, number + 1);
                assert_eq!(receipt, None, "it had ended before");
                done += 1;
            }
            Err(CallError::Cancelled(told)) => {
                assert_eq!(told.reason, "raced");
                assert!(receipt.is_some());
                cancelled += 1;
            }
            Err(error) => panic!("{error}, seed {}", random.seed()),
        }
    }
    println!("done {done} cancelled {cancelled}");
    let stats = pool.stats();
    assert_eq!((stats.running, stats.waiting, stats.crashed), (0, 0, 0));
    assert_eq!(
        stats.started, 2,
        "no worker had to be killed for a call that was over"
    );
    end(pool).await;
}

async fn dropped() {
    let mut random = Random::from_env();
    let pool = Pool::builder()
        .workers(2)
        .kill_after(millis(20), millis(20))
        .start()
        .await
        .unwrap();
    let total = count(300, 20_000);
    let mut kept = Vec::new();
    for number in (0..).take(total) {
        match random.within(0..6) {
            0 => drop(pool.call(add(number, 1))),
            1 => drop(pool.call(polite())),
            2 => pool.call(add(number, 1)).detach(),
            3 if number % 40 == 0 => {
                let stubborn = pool.call(misbehave(How::Spin));
                tokio::time::sleep(random.time(millis(0)..millis(3))).await;
                drop(stubborn);
            }
            _ => kept.push((number, pool.call(add(number, 1)))),
        }
    }
    for (number, handle) in kept {
        assert_eq!(
            within("a kept handle", handle).await.unwrap(),
            number + 1,
            "seed {}",
            random.seed()
        );
    }
    until("nothing runs", || {
        pool.stats().running == 0 && pool.stats().waiting == 0
    })
    .await;
    until("full size", || pool.stats().idle == 2).await;
    end(pool).await;
}

fn crashing(pool: &Pool, random: &mut Random) -> Vec<brigade::CallHandle<i64>> {
    let hows = [How::Segv, How::Abort, How::Exit(3), How::Panic];
    let call = |random: &mut Random| match random.within(0..5) {
        0 => add(1, 41),
        _ => misbehave(random.pick(&hows).unwrap().clone()),
    };
    (0..60).map(|_| pool.call(call(random))).collect()
}

async fn storm() {
    let mut random = Random::from_env();
    let pool = Pool::builder().workers(4).start().await.unwrap();
    let handles = crashing(&pool, &mut random);
    let shutdown = within("the shutdown", pool.shutdown()).await;
    assert!(shutdown.drained, "accepted calls finish");
    for handle in handles {
        let outcome = within("a handle", handle).await;
        assert!(
            matches!(
                outcome,
                Ok(42) | Err(CallError::Crashed(_) | CallError::Panicked(_))
            ),
            "{outcome:?}"
        );
    }
    assert_eq!(
        pool.call(add(1, 2)).await.unwrap_err().rejected(),
        Some(ErrorKind::Closed)
    );
    assert_childless();
}

async fn killed_storm() {
    let mut random = Random::from_env();
    let pool = Pool::builder()
        .workers(4)
        .kill_after(millis(50), millis(50))
        .start()
        .await
        .unwrap();
    let handles = crashing(&pool, &mut random);
    tokio::time::sleep(random.time(millis(0)..millis(30))).await;
    within("the kill", pool.kill()).await;
    for handle in handles {
        within("a handle", handle).await.ok();
    }
    assert_childless();
}

fn slow_start(told: String, go: String) -> Result<(), std::io::Error> {
    tell(&told, std::process::id());
    crate::tasks::await_file(&go);
    Ok(())
}

async fn cancel_at_start() {
    let pool = Pool::builder()
        .workers(0..=1)
        .init(slow_start, &(file("starts"), file("go")))
        .start()
        .await
        .unwrap();
    let handle = pool.call(own_pid());
    let pid: u32 = written("starts").await.parse().unwrap();
    let receipt = within("the cancel", handle.cancel("too slow"))
        .await
        .unwrap();
    assert_eq!(receipt.step, brigade::Step::NotStarted);
    assert!(matches!(
        within("the outcome", handle).await,
        Err(CallError::Cancelled(_))
    ));
    tell(&file("go"), "go");
    assert_eq!(
        within("the next call", pool.call(own_pid())).await.unwrap(),
        pid,
        "the worker was not at fault"
    );
    end(pool).await;
}

async fn dropped_pool() {
    let pool = Pool::builder().workers(3).start().await.unwrap();
    let handle = pool.call(hold(file("runs"), file("never")));
    let waiting: Vec<_> = (0..10).map(|_| pool.call(misbehave(How::Spin))).collect();
    written("runs").await;
    drop(pool);
    for handle in waiting
        .into_iter()
        .map(|handle| Box::pin(async { drop(handle.await.unwrap_err()) }))
    {
        within("a handle", handle).await;
    }
    assert!(within("a handle", handle).await.is_err());
    until("no child", || {
        facts::children(std::process::id()).is_empty()
    })
    .await;
}

async fn many() {
    let workers = count(150, 600);
    let pool = within("the start", Pool::builder().workers(workers).start())
        .await
        .unwrap();
    assert_eq!(pool.stats().idle, workers);
    within("the kill", pool.kill()).await;
    assert_childless();
}

async fn full_queue() {
    let pool = Pool::builder()
        .workers(1)
        .queue_max(1)
        .start()
        .await
        .unwrap();
    let running = pool.call(hold(file("runs"), file("go")));
    written("runs").await;
    let waiting = pool.call(add(1, 2));
    for _ in 0..3 {
        assert_eq!(
            pool.try_call(add(1, 2)).unwrap_err().kind(),
            ErrorKind::QueueFull
        );
        let outside = pool.call(add(1, 2));
        within("the cancel", outside.cancel("no room")).await;
        assert!(matches!(
            within("the outcome", outside).await,
            Err(CallError::Cancelled(_))
        ));
        // Waits for room, then gives up.
        let mut impatient = pool.call(add(1, 2));
        assert!(
            tokio::time::timeout(millis(5), &mut impatient)
                .await
                .is_err()
        );
        drop(impatient);
    }
    tell(&file("go"), "go");
    within("the running one", running).await.unwrap();
    assert_eq!(within("the waiting one", waiting).await.unwrap(), 3);
    std::fs::remove_file(file("runs")).unwrap();
    std::fs::remove_file(file("go")).unwrap();
    let running = pool.call(hold(file("runs"), file("go")));
    written("runs").await;
    let waiting = pool
        .try_call(add(1, 2))
        .expect("there is room for one again");
    tell(&file("go"), "go");
    within("the running one", running).await.unwrap();
    assert_eq!(within("the waiting one", waiting).await.unwrap(), 3);
    end(pool).await;
}
