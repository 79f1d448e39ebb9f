//! Measures what attempts take, for the memory budget.
//!
//! The worker and all that it started are measured until the attempt has ended, and the dispatcher
//! is given what they hold beyond what the worker held when it became ready. So what earlier
//! attempts left in it counts, too.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::core::MemoryMeasure;
use super::shared::Shared;

/// How often an attempt is measured.
const MEASURE_INTERVAL: Duration = Duration::from_millis(10);

/// Measures an attempt until it has ended.
pub(super) async fn follow(shared: Arc<Shared>, measure: MemoryMeasure) {
    let (call, start) = (measure.call, measure.start);
    let Some(process) = measure.conn.process() else {
        return;
    };
    let mut gone = process.gone();
    loop {
        tokio::select! {
            () = sleep(MEASURE_INTERVAL) => {}
            () = &mut gone => return,
        }
        if !shared.peek(|core| core.is_attempt(call, start)) {
            return;
        }
        let used = process.grown_bytes();
        shared.step(|core, effects| core.on_memory(call, start, used, effects));
    }
}
