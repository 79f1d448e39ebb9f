//! Pushing within a transaction of the application's own.
//!
//! The application brings its own SQLite library, and no type of it stands in our API: a release of
//! rusqlite breaks nothing. [`SqlTransaction`] is all that a push needs of it. A push that fails is
//! undone by a savepoint and leaves the application's transaction as it was.

use std::error::Error as StdError;

use super::push::{self, Sql};
use super::schema;
use super::sql_value::SqlValue;
use super::store::Now;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::policy::{PAYLOAD_BYTES_MAX, check_job};
use crate::to_job::ToJob;
use brigade_core::store::PushOutcome;

/// A transaction on a SQLite database that the application has opened, by whatever library: what
/// [`PushIn::push_in`] needs of it.
///
/// With rusqlite, in a file that is opened by the same version of SQLite (cargo sees to it that a
/// program has one):
///
/// ```
/// use brigade::sqlite::{SqlTransaction, SqlValue};
/// use rusqlite::types::{ToSqlOutput, Value};
///
/// struct Tx<'a>(&'a rusqlite::Transaction<'a>);
///
/// impl SqlTransaction for Tx<'_> {
///     fn number(
///         &mut self,
///         sql: &str,
///         parameters: &[SqlValue<'_>],
///     ) -> Result<Option<i64>, Box<dyn std::error::Error + Send + Sync>> {
///         let parameters = parameters.iter().map(|parameter| match parameter {
///             SqlValue::Null => Value::Null,
///             SqlValue::Integer(number) => Value::Integer(*number),
///             SqlValue::Text(text) => Value::Text((*text).to_owned()),
///         });
///         let mut statement = self.0.prepare_cached(sql)?;
///         let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
///         let number = rows.next()?.map(|row| row.get(0)).transpose()?;
///         while rows.next()?.is_some() {}
///         Ok(number)
///     }
/// }
/// ```
pub trait SqlTransaction {
    /// Runs one statement to its end, with these parameters (`?1`, `?2`, ..). Gives the first
    /// column of its first row, which is an integer or `NULL` (`None`); `None` too if there is no
    /// row.
    ///
    /// # Errors
    ///
    /// Those of the database. The statement has then changed nothing.
    fn number(
        &mut self,
        sql: &str,
        parameters: &[SqlValue<'_>],
    ) -> Result<Option<i64>, Box<dyn StdError + Send + Sync>>;
}

/// Pushing within a transaction of the application's own, on the SQLite file that has the jobs.
pub trait PushIn: ToJob + Sized {
    /// Pushes it within a transaction of the application's own, in the job file that is its
    /// database: the job is there if the transaction is committed, and never was if it is not.
    /// Consumers are woken by the commit.
    ///
    /// The file must have been opened once with `Broker::connect`, as
    /// `sqlite:app.db?shared=true` if the application's tables were there first.
    ///
    /// ```
    /// # use brigade::sqlite::{PushIn as _, SqlTransaction};
    /// # use brigade::task;
    /// # #[task] fn welcome(name: String) {}
    /// # fn example(tx: impl SqlTransaction) -> Result<(), brigade::Error> {
    /// // tx is made of the application's transaction, as SqlTransaction's page shows it.
    /// welcome("Ada".to_owned()).push_in(tx)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As `Broker::push`; `Unsupported` if the file has no jobs or is of
    /// another version, `BadOption` outside of a transaction. Then nothing was added to it.
    fn push_in(self, transaction: impl SqlTransaction) -> Result<PushOutcome, Error> {
        let job = self.to_job()?;
        check_job(&job, PAYLOAD_BYTES_MAX)?;
        let mut sql = Foreign(transaction);
        sql.check_version()?;
        sql.check_open()?;
        // What fails leaves the application's transaction as it was.
        sql.run("SAVEPOINT brigade_push")?;
        let pushed = push::push(&mut sql, &job, &Now::read(&Clock::default()), false);
        if pushed.is_err() {
            sql.run("ROLLBACK TO brigade_push")?;
        }
        sql.run("RELEASE brigade_push")?;
        pushed
    }
}

impl<T: ToJob> PushIn for T {}

/// A transaction of the application's own.
struct Foreign<T>(T);

const WHAT: &str = "push within a transaction";

impl<T: SqlTransaction> Foreign<T> {
    fn run(&mut self, sql: &str) -> Result<(), Error> {
        Sql::number(self, WHAT, sql, &[]).map(drop)
    }

    fn check_version(&mut self) -> Result<(), Error> {
        let sql = "SELECT 1 FROM sqlite_schema WHERE name = 'brigade_facts'";
        let version = match Sql::number(self, WHAT, sql, &[])? {
            Some(_) => {
                let sql = "SELECT CAST(value AS INTEGER) FROM brigade_facts WHERE name = 'schema'";
                Sql::number(self, WHAT, sql, &[])?
            }
            None => None,
        };
        if version.and_then(|version| usize::try_from(version).ok()) == Some(schema::VERSION) {
            return Ok(());
        }
        let text = "push within a transaction of a file without jobs of this version: open it \
            first, with Broker::connect(\"sqlite:..\")";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Within a transaction another one cannot begin; SQL has no other way to find out.
    fn check_open(&mut self) -> Result<(), Error> {
        if self.0.number("BEGIN", &[]).is_err() {
            return Ok(());
        }
        self.run("ROLLBACK")?;
        Err(Error::new(
            ErrorKind::BadOption,
            "push within a transaction: the connection is in none; begin one first",
        ))
    }
}

impl<T: SqlTransaction> Sql for Foreign<T> {
    fn number(
        &mut self,
        what: &str,
        sql: &str,
        parameters: &[SqlValue<'_>],
    ) -> Result<Option<i64>, Error> {
        self.0.number(sql, parameters).map_err(|source| {
            let text = format!("{what}: the application's database refused");
            Error::new(ErrorKind::Os, text).with_source(source)
        })
    }
}
