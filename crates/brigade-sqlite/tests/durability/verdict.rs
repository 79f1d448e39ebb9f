//! Compares what the ledger says with what the job file says in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brigade::{AttemptKind, AttemptRecord};
use brigade_testkit::ledger::{self, Event, Line};

use crate::stage::{Stage, integrity};

/// A job as the file has it in the end.
#[derive(Clone, Debug)]
struct Row {
    number: u64,
    state: i64,
    result: Option<u64>,
    crashed: u32,
    lost: u32,
    history: Vec<AttemptRecord>,
}

/// How a job stood among the others when it first started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// How many that were pushed later started before it.
    pub(crate) overtaken_by: usize,
    /// Its attempts that took their worker down, or were taken down with it.
    pub(crate) crashed: u32,
}

const DONE: i64 = 5;
const DEAD: i64 = 6;
/// After so many crashes a job is a dead letter.
const CRASHES_MAX: usize = 2;
/// Attempts that a history keeps.
const HISTORY_MAX: usize = 20;
/// The default of `Consumer::losses_max`.
const LOSSES_MAX: u32 = 5;

#[derive(Clone, Debug, Default)]
struct Attempts {
    intended: bool,
    enqueued: bool,
    /// Process of each start.
    starts: Vec<u32>,
    /// Tokens that came to an end.
    ends: BTreeSet<u64>,
    /// Completions of which a consumer heard that they were accepted.
    accepted: usize,
}

/// What was counted. All but the first five must be nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) jobs: usize,
    pub(crate) starts: usize,
    pub(crate) faults: usize,
    /// Starts beyond the first that a fault explains.
    pub(crate) repeats: usize,
    /// Dead letters whose two crashes, or five lost holders, were faults.
    pub(crate) dead: usize,
    /// Acknowledged, and not ended.
    pub(crate) lost: usize,
    /// In the file and not ended.
    pub(crate) stuck: usize,
    /// Run, and never pushed.
    pub(crate) phantom: usize,
    /// Starts beyond the first that no fault explains.
    pub(crate) unexplained: usize,
    /// Attempts that ran at the same time as another one of their job.
    pub(crate) overlaps: usize,
    /// Results accepted beyond one, and jobs stored beyond one.
    pub(crate) dup_accept: usize,
    /// Results that no attempt came to.
    pub(crate) forged: usize,
}

/// What the ledger says: of each job, which processes a fault hit, and the jobs in the order of
/// their starts.
fn read_ledger(lines: &[ledger::Line]) -> (BTreeMap<u64, Attempts>, BTreeSet<u32>, Vec<u64>) {
    let (mut jobs, mut faults, mut order) = (
        BTreeMap::<u64, Attempts>::new(),
        BTreeSet::new(),
        Vec::new(),
    );
    for line in lines {
        let job = jobs.entry(line.job).or_default();
        match &line.event {
            Event::Refused => job.intended = true,
            Event::Enqueued => job.enqueued = true,
            Event::Start => {
                if job.starts.is_empty() {
                    order.push(line.job);
                }
                job.starts.push(line.pid);
            }
            Event::End => drop(job.ends.insert(line.token)),
            Event::Outcome(_) => job.accepted += 1,
            Event::Fault => drop(faults.insert(line.pid)),
            Event::Effect | Event::Healed => {}
        }
    }
    (jobs, faults, order)
}

/// Workers of these processes. A pool replaces a worker before a job that crashed runs again, and
/// what the worker before had run may not be settled yet: it is lost with the pool all the same.
fn workers_of(stage: &Stage, pools: &BTreeSet<u32>) -> Vec<u32> {
    let workers = fs::read_to_string(stage.path("workers")).unwrap_or_default();
    let pairs = workers.lines().filter_map(|line| {
        let (worker, pool) = line.split_once(' ')?;
        Some((worker.parse().ok()?, pool.parse().ok()?))
    });
    let of_these = pairs.filter(|(_, pool)| pools.contains(pool));
    of_these.map(|(worker, _)| worker).collect()
}

