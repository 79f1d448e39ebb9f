//! [`Chain`]: jobs one after another, each with the result of the one before.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::flow_step::{FlowStep, Following, json_of};
use super::{Flow, ToFlow};
use crate::error::Error;
use crate::job::{DependentKind, Job};
use crate::to_job::ToJob;

/// Jobs that lead to one last job, whose result is a `T`: each is run when the one before it is
/// done, with that one's result as its first argument.
///
/// ```no_run
/// use brigade::{Broker, Chain, Task, task};
///
/// #[task]
/// fn fetch(url: String) -> String {
///     format!("the page of {url}")
/// }
///
/// #[task(retries = 3)]
/// fn count(page: String, word: String) -> usize {
///     page.matches(&word).count()
/// }
///
/// /// A task of another program.
/// const STORE: Task<(usize,), bool> = Task::new("store");
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::connect("sqlite:jobs.db").await?;
/// let chain = || {
///     let page = Chain::new(fetch("example.org".into()));
///     page.then_with(count, ("page".into(),)).then(STORE)
/// };
/// let flow = broker.push_flow(chain()).await?; // all steps are safe now
/// println!("{} jobs, the last is {}", flow.jobs.len(), flow.last());
/// let stored: bool = broker.call_flow(chain()).await?; // pushes and waits
/// # Ok(())
/// # }
/// ```
///
/// A step that ends otherwise than done stops the chain: the later ones become dead letters that
/// name it, and retrying it with `Broker::retry` brings them back.
#[must_use = "a chain does nothing until it is pushed"]
pub struct Chain<T> {
    flow: Flow,
    output: PhantomData<fn() -> T>,
}

impl<T> Chain<T> {
    /// Begins with a call of a task, or any job.
    pub fn new<J: ToJob<Output = T>>(first: J) -> Self {
        Self::of(Flow::one(first.to_job()))
    }

    pub(super) fn of(flow: Flow) -> Self {
        Self {
            flow,
            output: PhantomData,
        }
    }

    /// Then this task, with the result of the step before as its only argument: a function that is
    /// a `#[task]`, or a [`Task`](crate::Task) constant.
    pub fn then<P: FlowStep<(T,)>>(self, step: P) -> Chain<P::Output> {
        Chain::of(
            self.flow
                .then(DependentKind::Front, step.job("[]".to_owned())),
        )
    }

    /// Then this task, with the result of the step before and these further arguments, a tuple.
    pub fn then_with<P: FlowStep<R::Args>, R: Following<T>>(
        self,
        step: P,
        rest: R,
    ) -> Chain<P::Output> {
        Chain::of(self.flow.then(
            DependentKind::Front,
            json_of(&rest).and_then(|rest| step.job(rest)),
        ))
    }

    /// Then this job, or this call. Its payload is an array of the arguments after the first, which
    /// is the result of the step before.
    pub fn then_job<J: ToJob>(self, job: J) -> Chain<J::Output> {
        Chain::of(self.flow.then(DependentKind::Front, job.to_job()))
    }

    /// Sets options on the step that was added last, as in `.then(store).with(|job|
    /// job.retries(5).delay(pause))`. A delay begins when the step before is done.
    pub fn with(mut self, set: impl FnOnce(Job) -> Job) -> Self {
        self.flow.set_last(|job| {
            // Whatever is set, its place stays.
            let link = job.link.clone();
            Job { link, ..set(job) }
        });
        self
    }

    /// Keeps the last job and its result for this long after it is done. Default: it is removed at
    /// once.
    pub fn keep(self, time: Duration) -> Self {
        self.with(|job| job.keep(time))
    }
}

impl<T> fmt::Debug for Chain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("jobs", &self.flow.jobs.len())
            .finish_non_exhaustive()
    }
}

impl<T> ToFlow for Chain<T> {
    type Output = T;

    fn to_flow(self) -> Result<Flow, Error> {
        self.flow.checked()
    }
}
