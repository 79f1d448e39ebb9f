//! Errors of the server, or of the way to it: what they mean for a person.
//!
//! A [`RedisFault`] keeps whether the server may have got the request: then a write that failed is
//! *uncertain*. Errors that the server raised within a script are read from its text where the
//! server has no code for them (6.2).

use std::io;

use redis::{ErrorKind as Kind, RedisError, ServerErrorKind};

use crate::error::{Error, ErrorKind};
use brigade_core::store::url::redact::scrub;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) struct RedisFault {
    pub(super) source: RedisError,
    /// What is known beyond the source.
    hint: Option<(ErrorKind, &'static str)>,
    /// Whether the server may have got the request.
    sent: bool,
}

impl RedisFault {
    /// The server was never asked.
    pub(super) fn unsent(source: impl Into<RedisError>) -> Self {
        Self {
            source: source.into(),
            hint: None,
            sent: false,
        }
    }

    pub(super) fn sent(source: impl Into<RedisError>) -> Self {
        Self {
            source: as_its_command_said(source.into()),
            hint: None,
            sent: true,
        }
    }

    /// No connection came about, for a reason that is known.
    pub(super) fn hinted(
        kind: ErrorKind,
        hint: &'static str,
        source: impl Into<RedisError>,
    ) -> Self {
        Self {
            source: source.into(),
            hint: Some((kind, hint)),
            sent: false,
        }
    }

    pub(super) fn timeout() -> Self {
        Self::unsent(io::Error::from(io::ErrorKind::TimedOut))
    }

    /// The request was not what this failed at.
    pub(super) fn into_unsent(self) -> Self {
        Self {
            sent: false,
            ..self
        }
    }

    /// The same without these passwords: a server quotes the arguments of a command that it does
    /// not know, for example a renamed AUTH.
    pub(super) fn without(self, passwords: &[&str]) -> Self {
        let text = self.source.to_string();
        let scrubbed = scrub(&text, passwords);
        if scrubbed == text {
            return self;
        }
        Self {
            source: RedisError::from((self.source.kind(), "the server said", scrubbed)),
            ..self
        }
    }

    /// Whether the server said that it did not do it, and that it, or another, may soon.
    pub(super) fn is_refused_for_now(&self) -> bool {
        use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
        matches!(
            self.source.kind(),
            Kind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain)
        )
    }

    /// Whether the server is down: it takes no connections, or has not read its data yet.
    pub(super) fn is_refusal(&self) -> bool {
        self.source.is_connection_refusal() || self.is_refused_for_now()
    }

    /// Whether the connection is of no use any more.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(
            self.source.kind(),
            Kind::Io | Kind::Parse | Kind::Server(ServerErrorKind::ReadOnly)
        )
    }

    /// Whether trying again to connect may help.
    pub(super) fn is_passing(&self) -> bool {
        let is_way = self.source.kind() == Kind::Io;
        self.hint
            .map_or(is_way || self.is_refused_for_now(), |(kind, _)| {
                kind == ErrorKind::Unreachable
            })
    }

    /// `what` was asked for; `writes`: whether that changes something.
    pub(super) fn into_error(self, what: &str, writes: bool) -> Error {
        let (kind, hint) = self.hint.unwrap_or_else(|| meaning(&self.source));
        let error = Error::new(kind, format!("{what}: {hint}")).with_source(self.source.clone());
        let unknown = matches!(self.source.kind(), Kind::Io | Kind::Parse);
        if writes && self.sent && unknown {
            error.uncertain()
        } else {
            error
        }
    }
}

/// Redis 6.2 says what a command within a script met in the text of an error of its own.
fn as_its_command_said(error: RedisError) -> RedisError {
    let text = match (error.kind(), error.detail()) {
        (Kind::Server(ServerErrorKind::ResponseError), Some(text))
            if text.contains("Error running script") =>
        {
            text.to_owned()
        }
        _ => return error,
    };
    if text.contains("-READONLY ") {
        return RedisError::from((
            Kind::Server(ServerErrorKind::ReadOnly),
            "within a script",
            text,
        ));
    }
    match ["OOM", "WRONGTYPE", "MISCONF", "NOREPLICAS"]
        .into_iter()
        .find(|code| text.contains(&format!("{code} ")))
    {
        Some(code) => redis::make_extension_error(code.to_owned(), Some(text)),
        None => error,
    }
}

fn meaning(source: &RedisError) -> (ErrorKind, &'static str) {
    match (source.kind(), source.code()) {
        (Kind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => (
            ErrorKind::Refused,
            "wrong user or password; put them into the URL",
        ),
        (Kind::Server(ServerErrorKind::NoPerm), _) => (
            ErrorKind::Refused,
            "the user may not do that; give it the keys brigade:* and @scripting",
        ),
        (_, Some("WRONGTYPE")) => (
            ErrorKind::Unsupported,
            "a key of another program is in the way; use another database, or rename it",
        ),
        (_, Some("OOM")) => (
            ErrorKind::QueueFull,
            "the server is out of memory (maxmemory); nothing of this was stored",
        ),
        (_, Some("MISCONF")) => (
            ErrorKind::Os,
            "the server cannot write to its disk; nothing of this was stored",
        ),
        (_, Some("NOREPLICAS")) => (
            ErrorKind::Unreachable,
            "the server has too few replicas (min-replicas-to-write); nothing of this was stored",
        ),
        (Kind::Server(ServerErrorKind::ReadOnly), _) => (
            ErrorKind::Unreachable,
            "this is a replica; connect to the primary",
        ),
        (Kind::Server(ServerErrorKind::CrossSlot), _) => (
            ErrorKind::Unsupported,
            "that needs several queues at once, which a cluster cannot do",
        ),
        (Kind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask), _) => (
            ErrorKind::Unreachable,
            "the nodes of the cluster do not agree who has this queue",
        ),
        (
            Kind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown,
            ),
            _,
        ) => (ErrorKind::Unreachable, "the server is not ready yet"),
        (Kind::Server(ServerErrorKind::TryAgain), _) => (
            ErrorKind::Unreachable,
            "the queue is moving to another node of the cluster",
        ),
        (_, Some("BUSY")) => (
            ErrorKind::Unreachable,
            "a script of another program blocks the server (SCRIPT KILL ends it)",
        ),
        (Kind::Io, _) if source.is_timeout() => {
            (ErrorKind::Unreachable, "the server does not answer")
        }
        (Kind::Io, _) => (ErrorKind::Unreachable, "the server cannot be reached"),
        _ => (ErrorKind::Protocol, "the server refused"),
    }
}
