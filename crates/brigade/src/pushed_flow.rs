//! Pushing flows and awaiting them.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::error::{Error, ErrorKind};
use crate::flow::ToFlow;
use crate::job::{DependentKind, JobId};
use crate::outcome::CallError;
use crate::policy::RESULT_KEPT;
use crate::store::{CallerLink, PushOutcome};

/// How long a group's own job can be looked at after it is done.
const GROUP_KEPT: Duration = Duration::from_secs(3600);

/// A flow that is safe.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushedFlow {
    /// Its jobs, each before the one that waits for it; the members of a group in their order.
    /// Never empty.
    pub jobs: Vec<JobId>,
}

impl PushedFlow {
    /// The job that is settled last. [`Broker::wait`] waits for it, [`Broker::cancel`] on it
    /// cancels the whole flow.
    ///
    /// # Panics
    ///
    /// Never: a flow has a job.
    pub fn last(&self) -> &JobId {
        self.jobs.last().expect("a flow has a job")
    }
}

impl Broker {
    /// Pushes all jobs of a [`Chain`](crate::Chain) or a [`Group`](crate::Group) and returns when
    /// they are safe; all or none.
    ///
    /// # Errors
    ///
    /// As [`push`](Broker::push); `Duplicate` if the unique key of one of them is taken, and
    /// `Unsupported` if this broker has no flows (`Capabilities::flows`). Then nothing was stored.
    pub async fn push_flow(&self, flow: impl ToFlow) -> Result<PushedFlow, Error> {
        let mut flow = flow.to_flow()?;
        flow.set_last(|mut job| {
            if job
                .link
                .as_ref()
                .is_some_and(|link| link.dependent_kind == Some(DependentKind::Barrier))
            {
                job.options.keep.get_or_insert(GROUP_KEPT);
            }
            job
        });
        if !self.capabilities().flows {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "push a flow: this broker cannot have a job wait for others",
            ));
        }
        let pushed = self.push_many(flow.jobs).await?;
        let jobs: Vec<JobId> = pushed
            .into_iter()
            .map(|pushed| pushed.id().clone())
            .collect();
        if jobs.is_empty() {
            return Err(Error::new(
                ErrorKind::Protocol,
                "push a flow: the broker stored no job",
            ));
        }
        Ok(PushedFlow { jobs })
    }

    /// Pushes a flow and waits for the result of its last job: of a group, all results in the order
    /// of its members. Dropping the future cancels the flow.
    ///
    /// # Errors
    ///
    /// As [`call`](Broker::call); `Failed` names the member at fault if the flow did not come to
    /// its end. What was not run because of it stays among the dead letters and can be retried.
    pub async fn call_flow<F: ToFlow>(&self, flow: F) -> Result<F::Output, CallError>
    where
        F::Output: DeserializeOwned,
    {
        let mut flow = flow.to_flow()?;
        flow.set_last(|mut job| {
            job.options.keep.get_or_insert(RESULT_KEPT);
            job
        });
        let broker = self.clone();
        self.result_of(
            async move {
                Ok(PushOutcome::New(
                    broker.push_flow(flow).await?.last().clone(),
                ))
            },
            None,
            &CallerLink::default(),
        )
        .await
    }
}
