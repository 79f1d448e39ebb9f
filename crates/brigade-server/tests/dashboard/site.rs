//! A broker, a server on it, and a consumer with its workers: what a browser looks at.

use std::net::SocketAddr;
use std::time::Duration;

use brigade::store::{DeliveryMode, LeaseRequest, Queues};
use brigade::{Broker, Job, JobId, JobState, Pool, task};
use brigade_server::{Auth, ServerOptions};
use brigade_testkit::postgres::Postgres;
use brigade_testkit::rabbitmq::{RabbitMq, namespace};
use brigade_testkit::redis::Redis;
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Jobs that become dead letters together.
const LEASED_AT_ONCE: usize = 500;

/// Which broker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Sqlite,
    Redis,
    Postgres,
    RabbitMq,
}

/// A broker and a server on it.
pub(crate) struct Site {
    pub(crate) broker: Broker,
    pub(crate) address: SocketAddr,
    pub(crate) directory: tempfile::TempDir,
    broker_url: String,
    auth: Auth,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
    pub(crate) redis: Option<Redis>,
}

/// Takes its worker down until there is this file, with colours and a tag in its last words.
#[task]
pub(crate) fn fragile(repaired: String) -> String {
    if std::path::Path::new(&repaired).exists() {
        return "it works now".to_owned();
    }
    eprintln!("reading the \u{1b}[1;31mbroken\u{1b}[0m file <img src=x onerror=alert(1)>");
    std::process::abort();
}

/// Ends well.
#[task]
pub(crate) fn greet(name: String) -> String {
    format!("hello {name}")
}

/// Runs until there is this file.
#[task]
pub(crate) fn patient(cx: &brigade::Context, end: String) {
    cx.progress(0.4, "waiting for the file");
    while !std::path::Path::new(&end).exists() {
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Runs until it is stopped.
#[task]
pub(crate) fn endless(cx: &brigade::Context, what: String) {
    cx.progress(0.4, what.as_str());
    loop {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

impl Site {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::start_with(kind, Auth::none()).await
    }

    pub(crate) async fn start_with(kind: Kind, auth: Auth) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (url, redis) = match kind {
            Kind::Sqlite => {
                let path = directory.path().join("jobs.db");
                (format!("sqlite:{}", path.display()), None)
            }
            Kind::Redis => {
                let redis = Redis::start(&[]).unwrap();
                (redis.url(), Some(redis))
            }
            Kind::Postgres => {
                let server = Postgres::shared().unwrap();
                (server.fresh_database().unwrap(), None)
            }
            Kind::RabbitMq => {
                let server = RabbitMq::shared().unwrap().url();
                (format!("{server}/?ns={}", namespace()), None)
            }
        };
        let mut site = Self {
            broker: Broker::connect(&url).await.unwrap(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            directory,
            broker_url: url,
            auth,
            stop: CancellationToken::new(),
            server: None,
            redis,
        };
        site.start_server().await;
        site
    }

    async fn start_server(&mut self) {
        self.stop = CancellationToken::new();
        let options = ServerOptions::new(self.auth.clone()).stop(self.stop.clone());
        let router = brigade_server::router(self.broker.clone(), options);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = listener.local_addr().unwrap();
        let stopped = self.stop.clone();
        self.server = Some(tokio::spawn(async move {
            let serving = axum::serve(listener, router);
            tokio::select! {
                served = serving => served.unwrap(),
                () = stopped.cancelled() => {}
            }
        }));
    }

    /// A server that has read nothing yet, with a connection of its own.
    pub(crate) async fn start_again(&mut self) {
        self.stop_server().await;
        self.broker = Broker::connect(&self.broker_url).await.unwrap();
        self.start_server().await;
    }

    /// The address of a page.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The address of a job's page.
    pub(crate) fn job_url(&self, id: &JobId) -> String {
        self.url(&format!("/jobs/{}", id.as_str().replace('/', "%2F")))
    }

    /// A consumer in a pool of worker processes; ends with what it returns.
    pub(crate) async fn consume(&self, queues: &[&str], slots: usize) -> Consuming {
        let pool = Pool::builder().workers(2).start().await.unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut consumer = self
            .broker
            .consumer()
            .on(&pool)
            .prefetch(slots)
            .version("1.4.2");
        for queue in queues {
            consumer = consumer.queue(*queue);
        }
        let running = tokio::spawn(async move {
            consumer
                .run_until(async move { stopped.cancelled().await })
                .await
                .unwrap();
            pool.shutdown().await;
        });
        Consuming { stop, running }
    }

    /// Pushes jobs of this payload.
    pub(crate) async fn push(&self, queue: &str, payload: &str, count: usize) -> Vec<JobId> {
        let mut ids = Vec::new();
        let jobs: Vec<Job> = (0..count).map(|_| Job::new(queue, None, payload)).collect();
        for batch in jobs.chunks(1_000) {
            let pushed = self.broker.push_many(batch.to_vec()).await.unwrap();
            ids.extend(pushed.iter().map(|pushed| pushed.id().clone()));
        }
        ids
    }

    /// Makes dead letters, by leasing and setting aside.
    pub(crate) async fn dead_letters(&self, queue: &str, count: usize, reason: &str) {
        self.push(queue, "{\"to\": \"ann@example.org\"}", count)
            .await;
        let mut number = 0;
        while number < count {
            let request = LeaseRequest {
                queues: Queues::one(queue),
                max: (count - number).min(LEASED_AT_ONCE),
                mode: DeliveryMode::Lease(Duration::from_secs(600)),
                wait: Duration::ZERO,
                enough: CancellationToken::new(),
            };
            let leases = self.broker.lease(request).await.unwrap();
            assert!(!leases.is_empty(), "{number} of {count}");
            // Many at once, so that the store writes them together.
            let set_aside =
                stream::iter(leases.into_iter().zip(number..)).map(async |(lease, number)| {
                    let reason = reason.replace("{n}", &number.to_string());
                    lease.dead_letter(reason).await.unwrap();
                    1
                });
            let set_aside = set_aside.buffer_unordered(LEASED_AT_ONCE);
            number += set_aside.fold(0, async |sum, one| sum + one).await;
        }
    }

    /// Waits until a job is in this state.
    pub(crate) async fn until_state(&self, id: &JobId, state: JobState) {
        while self
            .broker
            .job(id)
            .await
            .unwrap()
            .is_none_or(|job| job.state != state)
        {
            tokio::task::yield_now().await;
        }
    }

    /// Ends the server, as a lost network looks to a browser.
    pub(crate) async fn stop_server(&mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            server.await.unwrap();
        }
    }
}

/// A consumer that runs.
pub(crate) struct Consuming {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Consuming {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}
