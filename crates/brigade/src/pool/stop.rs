//! The kill ladder: ask, SIGTERM, SIGKILL, each with its own bound, always over the whole process tree.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::builder::Neighbours;
use super::core::{Ended, StopOrder, Why};
use super::member::Member;
use crate::certificate::Step;
use crate::codec::Codec;
use crate::outcome::{REASON_BYTES_MAX, shorten};
use crate::process::resident_bytes;
use crate::wire::{Cancel, kind};

/// How often a limited attempt is weighed.
const WEIGH_INTERVAL: Duration = Duration::from_millis(10);

/// Takes an attempt up the ladder until it has ended.
pub(super) async fn climb(shared: Arc<Shared>, order: StopOrder) {
    let StopOrder { call, why, member, ended, hurry } = order;
    // Memory that runs out leaves no time to ask.
    let ask = if why == Why::Memory { Duration::ZERO } else { shared.config.ask };
    if !ask.is_zero() {
        let reason = match &why {
            Why::Cancel(reason) => reason.clone(),
            Why::Timeout => "it ran out of time".to_owned(),
            Why::Memory | Why::Shutdown => "the pool is shutting down".to_owned(),
        };
        let reason = shorten(&reason, REASON_BYTES_MAX).to_owned();
        if let Ok(body) = Codec::Postcard.encode(&Cancel { reason }) {
            member.control.append(kind::CANCEL, call, &body, &Bytes::new());
            member.control.flush();
        }
        if ended_within(ask, &ended, &hurry).await {
            return;
        }
    }
    let spare = shared.config.neighbours == Neighbours::Spare;
    let mut alone = None;
    shared.step(|core, effects| alone = core.condemn(call, spare, effects));
    let Some(alone) = alone else { return };
    tokio::select! {
        _ = alone => {}
        () = ended.cancelled() => return,
    }
    if why != Why::Memory && !hurry.is_cancelled() {
        if !shared.peek(|core| core.take_step(call, Step::Terminated)) {
            return;
        }
        member.process.signal(Signal::TERM);
        if ended_within(shared.config.terminate, &ended, &hurry).await {
            return;
        }
    }
    if shared.peek(|core| core.take_step(call, Step::Killed)) {
        if let Some(group) = &member.group {
            group.kill();
        }
        member.process.signal(Signal::KILL);
        ended.cancelled().await;
    }
}

/// `false` if it takes longer than that, or than somebody wants to wait.
async fn ended_within(bound: Duration, ended: &Ended, hurry: &CancellationToken) -> bool {
    timeout(bound, hurry.run_until_cancelled(ended.cancelled())).await.is_ok_and(|ended| ended.is_some())
}

/// Watches the resident memory of a limited attempt while it runs, against what its worker had before it.
pub(super) async fn weigh(shared: Arc<Shared>, call: u64, member: Arc<Member>, before: u64, bytes_max: u64) {
    let limit = before.saturating_add(bytes_max);
    while shared.peek(|core| core.runs_on(call, member.epoch)) {
        if resident_bytes(member.pid()) > limit {
            return shared.step(|core, effects| core.stop(call, Why::Memory, effects));
        }
        tokio::select! {
            () = sleep(WEIGH_INTERVAL) => {}
            () = member.process.gone.cancelled() => return,
        }
    }
}
