//! Flows whose jobs several processes settle, retry and cancel at the same time, in a random order.
//!
//! Every broker here has connections of its own, as programs have. Their transactions meet at the
//! jobs that wait for others, so the server undoes some of them (deadlocks); no caller may notice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brigade::{Broker, Chain, Group, Job, JobId, JobState, Settled};
use brigade_testkit::postgres::Postgres;
use brigade_testkit::random::Random;
use serde_json::json;

use crate::stage::{run, until};

const LEASE: Duration = Duration::from_secs(3600);
const NOW: Duration = Duration::ZERO;
const BROKERS: usize = 3;
/// Of each broker, so that settlements share transactions.
const TASKS: usize = 4;

/// How often each job was settled as done.
type Ledger = Arc<Mutex<BTreeMap<JobId, u32>>>;

fn job() -> Job {
    Job::new("q", None, json!([]).to_string())
}

/// A chain that is longer than what one transaction follows, and groups that are gathered.
async fn push_flows(broker: &Broker, random: &mut Random) {
    let mut chain = Chain::new(job());
    for _ in 0..random.within(20..60) {
        chain = chain.then_job(job());
    }
    broker.push_flow(chain).await.unwrap();
    let members = |count: u64| (0..count).map(|_| Chain::new(job()).then_job(job()));
    let group = Group::new(members(random.within(2..12)));
    let gathered = match random.within(0..3) {
        0 => group.then(job()),
        1 => group.collect_job(job()),
        _ => group.finally(job()),
    };
    broker.push_flow(gathered.then_job(job())).await.unwrap();
}

/// One step of one task.
async fn step(broker: &Broker, random: &mut Random, ledger: &Ledger) {
    match random.within(0..12) {
        0 => {
            let dead = broker.jobs(None, Some(JobState::Dead), None, 50).await;
            if let Some(job) = random.pick(&dead.unwrap()) {
                broker.retry(&job.id).await.unwrap();
            }
        }
        1 => {
            let blocked = broker.jobs(None, Some(JobState::Blocked), None, 500).await;
            if let Some(job) = random.pick(&blocked.unwrap()) {
                broker.cancel(&job.id, "enough").await.unwrap();
            }
        }
        2 => drop(broker.queues().await.unwrap()),
        _ => {
            let Some(lease) = broker.queue("q").lease(LEASE, NOW).await.unwrap() else {
                return;
            };
            let id = lease.id().clone();
            if random.within(0..6) == 0 {
                lease.dead_letter("odd").await.unwrap();
            } else if let Settled::Accepted(_) = lease.ack().await.unwrap() {
                *ledger.lock().unwrap().entry(id).or_default() += 1;
            }
        }
    }
}

#[test]
fn flows_that_several_processes_continue_and_cancel_go_on_once_and_no_deadlock_is_seen() {
    run(async {
        let mut random = Random::from_env();
        let server = Postgres::start(&["deadlock_timeout = '20ms'", "max_connections = 60"]);
        let server = server.unwrap();
        let broker = Broker::connect(&server.url()).await.unwrap();
        for _ in 0..8 {
            push_flows(&broker, &mut random).await;
        }
        let pushed = broker.jobs(None, None, None, 10_000).await.unwrap();
        let ledger = Ledger::default();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..BROKERS {
            let broker = Broker::connect(&server.url()).await.unwrap();
            for _ in 0..TASKS {
                let (broker, ledger) = (broker.clone(), Arc::clone(&ledger));
                let mut random = Random::new(random.draw());
                tasks.spawn(async move {
                    for _ in 0..brigade_testkit::count(40, 400) {
                        step(&broker, &mut random, &ledger).await;
                    }
                });
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        // Whatever still can be done is done.
        until("nothing waits for ever", async || {
            while let Some(lease) = broker.queue("q").lease(LEASE, NOW).await.unwrap() {
                let id = lease.id().clone();
                assert!(matches!(lease.ack().await.unwrap(), Settled::Accepted(_)));
                *ledger.lock().unwrap().entry(id).or_default() += 1;
            }
            server.sql("select count(*) from brigade.jobs").unwrap() == "0"
        })
        .await;
        let left = "select (select count(*) from brigade.jobs) + (select count(*) from \
            brigade.flow_ends) + (select count(*) from brigade.flow_retries) + (select count(*) from \
            brigade.cancels) + (select count(*) from brigade.links l where not exists (select from \
            brigade.ended e where e.id = l.job))";
        until("nothing is left of flows that ended", async || {
            broker.queues().await.unwrap();
            server.sql(left).unwrap() == "0"
        })
        .await;
        let done = std::mem::take(&mut *ledger.lock().unwrap());
        let mut cancelled_or_dead = 0;
        for job in &pushed {
            let ended = broker.job(&job.id).await.unwrap();
            cancelled_or_dead += usize::from(ended.is_some());
            let expected = u32::from(ended.is_none());
            let times = done.get(&job.id).copied().unwrap_or(0);
            assert_eq!(times, expected, "{} of {job:?}, then {ended:?}", times);
        }
        let deadlocks = "select deadlocks from pg_stat_database where datname = 'postgres'";
        println!(
            "{} jobs: {} done, {cancelled_or_dead} cancelled or dead, {} deadlocks",
            pushed.len(),
            done.len(),
            server.sql(deadlocks).unwrap()
        );
    });
}
