//! The queues of a cluster that this process has put on the list of queues (`listing`).

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Names that are remembered as listed.
const LISTED_MAX: usize = 20_000;
/// The server may lose its list, with all that it has.
const LIST_AGAIN: Duration = Duration::from_secs(10);

/// Queues that this process has put on the list, and when. Bounded.
#[derive(Default)]
pub(super) struct ListedQueues(Mutex<HashMap<Box<str>, Instant>>);

impl ListedQueues {
    pub(super) fn is_listed(&self, queue: &str) -> bool {
        lock(&self.0)
            .get(queue)
            .is_some_and(|when| when.elapsed() < LIST_AGAIN)
    }

    pub(super) fn note(&self, queue: &str) {
        let mut listed = lock(&self.0);
        if listed.len() >= LISTED_MAX {
            listed.retain(|_, when| when.elapsed() < LIST_AGAIN);
        }
        if listed.len() < LISTED_MAX {
            listed.insert(queue.into(), Instant::now());
        }
    }
}
