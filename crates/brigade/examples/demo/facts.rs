//! What the demonstration found out: the JSON document, and what `report` writes for people.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use brigade::{AttemptReport, CallError, WorkerInfo};
use serde::Serialize;

/// Paths that the JSON document names.
const NAMED_JSON_MAX: usize = 1_000;
/// The whole document.
#[derive(Serialize)]
pub(crate) struct Facts {
    good: bool,
    digested: Digested,
    trial: Trial,
}

#[derive(Default, Serialize)]
pub(crate) struct Digested {
    pub(crate) directory: String,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    bytes_per_second: f64,
    files_per_second: f64,
    pub(crate) unreadable: Problems,
    pub(crate) lost: Problems,
    pub(crate) workers: Vec<Share>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) list: Vec<FileDigest>,
    #[serde(skip)]
    pub(crate) shares: BTreeMap<u32, Share>,
}

/// Files that have no digest.
#[derive(Default, Serialize)]
pub(crate) struct Problems {
    pub(crate) count: u64,
    pub(crate) named: Vec<Problem>,
}

#[derive(Serialize)]
pub(crate) struct Problem {
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// What one worker did.
#[derive(Clone, Default, Serialize)]
pub(crate) struct Share {
    pub(crate) worker: u32,
    pub(crate) pid: Option<u32>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    #[serde(rename = "busy_seconds", serialize_with = "seconds")]
    pub(crate) busy: Duration,
}

#[derive(Serialize)]
pub(crate) struct FileDigest {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) md5: String,
    pub(crate) sha256: String,
}

#[derive(Serialize)]
pub(crate) struct Trial {
    pub(crate) good_made: u64,
    pub(crate) good_right: u64,
    pub(crate) seconds: f64,
    pub(crate) endings: Vec<Ending>,
    pub(crate) workers_wanted: usize,
    pub(crate) is_whole: bool,
    pub(crate) workers: Vec<WorkerRow>,
}

/// How a provoked call ended.
#[derive(Serialize)]
pub(crate) struct Ending {
    pub(crate) provoked: &'static str,
    pub(crate) is_expected: bool,
    pub(crate) outcome: &'static str,
    pub(crate) text: String,
    pub(crate) report: Option<AttemptReport>,
}

#[derive(Serialize)]
pub(crate) struct WorkerRow {
    pub(crate) worker: u32,
    pub(crate) pid: Option<u32>,
    pub(crate) state: String,
    pub(crate) done: u64,
    pub(crate) age_seconds: f64,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Facts {
    pub(crate) fn new(digested: Digested, trial: Trial) -> Self {
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

    pub(crate) fn is_good(&self) -> bool {
        self.good
    }
}

impl Digested {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_string_lossy().into_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn unreadable(&mut self, path: &Path, reason: String) {
        self.unreadable.add(path, reason);
    }

    /// A file that had no digest although nothing was wrong with it.
    pub(crate) fn lost(&mut self, path: &Path, reason: String) {
        self.lost.add(path, reason);
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(crate) fn finish(&mut self, took: Duration, workers: &[WorkerInfo]) {
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
    pub(crate) fn new(provoked: &'static str, error: &CallError, is_expected: bool) -> Self {
        Self {
            provoked,
            is_expected,
            outcome: error.outcome(),
            text: error.to_string(),
            report: error.report().cloned(),
        }
    }

    pub(crate) fn survived(provoked: &'static str) -> Self {
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
    pub(crate) fn new(info: &WorkerInfo) -> Self {
        Self {
            worker: info.id,
            pid: info.pid,
            state: info.state.to_string(),
            done: info.done,
            age_seconds: info.age.as_secs_f64(),
        }
    }
}
