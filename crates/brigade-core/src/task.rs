//! [`Task`]: a task by its name and types.

mod checks;

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::args::Args;
use crate::call::Call;
use crate::codec::Codec;
use crate::signature::signature;

#[doc(hidden)]
pub use checks::{IsResult, MayNotSend, MaySend, NoResult, SendProbe, future_of_a_task};

/// A task by name and types, for a caller that does not have its code:
/// `const HELLO: Task<(i64, i64), i64> = Task::new("hello");` and `HELLO.call((1, 2))`.
pub struct Task<A, R> {
    name: &'static str,
    codec: Codec,
    types: PhantomData<fn(A) -> R>,
}

impl<A: Args, R: DeserializeOwned> Task<A, R> {
    /// The task that is registered under `name` where the call will run.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            codec: Codec::MessagePack,
            types: PhantomData,
        }
    }

    /// Uses another format than MessagePack.
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    #[doc(hidden)]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Describes a call of the task.
    pub fn call(&self, args: A) -> Call<R> {
        Call::named(self.name, self.codec, args, Some(signature::<A, R>))
    }
}
