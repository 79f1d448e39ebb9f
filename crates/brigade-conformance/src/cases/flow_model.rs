//! Random flows with random endings are what the model of [`flow_tree`](super::flow_tree) says.
//!
//! Each step is one thing that can happen to a flow: a job is done, fails for good, is passed,
//! retried, cancelled, removed. After each, every job at the broker is compared with the model:
//! its state, its reason, what it waits for, its result. In the end everything that failed is
//! retried, and no job is stuck. A failed run prints its seed and its steps.

use std::time::Duration;

use brigade::{Broker, JobId, JobInfo, JobState};
use fastrand::Rng;
use serde_json::{Value, json};

use super::flow_tree::{FlowModel, GatherKind, ModelStatus, OwnEnd, group, tree};
use crate::case::{Case, case};
use crate::seed::{count, seed};
use crate::subject::Subject;

/// The cases of this file.
pub(super) const CASES: &[Case] = &[case!(
    random_flows_with_random_endings_are_what_the_model_says: flows,
    listing,
    cancels
)];

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

struct FlowRun<'a> {
    broker: &'a Broker,
    ids: Vec<JobId>,
    model: FlowModel,
    told: String,
}

impl FlowRun<'_> {
    async fn push<'a>(random: &mut Rng, broker: &'a Broker) -> FlowRun<'a> {
        let mut model;
        let pushed = if random.u64(0..4) == 0 {
            model = FlowModel::default();
            let (group, lasts) = group(random, broker, 3, &mut model);
            model.add(GatherKind::Barrier, lasts);
            broker.push_flow(group).await.unwrap()
        } else {
            let chain;
            (chain, model) = tree(random, broker, 3);
            broker.push_flow(chain).await.unwrap()
        };
        assert_eq!(pushed.jobs.len(), model.0.len());
        FlowRun {
            broker,
            ids: pushed.jobs,
            model,
            told: String::new(),
        }
    }

    /// One random thing that can happen to a flow.
    async fn step(&mut self, random: &mut Rng, only_work: bool) {
        let statuses = self.model.statuses();
        let at = usize::try_from(random.u64(0..self.ids.len() as u64)).unwrap();
        let deed = if only_work { 0 } else { random.u64(0..12) };
        self.told.push_str(&format!("{deed} at {at}; "));
        let node = &mut self.model.0[at];
        match deed {
            9 => {
                let retried = self.broker.retry(&self.ids[at]).await.unwrap();
                assert_eq!(retried, statuses[at] == ModelStatus::Dead, "{}", self.told);
                if retried {
                    node.own = OwnEnd::Nothing;
                }
            }
            10 => {
                let cancelled = self.broker.cancel(&self.ids[at], "enough").await.unwrap()
                    != brigade::CancelOutcome::Nothing;
                assert_eq!(cancelled, !statuses[at].is_settled(), "{}", self.told);
                if cancelled {
                    self.model.cancel(at, &statuses);
                }
            }
            11 => {
                if self.broker.delete(&self.ids[at]).await.unwrap() {
                    match statuses[at] {
                        ModelStatus::Done => node.gone = true,
                        _ => node.own = OwnEnd::Removed,
                    }
                }
            }
            _ => self.work(deed, random.u64(..) % 1000).await,
        }
    }

    async fn work(&mut self, deed: u64, value: u64) {
        let queue = self.broker.queue("q");
        if deed == 8 {
            if let Some(taken) = queue.take(NOW).await.unwrap() {
                let at = self.is_next(taken.id(), &taken.payload().unwrap());
                self.model.0[at].own = OwnEnd::Done(Value::Null);
            }
            return;
        }
        let Some(lease) = queue.lease(LONG, NOW).await.unwrap() else {
            return assert!(
                !self.model.statuses().contains(&ModelStatus::Ready),
                "{}",
                self.told
            );
        };
        let at = self.is_next(lease.id(), &lease.payload().unwrap());
        match deed {
            6 => drop(lease.pass("not now").await.unwrap()),
            7 => {
                lease.dead_letter("odd").await.unwrap();
                self.model.0[at].own = OwnEnd::Dead;
            }
            _ => {
                lease.ack_with(&value).await.unwrap();
                self.model.0[at].own = OwnEnd::Done(json!(value));
            }
        }
    }

    /// The first ready job is handed out, with what its members left.
    fn is_next(&mut self, id: &JobId, payload: &Value) -> usize {
        let at = self
            .model
            .statuses()
            .iter()
            .position(|status| *status == ModelStatus::Ready)
            .unwrap();
        assert_eq!(
            (id, payload),
            (&self.ids[at], &self.model.payload(at)),
            "{}",
            self.told
        );
        at
    }

    async fn compare(&mut self) {
        let jobs = self.broker.jobs(None, None, None, 1000).await.unwrap();
        let statuses = self.model.statuses();
        for (at, status) in statuses.iter().enumerate() {
            let node = &self.model.0[at];
            let job = jobs.iter().find(|job| job.id == self.ids[at]);
            let what = format!(
                "job {at} of {:?}\n{statuses:?}\n{:?}\nafter {}",
                self.model.0, job, self.told
            );
            let state = match status {
                ModelStatus::Ready => Some(JobState::Ready),
                ModelStatus::Blocked => Some(JobState::Blocked),
                ModelStatus::Dead | ModelStatus::NotRun => Some(JobState::Dead),
                ModelStatus::Cancelled => Some(JobState::Cancelled),
                ModelStatus::Done if node.gather == GatherKind::Barrier && !node.gone => {
                    Some(JobState::Done)
                }
                ModelStatus::Done | ModelStatus::Removed => None,
            };
            assert_eq!(job.map(|job| job.state), state, "{what}");
            let Some(job) = job else { continue };
            assert_eq!(
                job.reason
                    .as_ref()
                    .is_some_and(|reason| reason.starts_with("not run: job ")),
                *status == ModelStatus::NotRun,
                "{what}"
            );
            if *status == ModelStatus::Blocked {
                Self::compare_waits(
                    job,
                    &node
                        .members
                        .iter()
                        .map(|member| statuses[*member])
                        .collect::<Vec<_>>(),
                    &what,
                );
            }
            if let (OwnEnd::Done(value), GatherKind::Barrier) = (&node.own, node.gather) {
                assert_eq!(
                    serde_json::from_str::<Value>(job.result.as_deref().unwrap()).unwrap(),
                    *value,
                    "{what}"
                );
            }
        }
    }

    fn compare_waits(job: &JobInfo, members: &[ModelStatus], what: &str) {
        let parents = job.parents.as_ref().unwrap();
        let count = |is: fn(&ModelStatus) -> bool| {
            u32::try_from(members.iter().filter(|status| is(status)).count()).unwrap()
        };
        let settled = count(|status| status.is_settled());
        let missed = count(|status| status.is_settled() && *status != ModelStatus::Done);
        assert_eq!(
            (parents.settled, parents.missed),
            (settled, missed),
            "{what}"
        );
        assert_eq!(
            parents.unsettled.len(),
            members.len() - settled as usize,
            "{what}"
        );
    }

    /// Retries what failed and does all the work: everything that can still end well does.
    async fn finish(&mut self, random: &mut Rng) {
        for round in 0.. {
            assert!(round < 1000, "it goes round and round: {}", self.told);
            let statuses = self.model.statuses();
            if let Some(at) = statuses
                .iter()
                .position(|status| *status == ModelStatus::Dead)
            {
                assert!(self.broker.retry(&self.ids[at]).await.unwrap());
                self.model.0[at].own = OwnEnd::Nothing;
            } else if statuses.contains(&ModelStatus::Ready) {
                self.step(random, true).await;
            } else {
                break;
            }
            self.compare().await;
        }
        assert!(
            self.model
                .statuses()
                .iter()
                .all(|status| status.is_settled()),
            "nothing is stuck: {}",
            self.told
        );
        for job in self.broker.jobs(None, None, None, 1000).await.unwrap() {
            assert!(self.broker.delete(&job.id).await.unwrap());
        }
    }
}

async fn random_flows_with_random_endings_are_what_the_model_says(subject: Subject) {
    let mut random = Rng::with_seed(seed());
    for _ in 0..count(60, 2000) {
        let mut run = FlowRun::push(&mut random, &subject.broker).await;
        run.compare().await;
        for _ in 0..random.u64(0..30) {
            run.step(&mut random, false).await;
            run.compare().await;
        }
        run.finish(&mut random).await;
    }
}
