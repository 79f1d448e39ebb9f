//! Random flows whose jobs have keys: one job of a key is out at a time, and nothing sticks.
//!
//! Jobs are leased, settled in each way, retried, cancelled and removed at random, and time passes.
//! After each step, no two jobs of a key are ready or leased. In the end everything that failed is
//! retried and done, whatever happened before.

use std::collections::HashMap;
use std::time::Duration;

use brigade::{Broker, Chain, Group, Job, JobState, Lease, Settled};
use fastrand::Rng;
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::seed::{count, seed};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[case!(
    flows_and_keys_together_let_one_of_a_key_out_at_a_time_and_nothing_sticks: flows,
    keys,
    listing,
    cancels,
    clock
)];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

/// No two jobs of a key are out at once, and whatever happens, nothing waits for ever.
struct Keyed<'a> {
    broker: &'a Broker,
    leases: Vec<Lease>,
}

impl Keyed<'_> {
    async fn step(&mut self, random: &mut Rng) {
        let jobs = self.broker.jobs(None, None, None, 1000).await.unwrap();
        let any = random.choice(&jobs);
        match (random.u64(0..12), any) {
            (0..5, _) if self.leases.len() < 4 => {
                self.leases.extend(
                    self.broker
                        .queue("q")
                        .lease(LONG * 1000, NOW)
                        .await
                        .unwrap(),
                );
            }
            (5, _) => self.broker.clock().advance(Duration::from_secs(20)),
            (6 | 7, Some(job)) => drop(self.broker.retry(&job.id).await.unwrap()),
            (8, Some(job)) if random.u64(0..4) == 0 => {
                self.broker.cancel(&job.id, "enough").await.unwrap();
            }
            (8, Some(job)) if random.u64(0..4) == 0 => {
                self.broker.delete(&job.id).await.unwrap();
            }
            _ if !self.leases.is_empty() => {
                let at = random.u64(0..self.leases.len() as u64);
                let lease = self.leases.swap_remove(usize::try_from(at).unwrap());
                let settled = match random.u64(0..6) {
                    0 => lease.dead_letter("odd").await,
                    1 => lease.nack("again").await,
                    2 => lease.pass("not now").await,
                    3 => lease.pass_later("later", LONG).await,
                    _ => lease.ack().await,
                };
                assert_ne!(settled.unwrap(), Settled::Stale);
            }
            _ => {}
        }
        self.check().await;
    }

    async fn check(&self) {
        let mut out = HashMap::<String, u32>::new();
        for job in self.broker.jobs(None, None, None, 1000).await.unwrap() {
            if let (Some(key), JobState::Ready | JobState::Leased) = (job.key, job.state) {
                *out.entry(key).or_default() += 1;
            }
        }
        assert!(out.values().all(|count| *count == 1), "{out:?}");
    }

    async fn finish(&mut self) {
        for lease in self.leases.drain(..) {
            lease.ack().await.unwrap();
        }
        for round in 0.. {
            assert!(round < 100, "it goes round and round");
            let dead = self
                .broker
                .jobs(None, Some(JobState::Dead), None, 1000)
                .await
                .unwrap();
            let mut moved = false;
            for job in dead {
                moved |= self.broker.retry(&job.id).await.unwrap();
            }
            self.broker.clock().advance(LONG * 2);
            while let Some(lease) = self.broker.queue("q").lease(LONG, NOW).await.unwrap() {
                self.check().await;
                assert_eq!(lease.ack().await.unwrap(), Settled::Accepted(None));
                moved = true;
            }
            if !moved {
                break;
            }
        }
        for job in self.broker.jobs(None, None, None, 1000).await.unwrap() {
            assert!(job.state.is_terminal(), "stuck: {job:?}");
            assert!(self.broker.delete(&job.id).await.unwrap());
        }
    }
}

/// A random key or none, a random delay or none, a few retries.
fn any_options(random: &mut Rng, job: Job) -> Job {
    let job = job.retries(u32::try_from(random.u64(0..3)).unwrap());
    let job = if random.u64(0..5) == 0 {
        job.delay(LONG)
    } else {
        job
    };
    match random.u64(0..4) {
        0 => job,
        key => job.key(format!("key {key}")),
    }
}

async fn flows_and_keys_together_let_one_of_a_key_out_at_a_time_and_nothing_sticks(
    subject: Subject,
) {
    let mut random = Rng::with_seed(seed());
    for _ in 0..count(30, 1000) {
        for _ in 0..3 {
            let mut job = |arguments: Value| {
                any_options(
                    &mut random,
                    subject.broker.queue("q").job(&arguments).unwrap(),
                )
            };
            let chains: Vec<_> = (0..3)
                .map(|n| Chain::new(job(json!([n]))).then_job(job(json!([]))))
                .collect();
            let last = job(json!([]));
            let group = Group::new(chains);
            let flow = if random.u64(0..2) == 0 {
                group.collect_job(last)
            } else {
                group.finally(last)
            };
            subject.broker.push_flow(flow).await.unwrap();
            subject
                .broker
                .push(any_options(
                    &mut random,
                    subject.broker.queue("q").job(&1).unwrap(),
                ))
                .await
                .unwrap();
        }
        let mut keyed = Keyed {
            broker: &subject.broker,
            leases: Vec::new(),
        };
        for _ in 0..random.u64(10..100) {
            keyed.step(&mut random).await;
        }
        keyed.finish().await;
    }
}
