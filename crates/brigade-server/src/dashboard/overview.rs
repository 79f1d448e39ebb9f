//! The first page: is anything wrong, since when, why, what can I do.
//!
//! It is made of the shared snapshot alone, so it costs the broker nothing beyond the look of all
//! viewers each two seconds. Only the charts of a day are read apart, once a minute. What the
//! broker cannot show by its capabilities has no tile, or says so.

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use brigade::JobState;
use serde::Deserialize;

use super::chart::{Chart, spark};
use super::charts::{Range, charts};
use super::filters;
use super::queue_row::{Bar, QueueRow, bars};
use super::sentence::{Piece, Sentence, oldest_wait};
use super::series::{as_f64, rate};
use super::shell::{Failed, PageShell, page};
use super::viewer::Viewer;
use super::watch::{BrokerWatch, Snapshot};
use super::words::{self, ShownTime, number, span};
use crate::app::App;

/// Queues that the overview shows.
const WORST: usize = 5;

/// A number with its unit, its trend and the page behind it.
pub(super) struct Tile {
    label: &'static str,
    value: String,
    unit: &'static str,
    below: String,
    path: String,
    spark: String,
    /// The class of a state that the number stands for, if that is worth a colour.
    class: &'static str,
}

/// A sentence for a template.
pub(super) struct ShownSentence {
    pub(super) sentence: Sentence,
    pub(super) since: Option<ShownTime>,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    page: PageShell,
    first: ShownSentence,
    more: Vec<ShownSentence>,
    hidden: usize,
    tiles: Vec<Tile>,
    charts: Vec<Chart>,
    counts: bool,
    lists: bool,
    is_new: bool,
    range: Range,
    depth: Vec<Bar>,
    worst: Vec<QueueRow>,
    taken: ShownTime,
}

/// The query of the page.
#[derive(Deserialize)]
pub(super) struct OverviewQuery {
    range: Option<String>,
}

/// Sentences that are shown besides the first.
const MORE: usize = 4;

pub(super) async fn overview(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Query(query): Query<OverviewQuery>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    let range = Range::of(query.range.as_deref());
    let now = snapshot.taken;
    let buckets = match (&snapshot.series, range) {
        (None, _) => Vec::new(),
        (Some(series), Range::Hour) => series.hour(now),
        (Some(_), Range::Day) => watch.day(&app.broker).await,
    };
    let mut shown = snapshot.sentences.iter().map(|sentence| ShownSentence {
        sentence: sentence.clone(),
        since: sentence.since.map(|since| ShownTime::new(since, now)),
    });
    let first = shown.next().unwrap_or_else(|| ShownSentence {
        sentence: Sentence::plain(super::sentence::Mood::Unknown, "Nothing is known"),
        since: None,
    });
    let more: Vec<ShownSentence> = shown.collect();
    let queues = snapshot.queues.as_deref().unwrap_or_default();
    let mut worst: Vec<QueueRow> = queues
        .iter()
        .map(|queue| QueueRow::new(queue, &snapshot))
        .collect();
    worst.sort_by(QueueRow::worst_first);
    worst.truncate(WORST);
    page(&OverviewPage {
        page: PageShell::new(&viewer, "overview", "Overview", &snapshot),
        hidden: more.len().saturating_sub(MORE),
        more: more.into_iter().take(MORE).collect(),
        first,
        tiles: tiles(&snapshot),
        charts: charts(&buckets, range),
        counts: snapshot.series.is_some(),
        lists: snapshot.queues.is_some(),
        is_new: queues.is_empty() && snapshot.queues.is_some(),
        range,
        depth: bars(queues),
        worst,
        taken: ShownTime::new(now, now),
    })
}

fn tiles(snapshot: &Snapshot) -> Vec<Tile> {
    let mut tiles = Vec::new();
    tiles.extend(throughput(snapshot));
    if snapshot.queues.is_some() {
        tiles.push(oldest(snapshot));
        tiles.push(waiting(snapshot));
    }
    tiles.extend(consumers(snapshot));
    if snapshot.queues.is_some() {
        tiles.push(dead(snapshot));
    }
    tiles
}

fn throughput(snapshot: &Snapshot) -> Option<Tile> {
    let (series, now) = (snapshot.series.as_ref()?, snapshot.taken);
    let failed = rate(series, now, |counts| counts.failed + counts.crashed);
    let dead = rate(series, now, |counts| counts.dead);
    let hour = series.hour(now);
    let done: Vec<Option<f64>> = hour
        .iter()
        .map(|minute| minute.as_ref().map(|counts| as_f64(counts.done)))
        .collect();
    Some(Tile {
        label: "Done",
        value: words::rate(rate(series, now, |counts| counts.done)),
        unit: "jobs/min",
        below: format!("{} failed, {} dead", words::rate(failed), words::rate(dead)),
        path: "/jobs?state=done".to_owned(),
        spark: spark(&done),
        class: "",
    })
}

