//! What a host holds for one master, over all connections to it: calls that run, and answers that
//! the master has not acknowledged.
//!
//! A call or an answer is dropped when the master asks for that, or when the session is over: the
//! master does not know it any more, lets the host go, or has been away for as long as it said that
//! it would wait for us. What a dropped call brings later counts for nothing: its key is gone
//! (`held`). The state has one lock, which is never held while something waits. `connections`
//! connects, and brings what the master sends.

pub(super) mod held;
mod request;
mod results;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::time::sleep_until;

use self::held::{HeldCall, SessionState};
use super::answer::{head_of, refused};
use super::offer::Offer;
use crate::address;
use crate::error::{Error, ErrorKind};
use crate::pool::{CallId, Pool, Relay, RelayedCell, Tag};
use crate::registry;
use crate::remote::{Budget, Credentials, SendQueue, random_id};
use crate::request::Request;
use crate::sync::lock;
use crate::wire::remote::{
    Join, MAGIC, RandomId, RemoteOutcome, StopCall, TaskLine, VERSION, Welcome, ahead_max, kind,
};

/// Stops that came before their call are remembered up to the number of slots, but so many at
/// least.
const EARLY_STOPS_MIN: usize = 64;

/// Small answers that a master may leave unread while it asks for more.
const UNREAD_BYTES_MAX: usize = 64 << 20;
/// Calls that may be held, running or answered and not acknowledged, beyond twice those that run at
/// once: acknowledgements come with the next calls.
const HELD_MIN: usize = 64;

pub(super) struct Session {
    pub(super) url: String,
    pub(super) credentials: Credentials,
    pub(super) pool: Pool,
    offer: Arc<Offer>,
    slots: u32,
    mark: RandomId,
    pub(super) outbox: SendQueue,
    /// For unfinished messages of all masters of this host.
    pub(super) budget: Budget,
    pub(super) state: Mutex<SessionState>,
}

impl Session {
    pub(super) fn new(
        (url, credentials): (String, Credentials),
        pool: Pool,
        offer: Arc<Offer>,
        budget: Budget,
    ) -> Result<Arc<Self>, Error> {
        let slots = pool.own_slots();
        let (mark, outbox, state) = (random_id()?, SendQueue::new(), Mutex::default());
        Ok(Arc::new(Self {
            url,
            credentials,
            pool,
            offer,
            slots,
            mark,
            outbox,
            budget,
            state,
        }))
    }

    pub(super) fn is_idle(&self) -> bool {
        lock(&self.state).calls.is_empty()
    }

    /// Ends the session when no connection has been up for as long as the master waits. Never
    /// returns while there is nothing to end.
    pub(super) async fn expired(&self) {
        let at = {
            let state = lock(&self.state);
            state
                .down
                .filter(|_| !state.calls.is_empty())
                .map(|down| down + state.keep)
        };
        match at {
            None => std::future::pending().await,
            Some(at) => {
                sleep_until(at.into()).await;
                self.forget_all("its master was away for too long");
            }
        }
    }

    pub(super) fn introduction(&self, leaving: bool) -> Result<Join, Error> {
        let state = lock(&self.state);
        let line = |name: &str, task: &registry::TaskEntry| TaskLine {
            name: name.to_owned(),
            signature: (task.signature)().to_owned(),
            idempotent: task.idempotent,
            retries: task.call_options().retries,
            retry: task.call_options().retry.map(Into::into),
        };
        let lines =
            |task: &'static registry::TaskEntry| task.names().map(move |name| line(name, task));
        Ok(Join {
            magic: MAGIC,
            version: VERSION,
            brigade: env!("CARGO_PKG_VERSION").to_owned(),
            build: address::build_id(),
            session: self.mark,
            pool: state.pool,
            held: state
                .calls
                .iter()
                .map(|(call, held)| (*call, held.attempt()))
                .collect(),
            name: self.offer.name.clone(),
            pid: std::process::id(),
            slots: self.slots,
            labels: self.offer.labels.clone(),
            functions: self.offer.functions,
            leaving,
            tasks: registry::tasks()?.flat_map(lines).collect(),
        })
    }

    /// Takes up what the master still knows, and hands over what finished meanwhile.
    pub(super) fn on_welcome(&self, welcome: Welcome) {
        let known = welcome.resumed && lock(&self.state).pool == Some(welcome.pool);
        if known {
            welcome.drop.iter().for_each(|call| self.forget(*call));
        } else {
            self.forget_all("its master does not know it any more");
        }
        let mut state = lock(&self.state);
        state.pool = Some(welcome.pool);
        state.result_bytes_max = welcome.payload_bytes_max;
        state.functions =
            self.offer.functions && welcome.build != 0 && welcome.build == address::build_id();
        (state.keep, state.down) = (welcome.keep, None);
        // With the state locked, so that each answer is sent once: here, or by the call that comes
        // to its end.
        self.outbox.open_silently();
        for (call, held) in &state.calls {
            if let HeldCall::Ended { head, result, .. } = held {
                self.outbox.append(kind::ANSWER, *call, head, result);
            }
        }
        self.outbox.kick();
    }

