//! Making the schema, and bringing an older one up to date.
//!
//! The version of the schema is what its function `schema_version` gives. A schema that is up to
//! date costs one look and is not written to. An older one is changed in one transaction, under an
//! advisory lock: of programs that start together one makes the change, and the others find it
//! done. One that is newer than this program is refused, and nothing is written.

use std::fmt::Write as _;

use tokio_postgres::GenericClient;

use super::pool::ConnectionPool;
use super::schema;
use super::sql_error::{ServerError, code_of, sql_error, unreadable};
use crate::error::{Error, ErrorKind};

/// Of the advisory lock under which the schema is changed.
const MIGRATION_LOCK: i64 = 0x6272_6967_6164_6501;
/// For a program that changes it at the same time.
const LOCK_TIMEOUT: &str = "1min";
const WHAT: &str = "make the schema brigade";
/// As `server_version_num` has it.
const OLDEST_SERVER: i32 = 140_000;

/// A database without its schema, or with one.
struct Found {
    version: u32,
    /// Whether the schema is there, maybe empty: made for a user who may not make one.
    has_schema: bool,
}

/// Makes what is missing; whether anything was.
pub(super) async fn bring_up_to_date(pool: &ConnectionPool) -> Result<bool, Error> {
    carry_out(pool, &schema::steps()).await
}

/// The SQL that [`bring_up_to_date`] would run on this database; empty if it is up to date.
pub(super) async fn text_for(pool: &ConnectionPool) -> Result<String, Error> {
    text_of(pool, &schema::steps()).await
}

async fn carry_out(pool: &ConnectionPool, steps: &[String]) -> Result<bool, Error> {
    let connection = pool.get_at_once().await;
    let mut connection = connection.map_err(|error| error.into_error(WHAT))?;
    let needed = version_of(steps);
    let found = look(&connection.client, needed).await?;
    if found.version == needed {
        return Ok(false);
    }
    let failed = |error| migration_error(&error);
    let transaction = connection.client.transaction().await.map_err(failed)?;
    transaction
        .batch_execute(&lock_text())
        .await
        .map_err(failed)?;
    // Another program may have done it meanwhile.
    let found = look(&transaction, needed).await?;
    if found.version < needed {
        transaction
            .batch_execute(&steps_text(&found, steps))
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(found.version < needed)
}

async fn text_of(pool: &ConnectionPool, steps: &[String]) -> Result<String, Error> {
    let connection = pool.get_at_once().await;
    let connection = connection.map_err(|error| error.into_error(WHAT))?;
    let needed = version_of(steps);
    let found = look(&connection.client, needed).await?;
    if found.version == needed {
        return Ok(String::new());
    }
    let mut text = format!("begin;\n{}\n", lock_text());
    if found.version > 0 {
        // Writing to a string does not fail.
        writeln!(
            text,
            "do $$ begin if brigade.schema_version() <> {} then raise 'the schema brigade has \
                another version by now'; end if; end $$;",
            found.version
        )
        .ok();
    }
    text.push_str(&steps_text(&found, steps));
    text.push_str("commit;\n");
    Ok(text)
}

/// Of a schema that has all of these steps.
fn version_of(steps: &[String]) -> u32 {
    u32::try_from(steps.len()).unwrap_or(u32::MAX)
}

fn lock_text() -> String {
    format!(
        "set local lock_timeout = '{LOCK_TIMEOUT}';\nselect pg_advisory_xact_lock({MIGRATION_LOCK});"
    )
}

/// All that is missing, and who may call what of it.
fn steps_text(found: &Found, steps: &[String]) -> String {
    let mut text = String::new();
    if !found.has_schema {
        text.push_str("create schema brigade;\n");
    }
    let done = usize::try_from(found.version).unwrap_or(usize::MAX);
    for step in steps.iter().skip(done) {
        text.push_str(step);
        text.push('\n');
    }
    // By default everyone may call a function, also one that has the rights of its owner.
    let version = version_of(steps);
    writeln!(
        text,
        "create or replace function brigade.schema_version() returns integer language sql immutable \
            as 'select {version}';\n\
            revoke execute on all functions in schema brigade from public;\n\
            grant execute on function brigade.schema_version() to public;"
    )
    .ok();
    text
}

/// Which version is there; a newer one than `needed` is refused.
async fn look(client: &impl GenericClient, needed: u32) -> Result<Found, Error> {
    let failed = |error| migration_error(&error);
    let text = "select to_regnamespace('brigade') is not null, \
        exists (select from pg_class where relnamespace = to_regnamespace('brigade')), \
        exists (select from pg_proc where pronamespace = to_regnamespace('brigade') \
            and proname = 'schema_version'), \
        current_setting('server_version_num')::integer";
    let rows = client.query_typed(text, &[]).await.map_err(failed)?;
    let is_so = |column: usize| {
        rows.first()
            .and_then(|row| row.try_get::<_, bool>(column).ok())
            .unwrap_or(false)
    };
    let (has_schema, has_tables, has_version) = (is_so(0), is_so(1), is_so(2));
    let server = rows.first().and_then(|row| row.try_get::<_, i32>(3).ok());
    must_be_new_enough(server.ok_or_else(|| unreadable(WHAT))?)?;
    if !has_version {
        if has_tables {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "use the schema brigade: it is of another program; use another database, or rename \
                    that schema",
            ));
        }
        return Ok(Found {
            version: 0,
            has_schema,
        });
    }
    let rows = client
        .query_typed("select brigade.schema_version()", &[])
        .await
        .map_err(failed)?;
    let version = rows.first().and_then(|row| row.try_get::<_, i32>(0).ok());
    let version = version.ok_or_else(|| unreadable(WHAT))?.unsigned_abs();
    if version > needed {
        let text = format!(
            "use the schema brigade: its version {version} is newer than this program, which knows \
                {needed}; update the program. Nothing was written"
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(Found {
        version,
        has_schema,
    })
}

/// Refuses a server that is too old, by its `server_version_num`: 140011 is 14.11, 90624 is 9.6.24.
fn must_be_new_enough(server: i32) -> Result<(), Error> {
    if server >= OLDEST_SERVER {
        return Ok(());
    }
    let (major, minor) = (server / 10_000, server / 100 % 100);
    let version = if major < 10 {
        format!("{major}.{minor}")
    } else {
        major.to_string()
    };
    let text = format!(
        "use this server: it is PostgreSQL {version}, and 14 is the oldest that Brigade works with; \
            update it, or use another server"
    );
    Err(Error::new(ErrorKind::Unsupported, text))
}

fn migration_error(source: &tokio_postgres::Error) -> Error {
    let error = sql_error(WHAT, source, false);
    if code_of(&error) != Some("42501") {
        return error;
    }
    let text = format!(
        "{WHAT}: the user may not do that. Grant it (grant create on database .. to ..), or have its \
            owner run `brigade migrate`; if the schema is there and up to date, the user needs usage \
            on it (docs/brokers.md has the rights of each role)"
    );
    Error::new(ErrorKind::Refused, text).with_source(ServerError::text_of(source))
}

#[cfg(test)]
mod tests;
