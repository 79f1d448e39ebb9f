//! Which queues' holders this process has looked at lately, and whether a process of this host is
//! gone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::presence::read_name;
use crate::sync::lock;
use brigade_runtime::owner::{Descendants, Left};

/// So often the holders of a queue are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Queues of which it is remembered when.
const QUEUES_MAX: usize = 10_000;

/// When the holders of a queue were checked last, and what is known of processes of this host.
#[derive(Default)]
pub(super) struct HolderChecks {
    descendants: Mutex<Descendants>,
    looked: Mutex<HashMap<Box<str>, Instant>>,
}

impl HolderChecks {
    /// Those of these queues that have not been looked at for a while; they are now.
    pub(super) fn due<'a>(&self, queues: &'a [Box<str>]) -> Vec<&'a str> {
        let mut looked = lock(&self.looked);
        if looked.len() > QUEUES_MAX {
            looked.clear();
        }
        let is_due = |queue: &&str| {
            looked
                .get(*queue)
                .is_none_or(|when| when.elapsed() >= LOOK_EVERY)
        };
        let due: Vec<&str> = queues.iter().map(|queue| &**queue).filter(is_due).collect();
        looked.extend(due.iter().map(|queue| (Box::from(*queue), Instant::now())));
        due
    }

    /// Whether a process of this host is gone with all its workers.
    pub(super) fn is_gone(&self, holder: &str) -> bool {
        lock(&self.descendants).left(read_name(holder).0) == Left::Nothing
    }
}
