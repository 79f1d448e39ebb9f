//! [`Invocation`] and [`Returned`]: a task that has been given its arguments, and its answer.

use std::any::type_name;
use std::future::Future;
use std::pin::Pin;

use serde::Serialize;

use crate::args::Args;
use crate::codec::Codec;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::outcome::{Failure, Pass};
use crate::refused::Refused;

/// Runs a task: decodes its arguments, calls it, encodes what it returns.
#[doc(hidden)]
pub type Invoke = fn(Context, Codec, &[u8]) -> Invocation;

/// A task that has been given its arguments.
#[doc(hidden)]
pub enum Invocation {
    Now(Returned),
    Future(Pin<Box<dyn Future<Output = Returned> + Send>>),
}

impl Invocation {
    pub fn now<A: Args>(codec: Codec, payload: &[u8], run: impl FnOnce(A) -> Returned) -> Self {
        Self::Now(match A::decode(codec, payload) {
            Ok(args) => run(args),
            Err(error) => Returned::bad_arguments(&error),
        })
    }

    pub fn future<A: Args, F>(codec: Codec, payload: &[u8], run: impl FnOnce(A) -> F) -> Self
    where
        F: Future<Output = Returned> + Send + 'static,
    {
        match A::decode(codec, payload) {
            Ok(args) => Self::Future(Box::pin(run(args))),
            Err(error) => Self::Now(Returned::bad_arguments(&error)),
        }
    }
}

/// How an attempt ended by its own return.
#[doc(hidden)]
pub enum Returned {
    Done(Vec<u8>),
    Failed(Box<Failure>),
    Passed(String),
    Refused(Refusal),
}

/// Why a call was not carried; what it says stays between pool and worker.
#[doc(hidden)]
pub struct Refusal(pub Box<Refused>);

impl Refusal {
    pub fn new(refused: Refused) -> Self {
        Self(Box::new(refused))
    }
}

impl Returned {
    pub fn of_value<T: Serialize>(codec: Codec, value: T) -> Self {
        match codec.encode(&value) {
            Ok(bytes) => Self::Done(bytes),
            Err(error) => Self::Refused(Refusal::new(Refused::Unencodable(error.to_string()))),
        }
    }

    pub fn of_result<T, E>(codec: Codec, result: Result<T, E>) -> Self
    where
        T: Serialize,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match result {
            Ok(value) => Self::of_value(codec, value),
            Err(error) => {
                let error: Box<dyn std::error::Error + Send + Sync> = error.into();
                match Pass::find(&*error) {
                    Some(reason) => Self::Passed(reason),
                    None => Self::Failed(Box::new(Failure::from_error(&*error, type_name::<E>()))),
                }
            }
        }
    }

    fn bad_arguments(error: &Error) -> Self {
        debug_assert_eq!(error.kind(), ErrorKind::Decode, "only decoding fails here");
        Self::Refused(Refusal::new(Refused::BadArguments(error.to_string())))
    }
}
