//! Errors of PostgreSQL, for people: what failed, what that means, what to do.
//!
//! Each SQLSTATE that matters is mapped here, once. An error that the server gave undid the whole
//! statement, with the exception of those by which a connection ends ([`is_lost`]): as when it was
//! lost, the server may have committed the statement, so a change is *uncertain*.

use std::fmt;

use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::error::{Error, ErrorKind};

/// Raised by our functions: another job has the unique key.
pub(super) const DUPLICATE: &str = "BR001";
/// Raised by our functions: a job of a flow stays in its queue.
pub(super) const STAYS: &str = "BR002";

/// Raised by our functions: a job of a pushed flow is a duplicate.
pub(super) const FLOW_DUPLICATE: &str = "BR003";

/// The meaning of a text that cannot be stored.
pub(super) const NUL: (ErrorKind, &str) = (
    ErrorKind::BadOption,
    "a text has the character NUL, which PostgreSQL cannot store; leave it out",
);

/// An error of a statement, with a sentence for people. `writes`: whether it changes something.
pub(super) fn sql_error(what: &str, source: &tokio_postgres::Error, writes: bool) -> Error {
    if is_lost(source) {
        return lost_error(what, ServerError::text_of(source), writes);
    }
    let Some(state) = source.code() else {
        // A value that does not fit its column: this program's mistake, or a foreign function.
        return unreadable(what).with_source(source.to_string());
    };
    of_state(what, state.code(), message(source))
}

/// An error of a statement, from its SQLSTATE and what the server said.
pub(super) fn of_state(what: &str, code: &str, message: String) -> Error {
    let (kind, hint) = meaning(code);
    Error::new(kind, format!("{what}: {hint}")).with_source(ServerError {
        code: code.into(),
        message,
    })
}

/// The connection ended before the answer; what the driver or the server said.
pub(super) fn lost_error(what: &str, source: String, writes: bool) -> Error {
    let text = format!(
        "{what}: the connection to the server was lost{}",
        doubt(writes)
    );
    let error = Error::new(ErrorKind::Unreachable, text).with_source(source);
    if writes { error.uncertain() } else { error }
}

/// The server did not answer in time.
pub(super) fn silence_error(what: &str, writes: bool) -> Error {
    let text = format!(
        "{what}: the server did not answer within response_timeout{}",
        doubt(writes)
    );
    let error = Error::new(ErrorKind::Unreachable, text);
    if writes { error.uncertain() } else { error }
}

fn doubt(writes: bool) -> &'static str {
    if writes {
        "; whether it carried this out is not known"
    } else {
        ""
    }
}

/// What the server said.
#[derive(Debug)]
pub(super) struct ServerError {
    code: Box<str>,
    message: String,
}

impl ServerError {
    /// Its text with its code, or the text of the connection's error.
    pub(super) fn text_of(source: &tokio_postgres::Error) -> String {
        match source.code() {
            Some(code) => {
                let (code, message) = (code.code().into(), message(source));
                Self { code, message }.to_string()
            }
            None => match std::error::Error::source(source) {
                Some(cause) => format!("{source}: {cause}"),
                None => source.to_string(),
            },
        }
    }
}

fn message(source: &tokio_postgres::Error) -> String {
    source
        .as_db_error()
        .map_or_else(|| source.to_string(), |error| error.message().to_owned())
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

/// Whether the user, or the server as a standby, may read and not write.
pub(super) fn may_only_read(error: &Error) -> bool {
    matches!(code_of(error), Some("42501" | "25006"))
}

/// Whether the server undid the statement for a reason that passes: the same once more may succeed.
pub(super) fn is_undone_for_now(source: &tokio_postgres::Error) -> bool {
    source.code().is_some_and(|state| {
        [
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::T_R_DEADLOCK_DETECTED,
            // The server ended a connection that was idle: it did not begin the statement.
            &SqlState::IDLE_SESSION_TIMEOUT,
        ]
        .contains(&state)
    })
}

/// Whether the server has other statements under these names than those that were prepared on this
/// connection, or none, or theirs had another result in the schema of before. It did nothing.
pub(super) fn is_other_statement(source: &tokio_postgres::Error) -> bool {
    source.as_db_error().is_some_and(|error| {
        let code = error.code().code();
        matches!(code, "26000" | "42P05" | "0A000" | "08P01") && !ends_connection(error)
    })
}

/// Whether the connection ended before the answer. A server that ends it on purpose says so, but
/// not whether it had committed the statement before; nor does a pooler that lost the server, which
/// gives nearly all of its errors one code (08P01).
pub(super) fn is_lost(source: &tokio_postgres::Error) -> bool {
    match source.as_db_error() {
        Some(error) if ends_connection(error) => !matches!(
            *error.code(),
            // Between two statements.
            SqlState::IDLE_SESSION_TIMEOUT | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        ),
        Some(error) => matches!(
            error.code().code(),
            "57P01" | "57P02" | "57P03" | "57P04" | "08000" | "08003" | "08006" | "08007" | "40003"
        ),
        None => {
            source.is_closed()
                || std::error::Error::source(source)
                    .is_some_and(|cause| cause.is::<std::io::Error>())
        }
    }
}

fn ends_connection(error: &DbError) -> bool {
    match error.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        // A pooler gives only the text, and that in English.
        None => matches!(error.severity(), "FATAL" | "PANIC"),
    }
}

