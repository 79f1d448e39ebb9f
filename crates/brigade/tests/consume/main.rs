//! The consumer: jobs of a broker run in a pool's processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]
#![expect(
    unsafe_code,
    reason = "a constructor, as programs of a test's own are entered under a test harness"
)]

#[path = "../../../brigade-conformance/src/cases/agree.rs"]
mod agree;
mod cancel;
mod control;
mod deploy;
mod fate;
mod flows;
mod fresh;
mod order;
mod reload;
mod serve;
mod users;

use std::fs;
use std::future::Future;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use brigade::{
    Broker, Consumer, ConsumerHandle, Context, Failure, JobId, Pass, Pool, Served, ToJob, task,
};
use brigade_testkit::program::ROLE_VARIABLE;
use tokio::task::JoinHandle;

brigade::test_workers!();

const LONG: Duration = Duration::from_secs(30);

#[task]
fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
fn join(a: String, b: String) -> String {
    a + &b
}

#[task(queue = "emails")]
fn send(address: serde_json::Value) -> String {
    format!(
        "sent to {}",
        address["email"].as_str().unwrap_or("no address")
    )
}

/// It was called otherwise before.
#[task(aliases = ["hail", "salute"])]
fn greet(name: String) -> String {
    format!("hello {name}")
}

#[task]
fn fails(message: String) -> Result<(), Failure> {
    Err(Failure::new(message))
}

#[task]
fn fails_for_good() -> Result<(), Failure> {
    Err(Failure::permanent("never"))
}

#[task]
fn passes_once(marker: String) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
    if fs::exists(&marker)? {
        return Ok(7);
    }
    fs::write(&marker, "")?;
    Err(Pass::new("reloading").into())
}

#[task]
fn poison() {
    std::process::abort();
}

#[task]
fn panics(message: String) {
    panic!("{message}");
}

/// Ends when it is asked to.
#[task]
fn waits_for_cancel(cx: &Context, started: String) {
    fs::write(started, "").unwrap();
    while !cx.is_cancelled() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[task]
fn reports_its_tick(cx: &Context) -> Option<std::time::SystemTime> {
    cx.tick()
}

/// Ends by force only.
#[task]
fn never_ends(started: String) {
    fs::write(started, "").unwrap();
    loop {
        std::thread::park();
    }
}

#[task]
fn own_pid() -> u32 {
    std::process::id()
}

/// Crashes the first time, once it may go on; then gives its worker's number.
#[task]
fn crashes_once(started: String, go: String) -> u32 {
    if !fs::exists(&started).unwrap() {
        fs::write(started, "").unwrap();
        await_file(&go);
        std::process::abort();
    }
    std::process::id()
}

/// Notes its name in a file.
#[task]
fn notes(file: String, name: String) {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .unwrap();
    file.write_all(format!("{name}\n").as_bytes()).unwrap();
}

/// Bounded, so that no worker of a failed test stays.
fn await_file(path: &str) {
    for _ in 0..12_000 {
        if Path::new(path).exists() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

struct Setting {
    broker: Broker,
    pool: Pool,
    directory: tempfile::TempDir,
}

impl Setting {
    async fn new(workers: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let broker = Broker::connect(&format!(
            "sqlite:{}",
            directory.path().join("jobs.db").display()
        ))
        .await
        .unwrap();
        let pool = Pool::builder().workers(workers).start().await.unwrap();
        Self {
            broker,
            pool,
            directory,
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }

    async fn push(&self, job: impl ToJob) -> JobId {
        self.broker.push(job).await.unwrap().id().clone()
    }

    /// Another connection to the same file.
    async fn elsewhere(&self) -> Broker {
        Broker::connect(&format!("sqlite:{}", self.path("jobs.db")))
            .await
            .unwrap()
    }

    fn consumer(&self) -> Consumer {
        self.broker.consumer().on(&self.pool)
    }

    /// Serves until all is settled.
    async fn serve(&self) -> Served {
        self.consumer().run_until_empty().await.unwrap()
    }

    /// Waits, bounded, until a task has made its file.
    async fn made(&self, name: &str) {
        let path = self.path(name);
        until(name, || fs::exists(&path).unwrap()).await;
    }
}

/// A consumer that runs next to the test, until it is drained.
fn start(worker: Consumer) -> (ConsumerHandle, JoinHandle<Served>) {
    let handle = worker.handle();
    (
        handle,
        tokio::spawn(async move {
            worker
                .run_until(std::future::pending::<()>())
                .await
                .unwrap()
        }),
    )
}

/// Fails a test that hangs.
async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(2 * LONG, what)
        .await
        .expect("it comes")
}

/// For facts without an event.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < 2 * LONG, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// -- programs of a test's own

const _: () = {
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ENTER: extern "C" fn() = enter;

    /// Takes the place of the test harness if this process was started in a role.
    extern "C" fn enter() {
        let Ok(role) = std::env::var(ROLE_VARIABLE) else {
            return;
        };
        brigade::init();
        let Some((_, run)) = deploy::ROLES
            .iter()
            .chain(&fate::ROLES)
            .chain(flows::ROLES)
            .find(|(name, _)| *name == role)
        else {
            std::process::exit(2)
        };
        let ended = std::panic::catch_unwind(AssertUnwindSafe(run));
        std::io::stdout().flush().ok();
        std::process::exit(if ended.is_ok() { 0 } else { 101 });
    }
};
