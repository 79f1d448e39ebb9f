//! Measures what attempts take, for the memory budget.
//!
//! The worker and all that it started are measured until the attempt has ended, and the dispatcher
//! is given what they hold beyond what the worker held when it became ready. So what earlier
//! attempts left in it counts, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::core::MemoryMeasure;
use super::shared::Shared;

/// How often an attempt is measured, at the most: a large tree takes long to measure, and is looked
/// at the less often.
const MEASURE_INTERVAL: Duration = Duration::from_millis(10);
const MEASURE_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Measuring takes at most this part of the time.
const MEASURE_PARTS: u32 = 20;

/// Measures an attempt until it has ended.
pub(super) async fn follow(shared: Arc<Shared>, measure: MemoryMeasure) {
    let (call, start) = (measure.call, measure.start);
    let Some(process) = measure.conn.process() else {
        return;
    };
    let (mut gone, mut interval) = (process.gone(), MEASURE_INTERVAL);
    loop {
        tokio::select! {
            () = sleep(interval) => {}
            () = &mut gone => return,
        }
        if !shared.peek(|core| core.is_attempt(call, start)) {
            return;
        }
        let began = Instant::now();
        let used = process.grown_bytes();
        let took = began.elapsed().saturating_mul(MEASURE_PARTS);
        interval = took.clamp(MEASURE_INTERVAL, MEASURE_INTERVAL_MAX);
        shared.step(|core, effects| core.on_memory(call, start, used, effects));
    }
}
