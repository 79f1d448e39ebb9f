//! Whether a pooler in front of the server gives each transaction of a connection another session,
//! as PgBouncer does in the modes `transaction` and `statement`. Then statements cannot be prepared:
//! those of one program would meet those of another under the same name.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::pool::ConnectionPool;
use super::sql_error::sql_error;
use crate::error::Error;

/// Looks at the sessions of two connections. Without a pooler, or with one that keeps a session for
/// each connection, they are two, and stay so. With a transaction pooler a session that one
/// connection has just left is given to the other; that another client takes it each time is
/// unlikely, and would change the session of a connection.
const LOOKS: usize = 3;

pub(super) async fn has_transaction_pooler(
    pool: &ConnectionPool,
    first: &Client,
) -> Result<bool, Error> {
    let what = "look for a pooler";
    let second = match pool.get_at_once().await {
        Ok(second) => second,
        // The server has no connection left: then this one is not shared.
        Err(_) => return Ok(false),
    };
    let failed = |error| sql_error(what, &error, false);
    let mut seen = (String::new(), String::new());
    for look in 0..LOOKS {
        let one = session_of(first).await.map_err(failed)?;
        let other = session_of(&second.client).await.map_err(failed)?;
        if one == other || (look > 0 && seen != (one.clone(), other.clone())) {
            return Ok(true);
        }
        seen = (one, other);
    }
    Ok(false)
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
