//! Many idle processes that wait for one queue: a job wakes all of them, and few ask for it.

use std::process::{Child, Command, Stdio};

use brigade::Broker;
use brigade_testkit::redis::Redis;

use crate::stage::{BOUND, LONG, start, until};

const URL: &str = "BRIGADE_TEST_CROWD_URL";
const PROCESSES: usize = 6;
const JOBS: u64 = 20;

/// What each of the processes does; nothing in this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idle_process() {
    let Ok(url) = std::env::var(URL) else { return };
    let broker = Broker::connect(&url).await.unwrap();
    loop {
        if let Some(lease) = broker.queue("q").lease(LONG, BOUND).await.unwrap() {
            lease.ack().await.unwrap();
        }
    }
}

struct Idle(Child);

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Calls of a command so far. Scripts that hand out jobs look at the size of each set of a queue;
/// those that only look for jobs do not.
fn calls(server: &Redis, command: &str) -> u64 {
    let stats = server.ask("INFO commandstats").unwrap();
    let name = format!("cmdstat_{command}:calls=");
    let count = stats.lines().find_map(|line| {
        let rest = line.strip_prefix(&name)?;
        rest.split(',').next()?.parse().ok()
    });
    count.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_idle_processes_about_as_many_ask_as_there_are_jobs() {
    let (server, broker) = start(&[]).await;
    let idle = |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "idle_crowd::idle_process"])
            .env(URL, server.url())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Idle(command.spawn().unwrap())
    };
    let _idle: Vec<Idle> = (0..PROCESSES).map(idle).collect();
    until("all of them wait", async || {
        server.ask("ZCARD brigade:{q}:consumers").unwrap() == format!(":{PROCESSES}\r\n")
    })
    .await;
    let is_empty = || server.ask("EXISTS brigade:{q}:jobs").unwrap() == ":0\r\n";
    let before = calls(&server, "zcard");
    for number in 0..JOBS {
        broker.queue("q").push(&number).await.unwrap();
        until("it is done", async || is_empty()).await;
    }
    let asked = calls(&server, "zcard") - before;
    println!("{asked} looks at the size of a set");
    // Of each job: two scripts of its holder that ask, as it asks again, and what pushing and
    // settling looks at. Of the others less than half.
    let (others, of_ask, else_looked_at) = (PROCESSES as u64 - 1, 13, 4);
    let few = JOBS * (else_looked_at + of_ask * (2 + others / 2));
    assert!(
        asked < few,
        "{asked} looks at the size of a set, for {JOBS} jobs and {PROCESSES} processes"
    );
}
