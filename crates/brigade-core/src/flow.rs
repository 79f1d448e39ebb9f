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

mod chain;
mod flow_step;
mod group;

use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind};
use crate::job::{DependentKind, FlowLink, Job};
use crate::to_job::ToJob;

pub use self::chain::Chain;
pub use self::flow_step::{FlowStep, Following};
pub use self::group::Group;

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

impl ToFlow for Flow {
    type Output = serde_json::Value;

    fn to_flow(self) -> Result<Self, Error> {
        self.checked()
    }
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
    use crate::call::Call;

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
