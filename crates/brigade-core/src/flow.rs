//! Flows: jobs that wait for others. [`Chain`] hands each result to the next job, [`Group`] waits
//! for many.
//!
//! A flow is a value until it is pushed by a broker: it is a list of jobs of one push, joined by
//! [`FlowLink`]. Each job has at most one dependent, which comes after its parents in the list, so
//! a flow is a tree that runs towards its last job. A broker stores all of it or nothing, and hands
//! results on by itself: no particular process has to live for a flow to continue.
//!
//! The push returns the error of a job that cannot be joined (an argument that is not JSON, a
//! function that is not a task), as for any job.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::args::Args;
use crate::call::Call;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::function::Function;
use crate::job::{DependentKind, FlowLink, Job};
use crate::registry;
use crate::task::Task;
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
/// let chain = || Chain::new(fetch("example.org".into())).then_with(count, ("page".into(),)).then(STORE);
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

    fn of(flow: Flow) -> Self {
        Self {
            flow,
            output: PhantomData,
        }
    }

    /// Then this task, with the result of the step before as its only argument: a function that is
    /// a `#[task]`, or a [`Task`] constant.
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
/// let each: Vec<u64> = broker.call_flow(Group::new((1..=3).map(measure))).await?; // in the order of the members
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
    /// is a `#[task]`, or a [`Task`] constant.
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

/// What can be pushed as a flow and be a member of a group: a [`Chain`], a [`Group`], and whatever
/// is a job by itself.
pub trait ToFlow {
    /// The result of its last job.
    type Output;

    /// Its jobs.
    ///
    /// # Errors
    ///
    /// What was wrong when it was described.
    #[doc(hidden)]
    fn to_flow(self) -> Result<Flow, Error>;
}

impl<J: ToJob> ToFlow for J {
    type Output = J::Output;

    fn to_flow(self) -> Result<Flow, Error> {
        Flow::one(self.to_job()).checked()
    }
}

impl<T> ToFlow for Chain<T> {
    type Output = T;

    fn to_flow(self) -> Result<Flow, Error> {
        self.flow.checked()
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

impl ToFlow for Flow {
    type Output = serde_json::Value;

    fn to_flow(self) -> Result<Self, Error> {
        self.checked()
    }
}

/// A task that may stand behind others in a flow; `A` are its arguments: a function that is a
/// `#[task]`, or a [`Task`] constant.
pub trait FlowStep<A> {
    /// Its result.
    type Output;

    /// The job, with a JSON array of the arguments that are known.
    ///
    /// # Errors
    ///
    /// `UnknownTask` for a function that is no task.
    #[doc(hidden)]
    fn job(self, known: String) -> Result<Job, Error>;
}

impl<A: Args, S: DeserializeOwned> FlowStep<A> for Task<A, S> {
    type Output = S;

    fn job(self, known: String) -> Result<Job, Error> {
        Call::<S>::of_json_text(self.name().to_owned(), known).to_job()
    }
}

impl<F, A, S> FlowStep<A> for F
where
    F: Function<A, Output = Call<S>>,
{
    type Output = S;

    fn job(self, known: String) -> Result<Job, Error> {
        let name = type_name::<F>();
        let Some(task) = registry::described_by(name) else {
            let text = format!(
                "join {name} to a flow: it is no #[task]; give the task's function itself, or a \
                    Task constant"
            );
            return Err(Error::new(ErrorKind::UnknownTask, text));
        };
        let mut call = Call::<()>::of_json_text(task.name.to_owned(), known);
        call.request.queue = Some(task.queue);
        call.request.options = Some(Box::new(task.call_options()));
        call.to_job()
    }
}

/// Arguments that follow a result: a tuple of up to 11 serde types.
pub trait Following<R>: Serialize {
    /// The result and these.
    type Args;
}

macro_rules! following {
    ($($name:ident)+) => {
        impl<R, $($name: Serialize),+> Following<R> for ($($name,)+) {
            type Args = (R, $($name),+);
        }
    };
}

following!(A);
following!(A B);
following!(A B C);
following!(A B C D);
following!(A B C D E);
following!(A B C D E F);
following!(A B C D E F G);
following!(A B C D E F G H);
following!(A B C D E F G H I);
following!(A B C D E F G H I J);
following!(A B C D E F G H I J K);

fn json_of(rest: &impl Serialize) -> Result<String, Error> {
    let json = Codec::Json.encode(rest)?;
    String::from_utf8(json)
        .map_err(|e| Error::new(ErrorKind::Encode, "write arguments as JSON").with_source(e))
}

/// Jobs of one push, each before the one that waits for it.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Flow {
    pub jobs: Vec<Job>,
    /// What was wrong first.
    problem: Option<Error>,
}

impl Flow {
    fn one(job: Result<Job, Error>) -> Self {
        match job {
            Ok(job) => Self {
                jobs: vec![job],
                problem: None,
            },
            Err(error) => Self {
                jobs: Vec::new(),
                problem: Some(error),
            },
        }
    }

