//! Refusals that trying again cannot change: the first one ends the host.

use std::sync::Mutex;

use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::sync::lock;

/// Masters that refused this host for good at the first time.
#[derive(Default)]
pub(super) struct Failures {
    pub(super) came: CancellationToken,
    first: Mutex<Option<Error>>,
}

impl Failures {
    pub(super) fn first(&self) -> Option<Error> {
        lock(&self.first).take()
    }

    pub(super) fn add(&self, error: Error) {
        lock(&self.first).get_or_insert(error);
        self.came.cancel();
    }
}
