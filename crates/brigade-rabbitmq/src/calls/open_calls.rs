//! The calls of this process that have not ended.
//!
//! A call ends in exactly one way: the code that takes its entry out ends it. What comes for a call
//! without an entry is late, and counted. A call that is being made, waits or runs has an entry;
//! its caller holds the receiving side of `sender`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lapin::BasicProperties;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::outcome::CallError;
use crate::progress::Progress;
use crate::sync::lock;
use brigade_core::store::{CallCounts, CallerLink};

pub(super) type CallOutcome = Result<Bytes, CallError>;

pub(super) struct OpenCalls {
    /// In front of the numbers in our correlation ids.
    prefix: Box<str>,
    next: AtomicU64,
    open: Mutex<HashMap<u64, OpenCall>>,
    late: AtomicU64,
    foreign: AtomicU64,
}

pub(super) struct OpenCall {
    sender: oneshot::Sender<CallOutcome>,
    caller: Arc<CallerLink>,
    /// The broker may have it.
    pub(super) is_sent: bool,
    /// A worker has it.
    has_begun: bool,
}

impl OpenCalls {
    pub(super) fn new(id: &str) -> Self {
        Self {
            prefix: format!("{id}-").into(),
            next: AtomicU64::new(1),
            open: Mutex::default(),
            late: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        }
    }

    /// Notes a call that is about to be made: its number, and the receiver of its outcome.
    pub(super) fn begin(&self, caller: &Arc<CallerLink>) -> (u64, oneshot::Receiver<CallOutcome>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answered) = oneshot::channel();
        let open = OpenCall {
            sender,
            caller: Arc::clone(caller),
            is_sent: false,
            has_begun: false,
        };
        lock(&self.open).insert(number, open);
        (number, answered)
    }

    /// The correlation id of a call.
    pub(super) fn id_of(&self, number: u64) -> String {
        let mut id = String::with_capacity(self.prefix.len() + 20);
        id.push_str(&self.prefix);
        // Writing to a string does not fail.
        write!(id, "{number}").ok();
        id
    }

    /// The number of the call that this message is for; none, and counted, if it is no call of
    /// ours.
    pub(super) fn number_of(&self, properties: &BasicProperties) -> Option<u64> {
        let id = properties.correlation_id().as_ref();
        let number = id.and_then(|id| id.as_str().strip_prefix(&*self.prefix)?.parse().ok());
        if number.is_none() {
            self.foreign.fetch_add(1, Ordering::Relaxed);
        }
        number
    }

    /// How many calls are open, and what came for none.
    pub(super) fn counts(&self) -> CallCounts {
        CallCounts {
            open: lock(&self.open).len(),
            late: self.late.load(Ordering::Relaxed),
            foreign: self.foreign.load(Ordering::Relaxed),
        }
    }

    /// It is about to be sent; `None` if it has ended.
    pub(super) fn sent(&self, number: u64) -> Option<()> {
        lock(&self.open).get_mut(&number)?.is_sent = true;
        Some(())
    }

    /// A worker has it.
    pub(super) fn begun(&self, number: u64) {
        if let Some(open) = lock(&self.open).get_mut(&number) {
            open.has_begun = true;
        }
    }

    /// Whether a worker has it, or it has ended.
    pub(super) fn has_begun(&self, number: u64) -> bool {
        let all = lock(&self.open);
        all.get(&number).is_none_or(|open| open.has_begun)
    }

    pub(super) fn report(&self, number: u64, progress: Progress) {
        let caller = lock(&self.open)
            .get(&number)
            .map(|open| Arc::clone(&open.caller));
        if let Some(caller) = caller {
            caller.report(progress);
        }
    }

    pub(super) fn end(&self, number: u64, outcome: CallOutcome) {
        let open = lock(&self.open).remove(&number);
        match open {
            // The receiver may be gone.
            Some(open) => drop(open.sender.send(outcome)),
            None => {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Its caller waits no longer. Whether it was open.
    pub(super) fn forget(&self, number: u64) -> bool {
        lock(&self.open).remove(&number).is_some()
    }

    /// These calls end with an error.
    pub(super) fn fail(&self, which: impl Fn(&OpenCall) -> bool, error: impl Fn() -> Error) {
        let failed: Vec<OpenCall> = lock(&self.open)
            .extract_if(|_, open| which(open))
            .map(|(_, open)| open)
            .collect();
        for open in failed {
            // The receiver may be gone.
            open.sender.send(Err(error().into())).ok();
        }
    }
}
