//! apalis on Redis.

use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};
use bench_redis_queues::{PREFETCH, Queue, Result};
use redis::aio::ConnectionManager;

#[derive(Clone)]
struct Apalis(RedisStorage<u64, ConnectionManager>);

impl Queue for Apalis {
    /// A script of its worker ends with "too many results to unpack" where tens of thousands of
    /// jobs wait.
    const RUNS: bool = false;

    async fn open(url: &str) -> Result<Self> {
        let connection = apalis_redis::connect(url).await?;
        Ok(Self(RedisStorage::new(connection).with_config(
            Config::default().queue("noop").batch_size(PREFETCH),
        )))
    }

    async fn push(&mut self) -> Result<()> {
        Ok(self.0.push(1).await?)
    }

    async fn push_many(&mut self, count: usize) -> Result<()> {
        Ok(self.0.push_bulk(vec![1; count]).await?)
    }

    async fn run(self, _: u64) -> Result<()> {
        unreachable!("it says that it does not")
    }
}

fn main() -> Result<()> {
    bench_redis_queues::main::<Apalis>("apalis-redis")
}
