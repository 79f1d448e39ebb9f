//! A Node program with `amqplib` calls and serves on the same queues as Brigade, at the same time.
//!
//! The program is `node/`. It is started with what it is to do: `ask` a task, or `serve` one, and
//! prints each answer or request as a line of JSON, which the tests compare. So the formats of
//! `docs/brokers.md` (Remote calls over RabbitMQ) are tested with a client that is not ours.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use brigade::{Call, CallError, Pool};
use brigade_testkit::count;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::stage::*;

/// Where `node/fetch` puts the client.
fn modules() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rabbitmq-node");
    let fetch = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rabbitmq_calls/node/fetch");
    let fetched = Command::new(fetch)
        .arg(&place)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(
        fetched.success(),
        "the client of the Node programs is fetched by npm"
    );
    place
}

/// A Node program; it is gone with the test.
struct Node(Child);

impl Node {
    async fn start(stage: &Stage, arguments: &[&str]) -> Self {
        let modules = tokio::task::spawn_blocking(modules).await.unwrap();
        let program =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rabbitmq_calls/node/client.cjs");
        let mut command = Command::new("node");
        command
            .arg(program)
            .arg(modules)
            .arg(stage.server.url())
            .args(arguments);
        Self(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap(),
        )
    }

    /// What it printed, once it has ended well.
    async fn lines(mut self) -> Vec<Value> {
        let stdout = self.0.stdout.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || std::io::read_to_string(stdout).unwrap());
        let text = soon("its end", reading).await.unwrap();
        assert!(self.0.wait().unwrap().success());
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn rust_and_node_workers_serve_rust_and_node_callers_on_the_same_queue() {
    let stage = Stage::new().await;
    let queue = stage.name("add");
    let worker = Node::start(&stage, &["serve", &queue]).await;
    let plain = stage.plain().await;
    until("it serves", async || plain.counts(&queue).await.1 == 1).await;
    // A Rust caller and a Node worker alone.
    assert_eq!(
        soon("a sum", stage.broker.call(add(1, 2))).await.unwrap(),
        3
    );
    let CallError::Failed(failure) = soon(
        "a failure",
        stage
            .broker
            .call(Call::<i64>::json("add", &json!(["x", 1]))),
    )
    .await
    .unwrap_err() else {
        panic!("it failed")
    };
    assert_eq!(failure.message, "no numbers");
    // Now both kinds of both.
    let serving = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(add)
            .prefetch(10)
            .in_process(),
    );
    until("both serve", async || plain.counts(&queue).await.1 == 2).await;
    let each = count(500, 10_000);
    let caller = Node::start(&stage, &["call", &queue, &each.to_string()]).await;
    let here = join_all((0..each as i64).map(|n| stage.broker.call(add(n, 1))));
    let (here, there) = soon("all answers", async { tokio::join!(here, caller.lines()) }).await;
    for (n, sum) in here.into_iter().enumerate() {
        assert_eq!(sum.unwrap(), n as i64 + 1);
    }
    let sums: Vec<Value> = (0..each).map(|n| json!(n + 1)).collect();
    assert_eq!(there, sums);
    let done = serving.end().await.done;
    assert!(
        done > 0 && done < 2 * each as u64,
        "both had some: {done} of {}",
        2 * each
    );
    assert_eq!(
        soon("a sum", stage.broker.call(add(5, 6))).await.unwrap(),
        11,
        "the Node worker is still there"
    );
    drop(worker);
}

#[tokio::test]
async fn a_node_caller_is_told_why_by_a_rust_worker() {
    let stage = Stage::new().await;
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let serving = Serving::start(
        stage
            .elsewhere()
            .await
            .consumer()
            .task(fails)
            .task(add)
            .task(spins_for_a_moment)
            .on(&pool),
    );
    let plain = stage.plain().await;
    until("it serves", async || {
        plain.counts(&stage.name("fails")).await.1 == 1
    })
    .await;
    let seen = Node::start(&stage, &["ask", &stage.name("fails"), r#"["no"]"#])
        .await
        .lines()
        .await;
    assert_eq!(
        (&seen[0]["error"], &seen[0]["body"]["message"]),
        (&json!("failed"), &json!("no"))
    );
    let seen = Node::start(&stage, &["ask", &stage.name("add"), "[1, 2, 3]"])
        .await
        .lines()
        .await;
    assert_eq!(
        (&seen[0]["error"], &seen[0]["body"]["error"]),
        (&json!("rejected"), &json!("bad-arguments"))
    );
    // It says nothing of time: the task does.
    let seen = Node::start(&stage, &["ask", &stage.name("spins_for_a_moment"), "[]"])
        .await
        .lines()
        .await;
    assert_eq!(seen[0]["error"], json!("timed-out"), "{seen:?}");
    serving.end().await;
    pool.shutdown().await;
}
