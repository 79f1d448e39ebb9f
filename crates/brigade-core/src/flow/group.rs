//! [`Group`]: jobs side by side, and what comes after all of them.
//!
//! The members' jobs stand one after another in one flow, and the group knows where each member's
//! last job is: what comes next waits for those. A group that nothing comes after gets a job of its
//! own, a barrier, which gathers the results.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::chain::Chain;
use super::flow_step::{FlowStep, Following, json_of};
use super::{Flow, ToFlow};
use crate::error::Error;
use crate::job::{DependentKind, Job};
use crate::to_job::ToJob;

/// Jobs that run side by side, each with a `T` as its result, and what comes after all of them.
/// Members are calls, jobs, chains and groups.
///
/// ```no_run
/// use brigade::{Broker, Group, task};
///
/// #[task]
/// fn measure(part: u32) -> u64 {
///     u64::from(part) * 10
/// }
///
/// #[task]
/// fn total(parts: Vec<u64>) -> u64 {
///     parts.into_iter().sum()
/// }
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::connect("sqlite:jobs.db").await?;
/// let sum: u64 = broker.call_flow(Group::new((1..=3).map(measure)).collect(total)).await?;
/// // In the order of the members.
/// let each: Vec<u64> = broker.call_flow(Group::new((1..=3).map(measure))).await?;
/// # Ok(())
/// # }
/// ```
///
/// Pushed as it is, a group has one more job, which is not run: it is done, with the array of the
/// results, when all parents are, and stays for [`keep`](Group::keep); or it is a dead letter with
/// the reasons of those that ended otherwise.
#[must_use = "a group does nothing until it is pushed"]
pub struct Group<T> {
    /// The members' jobs, one after another.
    flow: Flow,
    /// Where each member's last job stands.
    lasts: Vec<usize>,
    keep: Option<Duration>,
    output: PhantomData<fn() -> T>,
}

/// The queue of a group's own job, if it has no member whose queue it could be.
const GROUP_QUEUE: &str = "groups";

impl<T> Group<T> {
    /// These jobs, calls, chains or groups; results are gathered in this order.
    pub fn new<F: ToFlow<Output = T>>(members: impl IntoIterator<Item = F>) -> Self {
        let group = Self {
            flow: Flow::default(),
            lasts: Vec::new(),
            keep: None,
            output: PhantomData,
        };
        members.into_iter().fold(group, Self::and)
    }

    /// One more member, which may be of another kind than the others.
    pub fn and<F: ToFlow<Output = T>>(mut self, member: F) -> Self {
        match member.to_flow() {
            Ok(member) => self.lasts.extend(self.flow.append(member)),
            Err(error) => self.flow.problem = self.flow.problem.or(Some(error)),
        }
        self
    }

    /// Then this job or call, as it is, when all members are done.
    pub fn then<J: ToJob>(self, job: J) -> Chain<J::Output> {
        self.close(DependentKind::Then, job.to_job())
    }

    /// Then this task, with an array of the members' results as its only argument: a function that
    /// is a `#[task]`, or a [`Task`](crate::Task) constant.
    pub fn collect<P: FlowStep<(Vec<T>,)>>(self, step: P) -> Chain<P::Output> {
        self.close(DependentKind::Collect, step.job("[]".to_owned()))
    }

    /// Then this task, with an array of the members' results and these further arguments, a tuple.
    pub fn collect_with<P: FlowStep<R::Args>, R: Following<Vec<T>>>(
        self,
        step: P,
        rest: R,
    ) -> Chain<P::Output> {
        self.close(
            DependentKind::Collect,
            json_of(&rest).and_then(|rest| step.job(rest)),
        )
    }

    /// Then this job, or this call. Its payload is an array of the arguments after the first, which
    /// is the array of the members' results.
    pub fn collect_job<J: ToJob>(self, job: J) -> Chain<J::Output> {
        self.close(DependentKind::Collect, job.to_job())
    }

    /// Then this job or call, as it is, when all members are settled for good, however they ended.
    pub fn finally<J: ToJob>(self, job: J) -> Chain<J::Output> {
        self.close(DependentKind::Finally, job.to_job())
    }

    /// How long the group's own job, and with it the results, stay after it is done. Default: 1
    /// hour; for a member of another group, which has the results by then, not at all. Without
    /// meaning once something comes after the group.
    pub fn keep(mut self, time: Duration) -> Self {
        self.keep = Some(time);
        self
    }

    fn close<S>(self, dependent_kind: DependentKind, job: Result<Job, Error>) -> Chain<S> {
        Chain::of(self.flow.close(&self.lasts, dependent_kind, job))
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("members", &self.lasts.len())
            .finish_non_exhaustive()
    }
}

impl<T> ToFlow for Group<T> {
    type Output = Vec<T>;

    fn to_flow(self) -> Result<Flow, Error> {
        let queue = self
            .flow
            .jobs
            .first()
            .map_or(GROUP_QUEUE.into(), |job| job.queue.clone());
        let mut barrier = Job::new(queue, None, "null");
        barrier.options.keep = self.keep;
        self.flow
            .close(&self.lasts, DependentKind::Barrier, Ok(barrier))
            .checked()
    }
}
