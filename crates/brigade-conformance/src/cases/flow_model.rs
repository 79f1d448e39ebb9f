//! Random flows with random endings, next to a model that counts nothing: what a job of a flow is
//! follows, each time anew, from how its members stand.

use std::collections::HashMap;
use std::time::Duration;

use brigade::{Broker, Chain, Group, Job, JobId, JobInfo, JobState, Lease, Settled};
use brigade_testkit::random::Random;
use serde_json::{Value, json};

use super::on_brokers_that;

const LONG: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gather {
    Nothing,
    Then,
    Front,
    Collect,
    Finally,
    Barrier,
}

/// What happened to a job itself.
#[derive(Clone, Debug, PartialEq)]
enum Own {
    Nothing,
    Done(Value),
    Dead,
    Cancelled,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ready,
    Blocked,
    Done,
    Dead,
    NotRun,
    Cancelled,
    Removed,
}

impl Status {
    fn is_settled(self) -> bool {
        !matches!(self, Self::Ready | Self::Blocked)
    }
}

#[derive(Clone, Debug)]
struct Node {
    members: Vec<usize>,
    gather: Gather,
    own: Own,
    /// It went on, which is not taken back.
    went_on: bool,
    /// Its row was deleted after it was done.
    gone: bool,
}

#[derive(Default)]
struct Model(Vec<Node>);

impl Model {
    fn add(&mut self, gather: Gather, members: Vec<usize>) -> usize {
        self.0.push(Node {
            members,
            gather,
            own: Own::Nothing,
            went_on: gather == Gather::Nothing,
            gone: false,
        });
        self.0.len() - 1
    }

    fn append(&mut self, other: Self) -> usize {
        let base = self.0.len();
        self.0.extend(other.0.into_iter().map(|mut node| {
            node.members.iter_mut().for_each(|member| *member += base);
            node
        }));
        self.0.len() - 1
    }

    /// Every job's status; members stand before whoever waits for them.
    fn statuses(&mut self) -> Vec<Status> {
        let mut all: Vec<Status> = Vec::new();
        for at in 0..self.0.len() {
            let members: Vec<Status> = self.0[at]
                .members
                .iter()
                .map(|member| all[*member])
                .collect();
            let values = self.values(at);
            let node = &mut self.0[at];
            all.push(match &node.own {
                Own::Done(_) => Status::Done,
                Own::Dead => Status::Dead,
                Own::Cancelled => Status::Cancelled,
                Own::Removed => Status::Removed,
                Own::Nothing if node.went_on => Status::Ready,
                Own::Nothing if members.iter().any(|member| !member.is_settled()) => {
                    Status::Blocked
                }
                Own::Nothing
                    if node.gather != Gather::Finally
                        && members.iter().any(|member| *member != Status::Done) =>
                {
                    Status::NotRun
                }
                Own::Nothing => {
                    node.went_on = true;
                    if node.gather == Gather::Barrier {
                        node.own = Own::Done(Value::Array(values));
                        Status::Done
                    } else {
                        Status::Ready
                    }
                }
            });
        }
        all
    }

    fn values(&self, at: usize) -> Vec<Value> {
        let value = |member: &usize| {
            if let Own::Done(value) = &self.0[*member].own {
                value.clone()
            } else {
                Value::Null
            }
        };
        self.0[at].members.iter().map(value).collect()
    }

    fn payload(&self, at: usize) -> Value {
        let mut values = self.values(at);
        values.truncate(if self.0[at].gather == Gather::Front {
            1
        } else {
            usize::MAX
        });
        match self.0[at].gather {
            Gather::Front => json!([values.pop(), "rest"]),
            Gather::Collect => json!([values, "rest"]),
            _ => json!(["rest"]),
        }
    }

    fn cancel(&mut self, at: usize, statuses: &[Status]) {
        self.0[at].own = Own::Cancelled;
        if statuses[at] == Status::Blocked {
            for member in self.0[at].members.clone() {
                if !statuses[member].is_settled() {
                    self.cancel(member, statuses);
                }
            }
        }
    }
}

