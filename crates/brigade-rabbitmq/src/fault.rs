//! What errors of the broker, or of the way to it, mean for a person.
//!
//! An [`AmqpFault`] has the kind of an [`Error`] and a hint. It can be cloned, as one end of a
//! connection reaches all that was under way on it. RabbitMQ names some limits only in texts for
//! people (`consumer_timeout`, `max_message_size`, limits of vhosts). These are read here and
//! nowhere else, and only to name the limit or to be more careful; nothing depends on them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lapin::ErrorKind as Kind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::error::{Error, ErrorKind};

/// Why something did not come about.
#[derive(Clone, Debug)]
pub(super) struct AmqpFault {
    kind: ErrorKind,
    hint: &'static str,
    /// A limit of a vhost, a user or the server is reached.
    is_limit: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl AmqpFault {
    pub(super) fn new(kind: ErrorKind, hint: &'static str) -> Self {
        Self {
            kind,
            hint,
            is_limit: false,
            source: None,
        }
    }

    pub(super) fn with_source(
        kind: ErrorKind,
        hint: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            source: Some(Arc::new(source)),
            ..Self::new(kind, hint)
        }
    }

    /// What an error of ours means here.
    pub(super) fn of(hint: &'static str, error: Error) -> Self {
        Self::with_source(error.kind(), hint, error)
    }

    /// The broker takes no messages.
    pub(super) fn blocking() -> Self {
        Self::new(
            ErrorKind::QueueFull,
            "the broker is blocking publishers: it is short of memory or disk",
        )
    }

    /// The broker said no to a message.
    pub(super) fn declined() -> Self {
        Self::new(
            ErrorKind::QueueFull,
            "the broker did not take it: its queue is full, or it failed",
        )
    }

    /// The properties and headers of a message do not fit into a frame.
    pub(super) fn over_frame(bytes: usize, frame_max: usize) -> Self {
        let text = format!(
            "its properties and headers make a frame of {bytes} bytes, and the broker allows \
                {frame_max}"
        );
        Self::with_source(
            ErrorKind::TooLarge,
            "its headers are larger than the broker allows (frame_max)",
            io::Error::other(text),
        )
    }

    /// The answer did not come in time.
    pub(super) fn timeout() -> Self {
        Self::new(ErrorKind::Unreachable, "the broker does not answer")
    }

    pub(super) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the connection, or the channel, ended: it is unknown what became of what was under
    /// way.
    pub(super) fn is_lost(&self) -> bool {
        self.kind == ErrorKind::Unreachable
    }

    /// Whether it lasts until a person changes something.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Refused
                | ErrorKind::Unsupported
                | ErrorKind::BadOption
                | ErrorKind::TooLarge
        ) || self.is_limit
    }

    /// Whether a vhost, a user or the server has as much as it may have of something.
    pub(super) fn is_limit(&self) -> bool {
        self.is_limit
    }

    /// The broker's `consumer_timeout`, if that is why it closed a channel. It names it nowhere but
    /// in the text for people: so this only makes deliveries be exchanged earlier, and nothing else
    /// depends on it.
    pub(super) fn consumer_timeout(&self) -> Option<Duration> {
        let (kind, text) = self.refusal()?;
        let is_it = *kind == AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED);
        let millis = number_after(text, "imeout value used: ").filter(|_| is_it);
        millis.map(Duration::from_millis)
    }

    /// The largest message that the broker takes (`max_message_size`), if one was refused because
    /// it is larger. It is named nowhere but in that text; without it, the refusal is reported as
    /// any other.
    pub(super) fn message_bytes_max(&self) -> Option<usize> {
        let (_, text) = self.refusal()?;
        number_after(text, "max size ").filter(|_| text.contains("message size"))
    }

    /// What the broker said when it closed the channel, or the connection, because of what was
    /// asked.
    fn refusal(&self) -> Option<(&AMQPErrorKind, &str)> {
        let error = self.source.as_ref()?.downcast_ref::<lapin::Error>()?;
        let Kind::ProtocolError(error) = error.kind() else {
            return None;
        };
        Some((error.kind(), error.get_message().as_str()))
    }

    /// A limit of a vhost or of a user, as the broker names it, and what to do.
    fn limit(&self) -> Option<&'static str> {
        let (_, text) = self.refusal()?;
        let limits = [
            (
                "queue limit",
                "the vhost, or the cluster, has as many queues as it may have (max-queues): raise \
                    it (rabbitmqctl set_vhost_limits), or delete some",
            ),
            (
                "user connection limit",
                "the user has as many connections as it may have (max-connections): raise it \
                    (rabbitmqctl set_user_limits)",
            ),
            (
                "node connection limit",
                "the server has as many connections as it may have (connection_max): raise it, or \
                    end some",
            ),
            (
                "connection limit",
                "the vhost has as many connections as it may have (max-connections): raise it \
                    (rabbitmqctl set_vhost_limits)",
            ),
            (
                "number of channels",
                "there are as many channels as there may be (max-channels of the user, or \
                    channel_max): raise it",
            ),
        ];
        limits
            .iter()
            .find(|(said, _)| text.contains(said))
            .map(|(_, hint)| *hint)
    }

    /// `what` was asked for.
    pub(super) fn into_error(self, what: &str) -> Error {
        let error = Error::new(self.kind, format!("{what}: {}", self.hint));
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

impl std::fmt::Display for AmqpFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.hint)?;
        self.source
            .as_ref()
            .map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

