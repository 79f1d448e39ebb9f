//! One statement on the database: a transaction of its own.
//!
//! A statement goes to the server alone, so it is committed with its answer and costs one round
//! trip. It has a transaction around it only where a test has moved the clock of the broker, with
//! the two settings that the functions of the schema read (`clocks.sql`), and behind a transaction
//! pooler whose sessions begin transactions above read committed.
//!
//! What is repeated, for as long as an answer may take (`response_timeout`): everything that the
//! server undid because of other transactions (a deadlock), and, after a lost connection, what
//! changes nothing or may be done twice ([`Access`]). A change that was lost on the way is
//! uncertain. While the server cannot be reached, a statement waits for it.
//!
//! Behind a transaction pooler a connection has another session of the server for each transaction,
//! so nothing is prepared there: statements have no name, and the types of their parameters are
//! asked for once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, IsolationLevel, Row};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::announcements::Announcements;
use super::connect::{Connector, ServerConnection, pause};
use super::connect_error::ConnectError;
use super::pool::ConnectionPool;
use super::sql_error::{
    is_lost, is_other_statement, is_undone_for_now, silence_error, sql_error, unreadable,
};
use super::url::PostgresConfig;
use super::{migrate, pooler};
use crate::clock::Clock;
use crate::error::Error;
use crate::retry::jitter;
use brigade_core::sync::lock;

/// How often a statement is tried that other transactions undo.
const TRIES: u32 = 10;
/// The pause before it is tried again, times the number of tries so far.
const PAUSE: Duration = Duration::from_millis(2);

/// Each function of the schema first locks and then looks, so a look has to see what was committed
/// before it: above this level jobs would be blocked for ever, and unique keys held twice. And what
/// a statement calls without a schema is the server's own.
const SET_UP: &str = "set default_transaction_isolation = 'read committed'; \
    set search_path = pg_catalog, pg_temp";
/// Where the session is not ours to change.
const ISOLATION: Statement = Statement::read(
    "look at the isolation of transactions",
    "select current_setting('default_transaction_isolation')",
);

/// Whether a test has moved the clock.
const CLOCK_LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// Values for the parameters of a statement.
pub(super) type Values<'a> = [&'a (dyn ToSql + Sync)];

/// What a statement does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// It changes something, and a second time it finds that done.
    WriteAgain,
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

    /// One that may be carried out twice, so that it is repeated after a lost connection.
    pub(super) const fn write_again(what: &'static str, sql: &'static str) -> Self {
        Self {
            what,
            sql,
            access: Access::WriteAgain,
        }
    }
}

/// The database, through a pool of connections.
pub(super) struct Database {
    pub(super) pool: ConnectionPool,
    pub(super) clock: Clock,
    pub(super) announcements: Announcements,
    /// The types of the parameters of statements that have no name, by their text.
    types: Mutex<HashMap<&'static str, Arc<[Type]>>>,
    /// Behind a transaction pooler where transactions begin at another level: each statement has a
    /// transaction around it, which sets its own.
    sets_level: AtomicBool,
    ends: CancellationToken,
    _ends: DropGuard,
}

impl Database {
    /// Connects, and makes or updates the schema.
    pub(super) async fn connect(url: &str, clock: Clock) -> Result<Self, Error> {
        let database = Self::open(url, clock)?;
        database.meet().await?;
        database.migrate().await?;
        Ok(database)
    }

    /// Connects, whatever the schema.
    pub(super) async fn open_met(url: &str) -> Result<Self, Error> {
        let database = Self::open(url, Clock::default())?;
        database.meet().await?;
        Ok(database)
    }

    /// Makes what the schema lacks; whether it lacked anything.
    pub(super) async fn migrate(&self) -> Result<bool, Error> {
        migrate::bring_up_to_date(&self.pool).await
    }

    /// The SQL that makes what the schema lacks.
    pub(super) async fn migration(&self) -> Result<String, Error> {
        migrate::text_for(&self.pool).await
    }

    /// Without a connection yet.
    fn open(url: &str, clock: Clock) -> Result<Self, Error> {
        let connector = Connector::new(PostgresConfig::parse(url)?)?;
        let ends = CancellationToken::new();
        Ok(Self {
            pool: ConnectionPool::new(Arc::new(connector))?,
            clock,
            announcements: Announcements::default(),
            types: Mutex::default(),
            sets_level: AtomicBool::default(),
            _ends: ends.clone().drop_guard(),
            ends,
        })
    }

