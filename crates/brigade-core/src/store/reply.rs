//! [`Reply`]: what the methods of a store return.

use std::future::Future;
use std::pin::Pin;

use crate::error::Error;

/// The future of an answer.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;
