//! Pushing within a transaction of the application's own.
//!
//! The job is there if the transaction is committed, and never was if it is not. A push is one
//! statement with one text, so that any driver can carry it: [`PostgresTransaction`] is implemented
//! here for tokio-postgres and, with the cargo feature `sqlx`, for sqlx.

use std::error::Error as StdError;
use std::future::Future;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::database::millis;
use super::push::text_of;
use super::sql_error::{self, unreadable};
use crate::error::{Error, ErrorKind};
use crate::job::{Job, JobId};
use crate::policy::{PAYLOAD_BYTES_MAX, check_job};
use brigade_core::store::PushOutcome;
use brigade_core::to_job::ToJob;

const WHAT: &str = "push within a transaction";
const SQL: &str = "select id, is_new from brigade.push_jobs($1)";

/// Why a driver could not run a statement.
pub type DriverError = Box<dyn StdError + Send + Sync>;

/// A transaction of the application's own, by whatever driver, on a database that has the schema
/// `brigade`: what [`PushInPostgres::push_in`] needs of it.
///
/// It is there for `tokio_postgres::Transaction` and, with the cargo feature `sqlx`, for
/// `sqlx::Transaction` and `sqlx::PgConnection`.
pub trait PostgresTransaction: Send {
    /// Runs one statement that has one parameter of the type `text`. Gives the two columns of its
    /// rows, a `bigint` and a `boolean`, in order.
    ///
    /// # Errors
    ///
    /// Those of the driver; a `brigade::Error` is given to the caller as it is. PostgreSQL has then
    /// aborted the transaction.
    fn rows<'a>(
        &'a mut self,
        sql: &'a str,
        parameter: &'a str,
    ) -> impl Future<Output = Result<Vec<(i64, bool)>, DriverError>> + Send + 'a;
}

impl PostgresTransaction for tokio_postgres::Transaction<'_> {
    async fn rows(&mut self, sql: &str, parameter: &str) -> Result<Vec<(i64, bool)>, DriverError> {
        let rows = self.query(sql, &[&parameter]).await;
        let rows = rows.map_err(|e| sql_error::sql_error(WHAT, &e, false))?;
        let read = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect()
    }
}

/// Without a transaction, as the driver knows it, a push is committed with its answer.
#[cfg(feature = "sqlx")]
impl PostgresTransaction for sqlx::PgConnection {
    async fn rows(&mut self, sql: &str, parameter: &str) -> Result<Vec<(i64, bool)>, DriverError> {
        let commits = !sqlx::Connection::is_in_transaction(self);
        let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(parameter);
        let rows = query.fetch_all(self).await;
        rows.map_err(|error| driver_error(error, commits))
    }
}

/// `commits`: the statement was a transaction of its own.
#[cfg(feature = "sqlx")]
fn driver_error(error: sqlx::Error, commits: bool) -> DriverError {
    use sqlx::postgres::{PgDatabaseError, PgSeverity};

    let said = match &error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => {
            return sql_error::lost_error(WHAT, error.to_string(), commits).into();
        }
        sqlx::Error::Database(said) => said.try_downcast_ref::<PgDatabaseError>(),
        _ => None,
    };
    match said {
        Some(said) if matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic) => {
            sql_error::lost_error(WHAT, error.to_string(), commits).into()
        }
        Some(said) => sql_error::of_state(WHAT, said.code(), error.to_string()).into(),
        None => error.into(),
    }
}

#[cfg(feature = "sqlx")]
impl PostgresTransaction for sqlx::Transaction<'_, sqlx::Postgres> {
    async fn rows(&mut self, sql: &str, parameter: &str) -> Result<Vec<(i64, bool)>, DriverError> {
        PostgresTransaction::rows(&mut **self, sql, parameter).await
    }
}