fn oldest(snapshot: &Snapshot) -> Tile {
    let queues = snapshot.queues.as_deref().unwrap_or_default();
    let longest = queues
        .iter()
        .filter_map(|queue| Some((oldest_wait(queue, snapshot.taken)?, queue)))
        .max_by_key(|(wait, _)| *wait);
    let waits: Vec<Option<f64>> = snapshot.series.as_ref().map_or_else(Vec::new, |series| {
        let hour = series.hour(snapshot.taken);
        let p95 = |counts: &brigade::TaskCounts| Some(counts.wait.quantile(0.95)?.as_secs_f64());
        hour.iter().map(|minute| p95(minute.as_ref()?)).collect()
    });
    let (value, below, path) = match longest {
        None => (
            "–".to_owned(),
            "nothing is ready".to_owned(),
            "/queues".to_owned(),
        ),
        Some((wait, queue)) => (
            span(wait),
            queue.queue.clone(),
            format!("/queues/{}", super::viewer::encoded(&queue.queue)),
        ),
    };
    Tile {
        label: "Oldest wait",
        value,
        unit: "",
        below,
        path,
        spark: spark(&waits),
        class: "",
    }
}

fn waiting(snapshot: &Snapshot) -> Tile {
    let later = snapshot.jobs_in(JobState::Scheduled);
    let retrying = snapshot.jobs_in(JobState::Retrying);
    Tile {
        label: "Ready",
        value: number(snapshot.jobs_in(JobState::Ready)),
        unit: "jobs",
        below: format!("{} scheduled, {} retrying", number(later), number(retrying)),
        path: "/jobs?state=ready".to_owned(),
        spark: String::new(),
        class: "",
    }
}

fn consumers(snapshot: &Snapshot) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let slots = snapshot.consumers.as_ref().map(|consumers| {
        consumers
            .iter()
            .map(|consumer| consumer.prefetch as u64)
            .sum::<u64>()
    });
    let held = snapshot.consumers.as_ref().map(|consumers| {
        let held = consumers.iter().map(|consumer| consumer.held as u64);
        held.sum::<u64>()
    });
    // Without a list of jobs, what the consumers hold is the best that is known.
    let (running, path) = match (&snapshot.queues, held) {
        (None, Some(held)) => (held, "/consumers"),
        _ => (snapshot.jobs_in(JobState::Leased), "/jobs?state=running"),
    };
    if snapshot.queues.is_some() || held.is_some() {
        tiles.push(Tile {
            label: "Running",
            value: number(running),
            unit: "jobs",
            below: match slots {
                None => String::new(),
                Some(0) => "no slots".to_owned(),
                Some(slots) => format!("of {} slots", number(slots)),
            },
            path: path.to_owned(),
            spark: String::new(),
            class: "",
        });
    }
    if let Some(consumers) = &snapshot.consumers {
        let hosts: std::collections::BTreeSet<&str> = consumers
            .iter()
            .map(|consumer| consumer.host.as_str())
            .collect();
        tiles.push(Tile {
            label: "Consumers",
            value: number(consumers.len() as u64),
            unit: "alive",
            below: match hosts.len() {
                0 => "no one takes jobs".to_owned(),
                hosts => format!("on {}", words::count(hosts as u64, "host")),
            },
            path: "/consumers".to_owned(),
            spark: String::new(),
            class: "",
        });
    }
    tiles
}

fn dead(snapshot: &Snapshot) -> Tile {
    let dead = snapshot.jobs_in(JobState::Dead);
    let hour = snapshot
        .series
        .as_ref()
        .map(|series| series.hour(snapshot.taken))
        .unwrap_or_default();
    let values: Vec<Option<f64>> = hour
        .iter()
        .map(|minute| minute.as_ref().map(|counts| as_f64(counts.dead)))
        .collect();
    let recent = hour.iter().flatten().map(|counts| counts.dead).sum::<u64>();
    let below = match (snapshot.series.is_some(), recent) {
        (false, _) => String::new(),
        (true, recent) => format!("{} in the last hour", number(recent)),
    };
    Tile {
        label: "Dead letters",
        value: number(dead),
        unit: "jobs",
        below,
        path: "/dead".to_owned(),
        spark: spark(&values),
        class: if recent > 0 { "dead" } else { "" },
    }
}