/// The verdict, and the place of each job, in the order of their starts. `kills` are the moments at
/// which consumers were killed, in order.
pub(crate) fn verdict(stage: &Stage, kills: &[SystemTime]) -> (Verdict, Vec<Place>) {
    let lines = ledger::read(stage.path("ledger")).unwrap();
    let file = stage.look();
    assert_eq!(integrity(&file), "ok");
    let rows = rows(&file);
    let (mut jobs, mut faults, order) = read_ledger(&lines);
    faults.extend(workers_of(stage, &faults));
    jobs.remove(&0);
    let mut found = Verdict {
        jobs: rows.len(),
        faults: faults.len(),
        ..Verdict::default()
    };
    let mut stored = BTreeMap::<u64, Vec<&Row>>::new();
    rows.iter()
        .for_each(|row| stored.entry(row.number).or_default().push(row));
    for (number, job) in &jobs {
        let rows = stored.get(number).map(Vec::as_slice).unwrap_or_default();
        let hit = |pid: &&u32| faults.contains(*pid);
        let again = job
            .starts
            .split_last()
            .map(|(_, earlier)| earlier)
            .unwrap_or_default();
        let explained = again.iter().filter(hit).count();
        found.starts += job.starts.len();
        found.repeats += explained;
        found.unexplained += again.len() - explained;
        if again.len() > explained {
            println!(
                "unexplained: job {number} started in {:?}, of which the faults hit {explained}",
                job.starts
            );
            let is_about = |line: &&Line| {
                line.job == *number || job.starts.contains(&line.pid) && line.event == Event::Fault
            };
            lines
                .iter()
                .filter(is_about)
                .for_each(|line| println!("{line:?}"));
            print_history(&file, *number);
        }
        found.phantom += usize::from(!job.intended && !job.starts.is_empty());
        if job.enqueued && rows.is_empty() {
            println!("lost: job {number} has no row");
            found.lost += 1;
        }
        found.dup_accept += job.accepted.saturating_sub(1) + rows.len().saturating_sub(1);
        for row in rows {
            match row.state {
                DONE => {
                    found.forged +=
                        usize::from(row.result.is_none_or(|token| !job.ends.contains(&token)))
                }
                DEAD if job.starts.iter().filter(hit).count() >= CRASHES_MAX => found.dead += 1,
                DEAD if row.lost >= LOSSES_MAX && losses_are_kills(row, kills) => found.dead += 1,
                DEAD => {
                    println!("lost: job {number} is dead, starts {:?}", job.starts);
                    print_history(&file, *number);
                    found.lost += 1;
                }
                _ => found.stuck += 1,
            }
        }
    }
    found.overlaps = fs::read_to_string(stage.path("overlaps"))
        .unwrap_or_default()
        .lines()
        .count();
    (found, places(&rows, &order))
}

/// Whether a kill explains each lease that the job lost. A holder leases the job after the loss
/// before, and is killed before the store notes its own: so a kill is between the two. Losses that
/// are too old for the history come before all others.
fn losses_are_kills(row: &Row, kills: &[SystemTime]) -> bool {
    // The history keeps whole milliseconds.
    let noted = |record: &&AttemptRecord| {
        record.kind == AttemptKind::Interrupted && record.reason == "the process that held it ended"
    };
    let losses: Vec<SystemTime> = row
        .history
        .iter()
        .filter(noted)
        .map(|record| record.at)
        .collect();
    let kills_between = |after: SystemTime, loss: SystemTime| {
        let until = loss + Duration::from_millis(1);
        let between = kills.iter().filter(|kill| (after..until).contains(*kill));
        between.count()
    };
    let Some(unseen) = (row.lost as usize).checked_sub(losses.len()) else {
        return false;
    };
    let mut after = UNIX_EPOCH;
    losses.iter().enumerate().all(|(at, loss)| {
        let wanted = if at == 0 { 1 + unseen } else { 1 };
        kills_between(std::mem::replace(&mut after, *loss), *loss) >= wanted
    }) && (unseen == 0 || row.history.len() == HISTORY_MAX)
}

/// The place of each job, in the order of their starts.
fn places(rows: &[Row], order: &[u64]) -> Vec<Place> {
    let places: BTreeMap<u64, usize> = rows
        .iter()
        .enumerate()
        .map(|(place, row)| (row.number, place))
        .collect();
    let order: Vec<usize> = order
        .iter()
        .filter_map(|number| places.get(number).copied())
        .collect();
    let overtaken = displaced(&order).into_iter().zip(&order);
    overtaken
        .map(|(overtaken_by, row)| Place {
            overtaken_by,
            crashed: rows[*row].crashed,
        })
        .collect()
}