/// Pushing within a transaction of the application's own, in the database that has the jobs.
pub trait PushInPostgres: ToJob + Sized + Send {
    /// Pushes it within a transaction of the application's own: the job is there if the transaction
    /// is committed, and never was if it is not. Consumers are woken by the commit.
    ///
    /// The database must have the schema: `Broker::connect` makes it, or `brigade migrate`.
    ///
    /// ```
    /// # use brigade::{Error, task};
    /// use brigade::postgres::PushInPostgres as _;
    ///
    /// # #[task] fn confirm(order: i64) {}
    /// # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = client.transaction().await?;
    /// let order: i64 = tx.query_one("insert into orders default values returning id", &[]).await?.get(0);
    /// confirm(order).push_in(&mut tx).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As `Broker::push`. Within a transaction it is never uncertain: what becomes of the job, the
    /// commit says, and a transaction whose connection was lost before it is rolled back. On a
    /// `sqlx::PgConnection` without a transaction each push is committed by itself, so it is
    /// uncertain there when the connection was lost. `Unsupported` if the database has no schema of
    /// this version. What the database refuses aborts the transaction, as any error of PostgreSQL
    /// does, and the next push in it is `Refused`. What is wrong with the job itself is found out
    /// before (a payload that is too large, a text with the character NUL), and the transaction
    /// goes on.
    fn push_in(
        self,
        transaction: &mut impl PostgresTransaction,
    ) -> impl Future<Output = Result<PushOutcome, Error>> + Send {
        async move {
            let mut outcomes = push_all_in(transaction, [self]).await?;
            outcomes.pop().ok_or_else(|| unreadable(WHAT))
        }
    }
}

impl<T: ToJob + Send> PushInPostgres for T {}

/// Pushes any number of jobs with one statement, as [`PushInPostgres::push_in`] does it for one.
/// One outcome for each, in order.
///
/// # Errors
///
/// As [`PushInPostgres::push_in`]; nothing is pushed then.
pub async fn push_all_in(
    transaction: &mut impl PostgresTransaction,
    jobs: impl IntoIterator<Item = impl ToJob, IntoIter: Send> + Send,
) -> Result<Vec<PushOutcome>, Error> {
    let (text, count) = text_of_jobs(jobs)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let rows = transaction.rows(SQL, &text).await.map_err(refused)?;
    let outcome = |(id, is_new): (i64, bool)| {
        let id = JobId::new(id.to_string());
        if is_new {
            PushOutcome::New(id)
        } else {
            PushOutcome::Duplicate(id)
        }
    };
    let outcomes: Vec<PushOutcome> = rows.into_iter().map(outcome).collect();
    if outcomes.len() == count {
        Ok(outcomes)
    } else {
        Err(unreadable(WHAT))
    }
}

fn refused(source: DriverError) -> Error {
    match source.downcast::<Error>() {
        Ok(error) => *error,
        Err(source) => {
            let text = format!("{WHAT}: the application's driver or database refused");
            Error::new(ErrorKind::Os, text).with_source(source)
        }
    }
}

/// A job as `brigade.push_jobs` reads it. Times are milliseconds.
#[derive(Serialize)]
struct JobForSql<'a> {
    queue: &'a str,
    task: Option<&'a str>,
    payload: &'a str,
    options: Option<String>,
    priority: i32,
    due_micros: Option<i64>,
    delay: Option<i64>,
    within: Option<i64>,
    keep: Option<i64>,
    key: Option<&'a str>,
    partition: Option<&'a str>,
    unique_key: Option<&'a str>,
    unique_for: Option<i64>,
}

impl<'a> JobForSql<'a> {
    fn of(job: &'a Job) -> Result<Self, Error> {
        let options = &job.options;
        let time = |time: Option<Duration>| time.map(millis);
        Ok(Self {
            queue: &job.queue,
            task: job.task.as_deref(),
            payload: &job.payload,
            options: text_of(options)?,
            priority: options.priority(),
            due_micros: options.at.map(micros),
            delay: time(options.delay),
            within: time(options.retry().within),
            keep: time(options.keep),
            key: options.key.as_deref(),
            partition: options.partition.as_deref(),
            unique_key: options.unique.as_deref(),
            unique_for: time(options.unique_for),
        })
    }
}

/// Since 1970; what was before counts as that.
fn micros(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

/// Refuses what the database would refuse: an error of the database would end the transaction.
fn must_be_storable(job: &Job) -> Result<(), Error> {
    let options = &job.options;
    let texts = [&options.key, &options.unique, &options.partition];
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        let (kind, hint) = sql_error::NUL;
        return Err(Error::new(kind, format!("{WHAT}: {hint}")));
    }
    Ok(())
}

/// The jobs as a JSON array, and how many they are.
fn text_of_jobs(jobs: impl IntoIterator<Item = impl ToJob>) -> Result<(String, usize), Error> {
    let (mut text, mut count) = (String::from("["), 0);
    for job in jobs {
        let job = job.to_job()?;
        check_job(&job, PAYLOAD_BYTES_MAX)?;
        must_be_storable(&job)?;
        let json = serde_json::to_string(&JobForSql::of(&job)?);
        let json = json.map_err(|e| Error::new(ErrorKind::Encode, WHAT).with_source(e))?;
        if count > 0 {
            text.push(',');
        }
        text.push_str(&json);
        count += 1;
    }
    text.push(']');
    Ok((text, count))
}
