//! The tables of the pages: which columns they have, and a row for each thing.
//!
//! A [`Table`] is made for each drawing, from the data of a reading; nothing is kept here. Texts
//! of others become cells by [`cell`], which makes them harmless for a terminal.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use brigade::{DeadGroup, JobInfo, JobState, LiveConsumer, QueueCounts, Recurrence, Scheduled};

use super::cells::{Cell, Row, TEXT_CHARS_MAX, Target, Tone, brief, cell, number, numbered, time};
use super::columns::Column;
use super::counts::{LATER, WAITING, count};
use super::data::{Data, Run};
use super::page::{DeadOf, Page};
use super::pool;
use super::rates::QueueRates;
use crate::show::readable_json;
use crate::times::local;

/// The order of a table.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sort {
    /// The column; none: the order of the source.
    pub(super) column: Option<usize>,
    pub(super) is_reversed: bool,
}

pub(super) struct Table {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Row>,
    /// What to say when there are no rows.
    pub(super) empty: &'static str,
    /// There is more than the rows.
    pub(super) has_more: bool,
}

/// How long ago a moment was, by this host's clock.
fn ago(moment: SystemTime) -> Duration {
    SystemTime::now().duration_since(moment).unwrap_or_default()
}

/// When a moment comes, or that it has passed.
fn until(moment: SystemTime) -> Cell {
    match moment.duration_since(SystemTime::now()) {
        Ok(left) => numbered(format!("in {}", brief(left)), left.as_secs_f64()),
        Err(_) => numbered(
            format!("{} ago", brief(ago(moment))),
            -ago(moment).as_secs_f64(),
        ),
    }
}

/// A rate as a cell; `-` if it is not known.
fn rate(rate: Option<f64>) -> Cell {
    rate.map_or_else(
        || numbered("-".to_owned(), f64::MIN),
        |rate| {
            let digits = usize::from(rate != 0.0 && rate.abs() < 99.95);
            numbered(format!("{rate:.digits$}"), rate)
        },
    )
}

/// Bars of heights in proportion to the largest.
fn sparkline(values: &[u64]) -> Cell {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: &u64| match value {
        0 => ' ',
        value => {
            let height = u128::from(*value) * 7 / u128::from(most);
            BARS[usize::try_from(height).unwrap_or(7).min(7)]
        }
    };
    let text = values.iter().map(bar).collect();
    #[expect(clippy::cast_precision_loss, reason = "for the order of rows")]
    numbered(text, values.iter().map(|value| *value as f64).sum())
}

impl Table {
    /// The table of a page; none where it shows something else.
    pub(super) fn of(data: &Data, page: &Page) -> Option<Self> {
        let table = |columns, rows, empty| Self {
            columns,
            rows,
            empty,
            has_more: false,
        };
        Some(match (data, page) {
            (Data::Queues(queues, rates), _) => queue_table(queues, rates),
            (Data::Running(runs), _) => table(
                &RUNNING,
                runs.iter().map(running_row).collect(),
                "no job runs: start a consumer, for example `brigade work QUEUE -- PROGRAM`",
            ),
            (Data::Consumers(consumers), _) => table(
                &CONSUMERS,
                consumers.iter().map(consumer_row).collect(),
                "no consumer is alive: `brigade work QUEUE -- PROGRAM` starts one",
            ),
            (Data::Dead(groups), _) => table(
                &DEAD,
                groups.iter().map(dead_row).collect(),
                "no dead letters",
            ),
            (Data::Schedules(schedules), _) => table(
                &SCHEDULES,
                schedules.iter().map(schedule_row).collect(),
                "no schedules: `brigade cron add` makes one",
            ),
            (Data::Jobs(jobs, has_more), _) => Self {
                has_more: *has_more,
                ..table(&JOBS, jobs.iter().map(job_row).collect(), "no jobs")
            },
            (Data::Pool(state), Page::Calls) => {
                table(&pool::CALLS, pool::call_rows(state), "no call runs")
            }
            (Data::Pool(state), _) => table(&pool::WORKERS, pool::worker_rows(state), "no workers"),
            (Data::Unread | Data::Lacks(_) | Data::Job(_), _) => return None,
        })
    }

    /// Keeps the rows with this text in a cell, in any case.
    pub(super) fn keep(&mut self, filter: &str) {
        let filter = filter.to_lowercase();
        if !filter.is_empty() {
            let has = |cell: &Cell| cell.text.to_lowercase().contains(&filter);
            self.rows.retain(|row| row.cells.iter().any(has));
        }
    }

