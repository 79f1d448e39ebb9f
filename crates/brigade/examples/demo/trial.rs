//! The second half: four bad calls among a thousand good ones.

use std::hint::black_box;
use std::time::{Duration, Instant};

use brigade::{Pool, task};
use futures_util::future;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::timeout;

use crate::Result;
use crate::facts::{Ending, Trial, WorkerRow};
use crate::mishaps::{MISHAPS, Mishap};
use crate::report::Report;
use crate::screen::{Progress, count};

const GOOD_CALLS: u64 = 1_000;
/// Half a millisecond of work, more in a debug build.
const NUMBERS: u64 = 300_000;
/// Replacements take milliseconds; this is for machines under heavy load.
const WHOLE_WITHIN: Duration = Duration::from_secs(20);

/// The sum of the numbers up to `n`, the long way.
#[task(name = "demo.sum")]
fn sum(n: u64) -> u64 {
    (1..=n).fold(0, |sum, number| sum + black_box(number))
}

pub(crate) async fn run(pool: &Pool, workers: usize, report: &Report) -> Result<Trial> {
    report.trial_begins(GOOD_CALLS)?;
    let began = Instant::now();
    let mut progress = Progress::new();

    let wanted = |index: u64| {
        (
            NUMBERS + index,
            (NUMBERS + index) * (NUMBERS + index + 1) / 2,
        )
    };
    let calls = stream::iter(0..GOOD_CALLS);
    let good = async {
        // Ordered, so that each value can be compared with the one that its own input must give.
        let values = pool
            .map(calls, |index| sum(wanted(index).0))
            .ordered()
            .enumerate();
        values
            .fold(0, |right, (index, value)| {
                let done = count(index as u64 + 1);
                progress.show(format_args!("{done} of {} good calls", count(GOOD_CALLS)));
                let is_right = value.is_ok_and(|value| value == wanted(index as u64).1);
                future::ready(right + u64::from(is_right))
            })
            .await
    };
    let bad = future::join_all(MISHAPS.iter().map(|mishap| provoke(pool, mishap)));
    let (good_right, endings) = future::join(good, bad).await;
    drop(progress);

    let is_whole = matches!(timeout(WHOLE_WITHIN, pool.ready(workers)).await, Ok(Ok(())));
    Ok(Trial {
        good_made: GOOD_CALLS,
        good_right,
        seconds: began.elapsed().as_secs_f64(),
        endings,
        workers_wanted: workers,
        is_whole,
        workers: pool.workers().iter().map(WorkerRow::new).collect(),
    })
}

async fn provoke(pool: &Pool, mishap: &'static Mishap) -> Ending {
    match pool.call((mishap.call)()).await {
        Ok(()) => Ending::survived(mishap.name),
        Err(error) => Ending::new(mishap.name, &error, (mishap.is_expected)(&error)),
    }
}
