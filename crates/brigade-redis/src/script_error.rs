//! Errors that the scripts themselves raise, by their codes.

use redis::RedisError;

use crate::error::{Error, ErrorKind};

/// Whether a unique key is taken.
pub(super) fn is_duplicate(error: &Error) -> bool {
    has_code(error, "DUPLICATE")
}

/// Whether a large push has to be moved into its queue first.
pub(super) fn is_incoming(error: &Error) -> bool {
    has_code(error, "INCOMING")
}

/// Whether an error is one of the scripts' own.
pub(super) fn has_code(error: &Error, code: &str) -> bool {
    let source =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<RedisError>());
    source.is_some_and(|source| source.code() == Some(code))
}

/// The error for a unique key that is taken; the script names the job that has it.
pub(super) fn duplicate(what: &str, error: &Error) -> Error {
    let source =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<RedisError>());
    let job = source
        .and_then(|source| source.detail())
        .unwrap_or("another");
    Error::new(
        ErrorKind::Duplicate,
        format!("{what}: job {job} has the unique key and is not settled"),
    )
}