    fn checked(self) -> Result<Self, Error> {
        match self.problem {
            None => Ok(self),
            Some(error) => Err(error),
        }
    }

    /// Adds the jobs of another flow, and says where its last one stands now.
    fn append(&mut self, other: Self) -> Option<usize> {
        let base = self.jobs.len();
        self.jobs.extend(other.jobs.into_iter().map(|mut job| {
            if let Some(next) = job.link.as_mut().and_then(|link| link.dependent.as_mut()) {
                *next += base;
            }
            job
        }));
        (self.jobs.len() > base).then(|| self.jobs.len() - 1)
    }

    /// Then this job, after the last one.
    fn then(self, dependent_kind: DependentKind, job: Result<Job, Error>) -> Self {
        let last: Vec<usize> = self.jobs.len().checked_sub(1).into_iter().collect();
        self.close(&last, dependent_kind, job)
    }

    /// Then this job, after those at these positions.
    fn close(
        mut self,
        lasts: &[usize],
        dependent_kind: DependentKind,
        job: Result<Job, Error>,
    ) -> Self {
        match job.and_then(|job| takes_results(job, dependent_kind)) {
            Ok(mut job) => {
                let position = self.jobs.len();
                for last in lasts {
                    self.jobs[*last].link.get_or_insert_default().dependent = Some(position);
                }
                job.link = Some(FlowLink {
                    dependent: None,
                    dependent_kind: Some(dependent_kind),
                });
                self.jobs.push(job);
            }
            Err(error) => self.problem = self.problem.or(Some(error)),
        }
        self
    }

    pub fn set_last(&mut self, set: impl FnOnce(Job) -> Job) {
        if let Some(last) = self.jobs.pop() {
            self.jobs.push(set(last));
        }
    }
}

/// A result is put before the arguments, so those have to be an array.
fn takes_results(job: Job, dependent_kind: DependentKind) -> Result<Job, Error> {
    if matches!(
        dependent_kind,
        DependentKind::Front | DependentKind::Collect
    ) && let Err(e) = serde_json::from_str::<Vec<&RawValue>>(&job.payload)
    {
        let text = format!(
            "join a job of queue {:?} to a flow: its payload is no array, so no result can be put \
                in front",
            job.queue
        );
        return Err(Error::new(ErrorKind::BadArguments, text).with_source(e));
    }
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> Job {
        Job::new(name, None, "[]")
    }

    #[test]
    fn whoever_waits_stands_behind_those_it_waits_for() {
        let group = Group::new([
            Chain::new(job("a")).then_job(job("b")),
            Chain::new(job("c")),
        ])
        .and(job("d"));
        let flow = Group::new([group.collect_job(job("e"))])
            .and(job("f"))
            .to_flow()
            .unwrap();
        let links: Vec<_> = flow
            .jobs
            .iter()
            .map(|job| (&*job.queue, job.link.clone().unwrap_or_default()))
            .collect();
        let link = |name, dependent, dependent_kind| {
            (
                name,
                FlowLink {
                    dependent,
                    dependent_kind,
                },
            )
        };
        let expected = [
            link("a", Some(1), None),
            link("b", Some(4), Some(DependentKind::Front)),
            link("c", Some(4), None),
            link("d", Some(4), None),
            link("e", Some(6), Some(DependentKind::Collect)),
            link("f", Some(6), None),
            link("a", None, Some(DependentKind::Barrier)),
        ];
        assert_eq!(links, expected);
    }

    #[test]
    fn what_cannot_be_joined_is_told_by_the_push() {
        let plain = Job::new("q", None, r#"{"n":1}"#);
        let error = Chain::new(job("a"))
            .then_job(plain.clone())
            .then_job(job("c"))
            .to_flow()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadArguments);
        Group::new([job("a")]).then(plain).to_flow().unwrap();
        let no_task = |n: u32| Call::<u32>::json("x", &[n]);
        let error = Chain::new(no_task(1)).then(no_task).to_flow().unwrap_err();
        assert!(
            error.kind() == ErrorKind::UnknownTask && error.to_string().contains("no #[task]"),
            "{error}"
        );
    }
}
