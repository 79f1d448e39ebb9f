//! The parent's end: killed (B15), its threads (B16), its signals (B17).

#![expect(
    unsafe_code,
    reason = "signal masks and descriptor flags of the parent"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "threads and programs of the parent's own"
)]

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use brigade::{CallError, Pool};
use brigade_testkit::facts;
use brigade_testkit::program::Program;
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::stage::{BOUND, file, millis, scenarios, within};
use crate::tasks::{await_file, hold, hold_without_death_signal, own_pid, tell};

scenarios! {
    b16_a_worker_outlives_the_thread_that_asked_for_it => thread_ends;
    busy_parent,
    parent_whose_links_are_held,
    parent_without_death_signal,
    starting_parent,
    idle_service,
    running_service,
    starting_service,
}

// -- B15

/// Starts the parent, waits until it is busy, kills it and waits for the end of its workers.
fn kill_parent(role: &str, before: impl FnOnce(&[u32])) {
    let mut program = Program::start(role).unwrap();
    let workers = program
        .line("workers ", BOUND)
        .unwrap_or_else(|| panic!("{}", program.log()));
    let workers: Vec<u32> = workers.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(workers.iter().all(|pid| facts::is_alive(*pid)));
    before(&workers);
    assert!(program.signal(Signal::KILL));
    program.wait(BOUND).expect("SIGKILL ends it");
    let took = facts::wait_until(Duration::from_secs(1), || {
        !workers.iter().any(|pid| facts::is_alive(*pid))
    });
    let alive: Vec<&u32> = workers
        .iter()
        .filter(|pid| facts::is_alive(**pid))
        .collect();
    println!(
        "{role}: {} workers gone {took:.1?} after their parent",
        workers.len()
    );
    assert!(took.is_some(), "alive after a second: {alive:?}");
}

#[test]
fn b15_workers_end_with_a_killed_parent() {
    kill_parent("busy_parent", |_| {});
}

#[test]
fn b15_the_death_signal_alone_ends_them() {
    kill_parent("parent_whose_links_are_held", |_| {});
}

#[test]
fn b15_the_end_of_the_link_alone_ends_them() {
    kill_parent("parent_without_death_signal", |_| {});
}

#[test]
fn b15_stopped_workers_end_too() {
    kill_parent("busy_parent", |workers| {
        for pid in workers {
            assert!(facts::signal(*pid, Signal::STOP));
        }
        // Every thread of them: the kernel counts a process as stopped, and wakes it when its
        // parent dies, only then.
        let stopped = || {
            workers
                .iter()
                .all(|pid| facts::threads(*pid).iter().all(|state| *state == 'T'))
        };
        facts::wait_until(BOUND, stopped).expect("they stop");
    });
}

#[test]
fn b15_a_worker_that_is_starting_ends_too() {
    kill_parent("starting_parent", |_| {});
}

/// Says which workers run something, and waits to be killed.
async fn busy(
    workers: usize,
    call: impl Fn(String, String) -> brigade::Call<u32>,
    also: impl FnOnce(),
) {
    let pool = Pool::builder().workers(workers).start().await.unwrap();
    let handles: Vec<_> = (0..workers)
        .map(|number| pool.call(call(file(&format!("runs{number}")), file("never"))))
        .collect();
    for number in 0..workers {
        crate::stage::written(&format!("runs{number}")).await;
    }
    also();
    say_workers(
        &pool
            .workers()
            .iter()
            .filter_map(|worker| worker.pid)
            .collect::<Vec<_>>(),
    );
    for handle in handles {
        drop(handle.await);
    }
}

fn say_workers(pids: &[u32]) {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    println!("workers {}", pids.join(" "));
}

async fn busy_parent() {
    busy(4, hold, || {}).await;
}

async fn parent_without_death_signal() {
    busy(2, hold_without_death_signal, || {}).await;
}

