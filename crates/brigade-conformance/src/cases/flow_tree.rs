//! The model of a flow, and random flows with theirs.
//!
//! The model counts nothing: the status of a job follows, each time it is asked for, from what
//! happened to the job itself and from the statuses of those that it waits for. A store counts the
//! ends of parents instead, and keeps the results that it hands over; so the two cannot share a
//! mistake.

use brigade::{Broker, Chain, Group};
use fastrand::Rng;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatherKind {
    Nothing,
    Then,
    Front,
    Collect,
    Finally,
    Barrier,
}

/// What happened to a job itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum OwnEnd {
    Nothing,
    Done(Value),
    Dead,
    Cancelled,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelStatus {
    Ready,
    Blocked,
    Done,
    Dead,
    NotRun,
    Cancelled,
    Removed,
}

impl ModelStatus {
    pub(super) fn is_settled(self) -> bool {
        !matches!(self, Self::Ready | Self::Blocked)
    }
}

#[derive(Clone, Debug)]
pub(super) struct ModelJob {
    pub(super) members: Vec<usize>,
    pub(super) gather: GatherKind,
    pub(super) own: OwnEnd,
    /// It went on, which is not taken back.
    went_on: bool,
    /// Its row was deleted after it was done.
    pub(super) gone: bool,
}

#[derive(Default)]
pub(super) struct FlowModel(pub(super) Vec<ModelJob>);

impl FlowModel {
    pub(super) fn add(&mut self, gather: GatherKind, members: Vec<usize>) -> usize {
        self.0.push(ModelJob {
            members,
            gather,
            own: OwnEnd::Nothing,
            went_on: gather == GatherKind::Nothing,
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

    /// Every job's status; members stand before the jobs that wait for them.
    pub(super) fn statuses(&mut self) -> Vec<ModelStatus> {
        let mut all: Vec<ModelStatus> = Vec::new();
        for at in 0..self.0.len() {
            let members: Vec<ModelStatus> = self.0[at]
                .members
                .iter()
                .map(|member| all[*member])
                .collect();
            let values = self.values(at);
            let node = &mut self.0[at];
            all.push(match &node.own {
                OwnEnd::Done(_) => ModelStatus::Done,
                OwnEnd::Dead => ModelStatus::Dead,
                OwnEnd::Cancelled => ModelStatus::Cancelled,
                OwnEnd::Removed => ModelStatus::Removed,
                OwnEnd::Nothing if node.went_on => ModelStatus::Ready,
                OwnEnd::Nothing if members.iter().any(|member| !member.is_settled()) => {
                    ModelStatus::Blocked
                }
                OwnEnd::Nothing
                    if node.gather != GatherKind::Finally
                        && members.iter().any(|member| *member != ModelStatus::Done) =>
                {
                    ModelStatus::NotRun
                }
                OwnEnd::Nothing => {
                    node.went_on = true;
                    if node.gather == GatherKind::Barrier {
                        node.own = OwnEnd::Done(Value::Array(values));
                        ModelStatus::Done
                    } else {
                        ModelStatus::Ready
                    }
                }
            });
        }
        all
    }

    fn values(&self, at: usize) -> Vec<Value> {
        let value = |member: &usize| {
            if let OwnEnd::Done(value) = &self.0[*member].own {
                value.clone()
            } else {
                Value::Null
            }
        };
        self.0[at].members.iter().map(value).collect()
    }

    pub(super) fn payload(&self, at: usize) -> Value {
        let mut values = self.values(at);
        values.truncate(if self.0[at].gather == GatherKind::Front {
            1
        } else {
            usize::MAX
        });
        match self.0[at].gather {
            GatherKind::Front => json!([values.pop(), "rest"]),
            GatherKind::Collect => json!([values, "rest"]),
            _ => json!(["rest"]),
        }
    }

    pub(super) fn cancel(&mut self, at: usize, statuses: &[ModelStatus]) {
        self.0[at].own = OwnEnd::Cancelled;
        if statuses[at] == ModelStatus::Blocked {
            for member in self.0[at].members.clone() {
                if !statuses[member].is_settled() {
                    self.cancel(member, statuses);
                }
            }
        }
    }
}

/// A random tree of jobs, and what it is to the model.
pub(super) fn tree(random: &mut Rng, broker: &Broker, depth: u32) -> (Chain<Value>, FlowModel) {
    let job = || broker.queue("q").job(&json!(["rest"])).unwrap();
    let mut model = FlowModel::default();
    match random.u64(0..if depth == 0 { 1 } else { 4 }) {
        0 => {
            model.add(GatherKind::Nothing, vec![]);
            (Chain::new(job()), model)
        }
        1 => {
            let (chain, before) = tree(random, broker, depth - 1);
            let last = model.append(before);
            model.add(GatherKind::Front, vec![last]);
            (chain.then_job(job()), model)
        }
        _ => {
            let (group, lasts) = group(random, broker, depth, &mut model);
            let (chain, gather) = match random.u64(0..3) {
                0 => (group.then(job()), GatherKind::Then),
                1 => (group.collect_job(job()), GatherKind::Collect),
                _ => (group.finally(job()), GatherKind::Finally),
            };
            model.add(gather, lasts);
            (chain, model)
        }
    }
}

pub(super) fn group(
    random: &mut Rng,
    broker: &Broker,
    depth: u32,
    model: &mut FlowModel,
) -> (Group<Value>, Vec<usize>) {
    let members: Vec<_> = (0..random.u64(0..4))
        .map(|_| tree(random, broker, depth - 1))
        .collect();
    let (chains, models): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    let lasts = models
        .into_iter()
        .map(|member| model.append(member))
        .collect();
    (Group::new(chains), lasts)
}
