//! The options of the tasks of another program, which a pool runs as its workers
//! (`Builder::program`): that program says them when a worker is ready.

use std::collections::HashMap;

use crate::request::{CallTarget, Request};
use crate::retry::Retry;
use crate::wire::TaskDefaults;

/// What the program's registrations say for calls that do not say it, by the names of its tasks.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ProgramTasks(HashMap<String, TaskDefaults>);

impl ProgramTasks {
    pub(super) fn new(tasks: Vec<TaskDefaults>) -> Self {
        let by_name = |task: TaskDefaults| (task.name.clone(), task);
        Self(tasks.into_iter().map(by_name).collect())
    }

    /// Fills in what a call does not say, as `Request::fill` does for the tasks of this program.
    pub(super) fn fill(&self, request: &mut Request) {
        let CallTarget::Task { name } = &request.target else {
            return;
        };
        // A caller who has the task's code has said all of it with the call.
        let Some(task) = self.0.get(&**name).filter(|_| request.queue.is_none()) else {
            return;
        };
        let of_another_pool = request.attempt_of().call.is_some();
        let options = request.options.get_or_insert_default();
        options.timeout = options.timeout.or(task.timeout);
        options.memory = options.memory.or(task.memory);
        // The pool that made a call decides whether it is tried again.
        if !of_another_pool {
            options.retries = options.retries.or(task.retries);
            options.retry = options.retry.or(task.retry.map(Retry::from));
        }
    }
}
