//! [`WatchedFiles`]: files that the server reads again at SIGHUP, and within a second after they
//! changed.

use std::fs;
use std::future::pending;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::show::note;

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Files, as they were at the last look. Make it before the files are read, so that it sees a
/// change in between.
#[derive(Debug)]
pub(super) struct WatchedFiles {
    paths: Vec<PathBuf>,
    stamps: Vec<Option<Stamp>>,
    hangups: Option<Signal>,
}

/// Changes whenever the file does.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            file: (data.dev(), data.ino()),
            bytes: data.size(),
            // It also changes when the permissions do, which the modification time does not.
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

impl WatchedFiles {
    /// These files. From now on SIGHUP does not end this process.
    pub(super) fn new(paths: impl Into<Vec<PathBuf>>) -> Self {
        let paths = paths.into();
        Self {
            stamps: stamps(&paths),
            paths,
            hangups: hangups(),
        }
    }

    /// Waits until SIGHUP, or until one of the files has changed.
    pub(super) async fn changed(&mut self) {
        loop {
            let is_asked = tokio::select! {
                () = next(&mut self.hangups) => true,
                () = sleep(LOOK_EVERY) => false,
            };
            // Before the files are read, so that the next look sees a change in between.
            let stamps = stamps(&self.paths);
            if std::mem::replace(&mut self.stamps, stamps) != self.stamps || is_asked {
                return;
            }
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| Stamp::of(path)).collect()
}

/// SIGHUP, which no longer ends this process.
pub(super) fn hangups() -> Option<Signal> {
    signal(SignalKind::hangup())
        .inspect_err(|error| note!("cannot listen for SIGHUP: {error}"))
        .ok()
}

async fn next(hangups: &mut Option<Signal>) {
    match hangups {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}
