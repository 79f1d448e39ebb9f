//! The consumers of this process: one for each queue, and groups of them for consumers of several
//! queues. Both end when they were not used for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::intake::Intake;
use super::queue_consumer::QueueConsumer;
use super::queue_groups::QueueGroup;
use super::topology::QueueKind;
use crate::error::Error;
use crate::sync::lock;
use brigade_core::store::Queues;

/// How often unused queues are looked for, and after which time a queue counts as unused.
const TIDY_EVERY: Duration = Duration::from_secs(30);
const UNUSED_FOR: Duration = Duration::from_secs(120);

pub(super) struct Consumers {
    pub(super) intake: Arc<Intake>,
    queues: Mutex<HashMap<Box<str>, Arc<QueueConsumer>>>,
    /// By the sets of names that they were made of.
    groups: Mutex<Vec<Arc<QueueGroup>>>,
}

impl Consumers {
    pub(super) fn start(intake: &Arc<Intake>) -> Arc<Self> {
        let consumers = Arc::new(Self {
            intake: Arc::clone(intake),
            queues: Mutex::default(),
            groups: Mutex::default(),
        });
        intake
            .scope
            .spawn_until_closed(Arc::clone(&consumers).tidy());
        consumers
    }

    /// What consumes from this queue; `BadOption` for a name that the broker cannot have.
    pub(super) fn of(&self, queue: &str) -> Result<Arc<QueueConsumer>, Error> {
        let topology = &self.intake.storage.topology;
        topology.check_name(queue)?;
        let mut queues = lock(&self.queues);
        if let Some(source) = queues.get(queue) {
            return Ok(Arc::clone(source));
        }
        let source = QueueConsumer::new(&self.intake, queue);
        self.intake
            .served
            .add(&topology.name(&QueueKind::Jobs(queue.into())));
        queues.insert(queue.into(), Arc::clone(&source));
        self.intake
            .scope
            .spawn_until_closed(Arc::clone(&source).drive());
        Ok(source)
    }

    /// What consumes from these queues; fails as [`of`](Self::of).
    pub(super) fn group(&self, queues: &Queues) -> Result<Arc<QueueGroup>, Error> {
        let mut groups = lock(&self.groups);
        let mut known = groups.iter();
        if let Some(group) = known.find(|group| Arc::ptr_eq(&group.set, queues.set())) {
            return Ok(Arc::clone(group));
        }
        let consumers = queues.names().iter().map(|queue| self.of(queue));
        let group = QueueGroup::new(queues.set(), consumers.collect::<Result<_, _>>()?);
        groups.push(Arc::clone(&group));
        Ok(group)
    }

    /// Ends unused consumers and groups, for ever.
    async fn tidy(self: Arc<Self>) {
        loop {
            sleep(TIDY_EVERY).await;
            self.tidy_groups();
            let mut queues = lock(&self.queues);
            queues.retain(|queue, source| {
                let is_over = source.retire(Arc::strong_count(source), UNUSED_FOR);
                if is_over {
                    let name = QueueKind::Jobs(queue.clone());
                    let name = self.intake.storage.topology.name(&name);
                    self.intake.served.remove(&name);
                }
                !is_over
            });
        }
    }

    fn tidy_groups(&self) {
        let mut groups = lock(&self.groups);
        let unused: Vec<Arc<QueueGroup>> = groups
            .extract_if(.., |group| group.is_unused_for(UNUSED_FOR))
            .collect();
        unused.iter().for_each(|group| group.end());
        if !unused.is_empty() {
            groups.iter().for_each(|group| group.disarm());
        }
    }
}
