//! Counts: how many jobs queues have in each state, and dead letters in groups.
//!
//! Both read only partial indexes, each in the order in which it stands, and never the table: a
//! look costs a fraction of a microsecond for each job, whatever the jobs contain.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Row, params};

use super::look::{state_of, time};
use super::store::{Store, code};
use crate::error::Error;
use crate::job::{JobId, JobState};
use crate::policy::reason_pattern;
use brigade_core::store::{DeadGroup, QueueCounts};

/// How many jobs are in each state, by the code of the state.
type CountsByState = BTreeMap<i64, u64>;

/// Dead letters of one queue, task and reason.
pub(super) const ALL_DEAD: &str = "SELECT queue, task, reason, count(*), min(pushed_at), \
    max(pushed_at), max(id) FROM brigade_jobs INDEXED BY brigade_jobs_dead WHERE state = 6 GROUP BY \
    queue, task, reason";
/// The same, all of this queue.
const DEAD_OF_QUEUE: &str = "SELECT queue, task, reason, count(*), min(pushed_at), max(pushed_at), \
    max(id) FROM brigade_jobs INDEXED BY brigade_jobs_dead WHERE state = 6 AND queue = ?1 GROUP BY \
    queue, task, reason";
/// From so many groups on, further reasons of a queue and task are one group.
const GROUPS_READ_MAX: usize = 10 * DeadGroup::GROUPS_MAX;
/// Queue, state, count.
pub(super) const COUNTS: [&str; 4] = [
    "SELECT queue, 0, count(*) FROM brigade_jobs INDEXED BY brigade_jobs_ready WHERE state = 0 \
        GROUP BY queue",
    "SELECT queue, 3, count(*) FROM brigade_jobs INDEXED BY brigade_jobs_leased WHERE state = 3 \
        GROUP BY queue",
    "SELECT queue, state, count(*) FROM brigade_jobs INDEXED BY brigade_jobs_ended_in WHERE state \
        >= 5 GROUP BY queue, state",
    // In the order of the index, which does not have the state before the id.
    "SELECT counted.queue, states.value, CASE states.value WHEN 1 THEN scheduled WHEN 2 THEN \
        blocked ELSE retrying END AS jobs FROM (SELECT queue, sum(state = 1) AS scheduled, \
        sum(state = 2) AS blocked, sum(state = 4) AS retrying FROM brigade_jobs INDEXED BY \
        brigade_jobs_waiting WHERE state IN (1, 2, 4) GROUP BY queue) AS counted, \
        json_each('[1, 2, 4]') AS states WHERE jobs > 0",
];

impl Store<'_> {
    pub(super) fn counts(&self) -> Result<Vec<QueueCounts>, Error> {
        let mut queues = BTreeMap::<String, CountsByState>::new();
        for sql in COUNTS {
            let read =
                |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, u64>(2)?));
            for (queue, state, count) in self.rows("count jobs", sql, &[], read)? {
                queues.entry(queue).or_default().insert(state, count);
            }
        }
        let sql = "SELECT queue FROM brigade_queues WHERE paused = 1 OR limits IS NOT NULL";
        let set = self.rows("list queues with settings", sql, &[], |row| {
            row.get::<_, String>(0)
        })?;
        for queue in &set {
            queues.entry(queue.clone()).or_default();
        }
        let mut counts = Vec::with_capacity(queues.len());
        for (queue, states) in queues {
            let is_ready = states.contains_key(&code(JobState::Ready));
            let mut queue = QueueCounts::new(queue);
            if is_ready {
                queue.waits_since = self.waits_since(&queue.queue)?.map(time);
            }
            let known = states.into_iter();
            queue.jobs = known
                .filter_map(|(state, count)| Some((state_of(state)?, count)))
                .collect();
            counts.push(queue);
        }
        for name in set {
            let place = counts.binary_search_by(|counts| counts.queue.cmp(&name));
            if let Ok(place) = place {
                let settings = self.settings(&name)?;
                (counts[place].paused, counts[place].limits) = (settings.paused, settings.limits);
            }
        }
        Ok(counts)
    }

    /// Since when the job waits that a queue hands out next.
    fn waits_since(&self, queue: &str) -> Result<Option<i64>, Error> {
        let sql = "SELECT max(pushed_at, due) FROM brigade_jobs INDEXED BY brigade_jobs_ready \
            WHERE state = 0 AND queue = ?1 ORDER BY priority DESC, id LIMIT 1";
        self.row("look at the next job", sql, params![queue], |row| {
            row.get(0)
        })
    }

    pub(super) fn dead_groups(&self, queue: Option<&str>) -> Result<Vec<DeadGroup>, Error> {
        let mut groups = DeadGroups::default();
        let what = "group dead letters";
        match queue {
            Some(queue) => self.rows(what, DEAD_OF_QUEUE, params![queue], |row| groups.add(row))?,
            None => self.rows(what, ALL_DEAD, &[], |row| groups.add(row))?,
        };
        Ok(DeadGroup::bounded(groups.groups))
    }
}

/// Groups, of rows that come ordered by queue and task.
#[derive(Default)]
struct DeadGroups {
    groups: Vec<DeadGroup>,
    /// The groups of the queue and task that were last, by pattern.
    last: HashMap<String, usize>,
}

impl DeadGroups {
    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let text = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str_or_null().ok());
        let queue = text(0)?.flatten().unwrap_or_default();
        let task = text(1)?.flatten();
        let mut pattern = reason_pattern(text(2)?.flatten().unwrap_or_default());
        let (count, first, last) = (row.get::<_, u64>(3)?, time(row.get(4)?), time(row.get(5)?));
        let is_same = |group: &DeadGroup| group.queue == queue && group.task.as_deref() == task;
        if !self.groups.last().is_some_and(is_same) {
            self.last.clear();
        }
        if self.groups.len() >= GROUPS_READ_MAX && !self.last.contains_key(&pattern) {
            pattern = DeadGroup::OTHER_REASONS.to_owned();
        }
        if let Some(place) = self.last.get(&pattern) {
            let group = &mut self.groups[*place];
            group.count += count;
            group.first = group.first.min(first);
            group.last = group.last.max(last);
            return Ok(());
        }
        self.last.insert(pattern.clone(), self.groups.len());
        self.groups.push(DeadGroup {
            queue: queue.to_owned(),
            task: task.map(str::to_owned),
            reason: pattern,
            count,
            first,
            last,
            example: JobId::new(row.get::<_, i64>(6)?.to_string()),
        });
        Ok(())
    }
}
