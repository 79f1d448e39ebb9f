//! What a call and its handle share: the outcome, once; progress while it runs; the receipt of a
//! stop.
//!
//! The dispatcher's shell fills a cell, the handle reads it. A cell is finished exactly once
//! (`finish` asserts it), and its wakers are woken outside of its lock. A call that was made for
//! another pool has a [`Relay`] in place of a handle.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::attempt_report::StopReceipt;
use crate::outcome::CallError;
use crate::process::Output;
use crate::progress::Progress;
use crate::sync::lock;

/// Progress kept for a caller who is not reading it.
const UPDATES_MAX: usize = 64;

pub(crate) type Outcome = Result<Bytes, CallError>;

#[derive(Default)]
pub(crate) struct Cell {
    state: Mutex<CellState>,
    /// Gets the outcome instead of a handle.
    relay: Option<Relayed>,
}

/// Takes the outcome and the progress of a call that was made for another pool.
pub(crate) trait Relay: Send + Sync {
    /// The call ended.
    fn ended(
        &self,
        tag: Tag,
        outcome: Outcome,
        receipt: Option<StopReceipt>,
        output: Option<Output>,
    );

    /// The call reported progress.
    fn progressed(&self, tag: Tag, update: Progress);
}

/// How a relay knows a call: two numbers of its own.
pub(crate) type Tag = (u64, u64);

type Relayed = (Arc<dyn Relay>, Tag);

#[derive(Default)]
struct CellState {
    outcome: Option<Outcome>,
    finished: bool,
    waker: Option<Waker>,
    extra: Option<Box<Extra>>,
}

/// What few calls need.
#[derive(Default)]
struct Extra {
    watchers: Vec<Waker>,
    receipt: Option<StopReceipt>,
    output: Option<Output>,
    updates: VecDeque<Progress>,
    update_wakers: Vec<Waker>,
}

impl Cell {
    /// A call whose outcome a relay gets.
    #[cfg(feature = "remote")]
    pub(crate) fn relayed(relay: Arc<dyn Relay>, tag: Tag) -> Self {
        Self {
            state: Mutex::default(),
            relay: Some((relay, tag)),
        }
    }

    /// Gives the call its outcome. The one place where a call ends.
    pub(crate) fn finish(
        &self,
        outcome: Outcome,
        receipt: Option<StopReceipt>,
        output: Option<Output>,
    ) {
        let mut wakers = Vec::new();
        let first = {
            let mut state = lock(&self.state);
            assert!(!state.finished, "a call ends once");
            state.finished = true;
            if let Some((relay, tag)) = &self.relay {
                drop(state);
                return relay.ended(*tag, outcome, receipt, output);
            }
            state.outcome = Some(outcome);
            if receipt.is_some() || output.is_some() {
                let extra = state.extra.get_or_insert_default();
                (extra.receipt, extra.output) = (receipt, output);
            }
            if let Some(extra) = &mut state.extra {
                wakers.append(&mut extra.watchers);
                wakers.append(&mut extra.update_wakers);
            }
            state.waker.take()
        };
        first.into_iter().chain(wakers).for_each(Waker::wake);
    }

    pub(crate) fn is_finished(&self) -> bool {
        lock(&self.state).finished
    }

    /// Takes the outcome. Pending for ever once it was taken.
    pub(crate) fn poll_outcome(&self, waker: &Waker) -> Poll<Outcome> {
        let mut state = lock(&self.state);
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                match &mut state.waker {
                    Some(known) => known.clone_from(waker),
                    none => *none = Some(waker.clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Waits for the end without taking the outcome; gives the receipt if a stop ended it.
    pub(crate) fn poll_receipt(&self, waker: &Waker) -> Poll<Option<StopReceipt>> {
        let mut state = lock(&self.state);
        if state.finished {
            return Poll::Ready(state.extra.as_ref().and_then(|extra| extra.receipt.clone()));
        }
        let watchers = &mut state.extra.get_or_insert_default().watchers;
        if !watchers.iter().any(|known| known.will_wake(waker)) {
            watchers.push(waker.clone());
        }
        Poll::Pending
    }

    pub(crate) fn take_output(&self) -> Option<Output> {
        lock(&self.state).extra.as_mut()?.output.take()
    }

    pub(crate) fn update(&self, update: Progress) {
        if let Some((relay, tag)) = &self.relay {
            return relay.progressed(*tag, update);
        }
        let wakers = {
            let mut state = lock(&self.state);
            let extra = state.extra.get_or_insert_default();
            if extra.updates.len() == UPDATES_MAX {
                extra.updates.pop_front();
            }
            extra.updates.push_back(update);
            std::mem::take(&mut extra.update_wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The next progress; `None` after the end.
    pub(crate) fn poll_update(&self, waker: &Waker) -> Poll<Option<Progress>> {
        let mut state = lock(&self.state);
        let finished = state.finished;
        let extra = state.extra.get_or_insert_default();
        match extra.updates.pop_front() {
            Some(update) => Poll::Ready(Some(update)),
            None if finished => Poll::Ready(None),
            None => {
                if !extra
                    .update_wakers
                    .iter()
                    .any(|known| known.will_wake(waker))
                {
                    extra.update_wakers.push(waker.clone());
                }
                Poll::Pending
            }
        }
    }
}