    pub(super) fn sort(&mut self, sort: Sort) {
        if let Some(column) = sort.column {
            self.rows.sort_by(|one, other| {
                match (one.cells.get(column), other.cells.get(column)) {
                    (Some(one), Some(other)) => one.compare(other),
                    _ => Ordering::Equal,
                }
            });
        }
        if sort.is_reversed {
            self.rows.reverse();
        }
    }
}

const QUEUES_COUNTED: [Column; 11] = [
    Column::text("queue", 0, 30),
    Column::number("waiting", 0),
    Column::number("running", 1),
    Column::number("oldest", 2),
    Column::number("later", 6),
    Column::number("dead", 3),
    Column::number("in/s", 4),
    Column::number("done/s", 4),
    Column::number("fail/min", 7),
    Column::number("run p95", 8),
    Column::text("done by minute", 9, 40),
];

const QUEUES_SAMPLED: [Column; 8] = [
    Column::text("queue", 0, 30),
    Column::number("waiting", 0),
    Column::number("running", 1),
    Column::number("oldest", 2),
    Column::number("later", 6),
    Column::number("dead", 3),
    Column::number("grows/s", 5),
    Column::text("waiting over time", 9, 40),
];

fn queue_table(queues: &[QueueCounts], rates: &HashMap<String, QueueRates>) -> Table {
    let unknown = QueueRates::default();
    let is_sampled = rates.values().any(|rates| rates.pushed.is_none());
    let row = |queue: &QueueCounts| {
        let rates = rates.get(&queue.queue).unwrap_or(&unknown);
        queue_row(queue, rates, is_sampled)
    };
    Table {
        columns: match is_sampled {
            true => &QUEUES_SAMPLED,
            false => &QUEUES_COUNTED,
        },
        rows: queues.iter().map(row).collect(),
        empty: "no queue has jobs: `brigade push QUEUE JSON` pushes one",
        has_more: false,
    }
}

fn queue_row(queue: &QueueCounts, rates: &QueueRates, is_sampled: bool) -> Row {
    let name = match queue.paused {
        true => format!("{} (paused)", queue.queue),
        false => queue.queue.clone(),
    };
    let dead = count(queue, &[JobState::Dead]);
    let mut cells = vec![
        cell(&name),
        number(count(queue, &WAITING)),
        number(count(queue, &[JobState::Leased])),
        time(queue.waits_since.map(ago)),
        number(count(queue, &LATER)),
        number(dead),
    ];
    match is_sampled {
        true => cells.push(rate(rates.growth)),
        false => cells.extend([
            rate(rates.pushed),
            rate(rates.done),
            rate(rates.failed),
            time(rates.run),
        ]),
    }
    cells.push(sparkline(&rates.spark));
    let target = Target::Queue {
        name: queue.queue.clone(),
        is_paused: queue.paused,
    };
    Row::new(&queue.queue, cells, Some(target)).tone(match () {
        () if queue.paused => Tone::Quiet,
        () if dead > 0 => Tone::Bad,
        () => Tone::Plain,
    })
}

const RUNNING: [Column; 7] = [
    Column::text("job", 0, 26),
    Column::text("queue", 1, 24),
    Column::text("task", 3, 24),
    Column::number("runs", 0),
    Column::number("attempt", 5),
    Column::text("progress", 2, 30),
    Column::text("holder", 4, 40),
];

fn running_row(run: &Run) -> Row {
    let job = &run.job;
    let progress = match (&run.cancel, &job.progress) {
        (Some(reason), _) => cell(&format!("being cancelled: {reason}")),
        (None, Some((part, text))) => {
            numbered(cell(&format!("{:.0} % {text}", part * 100.0)).text, *part)
        }
        (None, None) => numbered("-".to_owned(), -1.0),
    };
    let cells = vec![
        cell(job.job.as_str()),
        cell(&job.queue),
        cell(job.task.as_deref().unwrap_or("-")),
        time(run.since.map(ago)),
        number(job.attempt.into()),
        progress,
        cell(&run.holder),
    ];
    Row::new(job.job.as_str(), cells, Some(Target::Job(job.job.clone()))).tone(match run.cancel {
        Some(_) => Tone::Quiet,
        None => Tone::Plain,
    })
}

const CONSUMERS: [Column; 7] = [
    Column::text("host", 0, 24),
    Column::number("pid", 0),
    Column::text("version", 6, 16),
    Column::number("up", 2),
    Column::number("holds", 1),
    Column::text("runs", 3, 40),
    Column::text("queues", 1, 40),
];

