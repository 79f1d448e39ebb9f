//! Whether a pooler in front of the server gives each transaction of a connection another session,
//! as PgBouncer does in the modes `transaction` and `statement`. Then statements cannot be
//! prepared: those of one program would meet those of another under the same name.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::Connector;
use super::pool::{ConnectionPool, PooledConnection};
use super::sql_error::sql_error;
use crate::error::Error;
use crate::retry::jitter;

/// Looks at the sessions of two connections. Without a pooler, or with one that keeps a session for
/// each connection, they are two, and stay so. With a transaction pooler a session that one
/// connection has just left is given to the other; that another client takes it each time is
/// unlikely, and would change the session of a connection. A pooler that goes round its sessions
/// gives the first connection two of them one after the other.
const LOOKS: usize = 3;
/// Before another look, while no two connections are to be had.
const PAUSE: Duration = Duration::from_secs(1);

/// Finds out by two connections whether there is a pooler.
pub(super) async fn look(
    connector: &Connector,
    first: &PooledConnection,
    second: &PooledConnection,
) -> Result<(), Error> {
    let found = has_transaction_pooler(&first.client, &second.client).await;
    if !found.map_err(|error| sql_error("look for a pooler", &error, false))? {
        connector.note_kept_sessions();
    }
    Ok(())
}

/// Tries until it is known.
pub(super) async fn find_out(pool: &ConnectionPool) {
    loop {
        sleep(PAUSE.mul_f64(jitter(0.2))).await;
        if let Ok(first) = pool.get_at_once().await
            && let Ok(second) = pool.get_at_once().await
            && look(&pool.connector, &first, &second).await.is_ok()
        {
            return;
        }
    }
}

async fn has_transaction_pooler(
    first: &Client,
    second: &Client,
) -> Result<bool, tokio_postgres::Error> {
    let (one, other) = (session_of(first).await?, session_of(second).await?);
    for _ in 0..LOOKS {
        if session_of(first).await? != one
            || session_of(first).await? != one
            || session_of(second).await? != other
        {
            return Ok(true);
        }
    }
    Ok(one == other)
}

/// The number of the server's process that serves a transaction of this connection.
async fn session_of(client: &Client) -> Result<String, tokio_postgres::Error> {
    let rows = client.simple_query("select pg_backend_pid()").await?;
    let session = rows.iter().find_map(|row| match row {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(session.unwrap_or_default())
}
