//! The connections to the server.

use std::str::FromStr as _;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::{Config, NoTls};

use super::schema;
use super::sql_error::{pool_error, sql_error};
use crate::error::{Error, ErrorKind};

/// Connections of a process.
const CONNECTIONS_MAX: usize = 8;
/// Of the lock under which the schema is made.
const MIGRATION_LOCK: i64 = 0x6272_6967_6164_6501;

/// Connects, and makes the schema if it is not there.
pub(super) async fn connect(url: &str) -> Result<Pool, Error> {
    let config = Config::from_str(url).map_err(|e| {
        Error::new(
            ErrorKind::BadOption,
            "connect to PostgreSQL: write postgres://user@host/database",
        )
        .with_source(e.to_string())
    })?;
    let settings = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let pool = Pool::builder(Manager::from_config(config, NoTls, settings))
        .max_size(CONNECTIONS_MAX)
        .build()
        .map_err(|e| {
            Error::new(ErrorKind::Os, "make a pool of connections").with_source(e.to_string())
        })?;
    migrate(&pool).await?;
    Ok(pool)
}

async fn migrate(pool: &Pool) -> Result<(), Error> {
    let what = "make the schema";
    let mut client = pool.get().await.map_err(|e| pool_error(what, e))?;
    let failed = |e| sql_error(what, e, false);
    let transaction = client.transaction().await.map_err(failed)?;
    transaction
        .execute("select pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
        .await
        .map_err(failed)?;
    let known = transaction
        .query_one("select to_regnamespace('brigade') is not null", &[])
        .await
        .map_err(failed)?;
    if !known.get::<_, bool>(0) {
        let text = format!("create schema brigade;{}", schema::steps().concat());
        transaction.batch_execute(&text).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}
