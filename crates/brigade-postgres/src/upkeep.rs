//! Upkeep: adding statistics up and giving events their numbers, now and then, in the background.
//!
//! Each process that pushes or consumes does so, at a pace; nothing depends on when.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::database::{Database, Statement};
use super::sql_error::unreadable;
use crate::error::Error;
use crate::shutdown::Scope;
use brigade_core::sync::lock;

const KEEP_UP: Statement =
    Statement::write_again("add up statistics", "select brigade.keep_up($1)");
/// Rows of a kind that one step works on.
const ROWS_MAX: i32 = 5_000;
/// Steps behind one another; what is left is for the next time.
const STEPS_MAX: usize = 20;
/// How often, and for which part of the time at most.
const EVERY: Duration = Duration::from_secs(1);
const PART: u32 = 10;
/// The pause after an error: maybe the user of this process may not do it.
const ERROR_PAUSE: Duration = Duration::from_secs(60);

/// When this process does so next.
#[derive(Default)]
pub(super) struct Upkeep(Mutex<Option<Instant>>);

impl Upkeep {
    /// Does it in the background, if it is time.
    pub(super) fn do_if_due(self: &Arc<Self>, scope: &Scope, database: &Arc<Database>) {
        let now = Instant::now();
        {
            let mut next = lock(&self.0);
            let at = *next.get_or_insert(now + EVERY);
            if now < at {
                return;
            }
            *next = Some(now + ERROR_PAUSE);
        }
        let (upkeep, database) = (Arc::clone(self), Arc::clone(database));
        scope.spawn_until_closed(async move {
            let done = database.keep_up().await;
            let pause = match done {
                Ok(()) => EVERY.max(now.elapsed() * PART),
                Err(error) => {
                    tracing::debug!(%error, "statistics are not added up by this process for now");
                    ERROR_PAUSE
                }
            };
            *lock(&upkeep.0) = Some(Instant::now() + pause);
        });
    }
}

impl Database {
    /// Does all that there is, in steps.
    pub(super) async fn keep_up(&self) -> Result<(), Error> {
        for _ in 0..STEPS_MAX {
            let row = self.row(KEEP_UP, &[&ROWS_MAX]).await?;
            let is_more: Option<bool> = row.and_then(|row| row.try_get(0).ok());
            if !is_more.ok_or_else(|| unreadable(KEEP_UP.what))? {
                break;
            }
        }
        Ok(())
    }
}
