//! One queue: its charts, its limits with what is used of them, who consumes it, its jobs.
//!
//! Counts and consumers are of the shared snapshot; the charts and the newest jobs are read for the
//! page. A queue need not exist: the page of an unknown name shows zeros and the form that pushes a
//! first job.
//! [`LimitForm`] reads the form of the limits; an empty field is no limit.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use brigade::{JobFilter, JobState, Limits, LiveConsumer, QueueCounts, StatisticsFilter};
use serde::Deserialize;

use super::chart::Chart;
use super::charts::{Range, charts};
use super::consumer_row::ConsumerRow;
use super::filters;
use super::job_row::JobRow;
use super::limit_view::LimitView;
use super::notice::{Done, Notice};
use super::overview::ShownSentence;
use super::queue_row::QueueRow;
use super::sentence::Piece;
use super::series::{buckets, by_minute, minute_of, start_of};
use super::shell::{Failed, PageShell, page};
use super::viewer::Viewer;
use super::watch::{BrokerWatch, Snapshot};
use super::words::{ShownTime, number, state_word};
use crate::app::App;

/// Jobs that the page shows.
const JOBS: usize = 20;

#[derive(Template)]
#[template(path = "queue.html")]
struct QueuePage {
    page: PageShell,
    name: String,
    row: QueueRow,
    states: Vec<(&'static str, String)>,
    about: Option<ShownSentence>,
    charts: Vec<Chart>,
    counts: bool,
    lists: bool,
    range: Range,
    limits: LimitView,
    can_limit: bool,
    can_pause: bool,
    consumers: Option<Vec<ConsumerRow>>,
    jobs: Vec<JobRow>,
}

/// The query of the page.
#[derive(Deserialize)]
pub(super) struct QueueQuery {
    range: Option<String>,
    #[serde(flatten)]
    done: Done,
}

pub(super) async fn queue(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Path(name): Path<String>,
    Query(query): Query<QueueQuery>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    match show(&viewer, &app, &snapshot, &name, &query).await {
        Ok(response) => response,
        Err(failed) => failed.page(&viewer, &snapshot),
    }
}

async fn show(
    viewer: &Viewer,
    app: &App,
    snapshot: &Snapshot,
    name: &str,
    query: &QueueQuery,
) -> Result<Response, Failed> {
    let can = app.broker.capabilities();
    let empty = QueueCounts::new(name);
    let counts = snapshot.queue(name).unwrap_or(&empty);
    let now = app.broker.clock().now();
    let jobs = match can.listing {
        true => {
            let filter = JobFilter {
                queue: Some(name.into()),
                newest_first: true,
                limit: JOBS,
                ..JobFilter::default()
            };
            app.broker.find(&filter).await?.jobs
        }
        false => Vec::new(),
    };
    let range = Range::of(query.range.as_deref());
    Ok(page(&QueuePage {
        page: PageShell::new(viewer, "queues", name, snapshot).with_notice(Notice::of_queue(
            &query.done,
            name,
            &viewer.undos,
        )),
        row: QueueRow::new(counts, snapshot),
        states: JobState::ALL
            .map(|state| {
                (
                    state_word(state),
                    number(super::sentence::jobs_in(counts, state)),
                )
            })
            .into(),
        about: about(snapshot, name),
        charts: read_charts(app, name, range).await?,
        counts: can.statistics,
        lists: can.listing,
        range,
        limits: LimitView::new(counts.limits.unwrap_or_default(), counts),
        can_limit: can.limits,
        can_pause: can.pauses,
        consumers: snapshot
            .consumers
            .as_ref()
            .map(|all| consumers_of(all, name, now)),
        jobs: jobs.iter().map(|job| JobRow::new(job, now)).collect(),
        name: name.to_owned(),
    }))
}

/// The sentence about this queue, if there is one.
fn about(snapshot: &Snapshot, name: &str) -> Option<ShownSentence> {
    let is_about = |piece: &Piece| matches!(piece, Piece::Queue(queue, _) if queue == name);
    let mut sentences = snapshot.sentences.iter();
    let sentence = sentences.find(|sentence| sentence.pieces.iter().any(is_about))?;
    Some(ShownSentence {
        sentence: sentence.clone(),
        since: sentence
            .since
            .map(|since| ShownTime::new(since, snapshot.taken)),
    })
}

async fn read_charts(app: &App, name: &str, range: Range) -> Result<Vec<Chart>, Failed> {
    if !app.broker.capabilities().statistics {
        return Ok(Vec::new());
    }
    let now = app.broker.clock().now();
    let (count, width) = range.buckets();
    let first = minute_of(now).saturating_sub(count * width - 1);
    let filter = StatisticsFilter {
        queue: Some(name.into()),
        since: Some(start_of(first)),
        ..StatisticsFilter::default()
    };
    let minutes = by_minute(app.broker.statistics(filter).await?);
    Ok(charts(&buckets(&minutes, now, count, width), range))
}

fn consumers_of(all: &[LiveConsumer], name: &str, now: std::time::SystemTime) -> Vec<ConsumerRow> {
    let serves = |consumer: &&LiveConsumer| {
        consumer.queues.iter().any(|queue| queue == name)
            || consumer.queues_served > consumer.queues.len()
    };
    let rows = all.iter().filter(serves);
    rows.map(|consumer| ConsumerRow::new(consumer, now, None))
        .collect()
}

/// Limits as the form sends them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LimitForm {
    running: String,
    starts: String,
    per: String,
    running_per_partition: String,
    starts_per_partition: String,
    per_of_partition: String,
    turns: Option<String>,
    /// The limits before, as JSON, to undo a change.
    pub(super) was: Option<String>,
}

