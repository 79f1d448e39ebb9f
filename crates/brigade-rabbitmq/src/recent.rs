//! A set that is bounded: it keeps the values that were added last.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// At most so many values; each further one takes the place of the oldest.
#[derive(Debug)]
pub(super) struct Recent<T, const MAX: usize> {
    set: HashSet<T>,
    /// The oldest first.
    order: VecDeque<T>,
}

impl<T, const MAX: usize> Default for Recent<T, MAX> {
    fn default() -> Self {
        Self {
            set: HashSet::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T: Clone + Eq + Hash, const MAX: usize> Recent<T, MAX> {
    pub(super) fn contains(&self, value: &T) -> bool {
        self.set.contains(value)
    }

    /// Adds a value; `false` if it was there.
    pub(super) fn insert(&mut self, value: T) -> bool {
        if !self.set.insert(value.clone()) {
            return false;
        }
        self.order.push_back(value);
        if self.order.len() > MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }

    /// Takes time in proportion to the number of values, if it is there.
    pub(super) fn remove(&mut self, value: &T) {
        if self.set.remove(value) {
            self.order.retain(|other| other != value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_values_are_kept() {
        let mut recent = Recent::<_, 3>::default();
        for number in 0..100 {
            assert!(recent.insert(number));
            assert!(recent.contains(&number) && !recent.insert(number));
            assert!(recent.set.len() <= 3 && recent.order.len() == recent.set.len());
        }
        assert!(!recent.contains(&96) && recent.contains(&97));
        recent.remove(&98);
        recent.remove(&98);
        assert!(recent.insert(100) && recent.contains(&97), "there was room");
        assert!(recent.insert(98) && !recent.contains(&97));
    }
}
