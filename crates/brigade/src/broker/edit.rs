//! Dead letters that are changed before they are tried again.

use serde::Serialize;

use super::admission::{check_name, check_payload};
use super::{Broker, Order, Ordered};
use crate::error::{Error, ErrorKind};
use crate::job::JobId;

/// What to change of a dead letter before it is tried again, see [`Broker::retry_with`]. What is
/// not given stays.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "an edit does nothing until a dead letter is retried with it"]
pub struct Edit {
    pub(crate) payload: Option<Box<str>>,
    pub(crate) task: Option<Box<str>>,
    pub(crate) queue: Option<Box<str>>,
}

impl Edit {
    /// Changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another payload: any serde value. For a task it is its argument, or an array of its
    /// arguments.
    ///
    /// # Errors
    ///
    /// `Encode` if the value is no JSON.
    pub fn payload(self, payload: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        let text = serde_json::to_string(payload).map_err(|e| {
            Error::new(ErrorKind::Encode, format!("write a payload as JSON: {e}")).with_source(e)
        })?;
        Ok(Self {
            payload: Some(text.into()),
            ..self
        })
    }

    /// Another task, by its name.
    pub fn task(self, name: impl Into<Box<str>>) -> Self {
        Self {
            task: Some(name.into()),
            ..self
        }
    }

    /// Another queue. A job of a flow stays in its own.
    pub fn queue(self, name: impl Into<Box<str>>) -> Self {
        Self {
            queue: Some(name.into()),
            ..self
        }
    }
}

impl Broker {
    /// Changes a dead letter and gives it back to its queue in one step, as
    /// [`retry`](Broker::retry) does: it either has all of the changes and is tried again, or
    /// nothing has happened. Returns the id that it goes on under, which is another one if the
    /// broker has the queue in its ids; `None` if it is no dead letter, and for one that was not
    /// run because of others.
    ///
    /// ```
    /// # use brigade::{Broker, Edit, JobId};
    /// # async fn example(broker: Broker, id: JobId) -> Result<(), brigade::Error> {
    /// let edit = Edit::new().payload(&serde_json::json!({"to": "ann@example.org"}))?.queue("emails");
    /// let id = broker.retry_with(&id, edit).await?.expect("a dead letter");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`retry`](Broker::retry); `TooLarge` for a payload over the limit, `BadOption` for a name
    /// that no queue can have, `Unsupported` for another queue of a job of a flow, and where two
    /// queues cannot be changed in one step (a Redis cluster).
    pub async fn retry_with(&self, id: &JobId, edit: Edit) -> Result<Option<JobId>, Error> {
        if let Some(payload) = &edit.payload {
            check_payload(
                "retry a dead letter",
                payload,
                self.capabilities().payload_bytes_max,
            )?;
        }
        if let Some(queue) = &edit.queue {
            check_name("queue", queue)?;
        }
        match self.backend().order(Order::Retry(id.clone(), edit)).await? {
            Ordered::Retried(id) => Ok(Some(id)),
            _ => Ok(None),
        }
    }
}

pub(super) fn stays_in_its_queue(id: &JobId) -> Error {
    let text = format!(
        "move job {id} to another queue: it is of a flow, whose other jobs know where it is; retry \
            it where it is"
    );
    Error::new(ErrorKind::Unsupported, text)
}