/// A random tree of jobs, and what it is to the model.
fn tree(random: &mut Random, broker: &Broker, depth: u32) -> (Chain<Value>, Model) {
    let job = || broker.queue("q").job(&json!(["rest"])).unwrap();
    let mut model = Model::default();
    match random.within(0..if depth == 0 { 1 } else { 4 }) {
        0 => {
            model.add(Gather::Nothing, vec![]);
            (Chain::new(job()), model)
        }
        1 => {
            let (chain, before) = tree(random, broker, depth - 1);
            let last = model.append(before);
            model.add(Gather::Front, vec![last]);
            (chain.then_job(job()), model)
        }
        _ => {
            let (group, lasts) = group(random, broker, depth, &mut model);
            let (chain, gather) = match random.within(0..3) {
                0 => (group.then(job()), Gather::Then),
                1 => (group.collect_job(job()), Gather::Collect),
                _ => (group.finally(job()), Gather::Finally),
            };
            model.add(gather, lasts);
            (chain, model)
        }
    }
}

fn group(
    random: &mut Random,
    broker: &Broker,
    depth: u32,
    model: &mut Model,
) -> (Group<Value>, Vec<usize>) {
    let members: Vec<_> = (0..random.within(0..4))
        .map(|_| tree(random, broker, depth - 1))
        .collect();
    let (chains, models): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    let lasts = models
        .into_iter()
        .map(|member| model.append(member))
        .collect();
    (Group::new(chains), lasts)
}

struct Run<'a> {
    broker: &'a Broker,
    ids: Vec<JobId>,
    model: Model,
    told: String,
}

