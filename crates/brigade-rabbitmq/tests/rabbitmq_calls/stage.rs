//! What these tests share: a namespace of the shared server, workers, tasks, and a plain AMQP
//! connection.

use std::future::{Future, pending};
use std::path::PathBuf;
use std::time::Duration;

use brigade::{Broker, Consumer, ConsumerHandle, Context, Failure, Pass, Pool, Served, task};
use brigade_testkit::rabbitmq::{RabbitMq, namespace};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::task::JoinHandle;

/// No step takes this long, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
/// Far longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[task]
pub(crate) fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
pub(crate) fn fails(message: String) -> Result<(), Failure> {
    Err(Failure::new(message).with_details(&[1, 2, 3]))
}

#[task]
pub(crate) fn panics() {
    panic!("oh no");
}

#[task]
pub(crate) fn aborts() {
    std::process::abort();
}

#[task]
pub(crate) fn spins() {
    loop {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

/// As `spins`, for callers who can say nothing of time.
#[task(timeout = "200ms")]
pub(crate) fn spins_for_a_moment() {
    loop {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

#[task]
pub(crate) fn large(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// Reports progress for each number, then returns the last.
#[task]
pub(crate) fn counts(cx: &Context, to: u32) -> u32 {
    (1..=to).for_each(|n| cx.progress(f64::from(n) / f64::from(to), n));
    to
}

/// Ends when it is asked to.
#[task]
pub(crate) fn waits(cx: &Context, started: String) {
    std::fs::write(started, "").unwrap();
    while !cx.is_cancelled() {
        std::thread::park_timeout(millis(2));
    }
}

/// Waits at an await until a file is there.
#[task]
pub(crate) async fn waits_for(file: String) -> u32 {
    while !std::fs::exists(&file).unwrap() {
        tokio::time::sleep(millis(2)).await;
    }
    std::process::id()
}

#[task]
pub(crate) fn always_passes(
    reason: String,
) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
    Err(Pass::new(reason).into())
}

/// A namespace of the shared server.
pub(crate) struct Stage {
    pub(crate) server: &'static RabbitMq,
    pub(crate) namespace: String,
    pub(crate) broker: Broker,
    directory: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let server = tokio::task::spawn_blocking(|| RabbitMq::shared().unwrap())
            .await
            .unwrap();
        let namespace = namespace();
        let broker = Broker::connect(&format!("{}/?ns={namespace}", server.url()))
            .await
            .unwrap();
        Self {
            server,
            namespace,
            broker,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Another connection to the same namespace, as another process has it.
    pub(crate) async fn elsewhere(&self) -> Broker {
        Broker::connect(&format!("{}/?ns={}", self.server.url(), self.namespace))
            .await
            .unwrap()
    }

    /// The broker's name of a queue.
    pub(crate) fn name(&self, queue: &str) -> String {
        format!("{}.{queue}", self.namespace)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// A connection as another program has it.
    pub(crate) async fn plain(&self) -> Plain {
        Plain::connect(self.server.port()).await
    }
}

/// A connection that knows nothing of Brigade.
pub(crate) struct Plain {
    pub(crate) channel: Channel,
    connection: Connection,
}

impl Plain {
    pub(crate) async fn connect(port: u16) -> Self {
        let url = format!("amqp://127.0.0.1:{port}/%2f");
        let runtime = lapin::runtime::default_runtime().unwrap();
        let connection =
            Connection::connect_with_runtime(&url, ConnectionProperties::default(), runtime)
                .await
                .unwrap();
        let channel = connection.create_channel().await.unwrap();
        // What is published is there when that returns: before whatever another connection
        // publishes next.
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        Self {
            channel,
            connection,
        }
    }

    /// A queue of this connection's own.
    pub(crate) async fn own_queue(&self) -> String {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self
            .channel
            .queue_declare("".into(), options, FieldTable::default())
            .await
            .unwrap();
        queue.name().as_str().to_owned()
    }

    pub(crate) async fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        self.channel
            .basic_publish("".into(), queue.into(), options, body, properties)
            .await
            .unwrap()
            .await
            .unwrap();
    }

    pub(crate) async fn consume(&self, queue: &str) -> lapin::Consumer {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        self.channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await
            .unwrap()
    }

    pub(crate) async fn fresh(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    /// Messages that wait in a queue, and consumers of it; none of either if it is not there.
    pub(crate) async fn counts(&self, queue: &str) -> (u32, u32) {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        // The broker closes the channel if there is no queue of this name.
        let channel = self.fresh().await;
        let found = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await;
        found.map_or((0, 0), |queue| {
            (queue.message_count(), queue.consumer_count())
        })
    }
}

pub(crate) fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// A worker that runs in the background of a test.
pub(crate) struct Serving {
    pub(crate) handle: ConsumerHandle,
    task: JoinHandle<Served>,
}

impl Serving {
    pub(crate) fn start(worker: Consumer) -> Self {
        let handle = worker.handle();
        Self {
            handle,
            task: tokio::spawn(async move { worker.run_until(pending::<()>()).await.unwrap() }),
        }
    }

    /// Ends it without waiting for what it has begun.
    pub(crate) fn abort(self) {
        self.task.abort();
    }

    pub(crate) async fn end(self) -> Served {
        self.handle.drain();
        soon("the end of a worker", self.task).await.unwrap()
    }
}

pub(crate) async fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).start().await.unwrap()
}

/// Fails a test that hangs.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(BOUND, future)
        .await
        .unwrap_or_else(|_| panic!("never came: {what}"))
}

/// Asks again and again, bounded, until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(millis(5)).await;
        }
    };
    soon(what, asking).await;
}
