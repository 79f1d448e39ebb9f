//! A pool as a [`tower`](https://docs.rs/tower-service) service.

use std::task::{Context, Poll};

use serde::de::DeserializeOwned;
use tower_service::Service;

use super::Pool;
use crate::call::Call;
use crate::call_handle::CallHandle;
use crate::outcome::CallError;

/// Always ready: where the queue is full, the returned future waits for room. Limit what is in
/// flight with a tower layer.
impl<T: DeserializeOwned> Service<Call<T>> for Pool {
    type Response = T;
    type Error = CallError;
    type Future = CallHandle<T>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        match self.is_closed() {
            true => Poll::Ready(Err(CallError::Rejected(
                self.shared().peek(|core| core.closed()),
            ))),
            false => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, call: Call<T>) -> CallHandle<T> {
        Self::call(self, call)
    }
}