impl LimitForm {
    /// The limits that the form means; `None` if it means none.
    pub(super) fn limits(&self) -> Result<Option<Limits>, Failed> {
        if let Some(was) = &self.was {
            return match was.as_str() {
                "" | "none" => Ok(None),
                was => serde_json::from_str(was)
                    .map(Some)
                    .map_err(|_| Failed::Form("The limits before cannot be read.".to_owned())),
            };
        }
        let mut limits = Limits::new();
        if let Some(running) = whole(&self.running)? {
            limits = limits.running(running);
        }
        if let Some((starts, per)) = rate(&self.starts, &self.per)? {
            limits = limits.starts(starts, per);
        }
        if let Some(running) = whole(&self.running_per_partition)? {
            limits = limits.running_per_partition(running);
        }
        if let Some((starts, per)) = rate(&self.starts_per_partition, &self.per_of_partition)? {
            limits = limits.starts_per_partition(starts, per);
        }
        if self.turns.is_some() {
            limits = limits.turns();
        }
        Ok((limits != Limits::new()).then_some(limits))
    }
}

fn whole(text: &str) -> Result<Option<u32>, Failed> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Failed::Form(format!(
                "{text:?} is no whole number. An empty field is no limit."
            ))
        }),
    }
}

fn rate(starts: &str, per: &str) -> Result<Option<(u32, std::time::Duration)>, Failed> {
    let Some(starts) = whole(starts)? else {
        return Ok(None);
    };
    let seconds = per.trim().parse::<f64>().ok();
    let per = seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok());
    match per {
        Some(per) => Ok(Some((starts, per))),
        None => Err(Failed::Form(format!(
            "{per:?} are no seconds: say in how many seconds so many may start."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_empty_form_means_no_limits() {
        assert!(matches!(LimitForm::default().limits(), Ok(None)));
        let form = LimitForm {
            running: "5".to_owned(),
            starts: "60".to_owned(),
            per: "60".to_owned(),
            ..LimitForm::default()
        };
        let limits = Limits::new().running(5).starts(60, Duration::from_secs(60));
        assert!(matches!(form.limits(), Ok(Some(there)) if there == limits));
        let wrong = LimitForm {
            running: "many".to_owned(),
            ..LimitForm::default()
        };
        assert!(wrong.limits().is_err());
    }

    #[test]
    fn an_undo_brings_the_limits_before_back() {
        let limits = Limits::new().running(5).turns();
        let form = LimitForm {
            was: serde_json::to_string(&limits).ok(),
            ..LimitForm::default()
        };
        assert!(matches!(form.limits(), Ok(Some(there)) if there == limits));
    }
}
