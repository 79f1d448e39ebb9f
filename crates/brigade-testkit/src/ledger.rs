//! The ledger: what happened to each job, one line per event, and the checker that says whether
//! that is allowed.
//!
//! A line is written with a single `write(2)` on an `O_APPEND` descriptor: it survives SIGKILL of
//! the writer, and lines of many processes never mix. Tasks write `start`, `effect` and `end`; the
//! driver writes `enqueued` after a job was accepted (or `refused`), `outcome` for each end that it
//! learned, `fault` for each fault that it injected and `healed` when there will be no more.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The driver knows that the job was accepted.
    Enqueued,
    /// The driver knows that it was not, or does not know.
    Refused,
    /// An attempt began.
    Start,
    /// An attempt did what the job is for.
    Effect,
    /// An attempt came to its end.
    End,
    /// The driver knows that the job ended; `done` if its result was accepted.
    Outcome(String),
    /// The driver hit the process of this line.
    Fault,
    /// The last fault is over.
    Healed,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which job; zero if none.
    pub job: u64,
    /// Which attempt, from 1; zero if none.
    pub attempt: u32,
    /// What distinguishes this attempt from all others.
    pub token: u64,
    /// The process that the line is about.
    pub pid: u32,
    /// Its worker's number; zero if none.
    pub worker: u32,
    /// The monotonic clock, which all processes of a host share.
    pub nanos: u64,
    /// What happened.
    pub event: Event,
}

/// Writes lines.
#[derive(Debug)]
pub struct Ledger(File);

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

impl Ledger {
    /// Opens a ledger for appending.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map(Self)
    }

    /// Writes a line about an attempt in this process.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn attempt(
        &self,
        job: u64,
        attempt: u32,
        token: u64,
        worker: u32,
        event: &Event,
    ) -> io::Result<()> {
        self.write(job, attempt, token, std::process::id(), worker, event)
    }

    /// Writes a driver's line about a job.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn job(&self, job: u64, event: &Event) -> io::Result<()> {
        self.write(job, 0, 0, std::process::id(), 0, event)
    }

    /// Notes that a process was hit.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn fault(&self, pid: u32) -> io::Result<()> {
        self.write(0, 0, 0, pid, 0, &Event::Fault)
    }

    fn write(
        &self,
        job: u64,
        attempt: u32,
        token: u64,
        pid: u32,
        worker: u32,
        event: &Event,
    ) -> io::Result<()> {
        let name = match event {
            Event::Enqueued => "enqueued",
            Event::Refused => "refused",
            Event::Start => "start",
            Event::Effect => "effect",
            Event::End => "end",
            Event::Fault => "fault",
            Event::Healed => "healed",
            Event::Outcome(outcome) => outcome,
        };
        let kind = if matches!(event, Event::Outcome(_)) {
            "outcome:"
        } else {
            ""
        };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let nanos = Duration::new(
            now.tv_sec.cast_unsigned(),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        )
        .as_nanos();
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let line =
            format!("{sequence} {job} {attempt} {token} {pid} {worker} {nanos} {kind}{name}\n");
        let written = (&self.0).write(line.as_bytes())?;
        if written == line.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

/// Reads a ledger.
///
/// # Errors
///
/// What the operating system says, and `InvalidData` for a line that is none.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<Line>> {
    let text = fs::read_to_string(path)?;
    text.lines()
        .map(|line| {
            parse(line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, line.to_owned()))
        })
        .collect()
}

fn parse(line: &str) -> Option<Line> {
    let mut fields = line.split(' ').skip(1);
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (job, attempt, token, pid, worker, nanos) = (
        number()?,
        number()?,
        number()?,
        number()?,
        number()?,
        number()?,
    );
    let event = match fields.next()? {
        "enqueued" => Event::Enqueued,
        "refused" => Event::Refused,
        "start" => Event::Start,
        "effect" => Event::Effect,
        "end" => Event::End,
        "fault" => Event::Fault,
        "healed" => Event::Healed,
        other => Event::Outcome(other.strip_prefix("outcome:")?.to_owned()),
    };
    let small = |number: u64| u32::try_from(number).ok();
    Some(Line {
        job,
        attempt: small(attempt)?,
        token,
        pid: small(pid)?,
        worker: small(worker)?,
        nanos,
        event,
    })
}

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Starts beyond the first, over all jobs.
    pub dup_start: usize,
    /// Jobs that start after one that was enqueued later.
    pub reorder: usize,
    /// How long after the last fault, and after it was enqueued, every job must have ended.
    pub stuck_after: Duration,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Enqueued and without an outcome.
    pub lost: usize,
    /// Executed and never enqueued; or refused and executed more than once.
    pub phantom: usize,
    /// Starts beyond the first.
    pub dup_start: usize,
    /// Those of them that no fault explains: the attempt before ended by none.
    pub unexplained: usize,
    /// Accepted completions beyond one, and accepted ones that no attempt came to.
    pub dup_accept: usize,
    /// Jobs whose first start came after that of one enqueued later.
    pub reorder: usize,
    /// Ended too long after the last fault, or not at all.
    pub stuck: usize,
    /// Faults that were injected.
    pub faults: usize,
    /// Jobs that were enqueued.
    pub jobs: usize,
}