    /// The first connections: fails at once where there is none.
    async fn meet(&self) -> Result<(), Error> {
        let failed = |error: ConnectError| error.into_error("connect to PostgreSQL");
        let first = self.pool.get_at_once().await.map_err(failed)?;
        let connector = &self.pool.connector;
        if connector.config.has_transaction_pooler.is_none() {
            // The server may have no second connection left for now.
            match self.pool.get_at_once().await {
                Ok(second) => pooler::look(connector, &first, &second).await?,
                Err(_) => {
                    let (pool, until) = (self.pool.clone(), self.ends.clone());
                    connector.spawn(async move {
                        until.run_until_cancelled(pooler::find_out(&pool)).await;
                    });
                }
            }
        }
        if connector.has_transaction_pooler() {
            let row = self.row(ISOLATION, &[]).await?;
            let level: Option<String> = row.and_then(|row| row.try_get(0).ok());
            let level = level.ok_or_else(|| unreadable(ISOLATION.what))?;
            self.sets_level
                .store(level != "read committed", Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether each transaction may be in another session of the server.
    pub(super) fn has_transaction_pooler(&self) -> bool {
        self.pool.connector.has_transaction_pooler()
    }

    /// Begins to listen for announcements; once is enough. Behind a transaction pooler a session
    /// that listened would be given to other programs, which would get the announcements.
    pub(super) fn listen(&self) {
        if !self.has_transaction_pooler() {
            self.announcements.begin(&self.pool.connector);
        }
    }

    /// Waits for this time, or until a test moves the clock.
    pub(super) async fn pass_time(&self, time: Duration) {
        let set = |clock: &Clock| (clock.ahead(), clock.wall_off_millis());
        let (began, until) = (set(&self.clock), Instant::now() + time);
        while set(&self.clock) == began && Instant::now() < until {
            sleep_until(until.min(Instant::now() + CLOCK_LOOKED_AT_EVERY)).await;
        }
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
        let Statement { what, sql, access } = statement;
        let until = Instant::now() + self.pool.connector.config.answer_timeout;
        let (mut undone, mut lost, mut is_prepared_again) = (0, 0, false);
        loop {
            let connection = self.pool.get(until).await;
            let mut connection = connection.map_err(|error| error.into_error(what))?;
            let ran = timeout_at(until, self.run(&mut connection, sql, values)).await;
            let Ok(ran) = ran else {
                // What it answers later is for no caller.
                drop(deadpool::managed::Object::take(connection));
                return Err(silence_error(what, access != Access::Read));
            };
            let error = match ran {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            if is_undone_for_now(&error) && undone < TRIES {
                undone += 1;
                drop(connection);
                sleep((PAUSE * undone).mul_f64(jitter(1.0))).await;
            } else if is_other_statement(&error) && !is_prepared_again {
                // The server did nothing, and a fresh connection knows the statements of now.
                is_prepared_again = true;
                drop(deadpool::managed::Object::take(connection));
            } else if is_lost(&error) && access != Access::Write {
                drop(deadpool::managed::Object::take(connection));
                pause(lost).await;
                lost += 1;
            } else {
                return Err(sql_error(what, &error, access != Access::Read));
            }
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
        connection: &mut ServerConnection,
        sql: &'static str,
        values: &Values<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        // Behind a transaction pooler the session is not ours to change.
        if !connection.is_set_up && !self.has_transaction_pooler() {
            connection.client.batch_execute(SET_UP).await?;
            connection.is_set_up = true;
        }
        let form = self.form_of(connection, sql).await?;
        let ahead = self.clock.ahead().as_millis();
        let wall = self.clock.wall_off_millis();
        let sets_level = self.sets_level.load(Ordering::Relaxed) && self.has_transaction_pooler();
        if ahead == 0 && wall == 0 && !sets_level {
            return form.query(&connection.client, sql, values).await;
        }
        let transaction = connection.client.build_transaction();
        let level = IsolationLevel::ReadCommitted;
        let transaction = transaction.isolation_level(level).start().await?;
        let settings =
            format!("set local brigade.ahead = {ahead}; set local brigade.wall = {wall}");
        transaction.batch_execute(&settings).await?;
        let rows = form.query(&transaction, sql, values).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    async fn form_of(
        &self,
        connection: &mut ServerConnection,
        sql: &'static str,
    ) -> Result<StatementForm, tokio_postgres::Error> {
        if !self.has_transaction_pooler() {
            if let Some(prepared) = connection.prepared.get(sql) {
                return Ok(StatementForm::Prepared(prepared.clone()));
            }
            let prepared = connection.client.prepare(sql).await?;
            connection.prepared.insert(sql, prepared.clone());
            return Ok(StatementForm::Prepared(prepared));
        }
        if let Some(types) = lock(&self.types).get(sql) {
            return Ok(StatementForm::Typed(Arc::clone(types)));
        }
        // Within a transaction the session stays the same; its end closes the statement.
        let transaction = connection.client.transaction().await?;
        let types: Arc<[Type]> = transaction.prepare(sql).await?.params().into();
        transaction.rollback().await?;
        lock(&self.types).insert(sql, Arc::clone(&types));
        Ok(StatementForm::Typed(types))
    }
}

/// How a statement is known to the server.
enum StatementForm {
    /// By a name, on this connection.
    Prepared(tokio_postgres::Statement),
    /// By its text each time.
    Typed(Arc<[Type]>),
}

impl StatementForm {
    async fn query(
        &self,
        client: &impl GenericClient,
        sql: &str,
        values: &Values<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        match self {
            Self::Prepared(prepared) => client.query(prepared, values).await,
            Self::Typed(types) => {
                let typed: Vec<_> = values.iter().copied().zip(types.iter().cloned()).collect();
                client.query_typed(sql, &typed).await
            }
        }
    }
}

/// Longer times than any clock will see are cut, so that sums of two fit.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.min(crate::clock::FAR).as_millis()).unwrap_or(i64::MAX)
}
