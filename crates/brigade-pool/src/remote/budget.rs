//! How many bytes of unfinished messages all connections of one pool or host may hold together.
//!
//! A connection may go over the budget only while none that holds unfinished messages is older, so
//! that one of them always comes to an end. Any other is refused, gives back what it holds by
//! ending, and sends again when it is connected again: nothing is lost by it. So all together hold
//! at most the budget and what one connection may hold.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// What all connections of one owner share.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<SharedBudget>);

#[derive(Debug)]
struct SharedBudget {
    bytes_max: usize,
    state: Mutex<BudgetState>,
}

#[derive(Debug, Default)]
struct BudgetState {
    bytes: usize,
    /// Who holds something, the oldest first.
    holders: BTreeSet<u64>,
    next: u64,
}

/// What one connection holds. Dropping it gives that back.
#[derive(Debug)]
pub(crate) struct BudgetShare {
    budget: Budget,
    number: Option<u64>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(SharedBudget {
            bytes_max,
            state: Mutex::default(),
        }))
    }

    /// For one more connection.
    pub(crate) fn share(&self) -> BudgetShare {
        BudgetShare {
            budget: self.clone(),
            number: None,
            bytes: 0,
        }
    }
}

impl BudgetShare {
    /// Takes so many bytes more. `false` if they are not to be had.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let shared = &*self.budget.0;
        let mut state = lock(&shared.state);
        let number = match self.number {
            Some(number) => number,
            None => {
                let number = state.next;
                state.next += 1;
                state.holders.insert(number);
                *self.number.insert(number)
            }
        };
        let is_oldest = state.holders.first() == Some(&number);
        if !is_oldest && state.bytes.saturating_add(bytes) > shared.bytes_max {
            return false;
        }
        state.bytes += bytes;
        self.bytes += bytes;
        true
    }

    /// Gives so many of them back.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        let mut state = lock(&self.budget.0.state);
        state.bytes -= bytes;
        self.bytes -= bytes;
        if self.bytes == 0
            && let Some(number) = self.number.take()
        {
            state.holders.remove(&number);
        }
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_oldest_goes_over_the_budget() {
        let budget = Budget::new(100);
        let (mut one, mut two, mut three) = (budget.share(), budget.share(), budget.share());
        assert!(one.take(60) && two.take(40));
        assert!(!two.take(1) && !three.take(1), "nothing is left");
        assert!(one.take(1000), "the oldest comes to its end");
        one.give_back(1060);
        assert!(two.take(200), "it is the oldest now");
        assert!(!one.take(1) && !three.take(1));
        drop(two);
        assert!(one.take(60));
        drop(one);
        assert!(three.take(100));
        drop(three);
        let state = lock(&budget.0.state);
        assert!(state.bytes == 0 && state.holders.is_empty(), "{state:?}");
    }
}
