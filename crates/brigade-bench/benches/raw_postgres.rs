//! Plain SQL that pushes, leases and acknowledges jobs and does nothing else: one table, rows in
//! arrays, `FOR UPDATE SKIP LOCKED`. Two connections work at the same time, so that the server need
//! not wait for the next statement.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls, Statement};

use crate::postgres_jobs::{Done, PAYLOAD, Result};

const TABLE: &str = "
drop table if exists raw_jobs;
create table raw_jobs (
  id bigint generated always as identity primary key, state smallint not null, token bigint not null,
  attempts integer not null, lease_until timestamptz, queue text not null, task text, payload text not null
) with (fillfactor = 70);
create index raw_ready on raw_jobs (queue, id) where state = 0;
create index raw_leased on raw_jobs (lease_until) where state = 3;";
const PUSH: &str = "insert into raw_jobs (state, token, attempts, queue, task, payload)
 select 0, 0, 0, 'noop', 'noop', payload from unnest($1::text[]) payload returning id";
const LEASE: &str = "update raw_jobs set state = 3, token = token + 1, attempts = attempts + 1,
   lease_until = clock_timestamp() + interval '30 s'
 where id = any(array(select id from raw_jobs where state = 0 and queue = 'noop' order by id limit $1
   for update skip locked)) returning id, token, payload";
const ACK: &str =
    "delete from raw_jobs j using unnest($1::bigint[], $2::bigint[]) as done (id, token)
 where j.id = done.id and j.token = done.token and j.state = 3";

struct Raw {
    client: Client,
    push: Statement,
    lease: Statement,
    ack: Statement,
}

impl Raw {
    async fn connect(url: &str, is_first: bool) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        if is_first {
            client.batch_execute(TABLE).await?;
        }
        Ok(Self {
            push: client.prepare(PUSH).await?,
            lease: client.prepare(LEASE).await?,
            ack: client.prepare(ACK).await?,
            client,
        })
    }

    async fn pair(url: &str) -> Result<[Self; 2]> {
        Ok([
            Self::connect(url, true).await?,
            Self::connect(url, false).await?,
        ])
    }

    async fn push(&self, jobs: usize) -> Result<usize> {
        let payloads = vec![PAYLOAD; jobs];
        let rows = self.client.query(&self.push, &[&payloads]).await?;
        Ok(rows.len())
    }

    async fn push_for(&self, jobs: usize, time: Duration) -> Result<usize> {
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < time {
            count += self.push(jobs).await?;
        }
        Ok(count)
    }

    /// Leases and acknowledges until there is nothing left.
    async fn work(&self, jobs: i64) -> Result<usize> {
        let (mut count, mut done) = (0, (Vec::new(), Vec::new()));
        loop {
            let (ids, tokens): &(Vec<i64>, Vec<i64>) = &done;
            // Both are on their way before the first is answered.
            let ack = async {
                match ids.is_empty() {
                    true => Ok(0),
                    false => self.client.execute(&self.ack, &[ids, tokens]).await,
                }
            };
            let most: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&jobs];
            let lease = self.client.query(&self.lease, &most);
            let (acked, leased) = tokio::try_join!(ack, lease)?;
            count += usize::try_from(acked)?;
            if leased.is_empty() {
                return Ok(count);
            }
            done = leased
                .iter()
                .map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)))
                .unzip();
        }
    }
}

/// So many push one each and then the next, as two connections store them.
pub(crate) async fn push(url: &str, jobs: usize, time: Duration) -> Result<Done> {
    let [one, two] = Raw::pair(url).await?;
    let began = Instant::now();
    let (a, b) = tokio::try_join!(one.push_for(jobs / 2, time), two.push_for(jobs / 2, time))?;
    Ok(Done::since(began, a + b))
}

/// All are pushed, then leased and acknowledged.
pub(crate) async fn cycle(url: &str, jobs: usize, time: Duration) -> Result<Done> {
    let [one, two] = Raw::pair(url).await?;
    let began = Instant::now();
    let (a, b) = tokio::try_join!(
        one.push_for(jobs / 2, time / 3),
        two.push_for(jobs / 2, time / 3)
    )?;
    let half = i64::try_from(jobs / 2)?;
    let (c, d) = tokio::try_join!(one.work(half), two.work(half))?;
    assert_eq!(a + b, c + d, "every job was acknowledged");
    Ok(Done::since(began, a + b))
}
