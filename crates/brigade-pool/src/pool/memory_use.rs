//! Measures what attempts take, for the memory budget.
//!
//! What a worker holds is read before its call is written. From then on the worker and all that it
//! started are measured until the attempt has ended, and the dispatcher is given what they hold
//! beyond that.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::core::MemoryMeasure;
use super::shared::Shared;

/// How often an attempt is measured.
const MEASURE_INTERVAL: Duration = Duration::from_millis(10);

/// Begins to measure an attempt whose call is not written yet.
pub(super) fn begin(shared: &Arc<Shared>, measure: MemoryMeasure) {
    let Some(process) = measure.conn.process() else {
        return;
    };
    let before = process.memory();
    let (call, worker) = (measure.call, measure.worker);
    shared.peek(|core| core.on_memory_before(call, worker, before));
    let until_ended = follow(Arc::clone(shared), measure, before.used);
    shared.scope.spawn(until_ended);
}

async fn follow(shared: Arc<Shared>, measure: MemoryMeasure, before: u64) {
    let (call, worker) = (measure.call, measure.worker);
    let Some(process) = measure.conn.process() else {
        return;
    };
    let mut gone = process.gone();
    loop {
        tokio::select! {
            () = sleep(MEASURE_INTERVAL) => {}
            () = &mut gone => return,
        }
        if !shared.peek(|core| core.runs_on(call, worker)) {
            return;
        }
        let used = process.tree_bytes().saturating_sub(before);
        shared.step(|core, effects| core.on_memory(call, worker, used, effects));
    }
}
