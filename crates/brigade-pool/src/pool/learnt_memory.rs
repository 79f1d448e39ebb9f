//! How much memory the attempts of each task take, learnt from those that ended.
//!
//! A larger peak than before counts at once, a smaller one lowers the value by an eighth of the
//! difference, so that one small input does not make the next large one a surprise. The table is
//! bounded: the task that has been asked for least recently makes room for a new one.

use std::collections::HashMap;

/// Tasks that are remembered.
const TASKS_MAX: usize = 1024;
/// By which part of the difference a smaller peak lowers what is known.
const DECAY: u64 = 8;

#[derive(Debug, Default)]
pub(super) struct LearntMemory {
    tasks: HashMap<Box<str>, LearntTask>,
    /// Counts the uses, to find the oldest.
    uses: u64,
}

#[derive(Debug)]
struct LearntTask {
    bytes: u64,
    used: u64,
}

impl LearntMemory {
    /// What an attempt of a task is expected to take; `None` if none has ended yet.
    pub(super) fn bytes(&self, task: &str) -> Option<u64> {
        self.tasks.get(task).map(|task| task.bytes)
    }

    /// An attempt of a task has ended, whose peak was this.
    pub(super) fn learn(&mut self, task: &str, peak: u64) {
        self.uses += 1;
        let used = self.uses;
        if let Some(task) = self.tasks.get_mut(task) {
            task.used = used;
            task.bytes = peak.max(task.bytes - task.bytes.saturating_sub(peak) / DECAY);
            return;
        }
        if self.tasks.len() >= TASKS_MAX {
            self.forget_oldest();
        }
        self.tasks
            .insert(task.into(), LearntTask { bytes: peak, used });
    }

    /// O(n), and only where a program has more tasks than fit.
    fn forget_oldest(&mut self) {
        let oldest = self.tasks.iter().min_by_key(|(_, task)| task.used);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.tasks.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_peak_counts_at_once_and_a_smaller_one_by_and_by() {
        let mut learnt = LearntMemory::default();
        assert_eq!(learnt.bytes("a"), None);
        for (peak, expected) in [(800, 800), (1600, 1600), (800, 1500), (800, 1413)] {
            learnt.learn("a", peak);
            assert_eq!(learnt.bytes("a"), Some(expected));
        }
        (0..1_000).for_each(|_| learnt.learn("a", 800));
        assert!(learnt.bytes("a").unwrap() < 800 + DECAY);
    }

    #[test]
    fn the_task_that_was_used_least_recently_makes_room() {
        let mut learnt = LearntMemory::default();
        for task in 0..TASKS_MAX {
            learnt.learn(&task.to_string(), 1);
        }
        learnt.learn("0", 1);
        learnt.learn("new", 1);
        assert_eq!(learnt.tasks.len(), TASKS_MAX);
        assert_eq!(learnt.bytes("1"), None);
        assert!(learnt.bytes("0").is_some() && learnt.bytes("new").is_some());
    }
}
