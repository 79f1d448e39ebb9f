//! A scrape as OpenMetrics text, written by prometheus-client.
//!
//! The registry lives for one scrape and holds one collector, which writes the values of the
//! scrape. So nothing is kept between scrapes, and a queue that is gone is gone from the text.
//! Histograms have the bounds of the library, in seconds.

use std::fmt;

use brigade::statistics::{Durations, TaskCounts};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::scrape::Scrape;

/// The text of a scrape.
pub(super) fn of(scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("brigade");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// A counter of statistics: its name, its help, its value.
type CounterOf = (&'static str, &'static str, fn(&TaskCounts) -> u64);

const COUNTERS: [CounterOf; 7] = [
    ("jobs_pushed", "Jobs that were pushed", |counts| {
        counts.pushed
    }),
    ("jobs_done", "Jobs that ended well", |counts| counts.done),
    ("jobs_dead", "Jobs that became dead letters", |counts| {
        counts.dead
    }),
    ("jobs_cancelled", "Jobs that were cancelled", |counts| {
        counts.cancelled
    }),
    ("attempts_failed", "Attempts that failed", |counts| {
        counts.failed
    }),
    (
        "attempts_crashed",
        "Attempts that took their worker down",
        |counts| counts.crashed,
    ),
    (
        "attempts_interrupted",
        "Attempts that were cut short, without charge",
        |counts| counts.interrupted,
    ),
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.gauges(&mut encoder)?;
        for (name, help, value) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (queue, counts) in &self.counts {
                let labels = [("queue", queue.as_str())];
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&value(counts), None)?;
            }
        }
        let by_queue = |of: fn(&TaskCounts) -> &Durations| {
            self.counts
                .iter()
                .map(move |(queue, counts)| ([("queue", queue.as_str())], of(counts)))
        };
        let help = "How long jobs waited until they were handed out";
        histogram(
            &mut encoder,
            "job_wait",
            help,
            by_queue(|counts| &counts.wait),
        )?;
        let help = "How long attempts ran";
        histogram(
            &mut encoder,
            "attempt_run",
            help,
            by_queue(|counts| &counts.run),
        )?;
        self.requests(&mut encoder)
    }
}

impl Scrape {
    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Jobs of a queue by state; `leased` ones run";
        let mut metric = encoder.encode_descriptor("queue_jobs", help, None, MetricType::Gauge)?;
        for queue in &self.queues {
            for state in brigade::JobState::ALL {
                let count = queue.jobs.iter().find(|(of, _)| *of == state);
                let count = count.map_or(0, |(_, count)| *count);
                let state = state.to_string();
                let labels = [("queue", queue.queue.as_str()), ("state", state.as_str())];
                metric.encode_family(&labels)?.encode_gauge(&count)?;
            }
        }
        let help = "Whether a queue is paused";
        let mut metric =
            encoder.encode_descriptor("queue_paused", help, None, MetricType::Gauge)?;
        for queue in &self.queues {
            let labels = [("queue", queue.queue.as_str())];
            metric
                .encode_family(&labels)?
                .encode_gauge(&u32::from(queue.paused))?;
        }
        let help = "How long the job waits that is to be handed out next";
        let (name, unit) = ("queue_oldest_wait", Some(&Unit::Seconds));
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for queue in &self.queues {
            let waits = queue
                .waits_since
                .and_then(|since| self.now.duration_since(since).ok());
            let labels = [("queue", queue.queue.as_str())];
            let waits = waits.unwrap_or_default().as_secs_f64();
            metric.encode_family(&labels)?.encode_gauge(&waits)?;
        }
        if let Some(consumers) = self.consumers {
            let help = "Consumers that are alive";
            encoder
                .encode_descriptor("consumers", help, None, MetricType::Gauge)?
                .encode_gauge(&consumers)?;
        }
        Ok(())
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Requests that the server answered";
        let mut metric =
            encoder.encode_descriptor("http_requests", help, None, MetricType::Counter)?;
        for (route, by_status) in &self.requests.answers {
            for (status, count) in by_status {
                let status = status.to_string();
                let labels = [("route", route.as_str()), ("status", status.as_str())];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        let help = "How long the server took to answer, waits included";
        let all = [(NoLabels, &self.requests.took)];
        histogram(encoder, "http_request_duration", help, all.into_iter())
    }
}

/// No label.
#[derive(Debug)]
struct NoLabels;

impl EncodeLabelSet for NoLabels {
    fn encode(
        &self,
        _: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        Ok(())
    }
}

fn histogram<'a, L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl Iterator<Item = (L, &'a Durations)>,
) -> Result<(), fmt::Error> {
    let unit = Some(&Unit::Seconds);
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    for (labels, durations) in series {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a day")]
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let bounds = Durations::BOUNDS
            .iter()
            .map(|ms| seconds(*ms))
            .chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(durations.counts).collect();
        let (sum, count) = (seconds(durations.sum_ms), durations.count());
        metric
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}
