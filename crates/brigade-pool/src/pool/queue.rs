//! The line of waiting calls: by priority, then first in, first out (or last in, where asked).
//!
//! Where workers differ in what they can run, calls that may go to the same ones wait in a lane of
//! their own, so that calls which no worker can take for now hold up none of the others. All lanes
//! count their places together.
//!
//! Every operation is O(log n) in calls; looking for the first is O(n) in lanes, of which there are
//! few.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use slab::Slab;

use super::ids::CallId;

/// In which order calls of one priority leave the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// First in, first out.
    #[default]
    Fifo,
    /// Last in, first out.
    Lifo,
}

/// A position in the line; smaller leaves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePosition {
    priority: Reverse<i32>,
    /// Counts up for arrivals at the back and down for what goes back to the front.
    at: i64,
    lane: usize,
}

/// Which workers may take a call, as far as that decides where it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LaneName {
    /// Empty where all workers are alike.
    pub(super) name: String,
    /// Only for workers that joined from elsewhere.
    pub(super) is_foreign: bool,
}

/// The lane of calls that any worker may take.
const UNNAMED: usize = 0;

#[derive(Debug)]
pub(super) struct CallQueue {
    order: Order,
    lanes: Slab<QueueLane>,
    /// Those that have a name. Kept only while calls wait there.
    named: HashMap<String, usize>,
    len: usize,
    back: i64,
    front: i64,
}

#[derive(Debug, Default)]
struct QueueLane {
    name: LaneName,
    waiting: BTreeMap<QueuePosition, CallId>,
}

impl CallQueue {
    pub(super) fn new(order: Order) -> Self {
        let mut lanes = Slab::new();
        // The lane without a name, which stays.
        assert_eq!(
            lanes.insert(QueueLane::default()),
            UNNAMED,
            "a new slab counts from 0"
        );
        Self {
            order,
            lanes,
            named: HashMap::new(),
            len: 0,
            back: 0,
            front: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many calls wait that our own workers may take.
    pub(super) fn len_of_ours(&self) -> usize {
        self.lanes
            .iter()
            .filter(|(_, lane)| !lane.name.is_foreign)
            .map(|(_, lane)| lane.waiting.len())
            .sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, lane: LaneName, priority: i32, call: CallId) -> QueuePosition {
        match self.order {
            Order::Fifo => self.push_back(lane, priority, call),
            Order::Lifo => self.push_front(lane, priority, call),
        }
    }

    /// Puts a call that had left back where it was: before all others of its priority.
    pub(super) fn push_front(
        &mut self,
        lane: LaneName,
        priority: i32,
        call: CallId,
    ) -> QueuePosition {
        self.front -= 1;
        self.insert(lane, Reverse(priority), self.front, call)
    }

    fn push_back(&mut self, lane: LaneName, priority: i32, call: CallId) -> QueuePosition {
        self.back += 1;
        self.insert(lane, Reverse(priority), self.back, call)
    }

    fn insert(
        &mut self,
        name: LaneName,
        priority: Reverse<i32>,
        position: i64,
        call: CallId,
    ) -> QueuePosition {
        let known = if name.name.is_empty() {
            Some(&UNNAMED)
        } else {
            self.named.get(&name.name)
        };
        let lane = match known {
            Some(lane) => *lane,
            None => {
                let lane = self.lanes.insert(QueueLane {
                    name: name.clone(),
                    waiting: BTreeMap::new(),
                });
                self.named.insert(name.name, lane);
                lane
            }
        };
        let position = QueuePosition {
            priority,
            at: position,
            lane,
        };
        let before = self.lanes[lane].waiting.insert(position, call);
        assert!(
            before.is_none(),
            "invariant: a position of the queue belongs to one call"
        );
        self.len += 1;
        position
    }

    /// The first in line of all lanes but these.
    pub(super) fn first_except(&self, passed_over: &[usize]) -> Option<(QueuePosition, CallId)> {
        let fronts = self
            .lanes
            .iter()
            .filter(|(lane, _)| !passed_over.contains(lane));
        fronts
            .filter_map(|(_, lane)| lane.waiting.first_key_value())
            .min()
            .map(|(position, call)| (*position, *call))
    }

    /// Gives a call another lane and priority, where it keeps its place.
    pub(super) fn change(
        &mut self,
        position: QueuePosition,
        lane: LaneName,
        priority: i32,
    ) -> QueuePosition {
        let call = self.remove(position);
        self.insert(lane, Reverse(priority), position.at, call)
    }

    pub(super) fn remove(&mut self, position: QueuePosition) -> CallId {
        let lane = &mut self.lanes[position.lane];
        let call = lane
            .waiting
            .remove(&position)
            .expect("invariant: a queued call stands at its position");
        self.len -= 1;
        if lane.waiting.is_empty() && position.lane != UNNAMED {
            let lane = self.lanes.remove(position.lane);
            self.named.remove(&lane.name.name);
        }
        call
    }
}

impl QueuePosition {
    pub(super) fn lane(self) -> usize {
        self.lane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> CallId {
        CallId::from_wire(number << 32)
    }

    fn drained(mut queue: CallQueue) -> Vec<u64> {
        let mut calls = Vec::new();
        while let Some((place, call)) = queue.first_except(&[]) {
            queue.remove(place);
            calls.push(call.number());
        }
        assert!(queue.is_empty());
        calls
    }

    fn any() -> LaneName {
        LaneName::default()
    }

    fn lane(name: &str) -> LaneName {
        LaneName {
            name: name.to_owned(),
            is_foreign: true,
        }
    }

    #[test]
    fn wp27_fifo_lifo_priority_front_and_remove() {
        let mut queue = CallQueue::new(Order::Fifo);
        assert!(queue.is_empty() && queue.first_except(&[]).is_none());
        let one = queue.push(any(), 0, id(1));
        queue.push(any(), 0, id(2));
        queue.push(any(), 5, id(3));
        queue.push(any(), -5, id(4));
        queue.push_front(any(), 0, id(5));
        assert_eq!(
            (
                queue.len(),
                queue.first_except(&[]).map(|(_, call)| call.number())
            ),
            (5, Some(3))
        );
        queue.remove(one);
        assert_eq!(drained(queue), [3, 5, 2, 4]);

        let mut queue = CallQueue::new(Order::Lifo);
        for call in 1..=3 {
            queue.push(any(), 0, id(call));
        }
        queue.push(any(), 1, id(9));
        assert_eq!(drained(queue), [9, 3, 2, 1]);
    }

    #[test]
    fn a_call_whose_priority_changes_keeps_its_place_among_the_others() {
        for (order, expected) in [(Order::Fifo, [2, 4, 1, 3]), (Order::Lifo, [4, 2, 3, 1])] {
            let mut queue = CallQueue::new(order);
            let places = [1, 2, 3, 4].map(|call| queue.push(any(), 0, id(call)));
            for place in [places[3], places[1]] {
                queue.change(place, any(), 1);
            }
            assert_eq!(drained(queue), expected);
        }
    }

    #[test]
    fn lanes_keep_one_order_and_one_is_passed_over_without_the_others() {
        let mut queue = CallQueue::new(Order::Fifo);
        for (call, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
            queue.push(lane(name), 0, id(call));
        }
        queue.push(any(), 0, id(5));
        assert_eq!((queue.len(), queue.len_of_ours()), (5, 1));
        let (place, call) = queue.first_except(&[]).unwrap();
        assert_eq!(call, id(1));
        assert_eq!(queue.first_except(&[place.lane()]).unwrap().1, id(2));
        assert_eq!(drained(queue), [1, 2, 3, 4, 5]);
    }
}
