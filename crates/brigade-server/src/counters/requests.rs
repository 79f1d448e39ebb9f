//! [`RequestCounts`]: the requests that the server answered, by route and status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use brigade::statistics::Durations;

/// Requests by route and status. Routes are patterns, so their number is bounded.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestCounts {
    /// How many, by route and by status.
    pub(crate) answers: BTreeMap<String, BTreeMap<u16, u64>>,
    /// How long they took.
    pub(crate) took: Durations,
}

/// The counts of a server.
#[derive(Debug, Default)]
pub(crate) struct RequestCounter(Mutex<RequestCounts>);

impl RequestCounter {
    /// Counts a request.
    pub(crate) fn count(&self, route: &str, status: u16, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.took.record(took);
        if !counts.answers.contains_key(route) {
            counts.answers.insert(route.to_owned(), BTreeMap::new());
        }
        if let Some(of_route) = counts.answers.get_mut(route) {
            *of_route.entry(status).or_default() += 1;
        }
    }

    /// The counts now.
    pub(crate) fn snapshot(&self) -> RequestCounts {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
