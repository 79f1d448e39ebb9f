//! What a transaction counts, until it is written (`statistics`).
//!
//! [`CountedChanges`] belongs to one transaction and keeps the order in which things were counted,
//! so that what a savepoint undoes can be cut off its end. [`ReadBefore`] and [`NamedTasks`] belong
//! to the connection: what it need not read again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::job::JobState;
use brigade_core::{Durations, JobEventKind, TaskCounts};

/// Rows of statistics that a connection keeps in memory.
const ROWS_KEPT_MAX: usize = 1_000;

/// Something that is counted.
#[derive(Clone, Copy)]
pub(super) enum Count {
    Pushed,
    Done,
    Failed,
    Crashed,
    Interrupted,
    Dead,
    Cancelled,
    Wait(Duration),
    Run(Duration),
}

impl Count {
    pub(super) fn of_kind(kind: JobEventKind) -> Option<Self> {
        match kind {
            JobEventKind::Pushed => Some(Self::Pushed),
            JobEventKind::Done => Some(Self::Done),
            JobEventKind::Failed => Some(Self::Failed),
            JobEventKind::Crashed => Some(Self::Crashed),
            JobEventKind::Interrupted => Some(Self::Interrupted),
            _ => None,
        }
    }

    /// A job that ended badly counts as that, however it came to it.
    pub(super) fn of_state(kind: JobEventKind, state: Option<JobState>) -> Option<Self> {
        match state {
            _ if kind == JobEventKind::Deleted => None,
            Some(JobState::Dead) => Some(Self::Dead),
            Some(JobState::Cancelled) => Some(Self::Cancelled),
            _ => None,
        }
    }

    fn add_to(self, counts: &mut TaskCounts) {
        match self {
            Self::Pushed => counts.pushed += 1,
            Self::Done => counts.done += 1,
            Self::Failed => counts.failed += 1,
            Self::Crashed => counts.crashed += 1,
            Self::Interrupted => counts.interrupted += 1,
            Self::Dead => counts.dead += 1,
            Self::Cancelled => counts.cancelled += 1,
            Self::Wait(time) => counts.wait.record(time),
            Self::Run(time) => counts.run.record(time),
        }
    }
}

/// What a transaction has counted so far, in order.
#[derive(Default)]
pub(super) struct CountedChanges {
    /// Queue and task (empty: none), each pair once.
    names: Vec<(Box<str>, Box<str>)>,
    places: HashMap<Box<str>, HashMap<Box<str>, usize>>,
    pub(super) counts: Vec<(usize, Count)>,
}

impl CountedChanges {
    pub(super) fn place(&mut self, queue: &str, task: &str) -> usize {
        let is_last = |(last, _): &(usize, Count)| {
            let (last_queue, last_task) = &self.names[*last];
            **last_queue == *queue && **last_task == *task
        };
        if let Some((last, _)) = self.counts.last().filter(|last| is_last(last)) {
            return *last;
        }
        let known = self.places.get(queue).and_then(|tasks| tasks.get(task));
        if let Some(place) = known {
            return *place;
        }
        let place = self.names.len();
        self.names.push((queue.into(), task.into()));
        let tasks = self.places.entry(queue.into()).or_default();
        tasks.insert(task.into(), place);
        place
    }

    /// The sums, by queue and task.
    pub(super) fn sums(self) -> impl Iterator<Item = (Box<str>, Box<str>, TaskCounts)> {
        let mut sums = vec![TaskCounts::default(); self.names.len()];
        for (place, count) in self.counts {
            count.add_to(&mut sums[place]);
        }
        let named = self.names.into_iter().zip(sums);
        named
            .map(|((queue, task), counts)| (queue, task, counts))
            .filter(|(_, _, counts)| !counts.is_empty())
    }
}

/// The row of a queue and task in a minute: its number, and its two histograms.
#[derive(Clone, Debug, Default)]
pub(super) struct CountsRow {
    pub(super) id: i64,
    pub(super) minute: i64,
    pub(super) wait: Durations,
    pub(super) run: Durations,
}

/// What a connection has read of the file, as long as no other connection has changed it
/// (`PRAGMA data_version`): it saves a connection that is alone two statements for each
/// transaction.
#[derive(Default)]
pub(super) struct ReadBefore {
    pub(super) version: i64,
    /// Until when events are recorded, wall clock.
    pub(super) recorded_until: Option<i64>,
    /// By queue and task.
    rows: HashMap<Box<str>, HashMap<Box<str>, CountsRow>>,
    rows_count: usize,
}

impl ReadBefore {
    /// Nothing yet.
    pub(super) fn of_version(version: i64) -> Self {
        Self {
            version,
            ..Self::default()
        }
    }

    pub(super) fn row(&self, queue: &str, task: &str, minute: i64) -> Option<&CountsRow> {
        let row = self.rows.get(queue)?.get(task)?;
        (row.minute == minute).then_some(row)
    }

    pub(super) fn keep_row(&mut self, queue: &str, task: &str, row: CountsRow) {
        if let Some(known) = self
            .rows
            .get_mut(queue)
            .and_then(|tasks| tasks.get_mut(task))
        {
            *known = row;
            return;
        }
        if self.rows_count >= ROWS_KEPT_MAX {
            self.forget_rows();
        }
        self.rows_count += 1;
        let tasks = self.rows.entry(queue.into()).or_default();
        tasks.insert(task.into(), row);
    }

    pub(super) fn forget_rows(&mut self) {
        self.rows.clear();
        self.rows_count = 0;
    }
}

/// The tasks of a queue that are counted by name in an hour.
pub(super) struct NamedTasks {
    pub(super) hour: i64,
    pub(super) names: HashSet<Box<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undone_is_not_counted() {
        let mut counted = CountedChanges::default();
        for (queue, task) in [("q", "a"), ("q", "b"), ("r", "a"), ("q", "a")] {
            let place = counted.place(queue, task);
            counted.counts.push((place, Count::Pushed));
        }
        counted.counts.truncate(2);
        let sums: Vec<_> = counted.sums().collect();
        assert_eq!(sums.len(), 2);
        assert!(
            sums.iter()
                .all(|(queue, _, counts)| &**queue == "q" && counts.pushed == 1)
        );
    }
}