    /// Drops what is held of a call and stops it.
    fn forget(&self, call: u64) {
        let local = lock(&self.state).remove(call);
        if let Some(local) = local {
            self.pool
                .stop_relayed(local, "its master has given it up", false);
        }
    }

    pub(super) fn forget_all(&self, reason: &str) {
        let begun: Vec<CallId> = {
            let mut state = lock(&self.state);
            state.begun = 0;
            state.early_stops.clear();
            let calls = std::mem::take(&mut state.calls);
            calls
                .into_values()
                .filter_map(|held| held.local())
                .collect()
        };
        if !begun.is_empty() {
            tracing::warn!(
                url = self.url,
                calls = begun.len(),
                reason,
                "stopping calls: their pool is gone"
            );
        }
        for local in begun {
            self.pool.stop_relayed(local, reason, false);
        }
    }

    // -- calls

    /// Calls that it may hold at once.
    fn room(&self) -> u32 {
        self.slots.saturating_add(ahead_max(self.slots))
    }

    /// Begins calls, in one step.
    ///
    /// # Errors
    ///
    /// `Protocol` if the master wants more than it was offered, or does not acknowledge answers:
    /// what is held for it would grow without a bound.
    pub(super) fn begin(
        self: &Arc<Self>,
        runs: &mut Vec<(u64, Request)>,
        draining: bool,
    ) -> Result<(), Error> {
        if runs.is_empty() {
            return Ok(());
        }
        if self.outbox.small_bytes() > UNREAD_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Protocol,
                "read a call: the master sends more and does not read the answers",
            ));
        }
        let held_max = 2 * self.room() as usize + HELD_MIN;
        let (mut tags, mut calls) = (
            Vec::with_capacity(runs.len()),
            Vec::with_capacity(runs.len()),
        );
        {
            let mut state = lock(&self.state);
            if state.calls.len() + runs.len() > held_max {
                let text = format!(
                    "read a call: the master has not acknowledged the answers of {} calls and sends {} more",
                    state.calls.len(),
                    runs.len()
                );
                return Err(Error::new(ErrorKind::Protocol, text));
            }
            for (call, request) in runs.drain(..) {
                let was_stopped = state.take_early_stop(call);
                // Of a call that runs here there is no other. One that ended here may come again,
                // once its answer was acknowledged.
                if let Some(HeldCall::Begun { .. }) = state.calls.get(&call) {
                    continue;
                }
                if was_stopped || draining || state.begun >= self.room() {
                    self.answer_at_once(call, RemoteOutcome::Returned);
                    continue;
                }
                let attempt = request.attempt_of().call.map_or(0, |call| call.attempt);
                let key = state.begin(call, attempt);
                tags.push((call, key));
                let relay = Arc::clone(self) as Arc<dyn Relay>;
                calls.push((request, Arc::new(RelayedCell::relayed(relay, (call, key)))));
            }
        }
        for (tag, taken) in tags.into_iter().zip(self.pool.relay(calls)) {
            match taken {
                Ok(id) => {
                    if let Some(HeldCall::Begun { local, .. }) = lock(&self.state).begun(tag) {
                        *local = Some(id);
                    }
                }
                Err(error) => self.not_taken(tag, error.as_ref()),
            }
        }
        Ok(())
    }

    fn not_taken(&self, tag: Tag, error: Option<&Error>) {
        let mut state = lock(&self.state);
        if state.begun(tag).is_some() {
            state.remove(tag.0);
            self.answer_at_once(tag.0, error.map_or(RemoteOutcome::Returned, refused));
        }
    }

    /// Answers a call that is not held.
    fn answer_at_once(&self, call: u64, ending: RemoteOutcome) {
        self.outbox
            .append(kind::ANSWER, call, &head_of(ending), &Bytes::new());
        self.outbox.kick();
    }

    pub(super) fn stop(&self, call: u64, stop: &StopCall<'_>) {
        let local = {
            let mut state = lock(&self.state);
            match state.calls.get(&call) {
                Some(HeldCall::Begun { local, .. }) => *local,
                Some(HeldCall::Ended { .. }) => None,
                None => {
                    // It may also have ended already; its number does not come again, so
                    // remembering it does no harm.
                    state.early_stops.push_back(call);
                    if state.early_stops.len() > EARLY_STOPS_MIN.max(self.slots as usize) {
                        state.early_stops.pop_front();
                    }
                    None
                }
            }
        };
        if let Some(local) = local {
            self.pool.stop_relayed(local, &stop.reason, stop.hurry);
        }
    }
}
