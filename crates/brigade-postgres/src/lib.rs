//! The PostgreSQL broker: a schema `brigade` in any database, for any number of processes and
//! hosts.
//!
//! Every transition of a job is one call of a function in the database (`schema/*.sql`): a short
//! transaction of its own, so a job is never between two states. What several callers push or
//! settle at about the same time shares a call (`brigade_runtime::batcher`). There is no leader,
//! and no lock outlives a transaction. The server's clock alone decides what is due and which lease
//! has run out; tests move it by settings of their transactions (`database`).
//!
//! | file | content |
//! |---|---|
//! | `url`, `connect`, `pool` | connections: where to, how, how many |
//! | `pooler`, `announcements` | whether a pooler is in between; what wakes consumers |
//! | `database` | one statement: its transaction and its repetition |
//! | `sql_error`, `connect_error` | what errors mean |
//! | `migrate` | making the schema, and bringing it up to date |
//! | `schema`, `schema/*.sql` | tables and functions |
//! | `push_in` | pushes within transactions of applications |
//! | `push`, `hand_out`, `floors`, `holders`, `limits`, `settle`, `changes`, `chores`, `schedules` | what their names say |
//! | `look`, `find`, `counts`, `dead_groups`, `why`, `asks`, `check`, `check_queues` | what people ask, and what is noted for it |
//! | `statistics`, `events`, `upkeep`, `consumers` | what happened, and who takes jobs |

mod announcements;
mod asks;
mod changes;
mod check;
mod check_queues;
mod chores;
mod column;
mod connect;
mod connect_error;
mod consumers;
mod counts;
mod database;
mod dead_groups;
mod events;
mod find;
mod floors;
mod hand_out;
mod holders;
mod limits;
mod look;
mod migrate;
mod pool;
mod pooler;
mod push;
mod push_in;
mod schedules;
mod schema;
mod settle;
mod sql_error;
mod statistics;
mod store;
mod upkeep;
mod url;
mod wake;
mod why;

use std::sync::Arc;

pub use self::push_in::{DriverError, PostgresTransaction, PushInPostgres, push_all_in};

use self::database::Database;
use self::store::Postgres;
use crate::clock::Clock;
use crate::error::Error;
use brigade_core::store::JobStore;
use brigade_core::{attempt_report, clock, error, finding, job, policy, retry, sync};
use brigade_runtime::shutdown;

/// Connects to the database of a URL: `postgres://user@host/database`.
///
/// # Errors
///
/// Those of `Broker::connect`.
pub async fn connect(url: &str, clock: Clock) -> Result<Arc<dyn JobStore>, Error> {
    Ok(Arc::new(Postgres::connect(url, clock).await?))
}

/// Makes the schema of a database, or brings it up to date; whether it was not.
///
/// # Errors
///
/// Those of `Broker::migrate`.
pub async fn migrate(url: &str) -> Result<bool, Error> {
    Database::open_met(url).await?.migrate().await
}

/// The SQL that [`migrate`] would run; empty if there is nothing to do.
///
/// # Errors
///
/// Those of `Broker::migrate`.
pub async fn migration(url: &str) -> Result<String, Error> {
    Database::open_met(url).await?.migration().await
}
