//! Why a worker did not run a call, or could not send its result back.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// Why a call was not run, or its result could not be sent. Part of the wire protocol.
#[derive(Debug, Serialize, Deserialize)]
pub enum Refused {
    UnknownTask(String),
    BadArguments(String),
    OtherBuild(String),
    Unencodable(String),
    ResultTooLarge {
        bytes: u64,
        max: u64,
    },
    /// Its host lacks what the call needs.
    Unsupported(String),
    BadOption(String),
}

impl Refused {
    /// The error that the caller gets.
    pub fn into_error(self, task: &str) -> Error {
        match self {
            Self::UnknownTask(name) => unknown_task(&name),
            Self::BadArguments(why) => Error::new(
                ErrorKind::BadArguments,
                format!("pass arguments to {task:?}: {why}"),
            ),
            Self::OtherBuild(why) => Error::new(ErrorKind::OtherBuild, why),
            Self::Unsupported(why) => Error::new(ErrorKind::Unsupported, why),
            Self::BadOption(why) => Error::new(ErrorKind::BadOption, why),
            Self::Unencodable(why) => Error::new(
                ErrorKind::Encode,
                format!("return the result of {task:?}: {why}"),
            ),
            Self::ResultTooLarge { bytes, max } => Error::new(
                ErrorKind::TooLarge,
                format!(
                    "return the result of {task:?}: it has {bytes} bytes and {max} are allowed \
                        (Builder::payload_max)"
                ),
            ),
        }
    }
}

pub fn unknown_task(name: &str) -> Error {
    Error::new(
        ErrorKind::UnknownTask,
        format!("find a task {name:?}: the worker has none of that name"),
    )
}
