//! What the demo found out, and how it is told: to people as it comes, to programs as one JSON
//! document at the end.

use std::collections::BTreeMap;
use std::io::{self, Write as _, stdout};
use std::path::Path;
use std::time::Duration;

use brigade::{AttemptReport, CallError, WorkerInfo};
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use serde::Serialize;

use crate::terminal::Terminal;

/// Paths that are named; more are only counted.
const NAMED_MAX: usize = 10;
/// Paths that the JSON document names.
const NAMED_JSON_MAX: usize = 1_000;
/// Lines of standard error that are shown of one ending.
const STDERR_LINES_MAX: usize = 4;

/// The whole document.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) good: bool,
    digested: Digested,
    trial: Trial,
}

#[derive(Default, Serialize)]
pub(super) struct Digested {
    directory: String,
    pub(super) files: u64,
    pub(super) bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
    files_per_second: f64,
    unreadable: Problems,
    lost: Problems,
    workers: Vec<Share>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    list: Vec<FileDigest>,
    #[serde(skip)]
    pub(super) shares: BTreeMap<u32, Share>,
}

/// Files that have no digest.
#[derive(Default, Serialize)]
struct Problems {
    count: u64,
    named: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    path: String,
    reason: String,
}

/// What one worker did.
#[derive(Clone, Default, Serialize)]
pub(super) struct Share {
    worker: u32,
    pid: Option<u32>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    #[serde(rename = "busy_seconds", serialize_with = "seconds")]
    pub(super) busy: Duration,
}

#[derive(Serialize)]
pub(super) struct FileDigest {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) md5: String,
    pub(super) sha256: String,
}

#[derive(Serialize)]
pub(super) struct Trial {
    pub(super) good_made: u64,
    pub(super) good_right: u64,
    pub(super) seconds: f64,
    pub(super) endings: Vec<Ending>,
    pub(super) workers_wanted: usize,
    pub(super) is_whole: bool,
    pub(super) workers: Vec<WorkerRow>,
}

/// How a provoked call ended.
#[derive(Serialize)]
pub(super) struct Ending {
    provoked: &'static str,
    is_expected: bool,
    outcome: &'static str,
    text: String,
    report: Option<AttemptReport>,
}