fn consumer_row(consumer: &LiveConsumer) -> Row {
    let oldest = consumer.running.first();
    let runs = oldest.map_or_else(
        || "-".to_owned(),
        |run| {
            let what = run.task.as_deref().unwrap_or(&run.queue);
            let more = match consumer.held {
                0 | 1 => String::new(),
                held => format!(", {} more", held - 1),
            };
            format!("{what} for {}{more}", brief(ago(run.since)))
        },
    );
    let held = match consumer.prefetch {
        0 => consumer.held.to_string(),
        prefetch => format!("{}/{prefetch}", consumer.held),
    };
    let more = consumer.queues_served > consumer.queues.len();
    let queues = consumer.queues.join(", ") + if more { ", .." } else { "" };
    #[expect(clippy::cast_precision_loss, reason = "for the order of rows")]
    let held = numbered(held, consumer.held as f64);
    let cells = vec![
        cell(&consumer.host),
        consumer
            .pid
            .map_or_else(|| cell("-"), |pid| number(pid.into())),
        cell(consumer.version.as_deref().unwrap_or("-")),
        time(Some(ago(consumer.since))),
        held,
        cell(&runs),
        cell(&queues),
    ];
    let target = oldest.map(|run| Target::Job(run.job.clone()));
    Row::new(&consumer.id, cells, target)
}

const DEAD: [Column; 5] = [
    Column::number("count", 0),
    Column::text("queue", 0, 24),
    Column::text("task", 2, 24),
    Column::number("last", 1),
    Column::text("reason", 0, 60),
];

fn dead_row(group: &DeadGroup) -> Row {
    let cells = vec![
        number(group.count),
        cell(&group.queue),
        cell(group.task.as_deref().unwrap_or("-")),
        time(Some(ago(group.last))),
        cell(&group.reason),
    ];
    let of = DeadOf {
        queue: group.queue.clone(),
        task: group.task.clone(),
        reason: group.reason.clone(),
        count: group.count,
    };
    let id = format!("{:?}", (&group.queue, &group.task, &group.reason));
    Row::new(id, cells, Some(Target::Dead(of))).tone(Tone::Bad)
}

const SCHEDULES: [Column; 6] = [
    Column::text("schedule", 0, 30),
    Column::text("when", 1, 30),
    Column::text("next", 0, 16),
    Column::text("at", 3, 19),
    Column::text("queue", 2, 24),
    Column::text("payload", 4, 40),
];

fn schedule_row(schedule: &Scheduled) -> Row {
    let when = match &schedule.recurrence {
        Recurrence::Cron { expression, zone } => format!("{expression} {zone}"),
        Recurrence::Every(interval) => format!("every {}", brief(*interval)),
        _ => "?".to_owned(),
    };
    let name = match schedule.paused {
        true => format!("{} (paused)", schedule.name),
        false => schedule.name.clone(),
    };
    let cells = vec![
        cell(&name),
        cell(&when),
        until(schedule.next),
        cell(&local(schedule.next)),
        cell(&schedule.queue),
        payload(&schedule.payload),
    ];
    let target = Target::Schedule {
        name: schedule.name.clone(),
        is_paused: schedule.paused,
    };
    Row::new(&schedule.name, cells, Some(target)).tone(match schedule.paused {
        true => Tone::Quiet,
        false => Tone::Plain,
    })
}

const JOBS: [Column; 6] = [
    Column::text("job", 0, 26),
    Column::text("state", 0, 9),
    Column::text("task", 3, 24),
    Column::number("pushed", 2),
    Column::number("attempts", 4),
    Column::text("reason or payload", 1, 60),
];

fn job_row(job: &JobInfo) -> Row {
    let cells = vec![
        cell(job.id.as_str()),
        cell(&job.state.to_string()),
        cell(job.task.as_deref().unwrap_or("-")),
        time(Some(ago(job.pushed_at))),
        number((job.failed + job.crashed + job.interrupted).into()),
        job.reason
            .as_deref()
            .map_or_else(|| payload(&job.payload), cell),
    ];
    Row::new(job.id.as_str(), cells, Some(Target::Job(job.id.clone()))).tone(match job.state {
        JobState::Dead => Tone::Bad,
        state if state.is_terminal() => Tone::Quiet,
        _ => Tone::Plain,
    })
}

/// JSON of others as a cell.
fn payload(json: &str) -> Cell {
    match json.len() <= TEXT_CHARS_MAX * 4 {
        true => cell(&readable_json(json)),
        false => cell(json),
    }
}
