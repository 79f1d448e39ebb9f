//! The three charts of a queue, or of all: throughput, wait and run time.

use brigade::{Durations, TaskCounts};

use super::chart::{Chart, ChartKind, Layer};
use super::series::as_f64;
use super::words;

/// The time that charts show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    Hour,
    Day,
}

impl Range {
    /// By its name in an address.
    pub(super) fn of(name: Option<&str>) -> Self {
        match name {
            Some("24h") => Self::Day,
            _ => Self::Hour,
        }
    }

    /// Buckets of a chart, and the minutes of each.
    pub(super) fn buckets(self) -> (u64, u64) {
        match self {
            Self::Hour => (60, 1),
            Self::Day => (144, 10),
        }
    }
}

/// Charts of these buckets.
pub(super) fn charts(buckets: &[Option<TaskCounts>], range: Range) -> Vec<Chart> {
    let minutes = as_f64(range.buckets().1);
    let ended = |of: fn(&TaskCounts) -> u64| -> Vec<Option<f64>> {
        let per_minute = |counts: &TaskCounts| as_f64(of(counts)) / minutes;
        buckets
            .iter()
            .map(|bucket| bucket.as_ref().map(per_minute))
            .collect()
    };
    let quantile = |of: fn(&TaskCounts) -> &Durations, share: f64| -> Vec<Option<f64>> {
        let seconds = |counts: &TaskCounts| Some(of(counts).quantile(share)?.as_secs_f64());
        buckets
            .iter()
            .map(|bucket| seconds(bucket.as_ref()?))
            .collect()
    };
    let layer = |name, class, values| Layer {
        name,
        class,
        values,
    };
    let durations = |id, title, of: fn(&TaskCounts) -> &Durations| {
        let layers = vec![
            layer("p95", "p95", quantile(of, 0.95)),
            layer("p50", "p50", quantile(of, 0.5)),
        ];
        Chart::new((id, title, "per job"), ChartKind::Lines, layers, seconds)
    };
    let throughput = vec![
        layer("done", "done", ended(|counts| counts.done)),
        layer(
            "failed",
            "retrying",
            ended(|counts| (counts.failed + counts.crashed).saturating_sub(counts.dead)),
        ),
        layer("dead", "dead", ended(|counts| counts.dead)),
    ];
    let name = ("throughput", "Throughput", "jobs/min");
    let charts = vec![
        Chart::new(name, ChartKind::Stacked, throughput, words::rate),
        durations("wait", "Wait", |counts| &counts.wait),
        durations("run", "Run time", |counts| &counts.run),
    ];
    match range {
        Range::Hour => charts,
        Range::Day => charts.into_iter().map(Chart::over_a_day).collect(),
    }
}

fn seconds(seconds: f64) -> String {
    if seconds == 0.0 {
        return "0".to_owned();
    }
    let duration = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    words::span(duration).replace(".0 s", " s")
}