/// Another process holds the parent's ends of all links, so their end never comes.
async fn parent_whose_links_are_held() {
    #[expect(
        clippy::zombie_processes,
        reason = "it outlives this parent on purpose; the test ends it"
    )]
    let hold_all = || {
        let mut command = Command::new("sleep");
        command.arg("1000");
        // What is opened after this, to start the program, must not be held: its end shows that the
        // program runs.
        let open = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let open: Vec<libc::c_int> = open.filter(|fd| *fd > 2).collect();
        // SAFETY: the hook runs in the child before exec and makes calls that are safe there.
        unsafe {
            command.pre_exec(move || {
                for fd in &open {
                    libc::fcntl(*fd, libc::F_SETFD, 0);
                }
                Ok(())
            });
        }
        let holder = command.spawn().unwrap();
        let count = facts::open_descriptors(holder.id());
        assert!(count > 10, "the holder has only {count} descriptors");
    };
    busy(2, hold, hold_all).await;
}

fn never_ready(told: String, go: String) -> Result<(), std::io::Error> {
    tell(&told, std::process::id());
    await_file(&go);
    Ok(())
}

async fn starting_parent() {
    let pool = Pool::builder()
        .workers(0..=1)
        .init(never_ready, &(file("starts"), file("never")))
        .start_timeout(Duration::from_secs(60));
    let pool = pool.start().await.unwrap();
    let handle = pool.call(own_pid());
    let pid: u32 = crate::stage::written("starts").await.parse().unwrap();
    say_workers(&[pid]);
    drop(handle.await);
}

// -- B16

async fn thread_ends() {
    // Off this runtime, whose threads are kept.
    let thread = || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_keep_alive(millis(50))
            .enable_all()
            .build()
            .unwrap();
        let (pool, thread, pid) = runtime.block_on(async {
            let handle = tokio::runtime::Handle::current();
            let start = move || {
                let pool = handle.block_on(Pool::builder().workers(1).start()).unwrap();
                let pid = handle.block_on(pool.call(own_pid())).unwrap();
                (pool, rustix::thread::gettid(), pid)
            };
            tokio::task::spawn_blocking(start).await.unwrap()
        });
        let thread = format!("/proc/self/task/{}", thread.as_raw_nonzero());
        let ended = facts::wait_until(BOUND, || !std::fs::exists(&thread).unwrap());
        println!(
            "the thread ended after {:.1?}",
            ended.expect("the thread ends")
        );
        // A signal for the parent's death would have been delivered at that moment.
        let call = async { tokio::time::timeout(BOUND, pool.call(own_pid())).await };
        assert_eq!(
            runtime.block_on(call).unwrap().unwrap(),
            pid,
            "the same worker lives"
        );
        runtime.block_on(pool.shutdown());
    };
    std::thread::spawn(thread).join().unwrap();
    crate::stage::assert_childless();
}

// -- B17

/// A service with a pool: drains at the first signal, ends at once at the second. Says what it
/// does.
async fn service(pool: Pool, handles: Vec<brigade::CallHandle<u32>>) {
    let mut signals = signals();
    say_workers(
        &pool
            .workers()
            .iter()
            .filter_map(|worker| worker.pid)
            .collect::<Vec<_>>(),
    );
    signals.recv().await.unwrap();
    println!("draining");
    let began = Instant::now();
    let shutdown = tokio::select! {
        shutdown = pool.shutdown() => shutdown,
        _ = signals.recv() => {
            println!("killing");
            pool.kill().await
        }
    };
    println!("drained {} after {:.1?}", shutdown.drained, began.elapsed());
    for handle in handles {
        match within("an outcome", handle).await {
            Ok(_) => println!("outcome done"),
            Err(CallError::Cancelled(_)) => println!("outcome cancelled"),
            Err(error) => println!("outcome {error}"),
        }
    }
    crate::stage::assert_childless();
    println!("bye");
}

/// SIGTERM and SIGINT, which are blocked in the services of these tests from their first moment on,
/// as their workers must not be.
fn signals() -> mpsc::Receiver<i32> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        let set = crate::stage::service_signals();
        let mut signal = 0;
        // SAFETY: waits for signals that are blocked in every thread of this process.
        while unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0
            && sender.blocking_send(signal).is_ok()
        {}
    });
    receiver
}

