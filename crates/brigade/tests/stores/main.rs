//! The conformance suite of brokers: every broker passes all of what it declares, on the real
//! thing. No test asks which broker it runs on; what a broker cannot do is data (`Capabilities`),
//! pinned in `capabilities`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]
#![expect(
    unsafe_code,
    reason = "a constructor takes the place of the harness in a program of a test's own"
)]

#[path = "../../../brigade-conformance/src/cases/agree.rs"]
mod agree;
#[path = "../../../brigade-conformance/src/cases/any_json.rs"]
mod any_json;
#[path = "../../../brigade-conformance/src/cases/cancel.rs"]
mod cancel;
#[path = "../../../brigade-conformance/src/cases/consumers.rs"]
mod consumers;
#[path = "../../../brigade-conformance/src/cases/contract.rs"]
mod contract;
#[path = "../../../brigade-conformance/src/cases/edits.rs"]
mod edits;
#[path = "../../../brigade-conformance/src/cases/far.rs"]
mod far;
#[path = "../../../brigade-conformance/src/cases/flow_model.rs"]
mod flow_model;
#[path = "../../../brigade-conformance/src/cases/flow_options.rs"]
mod flow_options;
#[path = "../../../brigade-conformance/src/cases/flow_sizes.rs"]
mod flow_sizes;
#[path = "../../../brigade-conformance/src/cases/flows.rs"]
mod flows;
#[path = "../../../brigade-conformance/src/cases/handlers.rs"]
mod handlers;
#[path = "../../../brigade-conformance/src/cases/handles.rs"]
mod handles;
#[path = "../../../brigade-conformance/src/cases/keys.rs"]
mod keys;
#[path = "../../../brigade-conformance/src/cases/leases.rs"]
mod leases;
#[path = "../../../brigade-conformance/src/cases/limits.rs"]
mod limits;
#[path = "../../../brigade-conformance/src/cases/log.rs"]
mod log;
#[path = "../../../brigade-conformance/src/cases/real_time.rs"]
mod real_time;
#[cfg(feature = "redis")]
mod redis;
#[path = "../../../brigade-conformance/src/cases/retry.rs"]
mod retry;
#[path = "../../../brigade-conformance/src/cases/schedule_clocks.rs"]
mod schedule_clocks;
#[path = "../../../brigade-conformance/src/cases/schedules.rs"]
mod schedules;
#[path = "../../../brigade-conformance/src/cases/served.rs"]
mod served;
mod sqlite;
mod sqlite_file;
mod sqlite_queues;
mod sqlite_sweeps;
#[path = "../../../brigade-conformance/src/cases/together.rs"]
mod together;
#[path = "../../../brigade-conformance/src/cases/traces.rs"]
mod traces;
#[path = "../../../brigade-conformance/src/cases/views.rs"]
mod views;
#[path = "../../../brigade-conformance/src/cases/waiting.rs"]
mod waiting;

use std::future::Future;

use brigade::{Broker, Capabilities};

brigade::test_workers!();

/// One broker under test, empty; dropped with what it needed.
pub(crate) struct Subject {
    pub(crate) broker: Broker,
    pub(crate) url: String,
    needs: Option<Needs>,
}

/// The brokers of this build.
fn brokers() -> impl Iterator<Item = &'static str> {
    let sqlite = ["sqlite file", "sqlite memory"];
    let redis = if cfg!(feature = "redis") {
        &["redis"][..]
    } else {
        &[]
    };
    let rabbitmq = if cfg!(feature = "rabbitmq") {
        &["rabbitmq", "rabbitmq with priorities", "rabbitmq quorum"][..]
    } else {
        &[]
    };
    let all = sqlite
        .into_iter()
        .chain(redis.iter().copied())
        .chain(rabbitmq.iter().copied());
    // For work on one store: `BRIGADE_BROKERS=redis` leaves those whose names begin so.
    let only = std::env::var("BRIGADE_BROKERS").unwrap_or_default();
    all.filter(move |name| name.starts_with(&only))
}

/// What is gone with the test.
enum Needs {
    Directory {
        _of: tempfile::TempDir,
    },
    #[cfg(feature = "redis")]
    Server {
        _of: brigade_testkit::redis::Redis,
    },
    /// A server of all tests, in which each has names of its own.
    #[cfg(feature = "rabbitmq")]
    Nothing,
}

