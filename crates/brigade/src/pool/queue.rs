//! The line of waiting calls: by priority, then first in, first out (or last in, where asked).
//!
//! Every operation is O(log n).

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// In which order calls of one priority leave the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// First in, first out.
    #[default]
    Fifo,
    /// Last in, first out.
    Lifo,
}

/// Place in the line; smaller leaves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    priority: Reverse<i32>,
    /// Counts up for arrivals at the back and down for what goes back to the front.
    position: i64,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    order: Order,
    waiting: BTreeMap<Place, u64>,
    back: i64,
    front: i64,
}

impl Queue {
    pub(super) fn new(order: Order) -> Self {
        Self { order, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, priority: i32, call: u64) -> Place {
        match self.order {
            Order::Fifo => self.push_back(priority, call),
            Order::Lifo => self.push_front(priority, call),
        }
    }

    /// Puts a call that had left back where it was: before all others of its priority.
    pub(super) fn push_front(&mut self, priority: i32, call: u64) -> Place {
        self.front -= 1;
        self.insert(Place { priority: Reverse(priority), position: self.front }, call)
    }

    fn push_back(&mut self, priority: i32, call: u64) -> Place {
        self.back += 1;
        self.insert(Place { priority: Reverse(priority), position: self.back }, call)
    }

    fn insert(&mut self, place: Place, call: u64) -> Place {
        let before = self.waiting.insert(place, call);
        assert!(before.is_none(), "two calls in one place of the queue");
        place
    }

    pub(super) fn front(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(_, call)| *call)
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.waiting.remove(&place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(queue: Queue) -> Vec<u64> {
        queue.waiting.into_values().collect()
    }

    #[test]
    fn wp27_fifo_lifo_priority_front_and_remove() {
        let mut queue = Queue::new(Order::Fifo);
        assert!(queue.is_empty() && queue.front().is_none());
        let one = queue.push(0, 1);
        queue.push(0, 2);
        queue.push(5, 3);
        queue.push(-5, 4);
        queue.push_front(0, 5);
        assert_eq!((queue.len(), queue.front()), (5, Some(3)));
        queue.remove(one);
        queue.remove(one);
        assert_eq!(drained(queue), [3, 5, 2, 4]);

        let mut queue = Queue::new(Order::Lifo);
        for call in 1..=3 {
            queue.push(0, call);
        }
        queue.push(1, 9);
        assert_eq!(drained(queue), [9, 3, 2, 1]);
    }
}
