//! The conformance suite of brokers: every broker passes all of what it declares, on the real thing. No test asks which broker it
//! runs on; what a broker cannot do is data (`Capabilities`), pinned in `capabilities`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod cancel;
mod contract;
mod flow_model;
mod flows;
mod limits;
mod log;
#[cfg(feature = "redis")]
mod redis;
mod retry;
mod schedules;
mod sqlite;

use std::future::Future;

use brigade::Broker;

/// One broker under test, empty; dropped with what it needed.
pub(crate) struct Subject {
    pub(crate) broker: Broker,
    pub(crate) url: String,
    needs: Option<Needs>,
}

/// The brokers of this build.
#[cfg(feature = "redis")]
const BROKERS: &[&str] = &["sqlite file", "sqlite memory", "redis"];
#[cfg(not(feature = "redis"))]
const BROKERS: &[&str] = &["sqlite file", "sqlite memory"];

/// What is gone with the test.
enum Needs {
    Directory {
        _of: tempfile::TempDir,
    },
    #[cfg(feature = "redis")]
    Server {
        _of: brigade_testkit::redis::Redis,
    },
}

/// Runs a test on every broker.
pub(crate) fn on_every_broker<F: Future<Output = ()>>(test: impl Fn(Subject) -> F) {
    on(&tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(), test);
}

/// As [`on_every_broker`], for what is measured of a thread.
pub(crate) fn on_every_broker_in_one_thread<F: Future<Output = ()>>(test: impl Fn(Subject) -> F) {
    on(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), test);
}

fn on<F: Future<Output = ()>>(runtime: &tokio::runtime::Runtime, test: impl Fn(Subject) -> F) {
    runtime.block_on(async {
        for name in BROKERS {
            eprintln!("-- {name}");
            let mut subject = subject(name).await;
            // A test's `async move` takes the fields that it uses, and would let go of this one before it begins.
            let needs = subject.needs.take();
            test(subject).await;
            drop(needs);
        }
    });
}

pub(crate) async fn subject(name: &str) -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let (url, needs) = match name {
        "sqlite file" => (format!("sqlite:{}", directory.path().join("jobs.db").display()), Needs::Directory { _of: directory }),
        "sqlite memory" => ("sqlite::memory:".to_owned(), Needs::Directory { _of: directory }),
        #[cfg(feature = "redis")]
        "redis" => {
            let server = brigade_testkit::redis::Redis::start(&[]).unwrap();
            (server.url(), Needs::Server { _of: server })
        }
        unknown => panic!("there is no broker {unknown:?}"),
    };
    let broker = Broker::connect(&url).await.unwrap();
    Subject { broker, url, needs: Some(needs) }
}
