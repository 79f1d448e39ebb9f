//! Room on the disk: what is left at the end is kept for jobs that run.
//!
//! A push needs room, but so does an ack: it is appended to the log before it is merged into the
//! file. So pushes are refused while there is still some. What the log holds may make the file grow
//! by as much when it is merged, so that much must be free on top of the reserve.
//!
//! This keeps the room from our own pushes only. When others fill the disk to its last byte, leases
//! and acks fail too, until there is room.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// Kept for what runs, or an eighth of a smaller disk.
const RESERVE_BYTES: u64 = 4 << 20;
/// With this much left, no closer look is needed.
const PLENTY_BYTES: u64 = 256 << 20;

pub(super) struct DiskReserve {
    /// `None` for a database in memory.
    path: Option<PathBuf>,
}

impl DiskReserve {
    pub(super) fn of(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
        }
    }

    /// Whether pushes must be refused now. Merges the log before that, if it is what takes the
    /// room. Must be called outside of a transaction.
    pub(super) fn is_tight(&self, connection: &Connection) -> bool {
        let Some(path) = &self.path else { return false };
        match DiskSpace::on_disk_of(path) {
            Some(left) if left.is_little(connection) => {
                // It is rarely worth a merge: not again for a log that was just merged.
                if left.log > left.reserve / 4 {
                    connection
                        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
                        .ok();
                }
                DiskSpace::on_disk_of(path).is_some_and(|left| left.is_little(connection))
            }
            _ => false,
        }
    }
}

/// In bytes.
struct DiskSpace {
    free: u64,
    reserve: u64,
    /// Size of the log.
    log: u64,
}

impl DiskSpace {
    /// `None` if there is plenty, or if it cannot be read.
    fn on_disk_of(path: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(path).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= PLENTY_BYTES {
            return None;
        }
        let reserve = RESERVE_BYTES.min(stat.f_blocks.saturating_mul(stat.f_frsize) / 8);
        let log = std::fs::metadata(super::config::log_of(path)).map_or(0, |log| log.len());
        Some(Self { free, reserve, log })
    }

    fn is_little(&self, connection: &Connection) -> bool {
        if self.free >= self.reserve + self.log {
            return false;
        }
        // What fits into the free pages of the file needs room in the log only, and only until that
        // is merged.
        let pages = |pragma: &str| {
            connection
                .query_row(pragma, [], |row| row.get::<_, u32>(0))
                .unwrap_or(0)
        };
        let unused =
            u64::from(pages("PRAGMA freelist_count")) * u64::from(pages("PRAGMA page_size"));
        unused < self.log + self.reserve / 8 || self.free < self.reserve / 2
    }
}