fn print_history(file: &rusqlite::Connection, number: u64) {
    let sql = "SELECT history FROM brigade_jobs WHERE payload LIKE '%,' || ?1 || ',%'";
    let history = file.query_row(sql, [number.to_string()], |row| {
        row.get::<_, Option<String>>(0)
    });
    println!("{history:?}");
}

impl Verdict {
    /// Prints the counts and asserts that nothing is wrong.
    pub(crate) fn check(&self, what: &str) {
        println!("{what}: {self}");
        let Self {
            jobs,
            starts,
            faults,
            repeats,
            dead,
            ..
        } = *self;
        let right = Self {
            jobs,
            starts,
            faults,
            repeats,
            dead,
            ..Self::default()
        };
        assert_eq!(*self, right, "{what}: {self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            jobs,
            starts,
            faults,
            repeats,
            dead,
            lost,
            stuck,
            phantom,
            unexplained,
            overlaps,
            dup_accept,
            forged,
        } = self;
        write!(
            f,
            "jobs {jobs} starts {starts} faults {faults} repeats {repeats} dead {dead}: LOST \
                {lost} STUCK {stuck} PHANTOM {phantom} \
             UNEXPLAINED {unexplained} OVERLAP {overlaps} DUP_ACCEPT {dup_accept} FORGED {forged}"
        )
    }
}

/// Jobs in the order of their pushes. Their second argument is their number.
fn rows(file: &rusqlite::Connection) -> Vec<Row> {
    let mut rows = file
        .prepare(
            "SELECT payload, state, result, crashed, lost, history FROM brigade_jobs ORDER BY id",
        )
        .unwrap();
    let rows = rows.query_map([], |row| {
        let payload: Vec<serde_json::Value> =
            serde_json::from_str(&row.get::<_, String>(0)?).unwrap();
        let result: Option<String> = row.get(2)?;
        let result = result.and_then(|text| text.parse().ok());
        let history: Option<String> = row.get(5)?;
        Ok(Row {
            number: payload[1].as_u64().unwrap(),
            state: row.get(1)?,
            result,
            crashed: row.get(3)?,
            lost: row.get(4)?,
            history: history.map_or_else(Vec::new, |text| serde_json::from_str(&text).unwrap()),
        })
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

/// For each place, in the order of starts: how many later places came before it.
fn displaced(starts: &[usize]) -> Vec<usize> {
    let mut before: Vec<usize> = Vec::with_capacity(starts.len());
    let mut displaced = Vec::with_capacity(starts.len());
    for place in starts {
        let at = before.partition_point(|earlier| earlier < place);
        displaced.push(before.len() - at);
        before.insert(at, *place);
    }
    displaced
}

#[test]
fn displacement_counts_later_ones_that_came_before() {
    assert_eq!(displaced(&[0, 1, 2, 3]), [0, 0, 0, 0]);
    assert_eq!(displaced(&[1, 2, 0, 3]), [0, 0, 2, 0]);
}

#[test]
fn losses_are_explained_by_a_kill_between_each_two() {
    let at = |second: u64| UNIX_EPOCH + Duration::from_secs(second);
    let record = |attempt: u32, second: u64, reason: &str| -> AttemptRecord {
        serde_json::from_value(serde_json::json!({
            "attempt": attempt, "at": at(second), "kind": "interrupted", "reason": reason,
        }))
        .unwrap()
    };
    let lost = |attempt, second| record(attempt, second, "the process that held it ended");
    let mut row = Row {
        number: 1,
        state: DEAD,
        result: None,
        crashed: 0,
        lost: 3,
        history: vec![
            lost(1, 10),
            record(2, 15, "it runs alone"),
            lost(3, 20),
            lost(4, 30),
        ],
    };
    assert!(losses_are_kills(&row, &[at(9), at(12), at(29), at(40)]));
    assert!(!losses_are_kills(&row, &[at(8), at(9), at(29)]));
    assert!(!losses_are_kills(&row, &[at(9), at(12)]));
    row.lost = 4;
    assert!(!losses_are_kills(&row, &[at(9), at(12), at(29)]));
}