#[derive(Default)]
struct Job {
    place: Option<usize>,
    enqueued_nanos: u64,
    refused: bool,
    starts: Vec<u32>,
    ends: usize,
    outcomes: Vec<(bool, u64)>,
}

/// Counts.
pub fn count(lines: &[Line], stuck_after: Duration) -> Counts {
    let (mut jobs, mut faults, mut healed) = (BTreeMap::<u64, Job>::new(), Vec::new(), 0);
    let mut enqueued = 0;
    let mut order = Vec::new();
    for line in lines {
        match &line.event {
            Event::Fault => {
                faults.push(line.pid);
                healed = healed.max(line.nanos);
            }
            Event::Healed => healed = healed.max(line.nanos),
            event => {
                let job = jobs.entry(line.job).or_default();
                match event {
                    Event::Enqueued => {
                        (job.place, job.enqueued_nanos) = (Some(enqueued), line.nanos);
                        enqueued += 1;
                    }
                    Event::Refused => job.refused = true,
                    Event::Start => {
                        if job.starts.is_empty() {
                            order.push(line.job);
                        }
                        job.starts.push(line.pid);
                    }
                    Event::End => job.ends += 1,
                    Event::Outcome(outcome) => job.outcomes.push((outcome == "done", line.nanos)),
                    Event::Effect | Event::Fault | Event::Healed => {}
                }
            }
        }
    }
    let mut latest = None;
    let reorder = order.iter().filter(|job| {
        let place = jobs[job].place;
        let overtaken = place.is_some() && place < latest;
        latest = latest.max(place);
        overtaken
    });
    let reorder = reorder.count();
    let stuck_after = u64::try_from(stuck_after.as_nanos()).unwrap_or(u64::MAX);
    let bound = |job: &Job| healed.max(job.enqueued_nanos).saturating_add(stuck_after);
    let accepted = |job: &Job| job.outcomes.iter().filter(|(done, _)| *done).count();
    let of = |count: &dyn Fn(&Job) -> usize| jobs.values().map(count).sum::<usize>();
    Counts {
        lost: of(&|job| usize::from(job.place.is_some() && job.outcomes.is_empty())),
        phantom: of(&|job| match (job.place, job.refused) {
            (Some(_), _) => 0,
            (None, true) => job.starts.len().saturating_sub(1),
            (None, false) => job.starts.len(),
        }),
        dup_start: of(&|job| job.starts.len().saturating_sub(1)),
        unexplained: of(&|job| {
            job.starts
                .iter()
                .rev()
                .skip(1)
                .filter(|pid| !faults.contains(pid))
                .count()
        }),
        dup_accept: of(&|job| {
            accepted(job).saturating_sub(1) + usize::from(accepted(job) > 0 && job.ends == 0)
        }),
        reorder,
        stuck: of(&|job| {
            let ended = job.outcomes.iter().map(|(_, nanos)| *nanos).min();
            usize::from(job.place.is_some() && ended.is_none_or(|ended| ended > bound(job)))
        }),
        faults: faults.len(),
        jobs: enqueued,
    }
}

