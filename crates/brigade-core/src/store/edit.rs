//! [`Edit`]: changes to a dead letter before it is retried.

use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::job::JobId;

/// What to change of a dead letter before it is tried again, see `Broker::retry_with`. What is
/// not given stays.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "an edit does nothing until a dead letter is retried with it"]
pub struct Edit {
    /// The new payload, JSON text.
    pub payload: Option<Box<str>>,
    /// The new task.
    pub task: Option<Box<str>>,
    /// The new queue.
    pub queue: Option<Box<str>>,
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

/// The error of a retry in another queue of a job that belongs to a flow.
pub fn stays_in_its_queue(id: &JobId) -> Error {
    let text = format!(
        "move job {id} to another queue: it is of a flow, whose other jobs know where it is; retry \
            it where it is"
    );
    Error::new(ErrorKind::Unsupported, text)
}
