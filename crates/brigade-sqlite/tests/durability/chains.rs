//! A program is killed while it settles the first job of a long chain: before its commit, and
//! between the pieces in which the end is passed on to all jobs behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use brigade::{Chain, Group, JobState};
use brigade_testkit::program::{Program, arguments};

use crate::disk::Fault;
use crate::stage::{BOUND, LONG, Roles, Stage, block_on, millis};

pub(crate) const ROLES: Roles = &[("fails_the_first", || block_on(fails_the_first()))];

/// Jobs of the chain: several pieces.
const CHAIN: usize = 2000;

#[test]
fn a_kill_between_the_pieces_of_a_long_chains_end_loses_no_job() {
    for fault in [Fault::KillBefore(1), Fault::KillAfter(1)] {
        let directory = tempfile::tempdir().unwrap();
        let stage = Stage::new(directory.path());
        block_on(async {
            let broker = stage.broker().await;
            let job = || broker.queue("q").job(&[1]).unwrap().retries(0);
            let chain = (1..CHAIN).fold(Chain::new(job()), |chain, _| chain.then_job(job()));
            let last = broker.queue("last").job(&[1]).unwrap();
            broker
                .push_flow(Group::new([chain]).finally(last))
                .await
                .unwrap();
        });
        let [name, at] = fault.arguments();
        let mut program =
            Program::start_with("fails_the_first", &[stage.text(), &name, &at]).unwrap();
        let status = program.wait(BOUND).unwrap();
        assert!(!status.success(), "{fault:?}: {}", program.log());
        let states = |state: i64| -> usize {
            let sql = "SELECT count(*) FROM brigade_jobs WHERE state = ?1";
            let count = stage.look().query_row(sql, [state], |row| row.get(0));
            count.unwrap()
        };
        let blocked = states(2);
        assert!((1..=CHAIN).contains(&blocked), "{fault:?}: {blocked}");
        let runs = Arc::new(AtomicUsize::new(0));
        block_on(async {
            let (broker, counted) = (stage.broker().await, Arc::clone(&runs));
            let consumer = broker.consumer().queue("q").queue("last");
            let consumer = consumer.handler(move |job| {
                let counted = Arc::clone(&counted);
                async move {
                    if job.queue() == "last" {
                        counted.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                    Err("broken")
                }
            });
            let served = consumer.until_empty().run_until(tokio::time::sleep(BOUND));
            served.await.unwrap();
            let dead = broker.jobs(None, Some(JobState::Dead), None, 2 * CHAIN);
            let dead = dead.await.unwrap();
            assert_eq!(dead.len(), CHAIN, "{fault:?}");
            let ran = dead.iter().filter(|job| !job.history.is_empty()).count();
            assert_eq!(ran, 1, "{fault:?}: no job behind the first has run");
        });
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{fault:?}");
        assert_eq!(states(6), CHAIN, "{fault:?}: nothing else is left");
    }
}

/// The process that ends the first job passes on a part of that and leaves the rest to others.
#[test]
fn a_look_of_another_process_shows_the_end_of_a_long_chain_whole() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path());
    block_on(async {
        let broker = stage.broker().await;
        let job = || broker.queue("q").job(&[1]).unwrap();
        let chain = (1..CHAIN).fold(Chain::new(job()), |chain, _| chain.then_job(job()));
        broker.push_flow(chain).await.unwrap();
        let arguments = [stage.text(), "none", "0"];
        let mut program = Program::start_with("fails_the_first", &arguments).unwrap();
        let mut dead = 0;
        while dead == 0 {
            let queues = broker.queues().await.unwrap();
            let counts = queues.iter().flat_map(|queue| &queue.jobs);
            let dead_of = |(state, count): &(JobState, u64)| match state {
                JobState::Dead => *count,
                _ => 0,
            };
            dead = counts.map(dead_of).sum();
        }
        assert_eq!(dead, CHAIN as u64);
        let status = program.wait(BOUND).unwrap();
        assert!(status.success(), "{}", program.log());
    });
}

async fn fails_the_first() {
    let arguments = arguments();
    let broker = Stage::new(&arguments[0]).broker().await;
    let lease = broker.queue("q").lease(LONG, millis(0)).await.unwrap();
    if let Some(fault) = Fault::read(&arguments[1], &arguments[2]) {
        fault.arm();
    }
    lease.unwrap().dead_letter("broken").await.unwrap();
}