/// Reads, counts, prints one line and asserts.
///
/// # Panics
///
/// If something is not allowed, or the ledger cannot be read.
pub fn check(path: impl AsRef<Path>, bounds: Bounds, seed: u64) -> Counts {
    let lines = read(path).expect("the ledger can be read");
    let counts = count(&lines, bounds.stuck_after);
    let ok = counts.lost == 0
        && counts.phantom == 0
        && counts.dup_start <= bounds.dup_start
        && counts.unexplained == 0
        && counts.dup_accept == 0
        && counts.reorder <= bounds.reorder
        && counts.stuck == 0;
    let verdict = if ok { "ok" } else { "FAILED" };
    println!(
        "{counts} bounds: DUP_START {} REORDER {} {verdict} seed={seed}",
        bounds.dup_start, bounds.reorder
    );
    assert!(
        ok,
        "the ledger shows what is not allowed: {counts} seed={seed}"
    );
    counts
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lost,
            phantom,
            dup_start,
            unexplained,
            dup_accept,
            reorder,
            stuck,
            faults,
            jobs,
        } = self;
        write!(
            f,
            "jobs {jobs} faults {faults}: LOST {lost} PHANTOM {phantom} DUP_START {dup_start} \
                (unexplained {unexplained}) \
             DUP_ACCEPT {dup_accept} REORDER {reorder} STUCK {stuck}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(job: u64, pid: u32, nanos: u64, event: Event) -> Line {
        Line {
            job,
            attempt: 1,
            token: 1,
            pid,
            worker: 1,
            nanos,
            event,
        }
    }

    fn done() -> Event {
        Event::Outcome("done".to_owned())
    }

    fn healthy() -> Vec<Line> {
        let job = |job| {
            [
                Event::Enqueued,
                Event::Start,
                Event::Effect,
                Event::End,
                done(),
            ]
            .map(|event| line(job, 7, job, event))
        };
        [job(1), job(2), job(3)].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ledger = Ledger::open(file.path()).unwrap();
        ledger.job(5, &Event::Enqueued).unwrap();
        ledger.attempt(5, 2, 77, 3, &Event::Start).unwrap();
        ledger.fault(42).unwrap();
        ledger
            .job(5, &Event::Outcome("timed out".replace(' ', "-")))
            .unwrap();
        let lines = read(file.path()).unwrap();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            (
                lines[1].job,
                lines[1].attempt,
                lines[1].token,
                lines[1].worker
            ),
            (5, 2, 77, 3)
        );
        assert_eq!((lines[2].pid, &lines[2].event), (42, &Event::Fault));
        assert_eq!(lines[3].event, Event::Outcome("timed-out".to_owned()));
        assert_eq!(parse("1 2 three"), None);
    }

    #[test]
    fn a_healthy_ledger_counts_nothing() {
        let counts = count(&healthy(), Duration::from_secs(1));
        assert_eq!(
            (counts.jobs, counts.lost, counts.phantom, counts.dup_start),
            (3, 0, 0, 0)
        );
        assert_eq!(
            (
                counts.dup_accept,
                counts.reorder,
                counts.stuck,
                counts.unexplained
            ),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn each_wrong_is_counted_as_what_it_is() {
        let with =
            |lines: &[Line]| count(&[&healthy()[..], lines].concat(), Duration::from_nanos(10));
        let lost = with(&[line(4, 7, 4, Event::Enqueued)]);
        assert_eq!((lost.lost, lost.stuck), (1, 1));
        assert_eq!(with(&[line(4, 7, 4, Event::Start)]).phantom, 1);
        assert_eq!(
            with(&[line(4, 7, 4, Event::Refused), line(4, 7, 4, Event::Start)]).phantom,
            0
        );
        assert_eq!(
            with(&[
                line(4, 7, 4, Event::Refused),
                line(4, 7, 4, Event::Start),
                line(4, 7, 5, Event::Start)
            ])
            .phantom,
            1
        );
        let twice = with(&[line(3, 8, 4, Event::Start)]);
        assert_eq!((twice.dup_start, twice.unexplained), (1, 1));
        let hit = with(&[line(0, 7, 4, Event::Fault), line(3, 8, 4, Event::Start)]);
        assert_eq!((hit.dup_start, hit.unexplained), (1, 0));
        assert_eq!(with(&[line(3, 7, 4, done())]).dup_accept, 1);
        assert_eq!(
            with(&[line(4, 7, 4, Event::Enqueued), line(4, 7, 4, done())]).dup_accept,
            1,
            "no job ended"
        );
        let late = [
            line(4, 7, 4, Event::Enqueued),
            line(5, 7, 4, Event::Enqueued),
        ];
        let swapped = [
            line(5, 7, 5, Event::Start),
            line(4, 7, 5, Event::Start),
            line(4, 7, 6, done()),
            line(5, 7, 99, done()),
        ];
        let swapped = with(&[&late[..], &swapped].concat());
        assert_eq!((swapped.reorder, swapped.stuck), (1, 1));
    }
}
