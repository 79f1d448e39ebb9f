//! What a worker and its tasks must still be able to do in a sandbox, and which sandbox counts.

#![expect(unsafe_code, reason = "a thread that blocks all signals, and crashes")]
#![expect(clippy::disallowed_methods, reason = "starts programs")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use brigade::{Broker, CallError, Context, ErrorKind, Exit, Sandbox, task};

use crate::place::{pool, scenarios};

scenarios! {
    a_worker_does_its_own_work_in_every_sandbox => own_work,
    threads_that_were_there_before_are_in_the_sandbox_too => earlier_threads,
    a_thread_that_blocks_all_signals_has_the_call_refused => deaf_thread,
    paths_are_read_and_written_as_the_builder_says => paths,
    a_path_that_is_missing_has_the_call_refused => missing_path,
    the_call_s_sandbox_goes_before_the_task_s_and_that_before_the_pool_s => precedence,
    a_job_runs_in_the_sandbox_that_it_was_pushed_with => jobs,
    a_fork_bomb_in_a_sandbox_stays_within_its_limit_and_goes => fork_bomb,
}

const PROFILES: [fn() -> Sandbox; 3] = [Sandbox::no_network, Sandbox::read_only, Sandbox::compute];

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
fn work(cx: &Context) -> String {
    cx.progress(0.5, "half");
    let sum = std::thread::spawn(|| (0..1000_u64).sum::<u64>())
        .join()
        .unwrap();
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(5));
    assert!(began.elapsed() >= Duration::from_millis(5));
    let memory = vec![1_u8; 8 << 20];
    println!("printed");
    format!("{sum} {}", memory.len())
}

#[task]
async fn work_async() -> u64 {
    let other = tokio::spawn(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        20
    });
    other.await.unwrap() + tokio::task::spawn_blocking(|| 1).await.unwrap()
}

#[task]
fn panic(text: String) {
    panic!("{text}");
}

#[task]
fn crash() {
    // SAFETY: ends this worker, which is what is asked for.
    unsafe { libc::raise(libc::SIGSEGV) };
}

#[task]
fn hang() {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

async fn own_work() {
    for sandbox in PROFILES {
        let pool = pool(1, |builder| builder).await;
        let handle = pool.call(work().sandbox(sandbox()).capture(1024));
        let done = handle.await.unwrap();
        assert_eq!(done, "499500 8388608");
        let pid = pool.workers()[0].pid;
        assert_eq!(
            pool.call(work_async().sandbox(sandbox())).await.unwrap(),
            21
        );
        let limited = work().sandbox(sandbox()).memory(64 << 20);
        assert_eq!(pool.call(limited).await.unwrap(), done);
        let error = pool
            .call(panic("oh no".into()).sandbox(sandbox()))
            .await
            .unwrap_err();
        assert!(matches!(&error, CallError::Panicked(_)), "{error}");
        assert!(error.to_string().contains("oh no"), "{error}");
        // All of that in one process, which the sandbox itself has not changed in its eyes.
        assert_eq!(pool.workers()[0].pid, pid);
        let error = pool.call(crash().sandbox(sandbox())).await.unwrap_err();
        let CallError::Crashed(report) = &error else {
            panic!("{error}");
        };
        assert_eq!(report.exit, Some(Exit::Signal(libc::SIGSEGV)), "{report:?}");
        let hanging = hang().sandbox(sandbox()).timeout(Duration::from_millis(50));
        let error = pool.call(hanging).await.unwrap_err();
        assert!(matches!(error, CallError::TimedOut(_)), "{error}");
        assert_eq!(pool.call(add(1, 2).sandbox(sandbox())).await.unwrap(), 3);
        pool.shutdown().await;
    }
}

/// A thread of the init hook, and what it is asked to do.
struct Helper {
    ask: Mutex<Sender<u16>>,
    told: Mutex<Receiver<Option<i32>>>,
}

fn start_helper() -> Result<Helper, std::io::Error> {
    let (ask, asked) = channel();
    let (tell, told) = channel();
    std::thread::Builder::new()
        .name("helper".into())
        .spawn(move || {
            for port in asked {
                let error = TcpStream::connect(("127.0.0.1", port)).err();
                tell.send(error.map(|error| error.raw_os_error().unwrap_or(-1)))
                    .ok();
            }
        })?;
    Ok(Helper {
        ask: Mutex::new(ask),
        told: Mutex::new(told),
    })
}

/// Has the thread of the init hook connect; returns its error.
#[task]
fn connect_elsewhere(cx: &Context, port: u16) -> Option<i32> {
    let helper = cx.state::<Helper>();
    helper.ask.lock().unwrap().send(port).unwrap();
    helper.told.lock().unwrap().recv().unwrap()
}

async fn earlier_threads() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for sandbox in PROFILES {
        let pool = pool(1, |builder| builder.init(start_helper, &())).await;
        assert_eq!(pool.call(connect_elsewhere(port)).await.unwrap(), None);
        // The runtime of async tasks has threads by now, too.
        assert_eq!(pool.call(work_async()).await.unwrap(), 21);
        let refused = pool
            .call(connect_elsewhere(port).sandbox(sandbox()))
            .await
            .unwrap();
        assert_eq!(refused, Some(libc::EPERM));
        assert_eq!(
            pool.call(work_async().sandbox(sandbox())).await.unwrap(),
            21
        );
        pool.shutdown().await;
    }
}

