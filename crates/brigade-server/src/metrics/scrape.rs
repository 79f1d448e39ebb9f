//! [`Scrape`]: what one request for metrics found.

use std::collections::BTreeMap;
use std::time::SystemTime;

use brigade::QueueCounts;
use brigade::statistics::TaskCounts;

use crate::counters::RequestCounts;

/// What one scrape shows.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) queues: Vec<QueueCounts>,
    pub(super) counts: BTreeMap<String, TaskCounts>,
    pub(super) consumers: Option<u64>,
    pub(super) requests: RequestCounts,
    pub(super) now: SystemTime,
}
