//! Processes that die while they hold jobs, and what is left of them in the database.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use brigade::{Broker, Settled};
use brigade_testkit::postgres::Postgres;

use crate::stage::{BOUND, run};

/// Of the process that dies: the URL of its broker.
const URL_VARIABLE: &str = "BRIGADE_TEST_URL_OF_HOLDER";
const HELD: &str = "the job is held";
/// Leases outlive the test.
const LEASE: Duration = Duration::from_secs(3600);

/// Holds a job for as long as it runs; killed when it is dropped.
struct Holder(Child);

impl Holder {
    /// Starts the test of this name again as a process that leases a job.
    fn start(test: &str, url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(URL_VARIABLE, url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(HELD)));
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What the process does that dies; never returns in it.
async fn hold_if_started_for_it() {
    if let Ok(url) = std::env::var(URL_VARIABLE) {
        let broker = Broker::connect(&url).await.unwrap();
        let _lease = broker
            .queue("q")
            .lease(LEASE, BOUND)
            .await
            .unwrap()
            .unwrap();
        println!("{HELD}");
        std::future::pending::<()>().await;
    }
}

#[test]
fn jobs_of_a_process_of_this_host_that_was_killed_are_given_to_others_at_once() {
    let name = "dead_processes::jobs_of_a_process_of_this_host_that_was_killed_are_given_to_others_at_once";
    run(async {
        hold_if_started_for_it().await;
        let url = Postgres::shared().unwrap().fresh_database().unwrap();
        let broker = Broker::connect(&url).await.unwrap();
        let queue = broker.queue("q");
        let id = queue.push(&7).await.unwrap();
        let mut holder = Holder::start(name, &url);
        // As long as it runs, the job is its own.
        assert!(
            queue
                .lease(LEASE, Duration::from_secs(1))
                .await
                .unwrap()
                .is_none()
        );
        holder.kill();
        let lease = queue.lease(LEASE, BOUND).await.unwrap().unwrap();
        assert_eq!((lease.id(), lease.lost()), (&id, 1));
        assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
    });
}

#[test]
fn rows_of_processes_that_hold_nothing_are_removed_after_a_day() {
    run(async {
        let server = Postgres::shared().unwrap();
        let url = server.fresh_database().unwrap();
        let database = url.rsplit('/').next().unwrap();
        let sql = |text: &str| server.sql_in("postgres", database, text).unwrap();
        let broker = Broker::connect(&url).await.unwrap();
        let queue = broker.queue("q");
        queue.push(&1).await.unwrap();
        let lease = queue.lease(LEASE, BOUND).await.unwrap().unwrap();
        let long_ago = "clock_timestamp() - interval '2 days'";
        sql(&format!(
            "update brigade.holders set seen = {long_ago};
             insert into brigade.holders (name, seen) select 'process ' || i, {long_ago} from \
             generate_series(1, 100) i"
        ));
        broker.statistics(Default::default()).await.unwrap();
        // Only the one that holds a job is left, and is looked at again in a day.
        let names = sql("select name from brigade.holders");
        assert!(!names.contains("process") && names.contains('-'), "{names}");
        let recent = "select count(*) from brigade.holders where seen > now() - interval '1 hour'";
        assert_eq!(sql(recent), "1");
        lease.ack().await.unwrap();
        sql(&format!(
            "update brigade.holders set seen = {long_ago}; delete from brigade.asks"
        ));
        broker.statistics(Default::default()).await.unwrap();
        assert_eq!(sql("select count(*) from brigade.holders"), "0");
        // A process that comes back after so long has a row again.
        broker.clock().advance(Duration::from_secs(2 * 3600));
        queue.push(&2).await.unwrap();
        let lease = queue.lease(LEASE, BOUND).await.unwrap().unwrap();
        assert_eq!(sql("select count(*) from brigade.holders"), "1");
        lease.ack().await.unwrap();
    });
}
