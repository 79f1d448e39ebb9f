//! Answers of the server and of its scripts, as values.

use redis::{FromRedisValue, RedisError, Value};

use super::fault::RedisFault;
use crate::error::{Error, ErrorKind};

/// Reads an answer, which may be an error. `writes`: whether the request changes something.
pub(super) fn convert<T: FromRedisValue>(
    what: &str,
    answer: Value,
    writes: bool,
) -> Result<T, Error> {
    let converted = answer
        .extract_error()
        .and_then(|answer| Ok(redis::from_redis_value(answer)?));
    converted.map_err(|error: RedisError| RedisFault::sent(error).into_error(what, writes))
}

/// Reads a part of an answer that a script gave.
pub(super) fn read<T: FromRedisValue>(value: Value) -> Result<T, Error> {
    redis::from_redis_value(value).map_err(|e| {
        Error::new(
            ErrorKind::Protocol,
            "read an answer of Redis: it is not what a script gives",
        )
        .with_source(e)
    })
}
