//! The options of the tasks of another program, which a pool runs as its workers
//! (`Builder::program`): a worker sends them in READY.

use std::collections::HashMap;

use crate::request::{CallTarget, Request};
use crate::wire::TaskDefaults;

/// What the program's registrations say for calls that do not say it, by the names of its tasks.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ProgramTasks(HashMap<String, TaskDefaults>);

impl ProgramTasks {
    pub(super) fn new(tasks: Vec<TaskDefaults>) -> Self {
        let by_name = |task: TaskDefaults| (task.name.clone(), task);
        Self(tasks.into_iter().map(by_name).collect())
    }

    /// Fills in what a call leaves open, as where the program has the task itself.
    pub(super) fn fill(&self, request: &mut Request) {
        let CallTarget::Task { name } = &request.target else {
            return;
        };
        if let Some(task) = self.0.get(&**name) {
            request.fill(|| task.options());
        }
    }
}
