//! The consumers that are alive: a row for each, with the moment, by the server's clock, until
//! which it is known to live. Each announcement removes rows that have run out.

use std::time::Duration;

use super::database::{Database, Statement, millis};
use crate::error::{Error, ErrorKind};
use brigade_core::store::LiveConsumer;

const ANNOUNCE: Statement = Statement::write_again(
    "announce a consumer",
    "with gone as (delete from brigade.consumers where id in (select id from brigade.consumers where \
        until < brigade.now() and id <> $1 limit 200 for update skip locked)) insert into \
        brigade.consumers (id, until, consumer) values ($1, brigade.now() + brigade.ms($2), $3) on \
        conflict (id) do update set until = excluded.until, consumer = excluded.consumer",
);
const RETIRE: Statement = Statement::write_again(
    "retire a consumer",
    "delete from brigade.consumers where id = $1",
);
const LIST: Statement = Statement::read(
    "list consumers",
    "select consumer from brigade.consumers where until > brigade.now() order by id limit $1",
);
/// The most consumers that are listed.
const LISTED_MAX: i64 = 10_000;

impl Database {
    pub(super) async fn announce_consumer(
        &self,
        consumer: &LiveConsumer,
        lasts: Duration,
    ) -> Result<(), Error> {
        let text = serde_json::to_string(consumer)
            .map_err(|e| Error::new(ErrorKind::Encode, "write a consumer").with_source(e))?;
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&consumer.id, &millis(lasts), &text];
        self.row(ANNOUNCE, &values).await.map(drop)
    }

    pub(super) async fn retire_consumer(&self, id: &str) -> Result<(), Error> {
        self.row(RETIRE, &[&id]).await.map(drop)
    }

    /// Those that a later version of this library wrote may be unreadable, and are left out.
    pub(super) async fn consumers(&self) -> Result<Vec<LiveConsumer>, Error> {
        let rows = self.rows(LIST, &[&LISTED_MAX]).await?;
        let read = |row: &tokio_postgres::Row| serde_json::from_str(row.try_get(0).ok()?).ok();
        Ok(rows.iter().filter_map(read).collect())
    }
}
