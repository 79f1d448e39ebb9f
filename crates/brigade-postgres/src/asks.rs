//! Which queues this process asks for jobs of: one row for each set of queues, renewed every
//! [`NOTE_EVERY`], so that others can say whether a queue has a consumer (`schema/asks.sql`).

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use super::database::{Database, Statement};
use crate::clock::BootTime;
use crate::error::Error;
use brigade_core::store::Queues;
use brigade_core::sync::lock;

const NOTE: Statement =
    Statement::write_again("note a consumer", "select brigade.note_ask($1, $2, $3, $4)");
/// How often a waiting consumer renews its note.
const NOTE_EVERY: Duration = Duration::from_secs(20);
/// Sets of queues that one process is noted with. One that asks for ever new ones is noted with the
/// newest.
const ASKS_MAX: usize = 64;

/// When this process noted what it asks for.
#[derive(Default)]
pub(super) struct Asks(Mutex<HashMap<u64, BootTime>>);

impl Asks {
    /// Whether it is time to note this set again; if so, whether all others are to be forgotten.
    fn is_to_note(&self, number: u64, now: BootTime) -> Option<bool> {
        let mut asked = lock(&self.0);
        let is_recent = |at: &BootTime| now.since(*at) < NOTE_EVERY;
        if asked.get(&number).is_some_and(is_recent) {
            return None;
        }
        let is_only = asked.len() >= ASKS_MAX;
        if is_only {
            asked.clear();
        }
        asked.insert(number, now);
        Some(is_only)
    }

    fn forget(&self, number: u64) {
        lock(&self.0).remove(&number);
    }

    /// Notes that this process, the holder of this number, asks for jobs of these queues, now and
    /// then.
    pub(super) async fn note(
        &self,
        database: &Database,
        holder: i64,
        queues: &Queues,
    ) -> Result<(), Error> {
        let now = BootTime::now().later(database.clock.ahead());
        let number = queues.number();
        let Some(is_only) = self.is_to_note(number, now) else {
            return Ok(());
        };
        // As good as any other number.
        let asks = i64::from_ne_bytes(number.to_ne_bytes());
        let names: Vec<&str> = queues.names().iter().map(|name| &**name).collect();
        let noted = database
            .row(NOTE, &[&holder, &asks, &names, &is_only])
            .await;
        noted.map(drop).inspect_err(|_| self.forget(number))
    }
}
