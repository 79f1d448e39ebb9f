//! Keys: jobs of one key run one at a time, in the order of their pushes.
//!
//! Of a key's unsettled jobs at most one is ready or leased; the others are held, or wait for a
//! time. It is the earliest one, except while a later one is leased already: a dead letter that is
//! retried is earlier than what ran meanwhile. So a key is looked at when a job of it ends, when
//! one is given back, and when one comes back from the dead letters.

use rusqlite::params;

use super::store::{Store, code};
use crate::error::Error;
use crate::job::JobState;

impl Store<'_> {
    /// Lets the earliest of a key's unsettled jobs go on, if it was held by its key and no other of
    /// them is leased.
    pub(super) fn release_key(&self, queue: &str, key: &str) -> Result<(), Error> {
        let sql = "UPDATE brigade_jobs SET state = 0, due = ?3 WHERE state = 2 AND parents_left = 0
                     AND id = (SELECT min(id) FROM brigade_jobs WHERE queue = ?1 AND key = ?2 AND \
                     state < 5)
                     AND NOT EXISTS (SELECT 1 FROM brigade_jobs WHERE queue = ?1 AND key = ?2 AND \
                     state = 3)";
        self.execute("release a key", sql, params![queue, key, self.now.wall])
            .map(drop)
    }

    /// Ready, or held by its key: for a job that comes back, or that waited for others.
    pub(super) fn make_ready(&self, id: i64) -> Result<(), Error> {
        self.enter(id, JobState::Ready, self.now.wall)?;
        let sql = "UPDATE brigade_jobs SET state = 2 WHERE id = ?1 AND key IS NOT NULL AND
                     (EXISTS (SELECT 1 FROM brigade_jobs AS other WHERE other.queue = \
                     brigade_jobs.queue AND other.key = brigade_jobs.key
                                AND other.state < 5 AND other.id < ?1)
                      OR EXISTS (SELECT 1 FROM brigade_jobs AS other WHERE other.queue = \
                      brigade_jobs.queue AND other.key = brigade_jobs.key
                                AND other.state = 3))";
        self.execute("hold a job by its key", sql, params![id])
            .map(drop)
    }

    /// Puts a job among those that may go on, before the later ones of its key, which were free to
    /// go while it was not there.
    pub(super) fn enter(&self, id: i64, state: JobState, due: i64) -> Result<(), Error> {
        let sql = "UPDATE brigade_jobs SET state = ?2, due = ?3, lease_until = NULL, holder = NULL \
            WHERE id = ?1 RETURNING queue, key";
        let read = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?))
        };
        let Some((queue, Some(key))) = self.row(
            "put a job into its queue",
            sql,
            params![id, code(state), due],
            read,
        )?
        else {
            return Ok(());
        };
        let sql = "UPDATE brigade_jobs SET state = 2 WHERE queue = ?1 AND key = ?2 AND state = 0 \
            AND id > ?3";
        self.execute("hold later jobs of a key", sql, params![queue, key, id])
            .map(drop)
    }
}