fn start_deaf_thread() -> Result<(), std::io::Error> {
    static READY: OnceLock<()> = OnceLock::new();
    let started = std::thread::Builder::new().name("deaf".into()).spawn(|| {
        // SAFETY: fills a local and blocks the signals of this thread.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        }
        READY.set(()).ok();
        loop {
            std::thread::park();
        }
    });
    started?;
    READY.wait();
    Ok(())
}

async fn deaf_thread() {
    let pool = pool(1, |builder| builder.init(start_deaf_thread, &())).await;
    let error = pool
        .call(add(1, 2).sandbox(Sandbox::compute()))
        .await
        .unwrap_err();
    let CallError::Rejected(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("\"deaf\""), "{error}");
    // Another worker has taken its place.
    assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
    pool.shutdown().await;
}

/// How reading and writing went, and whether a program could be executed.
#[task]
fn try_paths(read: PathBuf, written: PathBuf, other: PathBuf) -> Vec<bool> {
    let runs = |path: &Path| {
        let output = Command::new(path).arg("-c").arg("exit 0").status();
        output.is_ok_and(|status| status.success())
    };
    vec![
        fs::read(read.join("file")).is_ok(),
        fs::write(read.join("file"), "x").is_ok(),
        fs::write(written.join("new"), "x").is_ok(),
        fs::read(written.join("new")).is_ok(),
        fs::rename(written.join("new"), written.join("newer")).is_ok(),
        fs::remove_file(written.join("newer")).is_ok(),
        fs::read(other.join("file")).is_ok(),
        fs::write(other.join("new"), "x").is_ok(),
        runs(Path::new("/bin/sh")),
        runs(&written.join("program")),
    ]
}

async fn paths() {
    let directory = tempfile::tempdir().unwrap();
    let [read, written, other] = ["read", "written", "other"].map(|name| {
        let path = directory.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "text").unwrap();
        path
    });
    fs::copy("/bin/sh", written.join("program")).unwrap();
    let pool = pool(1, |builder| builder).await;
    let call = || try_paths(read.clone(), written.clone(), other.clone());
    let rules = || Sandbox::builder().read(&read).write(&written);
    let files = [true, false, true, true, true, true, false, false];
    for (sandbox, programs) in [
        (rules(), [false, false]),
        (rules().system(), [false, false]),
        (rules().programs(), [false, false]),
        (rules().system().programs(), [true, false]),
    ] {
        let sandbox = sandbox.build().unwrap();
        let tried = pool.call(call().sandbox(sandbox.clone())).await.unwrap();
        assert_eq!(tried, [&files[..], &programs[..]].concat(), "{sandbox}");
    }
    // Without a sandbox all of it works.
    assert_eq!(pool.call(call()).await.unwrap(), [true; 10]);
    pool.shutdown().await;
}

