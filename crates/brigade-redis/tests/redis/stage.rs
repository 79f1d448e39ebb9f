//! What these tests share: a server and a broker, and a plain connection.

use std::future::Future;
use std::time::Duration;

use brigade::{Broker, Error, ErrorKind, JobInfo};
use brigade_testkit::redis::Redis;

pub(crate) const NOW: Duration = Duration::ZERO;
/// A lease that does not run out within a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// No step takes this long, however loaded the machine is.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) async fn start(options: &[&str]) -> (Redis, Broker) {
    let server = Redis::start(options).unwrap();
    let broker = Broker::connect(&server.url()).await.unwrap();
    (server, broker)
}

/// A connection as another program has it.
pub(crate) fn plain(server: &Redis) -> redis::Connection {
    redis::Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap()
}

/// Sends a command on it.
pub(crate) fn tell<T: redis::FromRedisValue>(
    connection: &mut redis::Connection,
    words: &[&str],
) -> T {
    let (name, arguments) = words.split_first().unwrap();
    redis::cmd(name).arg(arguments).query(connection).unwrap()
}

/// Asks again and again, bounded, until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(BOUND, asking).await.is_ok(),
        "never came: {what}"
    );
}

/// Asserts that this is how a server that is gone, or not back yet, is reported: never as anything
/// that a caller would give up on.
pub(crate) fn assert_passing(error: &Error) {
    assert!(
        error.kind() == ErrorKind::Unreachable && error.is_retryable(),
        "{error:?}"
    );
}

/// All jobs of a queue.
pub(crate) async fn all_jobs(broker: &Broker, queue: &str) -> Vec<JobInfo> {
    broker
        .jobs(Some(queue), None, None, usize::MAX)
        .await
        .unwrap()
}

/// Jobs of these queues that are not settled.
pub(crate) async fn unsettled(broker: &Broker, queues: &[&str]) -> u64 {
    // The server may not be back yet.
    let Ok(counts) = broker.queues().await else {
        return u64::MAX;
    };
    let ours = counts
        .iter()
        .filter(|counts| queues.contains(&counts.queue.as_str()));
    ours.flat_map(|counts| &counts.jobs)
        .filter(|(state, _)| !state.is_terminal())
        .map(|(_, count)| count)
        .sum()
}
