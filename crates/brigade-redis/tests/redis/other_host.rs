//! A holder on another host: when its process dies, others take its jobs long before its leases
//! end; when only its connection is cut, it keeps them; and when it cannot get that back, it stops
//! its attempts before others begin.
//!
//! The other host is a PID namespace of its own: the number of the holder's process means nothing
//! to the consumer in this process, so that it can only see the holder's connection. The connection
//! goes through a proxy, which cuts it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use brigade::{Broker, JobState, Settled};
use brigade_testkit::proxy::{Cut, Proxy, Target};
use brigade_testkit::redis::Redis;

use crate::stage::{BOUND, LONG, NOW, all_jobs, start, until};

const URL: &str = "BRIGADE_TEST_ELSEWHERE_URL";
const DIRECTORY: &str = "BRIGADE_TEST_ELSEWHERE_DIRECTORY";

/// What the holder does; nothing in this process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holder_elsewhere() {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = Broker::connect(&url).await.unwrap();
    let (mut held, queue) = (Vec::new(), broker.queue("q"));
    while let Some(lease) = queue.lease(LONG, NOW).await.unwrap() {
        held.push(lease);
    }
    // Until it may settle them.
    until("it may go on", async || {
        matches!(broker.queue("go").take(BOUND).await, Ok(Some(_)))
    })
    .await;
    for lease in held {
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
}

struct Mark(PathBuf);

impl Drop for Mark {
    fn drop(&mut self) {
        std::fs::write(&self.0, "").unwrap();
    }
}

#[brigade::task]
async fn held_elsewhere(directory: String) {
    let _stopped = Mark(Path::new(&directory).join("stopped"));
    std::fs::write(Path::new(&directory).join("began"), "").unwrap();
    std::future::pending::<()>().await;
}

/// The same with a consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumer_elsewhere() {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = Broker::connect(&url).await.unwrap();
    let consumer = broker.consumer().task(held_elsewhere).in_process();
    consumer
        .lease(LONG)
        .run_until(std::future::pending::<()>())
        .await
        .unwrap();
}

struct Elsewhere(Child);

impl Elsewhere {
    /// Starts a test of this binary where its process number means nothing to this process.
    fn start(test: &str, url: &str, directory: &Path) -> Self {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--pid", "--fork", "--kill-child"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(URL, url)
            .env(DIRECTORY, directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn proxied(server: &Redis) -> (Proxy, String) {
    let proxy = Proxy::start(Target::Unix(server.socket()), 1).unwrap();
    let url = format!("redis://{}/", proxy.address());
    (proxy, url)
}

async fn until_all_are_leased(broker: &Broker, count: usize) {
    until("it holds all", async || {
        let jobs = all_jobs(broker, "q").await;
        jobs.len() == count && jobs.iter().all(|job| job.state == JobState::Leased)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_process_that_was_killed_on_another_host_go_on_long_before_their_leases_end()
{
    let (server, broker) = start(&[]).await;
    for number in 0..5 {
        broker.queue("q").push(&number).await.unwrap();
    }
    let mut holder = Elsewhere::start(
        "other_host::holder_elsewhere",
        &server.url(),
        Path::new("/"),
    );
    until_all_are_leased(&broker, 5).await;
    holder.kill();
    for number in 0..5 {
        let lease = broker.queue("q").lease(LONG, BOUND).await.unwrap();
        let lease = lease.expect("it goes on long before its lease ends");
        assert_eq!(lease.payload::<u32>().unwrap(), number, "in its place");
        assert_eq!((lease.attempt(), lease.lost()), (1, 1), "uncharged");
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_on_another_host_whose_connections_are_cut_keeps_its_jobs() {
    let (server, broker) = start(&[]).await;
    broker.queue("q").push(&1).await.unwrap();
    let (proxy, url) = proxied(&server);
    let mut holder = Elsewhere::start("other_host::holder_elsewhere", &url, Path::new("/"));
    until_all_are_leased(&broker, 1).await;
    for how in [Cut::Reset, Cut::Finish] {
        proxy.cut(how);
        // For longer than it takes with the jobs of a process that is gone.
        let other = broker.queue("q").lease(LONG, Duration::from_secs(15)).await;
        assert!(other.unwrap().is_none());
    }
    broker.queue("go").push(&1).await.unwrap();
    until("it has settled its job", async || {
        all_jobs(&broker, "q").await.is_empty()
    })
    .await;
    assert!(holder.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_on_another_host_that_cannot_come_back_stops_before_others_begin() {
    let (server, broker) = start(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let there = directory.path().to_str().unwrap().to_owned();
    broker.push(held_elsewhere(there)).await.unwrap();
    let (proxy, url) = proxied(&server);
    let mut holder = Elsewhere::start("other_host::consumer_elsewhere", &url, directory.path());
    until("it has begun", async || {
        directory.path().join("began").exists()
    })
    .await;
    proxy.close_to_new(true);
    proxy.cut(Cut::Reset);
    let lease = broker
        .queue("held_elsewhere")
        .lease(LONG, BOUND)
        .await
        .unwrap();
    assert!(
        directory.path().join("stopped").exists(),
        "it stopped first"
    );
    let lease = lease.expect("it goes on long before its lease ends");
    // The first holder can settle again, in vain.
    proxy.close_to_new(false);
    assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    assert!(all_jobs(&broker, "held_elsewhere").await.is_empty());
    holder.kill();
}