/// What an error means while a connection is made.
pub(super) fn meaning_at_login(code: &str, has_password: bool) -> (ErrorKind, &'static str) {
    match code {
        "28P01" if has_password => (
            ErrorKind::Refused,
            "wrong user or password; the server refused what the URL says",
        ),
        "28P01" => (
            ErrorKind::Refused,
            "the server wants a password; put it into the URL: user:password@",
        ),
        "28000" => (
            ErrorKind::Refused,
            "the server does not let this user in from here; let its pg_hba.conf do so, write \
                another user, or use TLS (sslmode=require) if it wants that",
        ),
        "42501" => (
            ErrorKind::Refused,
            "the user may not connect to this database; grant it connect",
        ),
        "57P03" => (ErrorKind::Unreachable, "the server is starting or stopping"),
        "57P01" | "57P02" => (ErrorKind::Unreachable, "the server is stopping"),
        // What a pooler says when it does not reach the server, or does not know the database.
        "08P01" | "08000" | "08001" | "08004" | "08006" => (
            ErrorKind::Unreachable,
            "the server, or the pooler in front of it, refused the connection",
        ),
        code => meaning(code),
    }
}

fn meaning(code: &str) -> (ErrorKind, &'static str) {
    match code {
        "3D000" => (
            ErrorKind::Refused,
            "there is no database of this name; create it, or write another in the URL",
        ),
        "42501" => (
            ErrorKind::Refused,
            "the user may not do that; grant it the rights on the schema brigade that \
                docs/brokers.md names for its role",
        ),
        "25006" => (
            ErrorKind::Unreachable,
            "this server only reads: it is a standby, or default_transaction_read_only is on; \
                connect to the primary, or name all hosts in the URL",
        ),
        "40001" | "40P01" => (
            ErrorKind::Timeout,
            "other transactions were in the way; nothing of this was stored, try again",
        ),
        "22021" | "22P05" => NUL,
        "23514" => (
            ErrorKind::BadOption,
            "a value is larger than the schema brigade allows; nothing of this was stored",
        ),
        "26000" | "42P05" | "08P01" => (
            ErrorKind::Unsupported,
            "a pooler gives the transactions of a connection to different sessions of the server; \
                write ?pooler=transaction",
        ),
        "3F000" | "42P01" | "42883" | "42703" | "42804" | "0A000" => (
            ErrorKind::Unsupported,
            "the schema brigade is not as this version made it: it was changed, or \
                parts of it were removed; restore it, or remove it (drop schema brigade cascade) \
                and have it made again",
        ),
        "58030" | "58P01" | "XX001" | "XX002" => (
            ErrorKind::Os,
            "the server cannot read or write its files; look at its log",
        ),
        DUPLICATE => (
            ErrorKind::Duplicate,
            "another job has its unique key and is not settled",
        ),
        FLOW_DUPLICATE => (
            ErrorKind::Duplicate,
            "a job of the flow has the unique key of one that is not settled",
        ),
        code => meaning_of_limits(code),
    }
}

/// Limits of time and room of the server.
fn meaning_of_limits(code: &str) -> (ErrorKind, &'static str) {
    match code {
        "57014" => (
            ErrorKind::Timeout,
            "the server ended the statement; nothing of this was stored. If it took longer than \
                statement_timeout, set that higher for this user: alter role .. set \
                statement_timeout = '1min'",
        ),
        "55P03" => (
            ErrorKind::Timeout,
            "another transaction holds a lock for longer than lock_timeout; nothing of this was \
                stored, try again",
        ),
        "25P02" => (
            ErrorKind::Refused,
            "an earlier statement of this transaction failed, so the server takes no other; roll it \
                back, and put a savepoint in front of what may fail",
        ),
        "25P03" => (
            ErrorKind::Timeout,
            "the server ended the transaction, which was idle for longer than \
                idle_in_transaction_session_timeout; nothing of this was stored",
        ),
        "53300" => (
            ErrorKind::Unreachable,
            "the server has no connection left; raise max_connections, or use fewer with \
                ?connections=",
        ),
        "53100" => (
            ErrorKind::Os,
            "the server's disk is full; nothing of this was stored",
        ),
        "53200" => (
            ErrorKind::Os,
            "the server has no memory left for this; nothing of this was stored",
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
