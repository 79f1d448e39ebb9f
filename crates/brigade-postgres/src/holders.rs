//! The processes that ask for jobs and hold leases, each a row with a number.
//!
//! A process of this host that has ended with all of its workers (`brigade_runtime::owner`) is
//! found by the next consumer here, which puts the jobs that it held back at once. Leases of
//! processes on other hosts end by their time: a session that is gone from the server says nothing,
//! because the process may still run and only have lost its connection.
//!
//! A process renews its row every hour. One without leases that was not renewed for a day is
//! removed (`schema/holders.sql`); a process that comes back after so long is given another number.

use std::sync::Mutex;
use std::time::Duration;

use super::database::{Database, Statement};
use super::sql_error::unreadable;
use crate::clock::BootTime;
use crate::error::Error;
use brigade_core::sync::lock;
use brigade_runtime::owner::{Descendants, Left, boot, own_name};

const NOTE: Statement = Statement::write_again(
    "note a process",
    "insert into brigade.holders as h (name, seen) values ($1, clock_timestamp()) on conflict (name) \
        do update set seen = excluded.seen returning h.number",
);
/// Names have the namespace of process numbers, the boot, the user and the host for people; the
/// boot is enough to leave out other hosts.
const OF_THIS_BOOT: Statement = Statement::read(
    "list processes",
    "select number, name from brigade.holders where split_part(name, '-', 4) = $1 and name <> $2 \
        order by number limit $3",
);
const FORGET: Statement = Statement::write_again(
    "put jobs of a dead process back",
    "select brigade.forget_holder($1, $2)",
);
const RENEWED_EVERY: Duration = Duration::from_secs(3600);
/// How often a consumer looks for dead processes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while workers of a dead process are ending.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Processes of this host that are looked at.
const LISTED_MAX: i64 = 10_000;
/// Jobs that one step puts back.
const JOBS_MAX: i32 = 500;
/// Steps behind one another; what is left is for the next look.
const STEPS_MAX: usize = 100;

/// What this process knows of itself and of others as holders.
#[derive(Default)]
pub(super) struct Holders {
    own: Mutex<Option<(i64, BootTime)>>,
    look: Mutex<HolderLook>,
}

#[derive(Default)]
struct HolderLook {
    next_at: BootTime,
    descendants: Descendants,
}

impl Holders {
    /// The number of this process, if it has one.
    pub(super) fn own(&self) -> Option<i64> {
        lock(&self.own).map(|(number, _)| number)
    }

    /// The number of this process; its row is renewed once in a while.
    pub(super) async fn note_own(&self, database: &Database) -> Result<i64, Error> {
        let now = BootTime::now().later(database.clock.ahead());
        if let Some((number, noted)) = *lock(&self.own)
            && now.since(noted) < RENEWED_EVERY
        {
            return Ok(number);
        }
        let row = database.row(NOTE, &[&own_name()]).await?;
        let number = row.and_then(|row| row.try_get(0).ok());
        let number = number.ok_or_else(|| unreadable(NOTE.what))?;
        *lock(&self.own) = Some((number, now));
        Ok(number)
    }

    /// Puts the jobs of dead processes of this host back, if it is time to look for them; whether
    /// there were any. If that fails, their leases end by their time.
    pub(super) async fn see_to_the_dead(&self, database: &Database) -> bool {
        let now = BootTime::now();
        {
            let mut look = lock(&self.look);
            if now < look.next_at {
                return false;
            }
            look.next_at = now.later(LOOK_EVERY);
        }
        let found = self.forget_the_dead(database, now).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not put jobs of dead processes back");
            false
        })
    }

    async fn forget_the_dead(&self, database: &Database, now: BootTime) -> Result<bool, Error> {
        let Some(boot) = boot() else {
            return Ok(false);
        };
        let rows = database
            .rows(OF_THIS_BOOT, &[&boot, &own_name(), &LISTED_MAX])
            .await?;
        let holders: Vec<(i64, String)> = rows
            .iter()
            .filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)))
            .collect();
        let dead = self.dead_of(&holders, now);
        for number in &dead {
            forget(database, *number).await?;
        }
        Ok(!dead.is_empty())
    }

    /// Those of these that have ended with all of their workers.
    fn dead_of(&self, holders: &[(i64, String)], now: BootTime) -> Vec<i64> {
        let mut look = lock(&self.look);
        let mut dead = Vec::new();
        for (number, name) in holders {
            match look.descendants.left(name) {
                Left::Runs => {}
                Left::Workers(_) => look.next_at = now.later(LOOK_SOON),
                Left::Nothing => dead.push(*number),
            }
        }
        let names: Vec<String> = holders.iter().map(|(_, name)| name.clone()).collect();
        look.descendants.keep_only(&names);
        dead
    }
}

/// Puts the jobs of a process back, in steps, and removes its row.
async fn forget(database: &Database, number: i64) -> Result<(), Error> {
    for _ in 0..STEPS_MAX {
        let row = database.row(FORGET, &[&number, &JOBS_MAX]).await?;
        let found: Option<i32> = row.and_then(|row| row.try_get(0).ok());
        if found.ok_or_else(|| unreadable(FORGET.what))? < JOBS_MAX {
            break;
        }
    }
    Ok(())
}