async fn idle_service() {
    service(
        Pool::builder().workers(2).start().await.unwrap(),
        Vec::new(),
    )
    .await;
}

async fn running_service() {
    let pool = Pool::builder()
        .workers(2)
        .kill_after(millis(100), millis(100))
        .start()
        .await
        .unwrap();
    let handles = vec![pool.call(hold(file("runs"), file("go")))];
    crate::stage::written("runs").await;
    service(pool, handles).await;
}

async fn starting_service() {
    let builder = Pool::builder()
        .workers(0..=1)
        .init(never_ready, &(file("starts"), file("never")));
    let builder = builder
        .start_timeout(Duration::from_secs(60))
        .shutdown_timeout(millis(300))
        .teardown_timeout(millis(300));
    let pool = builder.start().await.unwrap();
    let handles = vec![pool.call(own_pid())];
    crate::stage::written("starts").await;
    service(pool, handles).await;
}

fn started(role: &str) -> (Program, Vec<u32>) {
    let program = Program::start(role).unwrap();
    let workers = program
        .line("workers ", BOUND)
        .unwrap_or_else(|| panic!("{}", program.log()));
    (
        program,
        workers
            .split(' ')
            .filter_map(|pid| pid.parse().ok())
            .collect(),
    )
}

/// Waits for the service's end; returns what it said.
fn said(mut program: Program) -> String {
    let status = program.wait(BOUND);
    let log = program.log();
    println!("{log}");
    assert_eq!(status.expect("it ends").code(), Some(0));
    assert_eq!(program.descendants(), Vec::<u32>::new());
    assert!(log.ends_with("bye\n"));
    log
}

#[test]
fn b17_sigterm_while_idle() {
    for signal in [Signal::TERM, Signal::INT] {
        let (program, workers) = started("idle_service");
        assert_eq!(workers.len(), 2);
        assert!(program.signal(signal));
        assert!(said(program).contains("drained true"));
    }
}

#[test]
fn b17_sigterm_while_running_lets_the_call_finish() {
    let (program, _) = started("running_service");
    assert!(program.signal(Signal::TERM));
    program.line("draining", BOUND).expect("it drains");
    tell(program.file("go").to_str().unwrap(), "go");
    let log = said(program);
    assert!(log.contains("drained true") && log.contains("outcome done"));
}

#[test]
fn b17_a_second_signal_while_draining_ends_at_once() {
    let (program, _) = started("running_service");
    assert!(program.signal(Signal::TERM));
    program.line("draining", BOUND).expect("it drains");
    assert!(program.signal(Signal::TERM));
    let log = said(program);
    assert!(
        log.contains("killing")
            && log.contains("drained false")
            && log.contains("outcome cancelled")
    );
}

#[test]
fn b17_sigterm_while_a_worker_starts() {
    let (program, _) = started("starting_service");
    let began = Instant::now();
    assert!(program.signal(Signal::TERM));
    let log = said(program);
    println!("ended after {:.1?}", began.elapsed());
    assert!(log.contains("drained false") && log.contains("outcome the call was rejected"));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "a start that hangs holds up the end of the pool"
    );
}

/// A service manager signals every process of a service; a terminal its foreground.
#[test]
fn b17_signals_of_others_do_not_end_workers() {
    let (program, workers) = started("running_service");
    for pid in &workers {
        for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
            assert!(facts::signal(*pid, signal));
        }
    }
    assert!(program.signal(Signal::TERM));
    program.line("draining", BOUND).expect("it drains");
    for pid in workers.iter().filter(|pid| facts::is_alive(**pid)) {
        facts::signal(*pid, Signal::TERM);
    }
    tell(program.file("go").to_str().unwrap(), "go");
    let log = said(program);
    assert!(log.contains("drained true") && log.contains("outcome done"));
}
