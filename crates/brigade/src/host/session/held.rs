//! What a host holds for a pool over all connections: calls that run, and answers that the pool has
//! not acknowledged.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::pool::{CallId, Tag};
use crate::wire::remote::Mark;

#[derive(Default)]
pub(super) struct SessionState {
    /// The pool that it was last welcome at.
    pub(super) pool: Option<Mark>,
    pub(super) calls: HashMap<u64, Held>,
    pub(super) begun: u32,
    /// Answers that wait for others to come along.
    pub(super) gathered: u32,
    pub(super) keys: u64,
    pub(super) early_stops: VecDeque<u64>,
    pub(super) result_bytes_max: u64,
    /// Whether plain functions of that pool mean the same here.
    pub(super) functions: bool,
    pub(super) keep: Duration,
    /// Since when no connection has been up.
    pub(super) down: Option<Instant>,
}

pub(super) enum Held {
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
    /// A call that was begun, if it is that very one.
    pub(super) fn begun(&mut self, (call, key): Tag) -> Option<&mut Held> {
        self.calls
            .get_mut(&call)
            .filter(|held| matches!(held, Held::Begun { key: own, .. } if *own == key))
    }

    /// Drops what is held of a call. Its id in the pool of this host, if it was begun and has not
    /// ended.
    pub(super) fn remove(&mut self, call: u64) -> Option<CallId> {
        let held = self.calls.remove(&call)?;
        if matches!(held, Held::Begun { .. }) {
            self.begun -= 1;
        }
        held.local()
    }
}

impl Held {
    pub(super) fn attempt(&self) -> u32 {
        match self {
            Self::Begun { attempt, .. } | Self::Ended { attempt, .. } => *attempt,
        }
    }

    pub(super) fn local(&self) -> Option<CallId> {
        match self {
            Self::Begun { local, .. } => *local,
            Self::Ended { .. } => None,
        }
    }
}
