//! The PostgreSQL broker: a schema `brigade` in any database, for any number of processes and hosts.
//!
//! Every transition of a job is one call of a function in the database (`schema/*.sql`): a short
//! transaction of its own, so a job is never between two states. What several callers push or
//! settle at about the same time shares a call (`brigade_runtime::batcher`). There is no leader, and
//! no lock outlives a transaction. The server's clock alone decides what is due and which lease has
//! run out; tests move it by settings of their transactions (`database`).
//!
//! | file | content |
//! |---|---|
//! | `connect` | the pool of connections |
//! | `database` | one statement: its transaction, its repetition, its errors |
//! | `schema`, `schema/*.sql` | tables and functions |
//! | `push`, `hand_out`, `floors`, `settle`, `changes`, `chores`, `look`, `find`, `counts` | what their names say |

mod changes;
mod chores;
mod connect;
mod counts;
mod database;
mod find;
mod floors;
mod hand_out;
mod look;
mod push;
mod schema;
mod settle;
mod sql_error;
mod store;

use std::sync::Arc;

use self::store::Postgres;
use crate::clock::Clock;
use crate::error::Error;
use brigade_core::store::JobStore;
use brigade_core::{attempt_report, clock, error, job, policy, retry};
use brigade_runtime::shutdown;

/// Connects to the database of a URL: `postgres://user@host/database`.
///
/// # Errors
///
/// Those of `Broker::connect`.
pub async fn connect(url: &str, clock: Clock) -> Result<Arc<dyn JobStore>, Error> {
    Ok(Arc::new(Postgres::connect(url, clock).await?))
}
