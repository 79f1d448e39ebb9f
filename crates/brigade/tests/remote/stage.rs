//! Hosts to join a pool, and how to wait for what they do.

#![expect(
    unsafe_code,
    reason = "a constructor, as workers are entered under a test harness"
)]

use std::future::Future;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use brigade::remote::{self, Credentials};
use brigade::{Builder, Event, Events, Pool, WorkerInfo, WorkerState};
use brigade_testkit::program::{Program, ROLE_VARIABLE, arguments};

/// No step takes this long, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

const KEY: &str = "brigade-key-txGZ69Bws2vqtzF5IMLC8dd3340F5VJ9hFj9pXyxenrB6op9";

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn credentials() -> Credentials {
    Credentials::key(KEY).unwrap()
}

/// A pool without workers of its own that listens, quick to notice what happens to its hosts.
pub(crate) fn fleet() -> Builder {
    Pool::builder()
        .workers(0)
        .listen("tcp://127.0.0.1:0", credentials())
        .heartbeat(millis(250))
        .lost_after(BOUND)
}

/// Where a pool's only listener is.
pub(crate) fn url_of(pool: &Pool) -> String {
    pool.listening().remove(0)
}

/// Fails a test that hangs.
pub(crate) async fn soon<F: Future>(test: F) -> F::Output {
    tokio::time::timeout(BOUND, test).await.expect("it hangs")
}

// -- hosts

/// A host program. Its arguments are words: `url`, or `word=value`.
pub(crate) fn host(words: &[&str]) -> Program {
    Program::start_with("host", words).unwrap()
}

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
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            match role.as_str() {
                "seeded" => runtime.block_on(Box::pin(crate::faults::seeded())),
                "large" => runtime.block_on(Box::pin(crate::large::master())),
                _ => runtime.block_on(Box::pin(serve())),
            }
        }));
        std::io::stdout().flush().ok();
        std::process::exit(if ended.is_ok() { 0 } else { 101 });
    }
};

/// The life of a host program.
async fn serve() {
    let (mut host, mut credentials) = (None::<remote::Host>, credentials());
    for word in arguments() {
        let (name, value) = word.split_once('=').unwrap_or(("url", &word));
        if name == "key" {
            credentials = Credentials::key(value).unwrap();
            continue;
        }
        host = Some(match (host.take(), name) {
            (None, "url") => remote::serve(value, credentials.clone()).workers(1),
            (Some(host), "url") => host.also(value, credentials.clone()),
            (Some(host), "workers") => host.workers(value.parse::<usize>().unwrap()),
            (Some(host), "slots") => host.slots(value.parse().unwrap()),
            (Some(host), "labels") => host.labels(value.split(',')),
            (Some(host), "name") => host.name(value),
            (Some(host), "functions") => host.functions(true),
            (Some(host), "payload") => {
                host.pool(|builder| builder.payload_max(value.parse::<usize>().unwrap() << 20))
            }
            (Some(host), "drain") => host.drain_timeout(millis(value.parse().unwrap())),
            (Some(host), "ladder") => {
                let ask = millis(value.parse().unwrap());
                host.pool(|builder| builder.kill_after(ask, BOUND))
            }
            _ => panic!("an unknown word: {word}"),
        });
    }
    match host.unwrap().run().await {
        Ok(()) => println!("left"),
        Err(error) => println!("error {:?} {error}", error.kind()),
    }
}

// -- what happens

/// The next event that is wanted.
pub(crate) async fn event<T>(events: &mut Events, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(events.next().await.expect("the pool is there")) {
            return found;
        }
    }
}

pub(crate) async fn joined(events: &mut Events) -> (u32, bool, usize) {
    event(events, |event| match event {
        Event::HostJoined {
            worker,
            resumed,
            stale,
            ..
        } => Some((worker, resumed, stale)),
        _ => None,
    })
    .await
}

pub(crate) async fn away(events: &mut Events) -> String {
    event(events, |event| match event {
        Event::HostAway { reason, .. } => Some(reason.to_string()),
        _ => None,
    })
    .await
}

/// How many calls were lost with a host that left, and why.
pub(crate) async fn left(events: &mut Events) -> (usize, String) {
    event(events, |event| match event {
        Event::HostLeft { lost, reason, .. } => Some((lost, reason.to_string())),
        _ => None,
    })
    .await
}

pub(crate) fn worker(pool: &Pool, name: &str) -> WorkerInfo {
    let workers = pool.workers();
    let found = workers
        .iter()
        .find(|worker| worker.host.as_deref() == Some(name));
    found
        .unwrap_or_else(|| panic!("{name} is not among {workers:?}"))
        .clone()
}

/// Waits, bounded, until something that the table of workers shows is so.
pub(crate) async fn until(pool: &Pool, mut holds: impl FnMut(&[WorkerInfo]) -> bool) {
    soon(async {
        while !holds(&pool.workers()) {
            tokio::time::sleep(millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn is_there(worker: &WorkerInfo) -> bool {
    matches!(worker.state, WorkerState::Idle | WorkerState::Busy)
}
