//! [`Pool::map`]: a call for each item of a stream.

use futures_util::{Stream, StreamExt as _};
use serde::de::DeserializeOwned;

use super::Pool;
use crate::call::Call;
use crate::outcome::CallError;

/// A stream of inputs on its way through a pool, see [`Pool::map`].
#[must_use = "choose `ordered` or `unordered`; nothing runs before that is polled"]
pub struct Map<S, F> {
    pool: Pool,
    inputs: S,
    call: F,
    in_flight: usize,
}

impl<S, F> Map<S, F> {
    pub(super) fn new(pool: Pool, inputs: S, call: F, in_flight: usize) -> Self {
        Self {
            pool,
            inputs,
            call,
            in_flight,
        }
    }

    /// How many calls are made ahead of the reader. Default: twice the pool's slots. At least 1.
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.in_flight = calls.max(1);
        self
    }
}

impl<S, F, T> Map<S, F>
where
    S: Stream,
    F: FnMut(S::Item) -> Call<T>,
    T: DeserializeOwned + 'static,
{
    /// Results in the order of the inputs. Inputs are taken as results are read; dropping the
    /// stream cancels what is in flight.
    pub fn ordered(self) -> impl Stream<Item = Result<T, CallError>> {
        let Self {
            pool,
            inputs,
            mut call,
            in_flight,
        } = self;
        inputs
            .map(move |input| pool.call(call(input)))
            .buffered(in_flight)
    }

    /// Results as they come.
    pub fn unordered(self) -> impl Stream<Item = Result<T, CallError>> {
        let Self {
            pool,
            inputs,
            mut call,
            in_flight,
        } = self;
        inputs
            .map(move |input| pool.call(call(input)))
            .buffer_unordered(in_flight)
    }
}

impl Pool {
    /// Makes a call for each item of a stream, a bounded number ahead of the reader.
    pub fn map<S, F, T>(&self, inputs: S, call: F) -> Map<S, F>
    where
        S: Stream,
        F: FnMut(S::Item) -> Call<T>,
    {
        Map::new(self.clone(), inputs, call, 2 * self.slots())
    }
}
