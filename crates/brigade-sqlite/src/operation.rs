//! Operations on the file: what a caller wants done within a transaction, and the queue in which
//! they wait for the database thread.
//!
//! An operation is a closure over the [`Store`]. Its answer is kept until it is known whether the
//! transaction holds; only then does its caller get it. `db_thread` receives operations,
//! `transactions` runs them.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use super::store::Store;
use crate::error::{Error, ErrorKind};

/// Operations that share a transaction.
pub(super) type OperationBatch = Vec<Box<dyn Operation>>;

/// What an operation does to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OperationAccess {
    /// It only looks.
    Look,
    Write(Synced),
    /// It writes, and wants to know first which holders of leases are gone.
    HandOut {
        sync: Synced,
        /// It looks before it writes, and writes only if there is something to do.
        looks_first: bool,
        /// The holders are looked for now, and not only now and then.
        at_once: bool,
    },
}

/// When what an operation did must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Synced {
    /// Before its caller gets the answer, if the file's `synchronous` is `full`.
    Now,
    /// With the next commit that is synced: the write-ahead log keeps their order. For leases:
    /// power loss ends all of them anyway, and whether a job without a settlement was ever leased
    /// makes no difference then. The end of a process loses nothing.
    Later,
}

impl OperationAccess {
    pub(super) fn is_look(self) -> bool {
        matches!(
            self,
            Self::Look
                | Self::HandOut {
                    looks_first: true,
                    ..
                }
        )
    }

    pub(super) fn sync(self) -> Synced {
        match self {
            Self::Look => Synced::Later,
            Self::Write(sync) | Self::HandOut { sync, .. } => sync,
        }
    }
}

/// A question to the store, with its answer and its caller.
pub(super) trait Operation: Send {
    fn access(&self) -> OperationAccess;

    /// From now on it writes without looking first.
    fn insist(&mut self);

    /// Runs within a transaction, once more if that was undone; `false` if it failed.
    fn run(&mut self, store: &Store<'_>) -> bool;

    /// Answers the caller once it is known whether the transaction holds.
    fn tell(self: Box<Self>, committed: Result<(), Error>);
}

/// An operation, and its caller, who waits for the answer.
pub(super) struct PendingOperation<F, R> {
    question: F,
    access: OperationAccess,
    answer: Option<Result<R, Error>>,
    reply: oneshot::Sender<Result<R, Error>>,
}

impl<F, R> PendingOperation<F, R> {
    pub(super) fn new(
        access: OperationAccess,
        question: F,
        reply: oneshot::Sender<Result<R, Error>>,
    ) -> Self {
        Self {
            question,
            access,
            answer: None,
            reply,
        }
    }
}

impl<F, R> Operation for PendingOperation<F, R>
where
    F: Fn(&Store<'_>) -> Result<R, Error> + Send,
    R: Send,
{
    fn access(&self) -> OperationAccess {
        self.access
    }

    fn insist(&mut self) {
        if let OperationAccess::HandOut { looks_first, .. } = &mut self.access {
            *looks_first = false;
        }
    }

    fn run(&mut self, store: &Store<'_>) -> bool {
        self.answer.insert((self.question)(store)).is_ok()
    }

    fn tell(self: Box<Self>, committed: Result<(), Error>) {
        let Self { answer, reply, .. } = *self;
        // The caller may have stopped waiting.
        reply
            .send(committed.and_then(|()| answer.unwrap_or_else(|| Err(gone()))))
            .ok();
    }
}

/// Operations that wait for the thread.
pub(super) struct OperationQueue {
    inbox: mpsc::Receiver<Box<dyn Operation>>,
    /// Operations that were received and did not fit into a transaction.
    next: VecDeque<Box<dyn Operation>>,
}

impl OperationQueue {
    pub(super) fn new(inbox: mpsc::Receiver<Box<dyn Operation>>) -> Self {
        Self {
            inbox,
            next: VecDeque::new(),
        }
    }

    /// Waits for an operation; `None` when every sender is gone.
    pub(super) fn first(&mut self) -> Option<Box<dyn Operation>> {
        self.next.pop_front().or_else(|| self.inbox.blocking_recv())
    }

    /// The next operation, if one waits already and it fits.
    pub(super) fn more(
        &mut self,
        fits: impl FnOnce(OperationAccess) -> bool,
    ) -> Option<Box<dyn Operation>> {
        let next = self
            .next
            .pop_front()
            .or_else(|| self.inbox.try_recv().ok())?;
        if fits(next.access()) {
            return Some(next);
        }
        self.next.push_front(next);
        None
    }

    /// Puts back an operation that looked and has to write.
    pub(super) fn put_back(&mut self, mut operation: Box<dyn Operation>) {
        operation.insist();
        self.next.push_back(operation);
    }
}

/// The database thread has ended.
pub(super) fn gone() -> Error {
    Error::new(ErrorKind::Closed, "ask a broker whose thread has ended")
}