#[derive(Serialize)]
pub(super) struct WorkerRow {
    worker: u32,
    pid: Option<u32>,
    state: String,
    done: u64,
    age_seconds: f64,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Report {
    pub(super) fn new(digested: Digested, trial: Trial) -> Self {
        let good = digested.lost.count == 0
            && trial.good_right == trial.good_made
            && trial.is_whole
            && trial.endings.iter().all(|ending| ending.is_expected);
        Self {
            good,
            digested,
            trial,
        }
    }
}

impl Digested {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_string_lossy().into_owned(),
            ..Self::default()
        }
    }

    pub(super) fn unreadable(&mut self, path: &Path, reason: String) {
        self.unreadable.add(path, reason);
    }

    /// A file that had no digest although nothing was wrong with it.
    pub(super) fn lost(&mut self, path: &Path, reason: String) {
        self.lost.add(path, reason);
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(super) fn finish(&mut self, took: Duration, workers: &[WorkerInfo]) {
        self.seconds = took.as_secs_f64();
        self.bytes_per_second = self.bytes as f64 / self.seconds;
        self.files_per_second = self.files as f64 / self.seconds;
        self.workers = workers
            .iter()
            .map(|info| Share {
                worker: info.id,
                pid: info.pid,
                ..self.shares.get(&info.id).cloned().unwrap_or_default()
            })
            .collect();
        self.list.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

impl Problems {
    fn add(&mut self, path: &Path, reason: String) {
        self.count += 1;
        if self.named.len() < NAMED_JSON_MAX {
            self.named.push(Problem {
                path: path.to_string_lossy().into_owned(),
                reason,
            });
        }
    }
}

impl Ending {
    pub(super) fn new(provoked: &'static str, error: &CallError, is_expected: bool) -> Self {
        Self {
            provoked,
            is_expected,
            outcome: error.outcome(),
            text: error.to_string(),
            report: error.report().cloned(),
        }
    }

    pub(super) fn survived(provoked: &'static str) -> Self {
        Self {
            provoked,
            is_expected: false,
            outcome: "done",
            text: "it returned as if nothing were wrong".to_owned(),
            report: None,
        }
    }
}

impl WorkerRow {
    pub(super) fn new(info: &WorkerInfo) -> Self {
        Self {
            worker: info.id,
            pid: info.pid,
            state: info.state.to_string(),
            done: info.done,
            age_seconds: info.age.as_secs_f64(),
        }
    }
}

/// Tells the facts on standard output.
pub(super) struct Writer {
    json: bool,
    list: bool,
    terminal: Terminal,
}

impl Writer {
    pub(super) fn new(json: bool, list: bool) -> Self {
        Self {
            json,
            list,
            terminal: Terminal::of_stdout(),
        }
    }

    /// One file of the list.
    pub(super) fn file(
        &self,
        digested: &mut Digested,
        bar: &ProgressBar,
        file: FileDigest,
    ) -> io::Result<()> {
        match (self.list, self.json) {
            (false, _) => Ok(()),
            (true, true) => {
                digested.list.push(file);
                Ok(())
            }
            (true, false) => {
                bar.suspend(|| writeln!(stdout(), "{}  {}  {}", file.md5, file.sha256, file.path))
            }
        }
    }

    pub(super) fn digested(&self, digested: &Digested) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let (out, files) = (&mut stdout().lock(), HumanCount(digested.files));
        let took = Duration::from_secs_f64(digested.seconds);
        writeln!(
            out,
            "{} (MD5 and SHA-256): {files} files under {}",
            self.terminal.bold("Digested"),
            digested.directory
        )?;
        let (data, data_rate) = (
            HumanBytes(digested.bytes),
            per_second(digested.bytes, took, HumanBytes),
        );
        let file_rate = per_second(digested.files, took, HumanCount);
        writeln!(
            out,
            "{data} in {took:.1?}, {data_rate}/s, {file_rate} files/s, on {} workers",
            digested.workers.len()
        )?;
        self.problems(out, &digested.unreadable, "could not be read")?;
        self.problems(out, &digested.lost, "lost their call")?;
        let rows = digested.workers.iter().map(|share| {
            let busy = format!(
                "{:.0} %",
                100.0 * share.busy.as_secs_f64() / digested.seconds
            );
            let (files, bytes) = (
                HumanCount(share.files).to_string(),
                HumanBytes(share.bytes).to_string(),
            );
            [share.worker.to_string(), pid(share.pid), files, bytes, busy]
        });
        writeln!(
            out,
            "{}\n",
            self.terminal
                .table(["worker", "pid", "files", "data", "busy"], 5, rows)
        )
    }

    fn problems(
        &self,
        out: &mut impl io::Write,
        problems: &Problems,
        what: &str,
    ) -> io::Result<()> {
        if problems.count == 0 {
            return Ok(());
        }
        writeln!(
            out,
            "{} {what}:",
            self.terminal
                .red(&format!("{} files", HumanCount(problems.count)))
        )?;
        for Problem { path, reason } in problems.named.iter().take(NAMED_MAX) {
            writeln!(out, "  {path}: {reason}")?;
        }
        let more = problems.count.saturating_sub(NAMED_MAX as u64);
        if more > 0 {
            writeln!(out, "  and {} more", HumanCount(more))?;
        }
        Ok(())
    }

    pub(super) fn trial_begins(&self, good_calls: u64) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let title = self.terminal.bold("Four calls that would end a program");
        writeln!(
            stdout(),
            "{title}, among {} good ones:\n",
            HumanCount(good_calls)
        )
    }

    pub(super) fn tried(&self, trial: &Trial) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let out = &mut stdout().lock();
        for ending in &trial.endings {
            self.ending(out, ending)?;
        }
        let good = format!(
            "{} of {}",
            HumanCount(trial.good_right),
            HumanCount(trial.good_made)
        );
        let took = Duration::from_secs_f64(trial.seconds);
        writeln!(
            out,
            "{} good calls gave the right value, in {took:.1?}.",
            self.verdict(trial.good_right == trial.good_made, &good)
        )?;
        let ready = trial
            .workers
            .iter()
            .filter(|worker| matches!(&*worker.state, "idle" | "busy"))
            .count();
        let whole = if trial.is_whole {
            "The pool is whole again"
        } else {
            "The pool is not whole"
        };
        writeln!(
            out,
            "{}: {ready} of {} workers are ready.",
            self.verdict(trial.is_whole, whole),
            trial.workers_wanted
        )?;
        let rows = trial.workers.iter().map(|worker| {
            let age = format!("{:.1?}", Duration::from_secs_f64(worker.age_seconds));
            [
                worker.worker.to_string(),
                pid(worker.pid),
                HumanCount(worker.done).to_string(),
                age,
                worker.state.clone(),
            ]
        });
        writeln!(
            out,
            "{}",
            self.terminal
                .table(["worker", "pid", "calls done", "age", "state"], 4, rows)
        )
    }

    /// The report as a small block.
    fn ending(&self, out: &mut impl io::Write, ending: &Ending) -> io::Result<()> {
        let name = self.terminal.bold(ending.provoked);
        let Some(report) = &ending.report else {
            return writeln!(out, "{name}: {}\n", self.verdict(false, &ending.text));
        };
        let outcome = self.verdict(ending.is_expected, ending.outcome);
        write!(out, "{name}: {outcome}")?;
        let ended = report.ended.to_string();
        if ended != ending.outcome {
            write!(out, ", {ended}")?;
        }
        match (report.step, report.exit) {
            // It names the signal.
            (Some(step), _) => write!(out, ", {step}")?,
            (None, Some(exit)) => write!(out, ", {exit}")?,
            (None, None) => {}
        }
        let (cost, peak) = (&report.cost, HumanBytes(report.cost.memory_peak));
        writeln!(
            out,
            "\n  worker {}, pid {}, call {}, attempt {}",
            report.worker, report.pid, report.call, report.attempt
        )?;
        writeln!(
            out,
            "  ran {:.1?}; its worker used {:.1?} of CPU and {peak} of memory",
            cost.wall,
            cost.cpu()
        )?;
        let is_telling = |line: &&str| {
            !line.trim().is_empty()
                && !line.starts_with("stack backtrace:")
                && !line.starts_with("note: ")
        };
        let lines: Vec<&str> = report.stderr.lines().filter(is_telling).collect();
        for line in &lines[lines.len().saturating_sub(STDERR_LINES_MAX)..] {
            writeln!(out, "  {}", self.terminal.dim(&format!("stderr: {line}")))?;
        }
        writeln!(out)
    }

    fn verdict(&self, is_good: bool, text: &str) -> String {
        if is_good {
            self.terminal.green(text)
        } else {
            self.terminal.red(text)
        }
    }

    pub(super) fn end(&self, report: &Report) -> io::Result<()> {
        if self.json {
            let mut out = stdout().lock();
            serde_json::to_writer_pretty(&mut out, report)?;
            writeln!(out)?;
        }
        Ok(())
    }
}

fn pid(pid: Option<u32>) -> String {
    pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}

/// A rate, shown as the amount is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people"
)]
fn per_second<D>(amount: u64, took: Duration, show: impl Fn(u64) -> D) -> D {
    show((amount as f64 / took.as_secs_f64().max(1e-6)) as u64)
}
