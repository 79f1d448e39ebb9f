//! Errors of PostgreSQL, for people: what failed, what that means, what to do.
//!
//! Each SQLSTATE that matters is mapped here, once. A connection that was lost while a statement was
//! under way makes a change *uncertain*: the server may have committed it.

use std::fmt;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::error::{Error, ErrorKind};

/// Raised by our functions: another job has the unique key.
pub(super) const DUPLICATE: &str = "BR001";
/// Raised by our functions: a job of a flow stays in its queue.
pub(super) const STAYS: &str = "BR002";

/// Raised by our functions: a job of a pushed flow is a duplicate.
pub(super) const FLOW_DUPLICATE: &str = "BR003";

/// An error of a statement, with a sentence for people. `writes`: whether it changes something.
pub(super) fn sql_error(what: &str, source: tokio_postgres::Error, writes: bool) -> Error {
    let Some(state) = source.code() else {
        let text = format!("{what}: the connection to the server was lost");
        let error = Error::new(ErrorKind::Unreachable, text).with_source(source.to_string());
        return if writes { error.uncertain() } else { error };
    };
    let (kind, hint) = meaning(state);
    Error::new(kind, format!("{what}: {hint}")).with_source(ServerError {
        code: state.code().into(),
        message: source
            .as_db_error()
            .map_or_else(|| source.to_string(), |error| error.message().to_owned()),
    })
}

/// What the server said.
#[derive(Debug)]
struct ServerError {
    code: Box<str>,
    message: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)
    }
}

impl std::error::Error for ServerError {}

fn server_error(error: &Error) -> Option<&ServerError> {
    std::error::Error::source(error)?.downcast_ref()
}

/// The SQLSTATE of an error, if it is the server's.
pub(super) fn code_of(error: &Error) -> Option<&str> {
    Some(&server_error(error)?.code)
}

/// What the server said; empty if it said nothing.
pub(super) fn message_of(error: &Error) -> &str {
    server_error(error).map_or("", |error| &error.message)
}

/// No connection came about.
pub(super) fn pool_error(what: &str, source: PoolError) -> Error {
    match source {
        PoolError::Backend(error) => sql_error(what, error, false),
        other => Error::new(
            ErrorKind::Unreachable,
            format!("{what}: the server cannot be reached"),
        )
        .with_source(other.to_string()),
    }
}

/// Whether the server undid the statement for a reason that passes: the same once more may succeed.
pub(super) fn is_undone_for_now(source: &tokio_postgres::Error) -> bool {
    source.code().is_some_and(|state| {
        [
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::T_R_DEADLOCK_DETECTED,
        ]
        .contains(&state)
    })
}

fn meaning(state: &SqlState) -> (ErrorKind, &'static str) {
    match state.code() {
        "28P01" | "28000" => (
            ErrorKind::Refused,
            "the server refused the user or the password; put both into the URL",
        ),
        "3D000" => (
            ErrorKind::Refused,
            "there is no database of this name; create it, or name another in the URL",
        ),
        "42501" => (
            ErrorKind::Refused,
            "the user may not do that; grant it the rights on the schema brigade",
        ),
        "25006" => (
            ErrorKind::Unreachable,
            "this server is a standby, which only reads; connect to the primary",
        ),
        "40001" | "40P01" => (
            ErrorKind::Timeout,
            "other transactions were in the way; nothing of this was stored, try again",
        ),
        "57014" => (
            ErrorKind::Timeout,
            "the server ended the statement (statement_timeout); nothing of this was stored",
        ),
        "57P01" | "57P02" | "57P03" => (
            ErrorKind::Unreachable,
            "the server is stopping or starting; nothing of this was stored",
        ),
        "53300" => (
            ErrorKind::Unreachable,
            "the server has no connection left (max_connections)",
        ),
        "53100" | "53200" => (
            ErrorKind::Os,
            "the server has no room on its disk or in its memory; nothing of this was stored",
        ),
        "22021" => (
            ErrorKind::BadOption,
            "a name has the character NUL, which PostgreSQL cannot store; leave it out",
        ),
        "3F000" | "42P01" | "42883" | "42703" => (
            ErrorKind::Unsupported,
            "the schema brigade is not as this version made it; restore it from a backup",
        ),
        DUPLICATE => (
            ErrorKind::Duplicate,
            "another job has its unique key and is not settled",
        ),
        FLOW_DUPLICATE => (
            ErrorKind::Duplicate,
            "a job of the flow has the unique key of one that is not settled",
        ),
        _ => (ErrorKind::Os, "the database refused"),
    }
}

/// The server gave something that no function of ours gives.
pub(super) fn unreadable(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("{what}: the answer is not what the schema brigade of this version gives"),
    )
}
