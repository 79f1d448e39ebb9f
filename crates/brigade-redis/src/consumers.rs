//! The consumers that are alive: one sorted set, whose members are the consumers as JSON and whose
//! scores are the moments, by the server's corrected clock, until which each is known to live: as
//! with leases, a step of the wall clock changes nothing.
//!
//! A consumer's JSON stays the same while it runs, so an announcement only moves its score. Each
//! announcement removes what has run out; the set itself goes when nothing was announced for long.

use std::time::Duration;

use redis::{cmd, pipe};

use super::arguments::millis;
use super::client::RedisClient;
use crate::error::{Error, ErrorKind};
use crate::store::LiveConsumer;

/// The one key.
const CONSUMERS: &str = "brigade:consumers";
/// The most consumers that are listed.
const LISTED_MAX: usize = 10_000;
/// Longer than any announcement lasts, and than most steps of the wall clock, by which keys expire.
const KEPT: Duration = Duration::from_secs(24 * 3600);

fn text_of(consumer: &LiveConsumer) -> Result<String, Error> {
    serde_json::to_string(consumer)
        .map_err(|e| Error::new(ErrorKind::Encode, "write a consumer").with_source(e))
}

impl RedisClient {
    pub(super) async fn announce_consumer(
        &self,
        consumer: &LiveConsumer,
        lasts: Duration,
    ) -> Result<(), Error> {
        let text = text_of(consumer)?;
        let now = self.steady_of(CONSUMERS.as_bytes()).await?;
        let until = now.saturating_add_unsigned(millis(lasts));
        let mut pipeline = pipe();
        pipeline
            .zadd(CONSUMERS, text, until)
            .zrembyscore(CONSUMERS, "-inf", now)
            .pexpire(CONSUMERS, i64::try_from(millis(KEPT)).unwrap_or(i64::MAX));
        self.ask_all("announce a consumer", &pipeline).await
    }

    pub(super) async fn retire_consumer(&self, consumer: &LiveConsumer) -> Result<(), Error> {
        let mut command = cmd("ZREM");
        command.arg(CONSUMERS).arg(text_of(consumer)?);
        self.ask("retire a consumer", &command).await
    }

    /// Those that a later version of this library wrote may be unreadable, and are left out.
    pub(super) async fn consumers(&self) -> Result<Vec<LiveConsumer>, Error> {
        let now = self.steady_of(CONSUMERS.as_bytes()).await?;
        let mut command = cmd("ZRANGEBYSCORE");
        command
            .arg(CONSUMERS)
            .arg(format!("({now}"))
            .arg("+inf")
            .arg("LIMIT")
            .arg(0)
            .arg(LISTED_MAX);
        let texts: Vec<String> = self.ask("list consumers", &command).await?;
        let mut consumers: Vec<LiveConsumer> = texts
            .iter()
            .filter_map(|text| serde_json::from_str(text).ok())
            .collect();
        consumers.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(consumers)
    }
}
