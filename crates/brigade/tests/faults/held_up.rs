//! Workers that cannot run: the machine is busy, a signal stopped them, a debugger has them, or
//! many start at once.

#![expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "starts load and is a debugger"
)]

use std::process::Command;
use std::time::Duration;

use brigade::{Event, Pool};
use brigade_testkit::facts;

use crate::stage::{end, event, millis, scenarios, within, worker_pid};
use crate::tasks::{How, add, misbehave, own_pid};

scenarios! {
    x_idle_workers_of_a_busy_machine_are_left_alone => busy_machine,
    x_a_stopped_worker_is_told_as_stopped => stopped,
    x_a_worker_that_a_debugger_has_is_left_alone => debugged,
    x_many_slow_starts_share_the_machine => slow_starts,
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
