//! A worker killed in each of its states: A2. The states are known by files that appear and by what
//! the kernel says, not by time.

use std::time::Duration;

use brigade::{AttemptOutcome, Bytes, CallError, Event, Exit, Pool};
use brigade_testkit::facts::{self, signal_child, wait_until, waits_in};
use rustix::process::Signal;

use crate::stage::{
    BOUND, directory, end, event, file, scenarios, until, within, worker_pid, written,
};
use crate::tasks::{add, await_file, hold, length, produce, tell};

scenarios! {
    a2_killed_while_starting => starting,
    a2_killed_while_idle => idle,
    a2_killed_while_reading_the_task => reading,
    a2_killed_while_running => running,
    a2_killed_while_running_with_retries_runs_again => running_with_retries,
    a2_killed_while_writing_the_result => writing,
    a2_killed_after_the_result => after_the_result,
    a2_killed_while_exiting => exiting,
}

fn kill(pid: u32) {
    assert!(
        signal_child(std::process::id(), pid, Signal::KILL),
        "{pid} was not there to be killed"
    );
}

fn slow_start(told: String, go: String) -> Result<(), std::io::Error> {
    tell(&told, std::process::id());
    await_file(&go);
    Ok(())
}

async fn starting() {
    let pool = Pool::builder()
        .workers(0..=1)
        .init(slow_start, &(file("starts"), file("go")))
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    let handle = pool.call(hold(file("runs"), file("go")));
    let pid: u32 = written("starts").await.parse().unwrap();
    std::fs::remove_file(file("starts")).unwrap();
    kill(pid);
    let reason = event(&mut events, "the start failed", |event| match event {
        Event::WorkerStartFailed { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    let reason = reason.await;
    assert!(
        reason.contains("ended before it was ready") && reason.contains("SIGKILL"),
        "{reason}"
    );
    let second: u32 = written("starts").await.parse().unwrap();
    tell(&file("go"), "go");
    assert_eq!(
        within("the call", handle).await.unwrap(),
        second,
        "it ran once, in the second worker"
    );
    assert_ne!(pid, second);
    end(pool).await;
}

async fn idle() {
    let pool = Pool::builder().workers(2).start().await.unwrap();
    let mut events = pool.events();
    let pid = worker_pid(&pool);
    kill(pid);
    let seen = event(&mut events, "it is gone", |event| match event {
        Event::WorkerGone {
            pid,
            exit,
            expected,
            ..
        } => Some((*pid, *exit, *expected)),
        _ => None,
    });
    assert_eq!(seen.await, (pid, Exit::Signal(libc::SIGKILL), false));
    event(&mut events, "it is replaced", |event| {
        matches!(event, Event::WorkerReady { .. }).then_some(())
    })
    .await;
    assert_eq!(pool.stats().idle, 2);
    assert_eq!(pool.stats().failed, 0, "no call was hurt");
    end(pool).await;
}

/// A call that its worker did not read has not run: it runs elsewhere, without charge.
async fn reading() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    for bytes in [0, 32 << 20] {
        until("a worker is there", || pool.stats().idle == 1).await;
        let pid = worker_pid(&pool);
        // Stopped, so that it has read no more than a part when it dies.
        assert!(signal_child(std::process::id(), pid, Signal::STOP));
        until("it is stopped", || {
            facts::process(pid).is_some_and(|process| process.state == 'T')
        })
        .await;
        let handle = pool.call(length(file("started"), Bytes::from(vec![1; bytes])));
        kill(pid);
        assert_eq!(within("the call", handle).await.unwrap(), bytes);
        let ran_in: u32 = written("started").await.parse().unwrap();
        assert_ne!(ran_in, pid);
        assert_eq!(pool.stats().crashed, 0);
        std::fs::remove_file(file("started")).unwrap();
    }
    end(pool).await;
}

async fn running() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let handle = pool.call(hold(file("runs"), file("never")));
    let pid: u32 = written("runs").await.parse().unwrap();
    kill(pid);
    let Err(CallError::Crashed(report)) = within("the call", handle).await else {
        panic!("it crashed")
    };
    println!("{report}");
    assert_eq!(
        (report.pid, &report.ended, report.exit),
        (
            pid,
            &AttemptOutcome::Signalled,
            Some(Exit::Signal(libc::SIGKILL))
        )
    );
    assert_eq!(report.step, None, "it was not us");
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

async fn running_with_retries() {
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let handle = pool.call(hold(file("runs"), file("go")).retries(1));
    let pid: u32 = written("runs").await.parse().unwrap();
    std::fs::remove_file(file("runs")).unwrap();
    kill(pid);
    let second: u32 = written("runs").await.parse().unwrap();
    tell(&file("go"), "go");
    assert_eq!(within("the call", handle).await.unwrap(), second);
    end(pool).await;
}

/// Runs a scenario on a runtime of one thread, so that the pool reads nothing while the scenario
/// does not await.
fn alone(scenario: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> {
    let thread = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(scenario);
    };
    async move {
        std::thread::Builder::new()
            .spawn(thread)
            .unwrap()
            .join()
            .unwrap()
    }
}

/// Blocks this thread until the worker's main thread waits in this system call.
fn block_until_it_waits_in(pid: u32, calls: &[i64]) {
    let waits = wait_until(BOUND, || {
        waits_in(pid).is_some_and(|call| calls.contains(&call))
    });
    assert!(waits.is_some(), "{pid} waits in {:?}", waits_in(pid));
}

/// Blocks this thread until the file is there.
fn block_until_told(name: &str) -> u32 {
    let path = directory().join(name);
    let told = || std::fs::read_to_string(&path).ok()?.trim().parse().ok();
    wait_until(BOUND, || told().is_some()).expect("the task runs");
    told().unwrap()
}

async fn writing() {
    alone(async {
        let pool = Pool::builder().workers(1).start().await.unwrap();
        let mut handle = pool.call(produce(file("produced"), 48 << 20));
        let pid = block_until_told("produced");
        // The pool reads nothing now, so the worker is held up with a part of the frame in the
        // socket.
        block_until_it_waits_in(pid, &[libc::SYS_write, libc::SYS_sendto]);
        kill(pid);
        let outcome = within("the call", &mut handle).await;
        assert!(
            matches!(outcome, Err(CallError::Crashed(_))),
            "half a result is none: {outcome:?}"
        );
        assert_eq!(
            within("the next call", pool.call(add(1, 2))).await.unwrap(),
            3
        );
        end(pool).await;
    })
    .await;
}

async fn after_the_result() {
    alone(async {
        let pool = Pool::builder().workers(1).start().await.unwrap();
        let handle = pool.call(produce(file("produced"), 1 << 10).retries(3));
        let pid = block_until_told("produced");
        // Back in its wait for the next call, so the result is in the socket, where it is not read
        // yet.
        block_until_it_waits_in(pid, &[libc::SYS_read, libc::SYS_recvfrom]);
        std::fs::remove_file(file("produced")).unwrap();
        kill(pid);
        wait_until(BOUND, || !facts::is_alive(pid)).expect("it dies");
        assert_eq!(
            within("the call", handle).await.unwrap().len(),
            1 << 10,
            "what was written before death counts"
        );
        assert_eq!(
            within("the next call", pool.call(add(1, 2))).await.unwrap(),
            3
        );
        assert!(
            !std::fs::exists(file("produced")).unwrap(),
            "it did not run again"
        );
        assert_eq!(pool.stats().done, 2);
        end(pool).await;
    })
    .await;
}

fn nothing() -> Result<(), std::io::Error> {
    Ok(())
}

async fn exiting() {
    let pool = Pool::builder()
        .workers(1)
        .init(nothing, &())
        .teardown(|(): &()| {
            let directory = std::env::var("BRIGADE_FAULT_DIRECTORY").unwrap();
            tell(&format!("{directory}/leaves"), std::process::id());
            await_file(&format!("{directory}/never"));
        });
    let pool = pool
        .inherit_env(["BRIGADE_FAULT_DIRECTORY"])
        .teardown_timeout(Duration::from_secs(15))
        .start()
        .await
        .unwrap();
    let stopping = pool.clone();
    let shutdown = tokio::task::JoinSet::from_iter([async move { stopping.shutdown().await }]);
    let pid: u32 = written("leaves").await.parse().unwrap();
    kill(pid);
    let ended = within("the shutdown", shutdown.join_all()).await;
    assert!(ended[0].drained);
    assert!(
        ended[0].took < Duration::from_secs(10),
        "it did not wait for the dead: {:?}",
        ended[0].took
    );
    end(pool).await;
}
