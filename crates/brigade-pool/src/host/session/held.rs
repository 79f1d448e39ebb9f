//! What a host holds for a pool over all connections: calls that run, and answers that the pool has
//! not acknowledged.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::pool::{CallId, Tag};
use crate::wire::remote::RandomId;

#[derive(Default)]
pub(in crate::host) struct SessionState {
    /// The pool that it was last welcome at.
    pub(in crate::host) pool: Option<RandomId>,
    pub(in crate::host) calls: HashMap<u64, HeldCall>,
    pub(in crate::host) begun: u32,
    /// Answers that wait for others to come along.
    pub(in crate::host) gathered: u32,
    pub(in crate::host) keys: u64,
    pub(in crate::host) early_stops: VecDeque<u64>,
    pub(in crate::host) result_bytes_max: u64,
    /// Whether plain functions of that pool mean the same here.
    pub(in crate::host) functions: bool,
    pub(in crate::host) keep: Duration,
    /// Since when no connection has been up.
    pub(in crate::host) down: Option<Instant>,
}

pub(in crate::host) enum HeldCall {
    /// `local` is its id in the pool of this host, once it has one.
    Begun {
        key: u64,
        attempt: u32,
        local: Option<CallId>,
    },
    Ended {
        attempt: u32,
        head: Bytes,
        result: Bytes,
    },
}

impl SessionState {
    /// Holds a call that begins. Returns its key.
    pub(in crate::host) fn begin(&mut self, call: u64, attempt: u32) -> u64 {
        self.keys += 1;
        self.begun += 1;
        let begun = HeldCall::Begun {
            key: self.keys,
            attempt,
            local: None,
        };
        self.calls.insert(call, begun);
        self.keys
    }

    /// Whether the call was to be stopped before it came.
    pub(in crate::host) fn take_early_stop(&mut self, call: u64) -> bool {
        let early = self.early_stops.iter().position(|early| *early == call);
        early.is_some_and(|index| self.early_stops.remove(index).is_some())
    }

    /// A call that was begun, if it is that very one.
    pub(in crate::host) fn begun(&mut self, (call, key): Tag) -> Option<&mut HeldCall> {
        self.calls
            .get_mut(&call)
            .filter(|held| matches!(held, HeldCall::Begun { key: own, .. } if *own == key))
    }

    /// Drops what is held of a call. Its id in the pool of this host, if it was begun and has not
    /// ended.
    pub(in crate::host) fn remove(&mut self, call: u64) -> Option<CallId> {
        let held = self.calls.remove(&call)?;
        if matches!(held, HeldCall::Begun { .. }) {
            self.begun -= 1;
        }
        held.local()
    }
}

impl HeldCall {
    pub(in crate::host) fn attempt(&self) -> u32 {
        match self {
            Self::Begun { attempt, .. } | Self::Ended { attempt, .. } => *attempt,
        }
    }

    pub(in crate::host) fn local(&self) -> Option<CallId> {
        match self {
            Self::Begun { local, .. } => *local,
            Self::Ended { .. } => None,
        }
    }
}
