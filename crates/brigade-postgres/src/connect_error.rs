//! [`ConnectError`]: why no connection came about. No statement was sent, so nothing is uncertain.

use std::io;

use super::sql_error::{ServerError, meaning_at_login};
use crate::error::{Error, ErrorKind};
use brigade_core::store::url::redact::scrub;

#[derive(Debug)]
pub(super) struct ConnectError {
    kind: ErrorKind,
    hint: &'static str,
    source: String,
    /// Trying again may help: a server is starting, or another becomes the primary.
    is_passing: bool,
}

impl ConnectError {
    pub(super) fn hinted(kind: ErrorKind, hint: &'static str, source: io::Error) -> Self {
        Self {
            kind,
            hint,
            source: source.to_string(),
            is_passing: kind == ErrorKind::Unreachable,
        }
    }

    /// The way to the server failed.
    pub(super) fn unreachable(source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => {
                "the server cannot be reached: nothing is there (is it running, and is the \
                    directory of its socket right?)"
            }
            io::ErrorKind::ConnectionRefused => {
                "the server cannot be reached: nothing listens there"
            }
            io::ErrorKind::PermissionDenied => {
                "the server cannot be reached: this user may not use its socket"
            }
            _ => "the server cannot be reached",
        };
        Self::hinted(ErrorKind::Unreachable, hint, source)
    }

    /// It did not answer in time.
    pub(super) fn silence() -> Self {
        let source = io::Error::from(io::ErrorKind::TimedOut);
        let hint = "the server does not answer within connect_timeout";
        Self::hinted(ErrorKind::Unreachable, hint, source)
    }

    /// All connections of the pool were busy for as long as an answer may take.
    pub(super) fn busy() -> Self {
        let source = io::Error::from(io::ErrorKind::TimedOut);
        let hint = "all connections of this process are busy; the server is slow, or ?connections= \
            is too low";
        Self::hinted(ErrorKind::Unreachable, hint, source)
    }

    pub(super) fn read_only() -> Self {
        let source = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        let hint = "no server takes writes: this is a standby, or default_transaction_read_only is \
            on; connect to the primary, or name all hosts in the URL";
        Self::hinted(ErrorKind::Unreachable, hint, source)
    }

    /// The server did not let us in.
    pub(super) fn login(error: tokio_postgres::Error, has_password: bool) -> Self {
        let (kind, hint) = match error.code() {
            Some(code) => meaning_at_login(code.code(), has_password),
            None if error.is_closed() || is_io(&error) => (
                ErrorKind::Unreachable,
                "the server closed the connection during the login; is it PostgreSQL, and does it \
                    want TLS (sslmode=require)?",
            ),
            None if !has_password => (
                ErrorKind::Refused,
                "the server wants a password; put it into the URL: user:password@",
            ),
            None => (
                ErrorKind::Protocol,
                "the login failed in a way that this program does not know",
            ),
        };
        Self {
            kind,
            hint,
            source: ServerError::text_of(&error),
            is_passing: kind == ErrorKind::Unreachable,
        }
    }

    /// Of two hosts', the one that says more.
    pub(super) fn or(self, other: Self) -> Self {
        if self.is_passing && !other.is_passing {
            other
        } else {
            self
        }
    }

    pub(super) fn without(mut self, passwords: &[&str]) -> Self {
        self.source = scrub(&self.source, passwords);
        self
    }

    pub(super) fn is_passing(&self) -> bool {
        self.is_passing
    }

    pub(super) fn into_error(self, what: &str) -> Error {
        Error::new(self.kind, format!("{what}: {}", self.hint)).with_source(self.source)
    }
}

/// Whether the way to the server failed, or what came along it was not readable.
pub(super) fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<io::Error>())
}
