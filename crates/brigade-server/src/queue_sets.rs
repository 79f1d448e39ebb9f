//! [`QueueSets`]: the queues of lease requests, one set for all requests that name the same.
//!
//! Stores keep what they know of a consumer by its set: who asked for which queues, what to watch,
//! a group of channels. A new set with each request would be a new consumer to them. Sets that no
//! request has are forgotten when there are too many names, and one that does not fit nevertheless
//! is not kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use brigade::Error;
use brigade::policy::check_name;
use brigade::store::{QueueSet, Queues};

/// Names of all sets together: a few megabytes.
const NAMES_MAX: usize = 10_000;

/// The sets of a server.
#[derive(Debug, Default)]
pub(crate) struct QueueSets(Mutex<KeptSets>);

#[derive(Debug, Default)]
struct KeptSets {
    /// By the names as they were requested.
    sets: HashMap<Vec<Box<str>>, Arc<QueueSet>>,
    /// Names in all of them.
    names: usize,
}

impl QueueSets {
    /// These queues, in strict order.
    ///
    /// # Errors
    ///
    /// `BadOption` for a name that no queue can have.
    pub(crate) fn of(&self, names: Vec<Box<str>>) -> Result<Queues, Error> {
        if let Some(set) = self.kept().sets.get(&names) {
            return Ok(Queues::from(set, 0));
        }
        for name in &names {
            check_name("queue", name)?;
        }
        let set = Arc::new(QueueSet::new(names.iter().cloned(), []));
        Ok(Queues::from(&self.kept().keep(names, set), 0))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, KeptSets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptSets {
    fn keep(&mut self, names: Vec<Box<str>>, set: Arc<QueueSet>) -> Arc<QueueSet> {
        // Another request may have been faster.
        if let Some(kept) = self.sets.get(&names) {
            return Arc::clone(kept);
        }
        if self.names + names.len() > NAMES_MAX {
            self.sets.retain(|_, set| Arc::strong_count(set) > 1);
            self.names = self.sets.keys().map(Vec::len).sum();
        }
        if self.names + names.len() <= NAMES_MAX {
            self.names += names.len();
            self.sets.insert(names, Arc::clone(&set));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: impl IntoIterator<Item = String>) -> Vec<Box<str>> {
        of.into_iter().map(Into::into).collect()
    }

    #[test]
    fn requests_for_the_same_queues_have_one_set() {
        let sets = QueueSets::default();
        let of = |text: &str| sets.of(names(text.chars().map(String::from))).unwrap();
        assert!(Arc::ptr_eq(of("ab").set(), of("ab").set()));
        assert!(!Arc::ptr_eq(of("ab").set(), of("ba").set()), "the order");
        assert!(sets.of(names(["x".repeat(10_000)])).is_err());
    }

    #[test]
    fn the_names_of_all_sets_are_bounded_and_those_in_use_stay() {
        let sets = QueueSets::default();
        let in_use = sets.of(names(["in use".to_owned()])).unwrap();
        for set in 0..30 {
            let many = (0..1_000).map(|name| format!("{set}.{name}"));
            assert_eq!(sets.of(names(many)).unwrap().len(), 1_000);
            assert!(sets.kept().names <= NAMES_MAX);
        }
        let again = sets.of(names(["in use".to_owned()])).unwrap();
        assert!(Arc::ptr_eq(in_use.set(), again.set()));
    }
}
