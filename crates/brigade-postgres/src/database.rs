//! One statement on the database: a transaction of its own.
//!
//! A statement goes to the server alone, so it is committed with its answer and costs one round
//! trip. Only where a test has moved the clock of the broker it has a transaction around it, which
//! begins with the two settings that the functions of the schema read (`clocks.sql`). What the
//! server undid because of other transactions (a deadlock) is repeated here.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connect;
use super::sql_error::{is_undone_for_now, pool_error, sql_error};
use crate::clock::{Clock, FAR};
use crate::error::Error;
use crate::retry::jitter;

/// How often a statement is tried that other transactions undo.
const TRIES: u32 = 10;
/// The pause before it is tried again, times the number of tries so far.
const PAUSE: Duration = Duration::from_millis(2);

/// Values for the parameters of a statement.
pub(super) type Values<'a> = [&'a (dyn ToSql + Sync)];

/// What a statement does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A statement and what it is for, for errors.
#[derive(Clone, Copy)]
pub(super) struct Statement {
    pub(super) what: &'static str,
    pub(super) sql: &'static str,
    pub(super) access: Access,
}

impl Statement {
    pub(super) const fn read(what: &'static str, sql: &'static str) -> Self {
        Self {
            what,
            sql,
            access: Access::Read,
        }
    }

    pub(super) const fn write(what: &'static str, sql: &'static str) -> Self {
        Self {
            what,
            sql,
            access: Access::Write,
        }
    }
}

/// The database, through a pool of connections.
pub(super) struct Database {
    pool: Pool,
    pub(super) clock: Clock,
}

impl Database {
    pub(super) async fn connect(url: &str, clock: Clock) -> Result<Self, Error> {
        let pool = connect::connect(url).await?;
        Ok(Self { pool, clock })
    }

    /// Runs a statement; its rows.
    ///
    /// # Errors
    ///
    /// Those of the server; uncertain if the connection was lost while it changed something.
    pub(super) async fn rows(
        &self,
        statement: Statement,
        values: &Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let mut tries = 1;
        loop {
            let mut client = self
                .pool
                .get()
                .await
                .map_err(|e| pool_error(statement.what, e))?;
            match self.run(&mut client, statement.sql, values).await {
                Ok(rows) => return Ok(rows),
                Err(error) if is_undone_for_now(&error) && tries < TRIES => {}
                Err(error) => {
                    let writes = statement.access == Access::Write;
                    return Err(sql_error(statement.what, error, writes));
                }
            }
            drop(client);
            sleep((PAUSE * tries).mul_f64(jitter(1.0))).await;
            tries += 1;
        }
    }

    /// Runs a statement; its first row, if there is one.
    ///
    /// # Errors
    ///
    /// As [`rows`](Self::rows).
    pub(super) async fn row(
        &self,
        statement: Statement,
        values: &Values<'_>,
    ) -> Result<Option<Row>, Error> {
        Ok(self.rows(statement, values).await?.into_iter().next())
    }

    async fn run(
        &self,
        client: &mut Object,
        sql: &str,
        values: &Values<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let prepared = client.prepare_cached(sql).await?;
        let ahead = self.clock.ahead().as_millis();
        let wall = self.clock.wall_off_millis();
        if ahead == 0 && wall == 0 {
            return client.query(&prepared, values).await;
        }
        let transaction = client.transaction().await?;
        let settings =
            format!("set local brigade.ahead = {ahead}; set local brigade.wall = {wall}");
        transaction.batch_execute(&settings).await?;
        let rows = transaction.query(&prepared, values).await?;
        transaction.commit().await?;
        Ok(rows)
    }
}

/// Longer times than any clock will see are cut, so that sums of two fit.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.min(FAR).as_millis()).unwrap_or(i64::MAX)
}
