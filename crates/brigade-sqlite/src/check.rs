//! What `check` finds in a job file: things that a person should look at.
//!
//! Findings about jobs and queues come from one transaction ([`Store::check`]); those about the
//! file system, its rights and its room from outside of the database ([`storage`]). A file that was
//! moved or replaced cannot be read any more, which is a finding too ([`lost_file`]). Nothing here
//! changes anything.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::params;

use super::config::{Safety, SqliteConfig};
use super::store::Store;
use crate::error::Error;
use crate::finding::{Finding, Level};

/// Filesystems of other hosts: SQLite's write-ahead log needs memory that all processes share
/// (magic numbers of statfs(2)).
const REMOTE: [(u64, &str); 6] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];
/// Filesystems in memory.
const VOLATILE: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];
/// Below this pushes will soon fail.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Several times the size at which a log is merged into the file: a reader never ends.
const LOG_BYTES_MAX: u64 = 4 * super::file::LOG_BYTES_MAX;
/// Lines of SQLite's own check that are shown.
const FAULTS_MAX: usize = 10;

impl Store<'_> {
    pub(super) fn check(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let faults = self.rows("check the file", "PRAGMA quick_check", &[], |row| {
            row.get::<_, String>(0)
        })?;
        for fault in faults
            .iter()
            .filter(|fault| *fault != "ok")
            .take(FAULTS_MAX)
        {
            let advice =
                "stop all processes, restore a copy, or recover it with sqlite3's .recover";
            findings.push(Finding::new(
                Level::Problem,
                format!("the file is damaged: {fault}"),
                advice,
            ));
        }
        let sql = "SELECT queue, count(*) FROM brigade_jobs WHERE state IN (0, 1, 2, 4) GROUP BY \
            queue ORDER BY queue";
        let served = self.queues_with_consumers()?;
        for (queue, jobs) in self.rows("count waiting jobs", sql, &[], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))
        })? {
            if self.settings(&queue)?.paused {
                findings.push(Finding::new(
                    Level::Warning,
                    format!("queue {queue} is paused, and {jobs} jobs wait in it"),
                    "resume it",
                ));
            } else if !served.contains(&queue) {
                findings.push(Finding::without_consumers(&queue, jobs));
            }
        }
        let sql = "SELECT queue, count(*) FROM brigade_jobs WHERE state = 6 GROUP BY queue ORDER \
            BY queue";
        for (queue, jobs) in self.rows("count dead letters", sql, &[], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))
        })? {
            findings.push(Finding::dead_letters(&queue, jobs));
        }
        findings.extend(self.clock_that_was_set_back()?);
        Ok(findings)
    }

    fn clock_that_was_set_back(&self) -> Result<Option<Finding>, Error> {
        let sql = "SELECT count(*) FROM brigade_jobs WHERE pushed_at > ?1";
        let ahead = self
            .row(
                "look at the clock",
                sql,
                params![self.now.wall + 60_000],
                |row| row.get::<_, u64>(0),
            )?
            .unwrap_or(0);
        Ok((ahead > 0).then(|| {
            Finding::new(
                Level::Warning,
                format!("{ahead} jobs were pushed in the future: the clock was set back"),
                "scheduled jobs come later than they should; let NTP keep the clock",
            )
        }))
    }
}

/// The file of this very connection is not where it was.
pub(super) fn lost_file(error: &Error) -> Finding {
    Finding::new(
        Level::Problem,
        error.to_string(),
        "stop this process, put the file back where it was, and start it again",
    )
}

/// Findings about the file system and the settings of the file.
pub(super) fn storage(config: &SqliteConfig, watching: bool) -> Vec<Finding> {
    let Some(path) = &config.path else {
        return vec![Finding::new(
            Level::Warning,
            "jobs are kept in memory and end with this process",
            "name a file: sqlite:jobs.db",
        )];
    };
    let mut findings = Vec::new();
    if config.safety == Safety::Normal {
        let what = "power loss takes the last transactions (synchronous=normal)";
        findings.push(Finding::new(
            Level::Note,
            what,
            "leave the option out where each acknowledged job matters",
        ));
    }
    if !watching {
        let what = "the file cannot be watched, so idle consumers look only once a second";
        findings.push(Finding::new(
            Level::Warning,
            what,
            "raise fs.inotify.max_user_instances, or use a local filesystem",
        ));
    }
    findings.extend(open_to_others(path));
    findings.extend(filesystem(path));
    findings.extend(full_disk(path));
    findings.extend(long_log(path));
    findings
}

/// Files of the database that other users may read.
fn open_to_others(path: &Path) -> Vec<Finding> {
    let files = [
        path.to_owned(),
        super::config::log_of(path),
        super::config::sibling(path, "-shm"),
    ];
    let mode = |file: &PathBuf| fs::metadata(file).map_or(0, |it| it.permissions().mode() & 0o777);
    let open = files.iter().filter(|file| mode(file) & 0o077 != 0);
    open.map(|file| {
        let what = format!(
            "{} is open to other users (mode {:03o}): jobs and their payloads are there",
            file.display(),
            mode(file)
        );
        Finding::new(
            Level::Warning,
            what,
            "chmod 600, unless several users are to share it",
        )
    })
    .collect()
}

/// A filesystem that loses jobs: of another host, or in memory.
fn filesystem(path: &Path) -> Option<Finding> {
    let stat = rustix::fs::statfs(path).ok()?;
    let kind = u64::from_ne_bytes(stat.f_type.to_ne_bytes()) & 0xffff_ffff;
    let name_in = |known: &[(u64, &'static str)]| {
        let found = known.iter().find(|(magic, _)| *magic == kind);
        found.map(|(_, name)| *name)
    };
    if let Some(name) = name_in(&REMOTE) {
        let what = format!(
            "the file lies on a network filesystem ({name}), where several hosts would damage it"
        );
        return Some(Finding::new(
            Level::Problem,
            what,
            "put it on a local disk; for several hosts use redis:// or amqp://",
        ));
    }
    name_in(&VOLATILE).map(|name| {
        Finding::new(
            Level::Warning,
            format!("the file lies in memory ({name}) and is gone after a reboot"),
            "put it on a disk",
        )
    })
}

fn full_disk(path: &Path) -> Option<Finding> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    (free < FREE_BYTES_MIN).then(|| {
        Finding::new(
            Level::Problem,
            format!("the disk has {} MiB left", free >> 20),
            "make room: when it is full, pushes are refused",
        )
    })
}

fn long_log(path: &Path) -> Option<Finding> {
    let log = fs::metadata(super::config::log_of(path)).map_or(0, |log| log.len());
    (log > LOG_BYTES_MAX).then(|| {
        let what = format!(
            "the write-ahead log has {} MiB: some process holds a read transaction open",
            log >> 20
        );
        Finding::new(Level::Warning, what, "find and end it (fuser, lsof)")
    })
}
