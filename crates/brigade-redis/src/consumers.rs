//! The consumers that are alive: a sorted set of their ids, whose scores are the moments, by the
//! server's corrected clock, until which each is known to live (as with leases, a step of the wall
//! clock changes nothing), and a hash of what each has announced.
//!
//! Each announcement removes what has run out; both keys go when nothing was announced for long.

use std::time::Duration;

use redis::{Value, cmd, pipe};

use super::arguments::millis;
use super::client::RedisClient;
use super::reply::read;
use crate::error::{Error, ErrorKind};
use crate::store::LiveConsumer;

/// Until when each is known to live.
const CONSUMERS: &str = "brigade:{brigade.consumers}:until";
/// What each has announced, as JSON.
const ANNOUNCED: &str = "brigade:{brigade.consumers}:announced";
/// The most consumers that are listed.
const LISTED_MAX: usize = 10_000;
/// Those that one announcement removes at most.
const REMOVED_AT_ONCE: isize = 100;
/// Consumers that are read in one round trip.
const PAGE: usize = 500;
/// Longer than any announcement lasts, and than most steps of the wall clock, by which keys expire.
const KEPT: Duration = Duration::from_secs(24 * 3600);

impl RedisClient {
    pub(super) async fn announce_consumer(
        &self,
        consumer: &LiveConsumer,
        lasts: Duration,
    ) -> Result<(), Error> {
        let what = "announce a consumer";
        let text = serde_json::to_string(consumer)
            .map_err(|e| Error::new(ErrorKind::Encode, "write a consumer").with_source(e))?;
        let now = self.steady_of(CONSUMERS.as_bytes()).await?;
        let until = now.saturating_add_unsigned(millis(lasts));
        let kept = i64::try_from(millis(KEPT)).unwrap_or(i64::MAX);
        let mut pipeline = pipe();
        pipeline
            .hset(ANNOUNCED, &consumer.id, text)
            .zadd(CONSUMERS, &consumer.id, until)
            .pexpire(ANNOUNCED, kept)
            .pexpire(CONSUMERS, kept)
            .zrangebyscore_limit(CONSUMERS, "-inf", now, 0, REMOVED_AT_ONCE);
        let answers: Vec<Value> = self.ask_all(what, &pipeline).await?;
        let silent: Vec<String> = read(answers.into_iter().last().unwrap_or(Value::Nil))?;
        self.remove_consumers(what, &silent).await
    }

    async fn remove_consumers(&self, what: &str, ids: &[String]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut pipeline = pipe();
        pipeline.zrem(CONSUMERS, ids).hdel(ANNOUNCED, ids);
        self.ask_all::<Vec<Value>>(what, &pipeline).await.map(drop)
    }

    pub(super) async fn retire_consumer(&self, consumer: &LiveConsumer) -> Result<(), Error> {
        let ids = [consumer.id.clone()];
        self.remove_consumers("retire a consumer", &ids).await
    }

    /// Those that a later version of this library wrote may be unreadable, and are left out.
    pub(super) async fn consumers(&self) -> Result<Vec<LiveConsumer>, Error> {
        let what = "list consumers";
        let now = self.steady_of(CONSUMERS.as_bytes()).await?;
        let mut command = cmd("ZRANGEBYSCORE");
        command
            .arg(CONSUMERS)
            .arg(format!("({now}"))
            .arg("+inf")
            .arg("LIMIT")
            .arg(0)
            .arg(LISTED_MAX);
        let ids: Vec<String> = self.ask(what, &command).await?;
        let mut consumers = Vec::new();
        for page in ids.chunks(PAGE) {
            let texts: Vec<Option<String>> = self
                .ask(what, cmd("HMGET").arg(ANNOUNCED).arg(page))
                .await?;
            let known = texts.into_iter().flatten();
            consumers.extend(known.filter_map(|text| serde_json::from_str(&text).ok()));
        }
        consumers.sort_by(|one: &LiveConsumer, other| one.id.cmp(&other.id));
        Ok(consumers)
    }
}
