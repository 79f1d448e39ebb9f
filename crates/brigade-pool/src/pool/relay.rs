//! Calls that are made for another pool: no handle awaits them, a [`Relay`] gets their outcomes.

use std::sync::Arc;

use super::Pool;
use super::cell::Cell;
use super::core::Admission;
use super::ids::CallId;
use crate::error::Error;
use crate::request::Request;

/// A call that was not taken in: why, or that there is no room for it.
pub(crate) type NotTaken = Option<Error>;

impl Pool {
    /// Makes many calls in one step. What became of each, in order: its id, by which it can be
    /// stopped.
    pub(crate) fn relay(&self, calls: Vec<(Request, Arc<Cell>)>) -> Vec<Result<CallId, NotTaken>> {
        let admissions = self.shared().admit_all(calls);
        let taken = admissions.into_iter().map(|admission| match admission {
            Admission::Admitted(call) => Ok(call),
            Admission::Full(_) => Err(None),
            Admission::Refused(error) => Err(Some(error)),
        });
        taken.collect()
    }

    /// Takes a call up the kill ladder, or out of the queue; in a hurry its last step comes at
    /// once.
    pub(crate) fn stop_relayed(&self, call: CallId, reason: &str, hurry: bool) {
        self.shared().step(|core, effects| {
            core.cancel(call, reason.to_owned(), effects);
            if hurry {
                core.hurry(call);
            }
        });
    }

    /// How many attempts it may run at once.
    pub(crate) fn own_slots(&self) -> u32 {
        let config = &self.shared().config;
        u32::try_from(config.workers_max)
            .unwrap_or(u32::MAX)
            .saturating_mul(config.slots)
    }
}