impl Run<'_> {
    async fn push<'a>(random: &mut Random, broker: &'a Broker) -> Run<'a> {
        let mut model;
        let pushed = if random.within(0..4) == 0 {
            model = Model::default();
            let (group, lasts) = group(random, broker, 3, &mut model);
            model.add(Gather::Barrier, lasts);
            broker.push_flow(group).await.unwrap()
        } else {
            let chain;
            (chain, model) = tree(random, broker, 3);
            broker.push_flow(chain).await.unwrap()
        };
        assert_eq!(pushed.jobs.len(), model.0.len());
        Run {
            broker,
            ids: pushed.jobs,
            model,
            told: String::new(),
        }
    }

    /// One random thing that can happen to a flow.
    async fn step(&mut self, random: &mut Random, only_work: bool) {
        let statuses = self.model.statuses();
        let at = usize::try_from(random.within(0..self.ids.len() as u64)).unwrap();
        let deed = if only_work { 0 } else { random.within(0..12) };
        self.told.push_str(&format!("{deed} at {at}; "));
        let node = &mut self.model.0[at];
        match deed {
            9 => {
                let retried = self.broker.retry(&self.ids[at]).await.unwrap();
                assert_eq!(retried, statuses[at] == Status::Dead, "{}", self.told);
                if retried {
                    node.own = Own::Nothing;
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
                        Status::Done => node.gone = true,
                        _ => node.own = Own::Removed,
                    }
                }
            }
            _ => self.work(deed, random.draw() % 1000).await,
        }
    }

    async fn work(&mut self, deed: u64, value: u64) {
        let queue = self.broker.queue("q");
        if deed == 8 {
            if let Some(taken) = queue.take(NOW).await.unwrap() {
                let at = self.is_next(taken.id(), &taken.payload().unwrap());
                self.model.0[at].own = Own::Done(Value::Null);
            }
            return;
        }
        let Some(lease) = queue.lease(LONG, NOW).await.unwrap() else {
            return assert!(
                !self.model.statuses().contains(&Status::Ready),
                "{}",
                self.told
            );
        };
        let at = self.is_next(lease.id(), &lease.payload().unwrap());
        match deed {
            6 => drop(lease.pass("not now").await.unwrap()),
            7 => {
                lease.dead_letter("odd").await.unwrap();
                self.model.0[at].own = Own::Dead;
            }
            _ => {
                lease.ack_with(&value).await.unwrap();
                self.model.0[at].own = Own::Done(json!(value));
            }
        }
    }

    /// The first ready job is handed out, with what its members left.
    fn is_next(&mut self, id: &JobId, payload: &Value) -> usize {
        let at = self
            .model
            .statuses()
            .iter()
            .position(|status| *status == Status::Ready)
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
                Status::Ready => Some(JobState::Ready),
                Status::Blocked => Some(JobState::Blocked),
                Status::Dead | Status::NotRun => Some(JobState::Dead),
                Status::Cancelled => Some(JobState::Cancelled),
                Status::Done if node.gather == Gather::Barrier && !node.gone => {
                    Some(JobState::Done)
                }
                Status::Done | Status::Removed => None,
            };
            assert_eq!(job.map(|job| job.state), state, "{what}");
            let Some(job) = job else { continue };
            assert_eq!(
                job.reason
                    .as_ref()
                    .is_some_and(|reason| reason.starts_with("not run: job ")),
                *status == Status::NotRun,
                "{what}"
            );
            if *status == Status::Blocked {
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
            if let (Own::Done(value), Gather::Barrier) = (&node.own, node.gather) {
                assert_eq!(
                    serde_json::from_str::<Value>(job.result.as_deref().unwrap()).unwrap(),
                    *value,
                    "{what}"
                );
            }
        }
    }

    fn compare_waits(job: &JobInfo, members: &[Status], what: &str) {
        let parents = job.parents.as_ref().unwrap();
        let count = |is: fn(&Status) -> bool| {
            u32::try_from(members.iter().filter(|status| is(status)).count()).unwrap()
        };
        let settled = count(|status| status.is_settled());
        let missed = count(|status| status.is_settled() && *status != Status::Done);
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
    async fn finish(&mut self, random: &mut Random) {
        for round in 0.. {
            assert!(round < 1000, "it goes round and round: {}", self.told);
            let statuses = self.model.statuses();
            if let Some(at) = statuses.iter().position(|status| *status == Status::Dead) {
                assert!(self.broker.retry(&self.ids[at]).await.unwrap());
                self.model.0[at].own = Own::Nothing;
            } else if statuses.contains(&Status::Ready) {
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

/// No two jobs of a key are out at once, and whatever happens, nothing waits for ever.
struct Keyed<'a> {
    broker: &'a Broker,
    leases: Vec<Lease>,
}

impl Keyed<'_> {
    async fn step(&mut self, random: &mut Random) {
        let jobs = self.broker.jobs(None, None, None, 1000).await.unwrap();
        let any = random.pick(&jobs);
        match (random.within(0..12), any) {
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
            (8, Some(job)) if random.within(0..4) == 0 => {
                self.broker.cancel(&job.id, "enough").await.unwrap();
            }
            (8, Some(job)) if random.within(0..4) == 0 => {
                self.broker.delete(&job.id).await.unwrap();
            }
            _ if !self.leases.is_empty() => {
                let at = random.within(0..self.leases.len() as u64);
                let lease = self.leases.swap_remove(usize::try_from(at).unwrap());
                let settled = match random.within(0..6) {
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
fn any_options(random: &mut Random, job: Job) -> Job {
    let job = job.retries(u32::try_from(random.within(0..3)).unwrap());
    let job = if random.within(0..5) == 0 {
        job.delay(LONG)
    } else {
        job
    };
    match random.within(0..4) {
        0 => job,
        key => job.key(format!("key {key}")),
    }
}

#[test]
fn flows_and_keys_together_let_one_of_a_key_out_at_a_time_and_nothing_sticks() {
    let seed = Random::from_env().seed();
    on_brokers_that(
        |can| can.flows,
        |subject| async move {
            let can = subject.broker.capabilities();
            if !can.flows || !can.keys {
                return;
            }
            let mut random = Random::new(seed);
            for _ in 0..brigade_testkit::count(30, 1000) {
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
                    let flow = if random.within(0..2) == 0 {
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
                for _ in 0..random.within(10..100) {
                    keyed.step(&mut random).await;
                }
                keyed.finish().await;
            }
        },
    );
}

#[test]
fn random_flows_with_random_endings_are_what_the_model_says() {
    let seed = Random::from_env().seed();
    on_brokers_that(
        |can| can.flows,
        |subject| async move {
            if !subject.broker.capabilities().flows {
                return;
            }
            let mut random = Random::new(seed);
            for _ in 0..brigade_testkit::count(60, 2000) {
                let mut run = Run::push(&mut random, &subject.broker).await;
                run.compare().await;
                for _ in 0..random.within(0..30) {
                    run.step(&mut random, false).await;
                    run.compare().await;
                }
                run.finish(&mut random).await;
            }
        },
    );
}
