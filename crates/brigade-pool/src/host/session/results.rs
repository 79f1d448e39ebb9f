//! Answers and progress of the calls that this host runs for a pool.

use super::Session;
use super::held::HeldCall;
use crate::host::answer::answer;
use crate::pool::{EncodedOutcome, EndFacts, Relay, Tag};
use crate::progress::Progress;
use crate::sync::lock;
use crate::wire::remote::kind;

impl Relay for Session {
    fn ended(&self, tag: Tag, outcome: EncodedOutcome, facts: EndFacts) {
        let mut state = lock(&self.state);
        let Some(attempt) = state.begun(tag).map(|held| held.attempt()) else {
            return;
        };
        let (head, result) = answer(outcome, facts, state.result_bytes_max);
        self.outbox.append(kind::ANSWER, tag.0, &head, &result);
        state.begun -= 1;
        state.calls.insert(
            tag.0,
            HeldCall::Ended {
                attempt,
                head,
                result,
            },
        );
        // While calls wait here ahead of their turn no slot stands empty for want of news, so
        // answers may gather: as many as there are of these calls.
        state.gathered += 1;
        let may_wait = state.gathered < state.begun.saturating_sub(self.slots);
        if !may_wait {
            state.gathered = 0;
        }
        drop(state);
        if may_wait {
            self.outbox.kick_soon()
        } else {
            self.outbox.kick()
        }
    }

    fn progressed(&self, tag: Tag, update: Progress) {
        // Progress never waits; on a connection that is slow it is left out.
        if lock(&self.state).begun(tag).is_none() || self.outbox.is_congested() {
            return;
        }
        let mut head = [0; 9];
        head[..8].copy_from_slice(&update.fraction.to_le_bytes());
        head[8] = update.codec.number();
        self.outbox
            .append(kind::PROGRESS, tag.0, &head, &update.payload);
        self.outbox.kick();
    }
}