impl From<lapin::Error> for AmqpFault {
    fn from(error: lapin::Error) -> Self {
        let (kind, hint) = meaning(error.kind());
        let fault = Self::with_source(kind, hint, error);
        if let Some(hint) = fault.limit() {
            return Self {
                kind: ErrorKind::QueueFull,
                hint,
                is_limit: true,
                ..fault
            };
        }
        if fault.message_bytes_max().is_some() {
            return Self {
                kind: ErrorKind::TooLarge,
                hint: "the message is larger than the broker allows (max_message_size)",
                ..fault
            };
        }
        match fault.consumer_timeout() {
            None => fault,
            Some(_) => Self {
                kind: ErrorKind::Unreachable,
                hint: "a job was held for longer than the broker allows (consumer_timeout)",
                ..fault
            },
        }
    }
}

impl From<io::Error> for AmqpFault {
    fn from(error: io::Error) -> Self {
        Self::with_source(
            ErrorKind::Unreachable,
            "the broker cannot be reached",
            error,
        )
    }
}

/// The whole number that stands behind these words in a text.
fn number_after<T: std::str::FromStr>(text: &str, words: &str) -> Option<T> {
    let (_, rest) = text.split_once(words)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn meaning(kind: &Kind) -> (ErrorKind, &'static str) {
    let Kind::ProtocolError(error) = kind else {
        return match kind {
            Kind::MissingHeartbeatError => (
                ErrorKind::Unreachable,
                "the broker gives no sign of life any more",
            ),
            Kind::ChannelsLimitReached => (
                ErrorKind::QueueFull,
                "the broker allows no more channels (channel_max)",
            ),
            Kind::InvalidProtocolVersion(_)
            | Kind::ParsingError(_)
            | Kind::SerialisationError(_) => (
                ErrorKind::Protocol,
                "the broker speaks another protocol; AMQP 0-9-1 is wanted, without TLS on port \
                    5672",
            ),
            _ => (
                ErrorKind::Unreachable,
                "the connection to the broker is gone",
            ),
        };
    };
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => (
            ErrorKind::Refused,
            "wrong user or password, or that user may not do this in this vhost",
        ),
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => (
            ErrorKind::Protocol,
            "the broker has no such queue (any more)",
        ),
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => (
            ErrorKind::Refused,
            "the queue belongs to another connection alone",
        ),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => (
            ErrorKind::Unsupported,
            "the queue is there with other arguments, or the broker allows less",
        ),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => (
            ErrorKind::Refused,
            "there is no such vhost, or this user may not use it",
        ),
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => (
            ErrorKind::Unreachable,
            "the broker is shutting down, or closed the connection",
        ),
        AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED) => {
            (ErrorKind::Unsupported, "the broker does not have that")
        }
        AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR | AMQPHardError::RESOURCEERROR) => (
            ErrorKind::Unreachable,
            "the broker failed; its log says why",
        ),
        _ => (ErrorKind::Protocol, "the broker refused"),
    }
}
