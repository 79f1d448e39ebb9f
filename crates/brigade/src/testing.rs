//! For the tests of programs that push jobs: a broker with nothing to install and nothing to clean
//! up, what was pushed, and a way to run it.
//!
//! The broker is the real one, SQLite, in memory: what holds in the test holds in production.
//! Its clock can be moved ([`Broker::clock`]), so no test waits for a delay or a retry.
//!
//! [`broker()`] has an example.
//!
//! Nothing here keeps state: the broker owns the jobs, and its last clone ends it. [`drain()`] runs
//! jobs in this process, one call at a time, and leaves alone what is not due yet.
//!
//! A test of one task alone needs no broker: [`Call::run_here`](crate::Call::run_here). A test with
//! worker processes has [`test_workers!`](crate::test_workers) at the top of its file and ends with
//! `broker.consumer().on(&pool).run_until_empty()`.
//!
//! All functions here panic where something is wrong, as a test would.

use std::fmt;
use std::future::{Future, pending};
use std::panic::Location;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::broker::Broker;
use crate::codec::Codec;
use crate::consume::Served;
use crate::job::{Job, JobInfo};
use crate::to_job::ToJob;

/// A broker in memory, which is gone with its last clone.
///
/// ```standalone_crate
/// use std::time::Duration;
///
/// use brigade::{Broker, Failure, task, testing};
///
/// #[task(retries = 3)]
/// fn welcome(address: String) -> Result<String, Failure> {
///     if address.contains('@') {
///         Ok(format!("welcome, {address}"))
///     } else {
///         Err(Failure::permanent("no address"))
///     }
/// }
///
/// /// The code under test.
/// async fn sign_up(broker: &Broker, address: &str) -> Result<(), brigade::Error> {
///     broker.push(welcome(address.to_owned()).delay(Duration::from_secs(3600))).await?;
///     Ok(())
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(async {
/// let broker = testing::broker().await;
/// sign_up(&broker, "ann@example.org").await.unwrap();
///
/// // What was pushed, as a whole or in detail.
/// testing::assert_pushed(&broker, welcome("ann@example.org".to_owned())).await;
/// let pushed = testing::pushed(&broker, "welcome").await;
/// assert_eq!((pushed.len(), pushed[0].task()), (1, Some("welcome")));
/// assert_eq!(pushed[0].args::<(String,)>(), ("ann@example.org".to_owned(),));
///
/// // It runs here, when it is due.
/// assert_eq!(testing::drain(&broker).await.done, 0);
/// broker.clock().advance(Duration::from_secs(3601));
/// assert_eq!(testing::drain(&broker).await.done, 1);
/// # });
/// ```
///
/// # Panics
///
/// Outside of an async runtime (tokio).
pub async fn broker() -> Broker {
    Broker::connect("sqlite::memory:")
        .await
        .unwrap_or_else(|error| panic!("no broker in memory: {error}"))
}

/// Runs every job of this program's tasks that is due, in this process, and returns when none is
/// left. What is to come later, retries too, is left alone: move the clock and drain again.
///
/// # Panics
///
/// If this program has no task.
pub async fn drain(broker: &Broker) -> Served {
    let worker = broker.consumer().in_process().until_nothing_is_due();
    worker
        .run_until(pending::<()>())
        .await
        .unwrap_or_else(|error| panic!("could not run the jobs: {error}"))
}

/// A job that is at a broker.
#[derive(Clone, Debug)]
pub struct PushedJob(JobInfo);

impl PushedJob {
    /// The task, if it is a task's.
    pub fn task(&self) -> Option<&str> {
        self.0.task.as_deref()
    }

    /// The arguments of the task, a tuple: `job.args::<(i64, String)>()`.
    ///
    /// # Panics
    ///
    /// If they are something else.
    #[track_caller]
    pub fn args<A: DeserializeOwned>(&self) -> A {
        Codec::Json
            .decode(self.0.payload.as_bytes())
            .unwrap_or_else(|error| panic!("{self} has other arguments: {error}"))
    }

    /// The payload as JSON.
    ///
    /// # Panics
    ///
    /// If a foreign program stored something else.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.args()
    }

    /// All that is known of it.
    pub fn job(&self) -> &JobInfo {
        &self.0
    }
}

/// `add [1,2] in queue "add", ready`
impl fmt::Display for PushedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobInfo {
            task,
            payload,
            queue,
            state,
            ..
        } = &self.0;
        write!(
            f,
            "{} {payload} in queue {queue:?}, {state}",
            task.as_deref().unwrap_or("(no task)")
        )
    }
}

/// Jobs that one look fetches.
const PAGE: usize = 1000;

/// The jobs of a queue in the order of their pushes, whatever became of them since. A job that is
/// done is there only if it is [kept](crate::Job::keep).
///
/// # Panics
///
/// If the broker cannot be asked.
pub async fn pushed(broker: &Broker, queue: &str) -> Vec<PushedJob> {
    all(broker, Some(queue)).await
}

async fn all(broker: &Broker, queue: Option<&str>) -> Vec<PushedJob> {
    let mut jobs: Vec<PushedJob> = Vec::new();
    loop {
        let after = jobs.last().map(|last| &last.0.id);
        let page = broker
            .jobs(queue, None, after, PAGE)
            .await
            .unwrap_or_else(|error| panic!("could not list jobs: {error}"));
        let is_last = page.len() < PAGE;
        jobs.extend(page.into_iter().map(PushedJob));
        if is_last {
            return jobs;
        }
    }
}

/// Asserts that this call, or job, was pushed: its queue, its task and its arguments. Its options
/// may be others.
///
/// # Panics
///
/// If it was not; then it says what was.
#[track_caller]
pub fn assert_pushed(broker: &Broker, expected: impl ToJob) -> impl Future<Output = ()> {
    let (place, expected) = (Location::caller(), expected.to_job());
    async move {
        let expected =
            expected.unwrap_or_else(|error| panic!("at {place}: this cannot be pushed: {error}"));
        let jobs = all(broker, None).await;
        if jobs.iter().any(|job| is_it(job, &expected)) {
            return;
        }
        let list: String = jobs.iter().map(|job| format!("\n  {job}")).collect();
        let list = if list.is_empty() {
            "\n  nothing".to_owned()
        } else {
            list
        };
        let Job {
            queue,
            task,
            payload,
            ..
        } = &expected;
        let task = task.as_deref().unwrap_or("(no task)");
        panic!(
            "at {place}: not pushed: {task} {payload} in queue {queue:?}; what was pushed:{list}"
        );
    }
}

fn is_it(job: &PushedJob, expected: &Job) -> bool {
    let value = |text: &str| serde_json::from_str::<Value>(text).ok();
    *job.0.queue == *expected.queue
        && job.task() == expected.task.as_deref()
        && value(&job.0.payload) == value(&expected.payload)
}
