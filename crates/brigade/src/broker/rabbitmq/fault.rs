//! What errors of the broker's, or of the way to it, mean for a person.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lapin::ErrorKind as Kind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::error::{Error, ErrorKind};

/// Why something did not come about.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    kind: ErrorKind,
    hint: &'static str,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Fault {
    pub(super) fn new(kind: ErrorKind, hint: &'static str) -> Self {
        Self { kind, hint, source: None }
    }

    pub(super) fn with_source(kind: ErrorKind, hint: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { kind, hint, source: Some(Arc::new(source)) }
    }

    /// The broker takes no messages.
    pub(super) fn blocking() -> Self {
        Self::new(ErrorKind::QueueFull, "the broker is blocking publishers: it is short of memory or disk")
    }

    /// The broker said no to a message.
    pub(super) fn declined() -> Self {
        Self::new(ErrorKind::QueueFull, "the broker did not take it: its queue is full, or it failed")
    }

    /// The answer did not come in time.
    pub(super) fn timeout() -> Self {
        Self::new(ErrorKind::Unreachable, "the broker does not answer")
    }

    pub(super) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the connection, or the channel, ended: nobody knows what became of what was under way.
    pub(super) fn is_lost(&self) -> bool {
        self.kind == ErrorKind::Unreachable
    }

    /// Whether it will not pass by itself: somebody has to change something.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self.kind, ErrorKind::Refused | ErrorKind::Unsupported | ErrorKind::BadOption)
    }

    /// The broker's `consumer_timeout`, if that is why it closed a channel. It names it nowhere but in the text for people: so this only makes
    /// deliveries be exchanged earlier, and nothing else depends on it.
    pub(super) fn consumer_timeout(&self) -> Option<Duration> {
        let error = self.source.as_ref()?.downcast_ref::<lapin::Error>()?;
        let Kind::ProtocolError(error) = error.kind() else { return None };
        let is_it = matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED));
        let (_, rest) = error.get_message().as_str().split_once("imeout value used: ").filter(|_| is_it)?;
        rest.split(' ').next()?.parse().ok().map(Duration::from_millis)
    }

    /// `what` was asked for.
    pub(super) fn into_error(self, what: &str) -> Error {
        let error = Error::new(self.kind, format!("{what}: {}", self.hint));
        match self.source {
            Some(source) => error.with_source(Box::new(Shared(source)) as Box<dyn std::error::Error + Send + Sync>),
            None => error,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.hint)?;
        self.source.as_ref().map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

/// An error that several were told of.
#[derive(Debug)]
struct Shared(Arc<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl From<lapin::Error> for Fault {
    fn from(error: lapin::Error) -> Self {
        let (kind, hint) = meaning(error.kind());
        let fault = Self::with_source(kind, hint, error);
        match fault.consumer_timeout() {
            None => fault,
            Some(_) => {
                Self { kind: ErrorKind::Unreachable, hint: "a job was held for longer than the broker allows (consumer_timeout)", ..fault }
            }
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::with_source(ErrorKind::Unreachable, "the broker cannot be reached", error)
    }
}

fn meaning(kind: &Kind) -> (ErrorKind, &'static str) {
    let Kind::ProtocolError(error) = kind else {
        return match kind {
            Kind::MissingHeartbeatError => (ErrorKind::Unreachable, "the broker gives no sign of life any more"),
            Kind::ChannelsLimitReached => (ErrorKind::QueueFull, "the broker allows no more channels (channel_max)"),
            Kind::InvalidProtocolVersion(_) | Kind::ParsingError(_) | Kind::SerialisationError(_) => {
                (ErrorKind::Protocol, "the broker speaks another protocol; AMQP 0-9-1 is wanted, without TLS on port 5672")
            }
            _ => (ErrorKind::Unreachable, "the connection to the broker is gone"),
        };
    };
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            (ErrorKind::Refused, "wrong user or password, or that user may not do this in this vhost")
        }
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => (ErrorKind::Protocol, "the broker has no such queue (any more)"),
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => (ErrorKind::Refused, "the queue belongs to another connection alone"),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
            (ErrorKind::Unsupported, "the queue is there with other arguments, or the broker allows less")
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => (ErrorKind::Refused, "there is no such vhost, or this user may not use it"),
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => {
            (ErrorKind::Unreachable, "the broker is shutting down, or closed the connection")
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED) => (ErrorKind::Unsupported, "the broker does not have that"),
        AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR | AMQPHardError::RESOURCEERROR) => {
            (ErrorKind::Unreachable, "the broker failed; its log says why")
        }
        _ => (ErrorKind::Protocol, "the broker refused"),
    }
}
