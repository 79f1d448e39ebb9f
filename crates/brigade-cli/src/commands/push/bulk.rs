//! Lines of JSON from standard input. At most one batch is read and not yet pushed; a line is at
//! most as long as a payload.

use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Stdin, StdinLock, stdin};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use brigade::{Broker, Job, PushOutcome, Queue};
use indicatif::HumanCount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use serde_json::value::RawValue;

use super::options::{PushOptions, job_of};
use crate::escape::escape;
use crate::show::{self, note};
use crate::terminal;

/// Jobs in one batch: enough that the broker's sync is a small part of it.
const BATCH_JOBS_MAX: usize = 1_000;
/// Bytes in one batch, unless a single line has more.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// What was pushed so far.
#[derive(Default)]
struct Count {
    pushed: u64,
    duplicates: u64,
}

pub(super) async fn push(
    broker: &Broker,
    queue: &Queue,
    options: &PushOptions,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if stdin().is_terminal() {
        note!("reading JSON from the terminal, one value per line; Ctrl-D ends");
    }
    let stdin = stdin();
    let mut lines = Lines::new(&stdin, broker.capabilities().payload_bytes_max);
    let mut count = Count::default();
    let bar = terminal::bar("{spinner} {human_pos} jobs pushed");
    loop {
        let first = lines.number + 1;
        let batch = match lines.batch(queue, options) {
            Ok(batch) if batch.is_empty() => break,
            Ok(batch) => batch,
            Err(error) => bail!("{error:#}; {}", count.describe(first, lines.number)),
        };
        let result = broker.push_many(batch).await;
        let pushed = result
            .with_context(|| format!("could not push; {}", count.describe(first, lines.number)))?;
        let duplicates = pushed
            .iter()
            .filter(|pushed| matches!(pushed, PushOutcome::Duplicate(_)))
            .count() as u64;
        count.duplicates += duplicates;
        count.pushed += pushed.len() as u64 - duplicates;
        bar.set_position(count.pushed);
    }
    drop(bar);
    if json {
        show::json(&json!({ "pushed": count.pushed, "duplicates": count.duplicates }))?;
    } else {
        if count.duplicates > 0 {
            note!(
                "{} more were not pushed, there is a job with this unique key",
                HumanCount(count.duplicates)
            );
        }
        show::line(&count.pushed.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Count {
    /// For an error in a batch.
    fn describe(&self, first: u64, last: u64) -> String {
        let lines = if first == last {
            format!("line {first}")
        } else {
            format!("lines {first} to {last}")
        };
        match self.pushed {
            0 => format!("nothing was pushed of {lines}"),
            1 => format!("nothing was pushed of {lines}, 1 job was pushed before"),
            pushed => format!(
                "nothing was pushed of {lines}, {} jobs were pushed before",
                HumanCount(pushed)
            ),
        }
    }
}

struct Lines<'a> {
    reader: BufReader<StdinLock<'a>>,
    stdin: &'a Stdin,
    /// Of the line that was read last, from 1.
    number: u64,
    line_bytes_max: usize,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    fn new(stdin: &'a Stdin, line_bytes_max: usize) -> Self {
        Self {
            reader: BufReader::with_capacity(1 << 16, stdin.lock()),
            stdin,
            number: 0,
            line_bytes_max,
            line: Vec::new(),
        }
    }

    /// The jobs of the next lines, none at the end of the input. Waits for the first only.
    fn batch(&mut self, queue: &Queue, options: &PushOptions) -> anyhow::Result<Vec<Job>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_JOBS_MAX
            && bytes < BATCH_BYTES_MAX
            && (batch.is_empty() || self.is_ready()?)
        {
            if !self.read()? {
                break;
            }
            let number = self.number;
            let text = str::from_utf8(&self.line)
                .with_context(|| format!("line {number} is not UTF-8 text"))?
                .trim();
            if text.is_empty() {
                continue;
            }
            let payload: &RawValue = serde_json::from_str(text).map_err(|error| {
                let start: String = text.chars().take(40).collect();
                anyhow::anyhow!("line {number} is not JSON ({error}): {}", escape(&start))
            })?;
            batch.push(job_of(queue, payload, options)?);
            bytes += text.len();
        }
        Ok(batch)
    }

    /// Reads a line; `false` at the end.
    fn read(&mut self) -> anyhow::Result<bool> {
        self.line.clear();
        // Two more: its line break, and one to see that it is too long.
        let max = self.line_bytes_max as u64 + 2;
        let count = self
            .reader
            .by_ref()
            .take(max)
            .read_until(b'\n', &mut self.line)
            .context("cannot read standard input")?;
        if count == 0 {
            return Ok(false);
        }
        self.number += 1;
        let length = self.line.trim_ascii().len();
        if length > self.line_bytes_max {
            bail!(
                "line {} is longer than the {} bytes that a payload may have",
                self.number,
                self.line_bytes_max
            );
        }
        Ok(true)
    }

    /// Whether reading on will not wait: the jobs of a slow producer are not held back until a
    /// batch is full.
    fn is_ready(&self) -> io::Result<bool> {
        if self.reader.buffer().contains(&b'\n') {
            return Ok(true);
        }
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(poll(&mut [PollFd::new(self.stdin, PollFlags::IN)], Some(&now))? > 0)
    }
}
