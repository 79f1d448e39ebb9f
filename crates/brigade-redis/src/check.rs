//! What `check` finds: settings of the server that lose jobs, commands that its user may not use,
//! clocks that differ, and queues whose jobs nothing takes.
//!
//! A command that is forbidden is a finding, never an error: jobs run without it. Nothing here
//! changes anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Value, cmd};

use super::blockers::ASKED_WITHIN;
use super::client::RedisClient;
use super::keys::key;
use crate::error::Error;
use crate::finding::{Finding, Level};
use crate::job::JobState;
use crate::store::QueueCounts;

/// More than a lease's margin.
const CLOCK_APART_MAX: Duration = Duration::from_secs(5);

impl RedisClient {
    /// What of the server's settings, and of its queues, endangers jobs or keeps them waiting.
    pub(super) async fn check(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let mut forbidden = Vec::new();
        let (persistence, memory, replication) = (
            self.facts("persistence", &mut forbidden).await,
            self.facts("memory", &mut forbidden).await,
            self.facts("replication", &mut forbidden).await,
        );
        let time: (u64, u64) = self.ask("check the server", &cmd("TIME")).await?;
        if !forbidden.is_empty() {
            let what = "INFO may not be used here: whether the server keeps a log, is a primary, \
                and what it does when its memory is full is not known";
            findings.push(Finding::new(
                Level::Warning,
                what.to_owned(),
                "give the user +info, or look at these yourself",
            ));
        }
        self.check_client(&mut findings).await;
        check_memory(&memory, &mut findings);
        self.check_log(&persistence, &mut findings).await;
        if !replication.is_empty() && fact(&replication, "role") != "master" {
            findings.push(Finding::new(
                Level::Problem,
                "this server is a replica".to_owned(),
                "connect to the primary, or by Sentinel",
            ));
        }
        check_clock(time, &mut findings);
        for counts in self.counts(&[]).await? {
            self.check_queue(&counts, &mut findings).await?;
        }
        Ok(findings)
    }

    /// Whether what was acknowledged survives a crash of the server. `persistence` is empty where
    /// INFO may not be used.
    async fn check_log(&self, persistence: &str, findings: &mut Vec<Finding>) {
        if persistence.is_empty() {
            return;
        }
        if fact(persistence, "aof_enabled") != "1" {
            let what = "the server keeps no log (appendonly no): a crash loses the jobs since its \
                last snapshot, or all";
            findings.push(Finding::new(
                Level::Problem,
                what.to_owned(),
                "set appendonly yes, and appendfsync always where each acknowledged job matters",
            ));
            return;
        }
        let fsync = self
            .ask::<Vec<String>>(
                "check the server",
                cmd("CONFIG").arg("GET").arg("appendfsync"),
            )
            .await;
        if fsync.is_err() {
            let what = "CONFIG GET may not be used here: whether the server writes its log for \
                each job (appendfsync always) is not known";
            findings.push(Finding::new(
                Level::Warning,
                what.to_owned(),
                "give the user +config|get, or look at it yourself",
            ));
        }
        let fsync = fsync.unwrap_or_default();
        if fsync.get(1).is_some_and(|when| when != "always") {
            let what = "the server writes its log once a second or less: a crash loses about a \
                second of acknowledged jobs";
            findings.push(Finding::new(
                Level::Warning,
                what.to_owned(),
                "set appendfsync always where each acknowledged job matters",
            ));
        }
    }

    /// A part of INFO; nothing where that may not be used.
    async fn facts(&self, part: &str, forbidden: &mut Vec<Error>) -> String {
        self.ask("check the server", cmd("INFO").arg(part))
            .await
            .unwrap_or_else(|error| {
                forbidden.push(error);
                String::new()
            })
    }

    async fn check_client(&self, findings: &mut Vec<Finding>) {
        if self
            .ask::<Value>("check the server", cmd("CLIENT").arg("TRACKINGINFO"))
            .await
            .is_err()
        {
            let what =
                "CLIENT may not be used here, by which the server notifies consumers of new jobs: \
                    idle ones look every 2 s instead"
                    .to_owned();
            findings.push(Finding::new(
                Level::Warning,
                what,
                "give the user +client|tracking and +client|trackinginfo",
            ));
        }
    }

    async fn check_queue(
        &self,
        counts: &QueueCounts,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let QueueCounts {
            queue,
            paused,
            jobs,
            ..
        } = counts;
        let of = |states: &[JobState]| {
            jobs.iter()
                .filter(|(state, _)| states.contains(state))
                .map(|(_, count)| count)
                .sum::<u64>()
        };
        let waiting = of(&[
            JobState::Ready,
            JobState::Scheduled,
            JobState::Blocked,
            JobState::Retrying,
        ]);
        if waiting > 0 && *paused {
            findings.push(Finding::new(
                Level::Warning,
                format!("queue {queue} is paused, and {waiting} jobs wait in it"),
                "resume it",
            ));
        } else if waiting > 0 && of(&[JobState::Leased]) == 0 {
            let (since, _): (u64, u64) = self.ask("ask for the time", &cmd("TIME")).await?;
            // As `why.lua` counts them.
            let moved = super::arguments::millis(self.clock_moved().0);
            let correction = self.times.correction_at(key(queue, "").as_bytes()).await;
            let since = (since.saturating_sub(ASKED_WITHIN.as_secs()) * 1000)
                .saturating_add(moved)
                .saturating_add_signed(correction);
            let asked: u64 = self
                .ask(
                    "count workers",
                    cmd("ZCOUNT")
                        .arg(key(queue, "consumers"))
                        .arg(since)
                        .arg("+inf"),
                )
                .await?;
            if asked == 0 {
                findings.push(Finding::without_consumers(queue, waiting));
            }
        }
        let dead = of(&[JobState::Dead]);
        if dead > 0 {
            findings.push(Finding::dead_letters(queue, dead));
        }
        Ok(())
    }
}

/// The value of a line of INFO; empty if it has none.
fn fact<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
}

/// Whether jobs can vanish, or the host run out, when the server's memory is full.
fn check_memory(memory: &str, findings: &mut Vec<Finding>) {
    let policy = fact(memory, "maxmemory_policy");
    if !memory.is_empty() && policy != "noeviction" {
        let what = format!(
            "the server removes keys when its memory is full (maxmemory-policy {policy}): jobs \
                vanish without a trace"
        );
        findings.push(Finding::new(
            Level::Problem,
            what,
            "set maxmemory-policy noeviction",
        ));
    }
    if fact(memory, "maxmemory") == "0" {
        findings.push(Finding::new(
            Level::Note,
            "the server has no memory limit (maxmemory 0)".to_owned(),
            "set one, so that pushes are refused before the host runs out",
        ));
    }
}

/// The server's clock, as TIME gives it, compared to this host's.
fn check_clock((seconds, micros): (u64, u64), findings: &mut Vec<Finding>) {
    let server = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
    let own = SystemTime::now();
    let apart = own.duration_since(server).unwrap_or_else(|e| e.duration());
    if apart > CLOCK_APART_MAX {
        let what = format!(
            "the server's clock and this host's are {} s apart",
            apart.as_secs()
        );
        findings.push(Finding::new(
            Level::Warning,
            what,
            "the server's counts; let NTP keep both",
        ));
    }
}
