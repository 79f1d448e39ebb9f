//! A program in another language, with an ordinary client: it pushes to the inbox and says that it
//! is free, while Brigade pushes and takes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use brigade_testkit::redis::Redis;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::stage::{BOUND, LONG, NOW, millis, start, unsettled, until};

/// Where `node/fetch` puts the client.
fn modules() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("redis-node");
    assert!(
        place.join("node_modules/redis/package.json").exists(),
        "run crates/brigade-redis/tests/redis/node/fetch {}",
        place.display()
    );
    place
}

/// A Node program; it is gone with the test.
struct Node(Child);

impl Node {
    fn start(server: &Redis, arguments: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redis/node/client.cjs");
        let mut command = Command::new("node");
        command
            .arg(program)
            .arg(modules())
            .arg(server.socket())
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
        let text = tokio::time::timeout(BOUND, reading)
            .await
            .expect("it ends by itself")
            .unwrap();
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

/// A job of the `n`-th push of a producer; the text is there to be mangled by anybody who does not
/// treat it as bytes.
fn payload(producer: &str, n: usize) -> Value {
    serde_json::json!({"producer": producer, "n": n, "text": "Grüße, 東京 \u{1f680}", "large": 9_007_199_254_740_993_u64, "nested": [[1.5, null], {"a": []}]})
}

fn number_of(job: &Value) -> (String, u64) {
    (
        job["producer"].as_str().unwrap().to_owned(),
        job["n"].as_u64().unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_program_pushes_and_brigade_takes_in_order_and_the_other_way_round() {
    let (server, broker) = start(&[]).await;
    let count = brigade_testkit::count(200, 5000);
    let queue = broker.queue("q");
    let pushing = Node::start(&server, &["push", "q", "node", &count.to_string()]);
    for n in 0..count {
        let job = tokio::time::timeout(BOUND, queue.take(LONG))
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(job.payload::<Value>().unwrap(), payload("node", n));
    }
    pushing.lines().await;
    assert!(queue.take(NOW).await.unwrap().is_none());

    let stop = CancellationToken::new();
    let managing = tokio::spawn(
        broker
            .manager("q")
            .run_until(stop.clone().cancelled_owned()),
    );
    let taking = Node::start(&server, &["take", "q", "worker-1", &count.to_string()]);
    for n in 0..count {
        queue.push(&payload("brigade", n)).await.unwrap();
    }
    let taken = taking.lines().await;
    assert_eq!(taken.len(), count);
    for (n, job) in taken.iter().enumerate() {
        // Node's numbers are doubles: it gets the text and prints it as it is.
        assert_eq!(*job, payload("brigade", n));
    }
    stop.cancel();
    assert_eq!(managing.await.unwrap().unwrap(), count as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_program_and_brigade_push_and_take_at_the_same_time() {
    let (server, broker) = start(&[]).await;
    let each = brigade_testkit::count(300, 5000);
    let queue = broker.queue("q");
    let stop = CancellationToken::new();
    let managing = tokio::spawn(
        broker
            .manager("q")
            .run_until(stop.clone().cancelled_owned()),
    );
    // They stop when nothing came for a while.
    let takers = ["worker-1", "worker-2"].map(|id| Node::start(&server, &["take", "q", id, "all"]));
    until("both have asked", async || {
        server.ask("LLEN brigade:{q}:free").unwrap() == ":2\r\n"
    })
    .await;
    let pushing = Node::start(&server, &["push", "q", "node", &each.to_string()]);
    let taking = tokio::spawn({
        let (queue, stop) = (queue.clone(), stop.clone());
        async move {
            let mut taken = Vec::new();
            while !stop.is_cancelled() {
                if let Some(job) = queue.take(millis(100)).await.unwrap() {
                    taken.push(job.payload::<Value>().unwrap());
                    // Leaves something for the others.
                    tokio::time::sleep(millis(2)).await;
                }
            }
            taken
        }
    });
    for n in 0..each {
        queue.push(&payload("brigade", n)).await.unwrap();
        tokio::time::sleep(millis(1)).await;
    }
    let [one, two] = takers;
    pushing.lines().await;
    until("all are taken", async || {
        unsettled(&broker, &["q"]).await == 0
    })
    .await;
    let (one, two) = (one.lines().await, two.lines().await);
    stop.cancel();
    let here = taking.await.unwrap();
    let handed = managing.await.unwrap().unwrap();
    println!(
        "taken by Brigade {}, by Node {} and {}",
        here.len(),
        one.len(),
        two.len()
    );
    assert_eq!(handed, (one.len() + two.len()) as u64);
    each_was_taken_once_and_in_order(each, [here, one, two]);
}

fn each_was_taken_once_and_in_order(each: usize, takers: [Vec<Value>; 3]) {
    let mut all: Vec<_> = takers.iter().flatten().map(number_of).collect();
    all.sort();
    let wanted: Vec<_> = ["brigade", "node"]
        .iter()
        .flat_map(|of| (0..each as u64).map(move |n| ((*of).to_owned(), n)))
        .collect();
    assert_eq!(all, wanted, "each job was taken once");
    for taker in takers {
        assert!(!taker.is_empty(), "everybody had some");
        for producer in ["brigade", "node"] {
            let numbers: Vec<_> = taker
                .iter()
                .map(number_of)
                .filter(|(of, _)| of == producer)
                .map(|(_, n)| n)
                .collect();
            assert!(
                numbers.is_sorted(),
                "{producer}'s jobs came in the order of their pushes: {numbers:?}"
            );
        }
    }
}
