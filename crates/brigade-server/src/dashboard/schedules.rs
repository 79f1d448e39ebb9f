//! The schedules: when, in words, with the next ticks and the last outcome.
//!
//! Ticks are computed from the plan as the broker does it. The last job is looked for among the
//! newest jobs of the schedule's queue, for the first schedules only, so that a page reads a
//! bounded number of jobs; a job that is done and not kept is gone, and then the page says "not
//! kept".

use std::time::SystemTime;

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use brigade::store::time_of;
use brigade::{Broker, JobFilter, Scheduled};

use super::job_row::{JobRow, start_of};
use super::notice::{Done, Notice};
use super::recurrence::in_words;
use super::shell::{Failed, PageShell, page};
use super::viewer::{Viewer, encoded, schedule_path};
use super::watch::{BrokerWatch, Snapshot};
use super::words::ShownTime;
use crate::app::App;

/// Schedules that the page shows.
const ROWS: usize = 200;
/// Schedules whose last job is looked for.
const OUTCOMES: usize = 20;
/// Jobs that are read for the last one of a schedule.
const LOOK_BACK: usize = 50;
/// Ticks that are shown.
const TICKS: usize = 3;

/// A schedule as text.
struct ScheduleRow {
    name: String,
    path: String,
    words: String,
    exact: String,
    queue: String,
    queue_path: String,
    task: String,
    payload: String,
    group: String,
    paused: bool,
    ticks: Vec<ShownTime>,
    last: Option<JobRow>,
}

#[derive(Template)]
#[template(path = "schedules.html")]
struct SchedulesPage {
    page: PageShell,
    can: bool,
    rows: Vec<ScheduleRow>,
    hidden: usize,
    unserved: bool,
}

pub(super) async fn schedules(
    viewer: Viewer,
    State(app): State<App>,
    Extension(watch): Extension<BrokerWatch>,
    Query(done): Query<Done>,
) -> Response {
    let snapshot = watch.look(&app.broker).await;
    if !viewer.can_read() {
        return Failed::Role("read").page(&viewer, &snapshot);
    }
    match show(&viewer, &app, &snapshot, &done).await {
        Ok(response) => response,
        Err(failed) => failed.page(&viewer, &snapshot),
    }
}

async fn show(
    viewer: &Viewer,
    app: &App,
    snapshot: &Snapshot,
    done: &Done,
) -> Result<Response, Failed> {
    let can = app.broker.capabilities();
    let all = match can.schedules {
        true => app.broker.schedules().await?,
        false => Vec::new(),
    };
    let mut rows = Vec::new();
    for (place, schedule) in all.iter().take(ROWS).enumerate() {
        let last = match place < OUTCOMES && can.listing {
            true => last_job(&app.broker, schedule).await?,
            false => None,
        };
        rows.push(row(schedule, last, app.broker.clock().now()));
    }
    Ok(page(&SchedulesPage {
        page: PageShell::new(viewer, "schedules", "Schedules", snapshot)
            .with_notice(Notice::of_list(done, schedule_path, &viewer.undos)),
        can: can.schedules,
        hidden: all.len().saturating_sub(ROWS),
        unserved: !all.is_empty() && snapshot.consumers.as_ref().is_some_and(Vec::is_empty),
        rows,
    }))
}

fn row(schedule: &Scheduled, last: Option<JobRow>, now: SystemTime) -> ScheduleRow {
    ScheduleRow {
        name: schedule.name.clone(),
        path: schedule_path(&schedule.name),
        words: in_words(&schedule.recurrence),
        exact: match &schedule.recurrence {
            brigade::Recurrence::Cron { expression, zone } => format!("{expression} {zone}"),
            _ => String::new(),
        },
        queue_path: format!("/queues/{}", encoded(&schedule.queue)),
        queue: schedule.queue.clone(),
        task: schedule.task.clone().unwrap_or_default(),
        payload: start_of(&schedule.payload),
        group: schedule.group.clone().unwrap_or_default(),
        paused: schedule.paused,
        ticks: ticks(schedule)
            .into_iter()
            .map(|tick| ShownTime::new(tick, now))
            .collect(),
        last,
    }
}

/// The next ticks.
fn ticks(schedule: &Scheduled) -> Vec<SystemTime> {
    let plan = schedule.plan();
    let mut ticks = vec![schedule.next];
    while ticks.len() < TICKS {
        let last = ticks
            .last()
            .and_then(|tick| tick.duration_since(SystemTime::UNIX_EPOCH).ok());
        let millis = last.and_then(|last| i64::try_from(last.as_millis()).ok());
        let Some(Ok(next)) = millis.map(|millis| plan.after(millis)) else {
            break;
        };
        ticks.push(time_of(next));
    }
    ticks
}

/// The newest job that the schedule has pushed and that is there.
async fn last_job(broker: &Broker, schedule: &Scheduled) -> Result<Option<JobRow>, Failed> {
    let filter = JobFilter {
        queue: Some(schedule.queue.as_str().into()),
        newest_first: true,
        limit: LOOK_BACK,
        ..JobFilter::default()
    };
    let found = broker.find(&filter).await?;
    let is_of = |job: &&brigade::JobInfo| {
        job.tick
            .as_ref()
            .is_some_and(|tick| tick.schedule == schedule.name)
    };
    let now = broker.clock().now();
    Ok(found
        .jobs
        .iter()
        .find(is_of)
        .map(|job| JobRow::new(job, now)))
}
