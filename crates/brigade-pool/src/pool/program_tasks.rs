//! The options of the tasks of another program, which a pool runs as its workers
//! (`Builder::program`): a worker sends them in READY.

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

    /// Fills in timeout, memory and retries where a call leaves them open. Its other options are
    /// those of the call: only `Request::fill`, in a program that has the task, knows them all.
    pub(super) fn fill(&self, request: &mut Request) {
        let CallTarget::Task { name } = &request.target else {
            return;
        };
        // A caller who has the task's code has set all of it with the call.
        if self.0.is_empty() || request.queue.is_some() {
            return;
        }
        let Some(task) = self.0.get(&**name) else {
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