async fn missing_path() {
    let pool = pool(1, |builder| builder).await;
    let sandbox = Sandbox::builder().read("/nowhere/at/all").build().unwrap();
    let error = pool.call(add(1, 2).sandbox(sandbox)).await.unwrap_err();
    let CallError::Rejected(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.kind(), ErrorKind::BadOption, "{error}");
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    assert_eq!(pool.call(add(1, 2)).await.unwrap(), 3);
    pool.shutdown().await;
}

/// What this process may do: read files, start programs.
fn rights() -> (bool, bool) {
    (
        fs::read("/etc/passwd").is_ok(),
        Command::new("true").status().is_ok(),
    )
}

#[task]
fn rights_here() -> (bool, bool) {
    rights()
}

#[task(sandbox = "compute")]
fn rights_in_compute() -> (bool, bool) {
    rights()
}

/// With an expression.
#[task(sandbox = brigade::Sandbox::builder().read("/etc").build().unwrap())]
fn rights_by_rules() -> (bool, bool) {
    rights()
}

async fn precedence() {
    let pool = pool(1, |builder| builder.sandbox(Sandbox::compute())).await;
    assert_eq!(pool.call(rights_here()).await.unwrap(), (false, false));
    assert_eq!(pool.call(rights_by_rules()).await.unwrap(), (true, false));
    let own = rights_in_compute().sandbox(Sandbox::read_only());
    assert_eq!(pool.call(own).await.unwrap(), (true, true));
    let plain = pool.run(rights, ()).await.unwrap();
    assert_eq!(plain, (false, false));
    pool.shutdown().await;
}

/// Starts programs until it may start no more.
#[task]
fn start_many() -> u32 {
    let mut started = 0;
    while started < 100 && Command::new("sleep").arg("60").spawn().is_ok() {
        started += 1;
        // The pool looks at the number of processes now and then.
        std::thread::sleep(Duration::from_millis(20));
    }
    started
}

async fn fork_bomb() {
    for sandbox in [Sandbox::no_network(), Sandbox::read_only()] {
        let pool = pool(1, |builder| builder).await;
        let bomb = start_many().sandbox(sandbox.clone()).processes(8);
        match pool.call(bomb).await {
            // A control group has it.
            Ok(started) => assert!(started <= 8, "{started}"),
            Err(error) => assert!(matches!(error, CallError::Crashed(_)), "{error}"),
        }
        assert_eq!(pool.call(add(1, 2).sandbox(sandbox)).await.unwrap(), 3);
        pool.shutdown().await;
    }
}

async fn jobs() {
    let broker = Broker::connect("sqlite::memory:").await.unwrap();
    let keep = Duration::from_secs(600);
    for (job, expected) in [
        (rights_here(), (true, true)),
        (rights_here().sandbox(Sandbox::compute()), (false, false)),
        (rights_in_compute(), (false, false)),
        (
            rights_in_compute().sandbox(Sandbox::read_only()),
            (true, true),
        ),
    ] {
        let pushed = broker.push(job.keep(keep)).await.unwrap();
        broker.consumer().run_until_empty().await.unwrap();
        let info = broker.job(pushed.id()).await.unwrap().unwrap();
        let result: (bool, bool) = serde_json::from_str(info.result.as_deref().unwrap()).unwrap();
        assert_eq!(result, expected, "{info:?}");
    }
    // Without worker processes there is no sandbox, and the task does not run.
    let pushed = broker.push(rights_in_compute().keep(keep)).await.unwrap();
    broker
        .consumer()
        .in_process()
        .run_until_empty()
        .await
        .unwrap();
    let info = broker.job(pushed.id()).await.unwrap().unwrap();
    let reason = info.reason.as_deref().unwrap_or_default();
    assert!(
        info.result.is_none() && reason.contains("in_process"),
        "{info:?}"
    );
}