/// Runs a test on every broker.
pub(crate) fn on_every_broker<F: Future<Output = ()>>(test: impl Fn(Subject) -> F) {
    on_brokers_that(|_| true, test);
}

/// Runs a test on every broker, on all of them at once: for what takes its time by waiting.
pub(crate) fn on_every_broker_at_once<F: Future<Output = ()>>(test: impl Fn(Subject) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let on_each = brokers().map(async |name| {
        let mut subject = subject(name).await;
        let needs = subject.needs.take();
        test(subject).await;
        eprintln!("-- {name} passed");
        drop(needs);
    });
    runtime.block_on(futures_util::future::join_all(on_each));
}

/// Runs a test on every broker that can do what it is about.
pub(crate) fn on_brokers_that<F: Future<Output = ()>>(
    can: impl Fn(&Capabilities) -> bool,
    test: impl Fn(Subject) -> F,
) {
    on(
        &tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap(),
        can,
        test,
    );
}

/// As [`on_every_broker`], for what is measured of a thread.
pub(crate) fn on_every_broker_in_one_thread<F: Future<Output = ()>>(test: impl Fn(Subject) -> F) {
    on_brokers_in_one_thread_that(|_| true, test);
}

/// As [`on_brokers_that`], for what is measured of a thread.
pub(crate) fn on_brokers_in_one_thread_that<F: Future<Output = ()>>(
    can: impl Fn(&Capabilities) -> bool,
    test: impl Fn(Subject) -> F,
) {
    on(
        &tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap(),
        can,
        test,
    );
}

fn on<F: Future<Output = ()>>(
    runtime: &tokio::runtime::Runtime,
    can: impl Fn(&Capabilities) -> bool,
    test: impl Fn(Subject) -> F,
) {
    runtime.block_on(async {
        for name in brokers() {
            let mut subject = subject(name).await;
            if !can(&subject.broker.capabilities()) {
                continue;
            }
            eprintln!("-- {name}");
            // A test's `async move` takes the fields that it uses, and would let go of this one
            // before it begins.
            let needs = subject.needs.take();
            test(subject).await;
            drop(needs);
        }
    });
}

pub(crate) async fn subject(name: &str) -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let (url, needs) = match name {
        "sqlite file" => (
            format!("sqlite:{}", directory.path().join("jobs.db").display()),
            Needs::Directory { _of: directory },
        ),
        "sqlite memory" => (
            "sqlite::memory:".to_owned(),
            Needs::Directory { _of: directory },
        ),
        #[cfg(feature = "redis")]
        "redis" => {
            let server = brigade_testkit::redis::Redis::start(&[]).unwrap();
            (server.url(), Needs::Server { _of: server })
        }
        #[cfg(feature = "rabbitmq")]
        "rabbitmq" | "rabbitmq with priorities" | "rabbitmq quorum" => {
            let server = brigade_testkit::rabbitmq::RabbitMq::shared().unwrap();
            let queues = match name {
                "rabbitmq" => "",
                "rabbitmq quorum" => "&queues=quorum",
                _ => "&priorities=9",
            };
            (
                format!(
                    "{}?ns={}{queues}",
                    server.url(),
                    brigade_testkit::rabbitmq::namespace()
                ),
                Needs::Nothing,
            )
        }
        unknown => panic!("there is no broker {unknown:?}"),
    };
    let broker = Broker::connect(&url).await.unwrap();
    Subject {
        broker,
        url,
        needs: Some(needs),
    }
}

// -- programs of a test's own

const _: () = {
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ENTER: extern "C" fn() = enter;

    /// Takes the place of the test harness if this process was started in a role.
    extern "C" fn enter() {
        let Ok(role) = std::env::var(brigade_testkit::program::ROLE_VARIABLE) else {
            return;
        };
        let Some((_, run)) = handlers::ROLES.iter().find(|(name, _)| *name == role) else {
            std::process::exit(2)
        };
        let ended = std::panic::catch_unwind(run);
        std::process::exit(if ended.is_ok() { 0 } else { 101 });
    }
};
