//! What only SQLite has: a file, and the programs that share it. What all stores have in common is
//! in `brigade-conformance`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]

mod file;
mod programs;
mod queues;
mod sweeps;

use brigade::Broker;

brigade::test_workers!();

/// A broker over a new SQLite file.
pub(crate) struct Subject {
    pub(crate) broker: Broker,
    pub(crate) url: String,
    _directory: tempfile::TempDir,
}

pub(crate) async fn subject() -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("jobs.db").display());
    Subject {
        broker: Broker::connect(&url).await.unwrap(),
        url,
        _directory: directory,
    }
}
