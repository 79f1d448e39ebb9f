//! Writes the facts on standard output: for people as they come, or as one JSON document at the
//! end.

use std::io::{self, Write, stdout};
use std::time::Duration;

use crate::Result;
use crate::facts::{Digested, Ending, Facts, FileDigest, Problem, Problems, Trial};
use crate::screen::{Progress, Screen, bytes, count, table};

/// Paths that are named; more are only counted.
const NAMED_MAX: usize = 10;
/// Lines of standard error that are shown of one ending.
const STDERR_LINES_MAX: usize = 4;

pub(crate) struct Report {
    json: bool,
    list: bool,
    screen: Screen,
}

impl Report {
    pub(crate) fn new(json: bool, list: bool) -> Self {
        Self {
            json,
            list,
            screen: Screen::of_stdout(),
        }
    }

    /// One file of the list.
    pub(crate) fn file(
        &self,
        digested: &mut Digested,
        progress: &mut Progress,
        file: FileDigest,
    ) -> io::Result<()> {
        match (self.list, self.json) {
            (false, _) => {}
            (true, true) => digested.list.push(file),
            (true, false) => {
                progress.hide();
                writeln!(stdout(), "{}  {}  {}", file.md5, file.sha256, file.path)?;
            }
        }
        Ok(())
    }

    /// The first half.
    pub(crate) fn digested(&self, digested: &Digested) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let (out, files) = (&mut stdout().lock(), count(digested.files));
        writeln!(
            out,
            "{} (MD5 and SHA-256): {files} files under {}",
            self.screen.bold("Digested"),
            digested.directory
        )?;
        let took = Duration::from_secs_f64(digested.seconds);
        writeln!(
            out,
            "{} in {took:.1?}, {}/s, {} files/s, on {} workers",
            bytes(digested.bytes),
            bytes(per_second(digested.bytes, took)),
            count(per_second(digested.files, took)),
            digested.workers.len()
        )?;
        self.problems(out, &digested.unreadable, "could not be read")?;
        self.problems(out, &digested.lost, "lost their call")?;
        let rows = digested.workers.iter().map(|share| {
            let busy = 100.0 * share.busy.as_secs_f64() / digested.seconds;
            [
                share.worker.to_string(),
                pid(share.pid),
                count(share.files),
                bytes(share.bytes),
                format!("{busy:.0} %"),
            ]
        });
        let header = ["worker", "pid", "files", "data", "busy"];
        writeln!(out, "{}\n", table(header, rows.collect()))
    }

    fn problems(&self, out: &mut impl Write, problems: &Problems, what: &str) -> io::Result<()> {
        if problems.count == 0 {
            return Ok(());
        }
        let files = format!("{} files", count(problems.count));
        writeln!(out, "{} {what}:", self.screen.verdict(false, &files))?;
        for Problem { path, reason } in problems.named.iter().take(NAMED_MAX) {
            writeln!(out, "  {path}: {reason}")?;
        }
        let more = problems.count.saturating_sub(NAMED_MAX as u64);
        if more > 0 {
            writeln!(out, "  and {} more", count(more))?;
        }
        Ok(())
    }

    pub(crate) fn trial_begins(&self, good_calls: u64) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let title = self.screen.bold("Four calls that would end a program");
        let good = count(good_calls);
        writeln!(stdout(), "{title}, among {good} good ones:\n")
    }

    /// The second half.
    pub(crate) fn tried(&self, trial: &Trial) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let out = &mut stdout().lock();
        for ending in &trial.endings {
            self.ending(out, ending)?;
        }
        let good = format!("{} of {}", count(trial.good_right), count(trial.good_made));
        let good = self
            .screen
            .verdict(trial.good_right == trial.good_made, &good);
        let took = Duration::from_secs_f64(trial.seconds);
        writeln!(
            out,
            "{good} good calls gave the right value, in {took:.1?}."
        )?;
        let is_ready = |state: &str| matches!(state, "idle" | "busy");
        let ready = trial.workers.iter().filter(|row| is_ready(&row.state));
        let whole = if trial.is_whole {
            "The pool is whole again"
        } else {
            "The pool is not whole"
        };
        writeln!(
            out,
            "{}: {} of {} workers are ready.",
            self.screen.verdict(trial.is_whole, whole),
            ready.count(),
            trial.workers_wanted
        )?;
        let rows = trial.workers.iter().map(|row| {
            let age = Duration::from_secs_f64(row.age_seconds);
            [
                row.worker.to_string(),
                pid(row.pid),
                count(row.done),
                format!("{age:.1?}"),
                row.state.clone(),
            ]
        });
        let header = ["worker", "pid", "calls done", "age", "state"];
        writeln!(out, "{}", table(header, rows.collect()))
    }

    /// How a provoked call ended, and what it cost.
    fn ending(&self, out: &mut impl Write, ending: &Ending) -> io::Result<()> {
        let name = self.screen.bold(ending.provoked);
        let Some(report) = &ending.report else {
            let text = self.screen.verdict(false, &ending.text);
            return writeln!(out, "{name}: {text}\n");
        };
        let outcome = self.screen.verdict(ending.is_expected, ending.outcome);
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
        writeln!(
            out,
            "\n  worker {}, pid {}, call {}, attempt {}",
            report.worker, report.pid, report.call, report.attempt
        )?;
        let cost = &report.cost;
        writeln!(
            out,
            "  ran {:.1?}; its worker used {:.1?} of CPU and {} of memory",
            cost.wall,
            cost.cpu.unwrap_or_default(),
            bytes(cost.memory_peak.unwrap_or_default())
        )?;
        let is_telling = |line: &&str| {
            !line.trim().is_empty()
                && !line.starts_with("stack backtrace:")
                && !line.starts_with("note: ")
        };
        let lines: Vec<&str> = report.stderr.lines().filter(is_telling).collect();
        for line in &lines[lines.len().saturating_sub(STDERR_LINES_MAX)..] {
            writeln!(out, "  {}", self.screen.dim(&format!("stderr: {line}")))?;
        }
        writeln!(out)
    }

    pub(crate) fn end(&self, facts: &Facts) -> Result<()> {
        if self.json {
            let text = serde_json::to_string_pretty(facts)?;
            writeln!(stdout(), "{text}")?;
        }
        Ok(())
    }
}

fn pid(pid: Option<u32>) -> String {
    pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people"
)]
fn per_second(amount: u64, took: Duration) -> u64 {
    (amount as f64 / took.as_secs_f64().max(1e-6)) as u64
}
