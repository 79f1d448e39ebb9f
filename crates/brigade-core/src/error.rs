//! [`Error`]: Brigade could not do what was asked.
//!
//! How a task ended is not an error but an outcome, see [`CallError`](crate::CallError). `Display`
//! prints its own level only, in lower case, so that it fits after "failed to".
//!
//! An error is a value without shared state. Its [kind](ErrorKind) is for programs, its text for
//! people. An error of a broker that is not marked uncertain means that the request was not carried
//! out.

use std::fmt;

type ErrorSource = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, for a program to branch on. `# Errors` sections name the kinds that are special
/// to a method. Any operation of a broker may also fail with an error of the broker, see `Broker`.
///
/// Errors of a call reach its caller as [`CallError::Rejected`](crate::CallError::Rejected):
///
/// | kind | cause |
/// |---|---|
/// | `Encode`, `TooLarge` | the arguments cannot be carried |
/// | `BadOption`, `Unsupported` | the place does not take what the call asks for |
/// | `UnknownTask`, `BadArguments`, `OtherBuild` | the worker cannot run it |
/// | `Decode` | the result is no value of the type that was asked for |
/// | `Closed`, `NoRuntime`, `CannotStart` | the pool cannot run anything |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// This program never called `brigade::init()`, so its workers would run its `main` again.
    NotInitialized,
    /// Two tasks of one name.
    DuplicateTask,
    /// The worker has no task of that name.
    UnknownTask,
    /// The arguments do not fit the task's.
    BadArguments,
    /// A value cannot be written in the call's format.
    Encode,
    /// A value cannot be read in the call's format.
    Decode,
    /// A payload is over the limit.
    TooLarge,
    /// An option is out of its range or clashes with another.
    BadOption,
    /// A job with the same unique key is there and not settled.
    Duplicate,
    /// The queue has no room and the caller did not want to wait.
    QueueFull,
    /// The pool was shut down, or the connection to the broker has ended: connect again.
    Closed,
    /// The async runtime that a pool was started on has ended, or is not driven.
    NoRuntime,
    /// Workers cannot be started.
    CannotStart,
    /// The worker is another build of the program, so a function address means nothing to it.
    OtherBuild,
    /// What was asked is not possible in this place.
    Unsupported,
    /// It took longer than it was allowed to.
    Timeout,
    /// The operating system refused.
    Os,
    /// The peer broke the wire protocol.
    Protocol,
    /// The broker cannot be reached, or is not ready yet.
    Unreachable,
    /// The broker refused: wrong credentials, or no right to do that.
    Refused,
}

/// Brigade could not do what was asked. How a task ended is no error but a
/// [`CallError`](crate::CallError). The [kinds](ErrorKind) are few; the text says what is wrong,
/// what was expected, and what to do.
///
/// ```
/// use brigade::{Broker, ErrorKind};
///
/// # #[tokio::main]
/// # async fn main() {
/// let error = Broker::connect("carrier-pigeon:coop").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::BadOption);
/// assert!(!error.is_retryable());
/// # }
/// ```
pub struct Error {
    kind: ErrorKind,
    context: Box<str>,
    source: Option<ErrorSource>,
    uncertain: bool,
}

impl Error {
    #[doc(hidden)]
    pub fn new(kind: ErrorKind, context: impl Into<Box<str>>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
            uncertain: false,
        }
    }

    #[doc(hidden)]
    pub fn with_source(mut self, source: impl Into<ErrorSource>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// It is not known whether the request was carried out.
    #[doc(hidden)]
    pub fn uncertain(mut self) -> Self {
        self.uncertain = true;
        self
    }

    /// A copy for another caller of the operation that failed, with the text of its source.
    #[doc(hidden)]
    pub fn copy(&self) -> Self {
        let source = self.source.as_ref().map(|source| source.to_string().into());
        Self {
            kind: self.kind,
            context: self.context.clone(),
            source,
            uncertain: self.uncertain,
        }
    }

    #[doc(hidden)]
    pub fn os(context: impl Into<Box<str>>, source: impl Into<std::io::Error>) -> Self {
        Self::new(ErrorKind::Os, context).with_source(source.into())
    }

    /// What went wrong, for a program to branch on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same request may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::QueueFull
                | ErrorKind::CannotStart
                | ErrorKind::Timeout
                | ErrorKind::Unreachable
        )
    }

    /// Whether the request may have been carried out although this error came back: a commit whose
    /// sync failed may be on the disk.
    pub fn is_uncertain(&self) -> bool {
        self.uncertain
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.context)?;
        self.source
            .as_ref()
            .map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
