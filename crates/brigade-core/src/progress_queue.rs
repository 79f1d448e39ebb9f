//! [`ProgressQueue`]: progress that a caller has not read yet.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use crate::progress::Progress;

/// Progress kept for a caller that does not read it.
const UNREAD_MAX: usize = 64;

/// Progress of a call in order, of which the newest 64 are kept, and the tasks that wait for it.
///
/// It belongs under a lock. Its readers are woken by the caller, after the lock was released.
#[derive(Default)]
pub struct ProgressQueue {
    unread: VecDeque<Progress>,
    readers: Vec<Waker>,
}

impl ProgressQueue {
    /// Adds progress; the readers are to be woken.
    #[must_use]
    pub fn push(&mut self, progress: Progress) -> Vec<Waker> {
        if self.unread.len() == UNREAD_MAX {
            self.unread.pop_front();
        }
        self.unread.push_back(progress);
        self.take_readers()
    }

    /// The readers, to be woken when the call has ended.
    #[must_use]
    pub fn take_readers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.readers)
    }

    /// The next progress; `None` after all of it, once the call has ended.
    pub fn poll(&mut self, has_ended: bool, waker: &Waker) -> Poll<Option<Progress>> {
        match self.unread.pop_front() {
            Some(progress) => Poll::Ready(Some(progress)),
            None if has_ended => Poll::Ready(None),
            None => {
                if !self.readers.iter().any(|known| known.will_wake(waker)) {
                    self.readers.push(waker.clone());
                }
                Poll::Pending
            }
        }
    }
}
