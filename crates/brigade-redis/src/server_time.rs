//! The time of a server, also while its wall clock is set.
//!
//! Redis has no clock but the wall clock, and leases and rates must not follow a step of that. So
//! each client compares the server's `TIME` with its own boot clock. It passes to every script the
//! time that it expects there; a script whose server is more than [`STEP_MIN`] off does nothing and
//! answers `STEPPED`. The client then reads the time again, with a bound on how long that took,
//! so that an answer that was merely slow is never taken for a step. If it is one, the client adds
//! it to the server's *correction*, which the server keeps for all clients and which scripts add to
//! `TIME`. The correction is 0 until the first step. Jobs and schedules that are due at a moment of
//! the wall clock do not use it.
//!
//! Each change of the correction has a version, so that a step that several clients see is counted
//! once. A client whose own clock stood still takes that for a step of the server. The next client
//! that saw none takes the change back, and the first one accepts that: a client that changed the
//! correction lately takes back no change ([`judge`]). A clock that merely runs at another speed is
//! never taken for a step, as each comparison begins at the last one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Value, cmd};

use super::arguments::Arguments;
use super::fault::RedisFault;
use super::keys::key;
use super::nodes::{Nodes, Purpose};
use super::reach::{Connection, Target};
use super::scripts;
use super::url::Address;
use crate::clock::BootTime;
use crate::sync::lock;

/// A smaller step is left alone: leases have a margin for it.
const STEP_MIN: Duration = Duration::from_secs(1);
/// Clocks may run apart by one part in this many, twice what NTP allows itself.
const DRIFT: u32 = 1000;
/// A client that changed the correction accepts what others make of that for this long.
const ACCEPTS_FOR: Duration = Duration::from_secs(60);
/// A script is sent so often with an expected time, each time with twice the tolerance; then
/// without.
pub(super) const TRIES: u32 = 4;
/// No queue has this name: its keys are the corrections.
const CLOCK_QUEUE: &str = "brigade.clock";

/// What the server keeps for all clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Correction {
    version: u64,
    millis: i64,
}

/// The server's wall clock, as it was read.
#[derive(Clone, Copy, Debug)]
struct TimeReading {
    wall_millis: i64,
    at: BootTime,
    /// It was then up to so much earlier or later.
    uncertainty: Duration,
}

/// What a client knows of a server's time.
#[derive(Clone, Copy, Debug)]
struct KnownTime {
    reading: TimeReading,
    correction: Correction,
    /// When this client changed the correction last.
    changed: Option<BootTime>,
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// The correction of the server holds. `unchecked`: it is not what this client saw, which may
    /// have missed a step.
    Accept { unchecked: bool },
    /// It is to be changed by this, if it still has this version.
    Change { version: u64, by: i64 },
}

pub(super) struct ServerTimes {
    nodes: Arc<Nodes>,
    /// Bounded by the addresses that a cluster has.
    known: Mutex<HashMap<Target, KnownTime>>,
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}

impl KnownTime {
    /// The time that the server's wall clock should show, and how far it may be off.
    fn expected(&self, at: BootTime) -> (i64, Duration) {
        let passed = at.since(self.reading.at);
        let tolerance = STEP_MIN + self.reading.uncertainty + passed / DRIFT;
        (
            self.reading.wall_millis.saturating_add(millis(passed)),
            tolerance,
        )
    }

    fn may_change(&self, now: BootTime) -> bool {
        self.changed
            .is_none_or(|changed| now.since(changed) >= ACCEPTS_FOR)
    }
}

/// What a new reading means, and the correction that the server had just before it.
fn judge(known: &KnownTime, stored: Correction, reading: &TimeReading) -> Judgement {
    let (expected, tolerance) = known.expected(reading.at);
    let tolerance = millis(tolerance + reading.uncertainty);
    let step = reading.wall_millis.saturating_sub(expected);
    let is_step = step.saturating_abs() > tolerance;
    if stored.version == known.correction.version {
        // Not held back by an earlier change: each step of the server is one of its own.
        let (version, by) = (stored.version, step.saturating_neg());
        return if is_step {
            Judgement::Change { version, by }
        } else {
            Judgement::Accept { unchecked: false }
        };
    }
    let by = known.correction.millis.saturating_sub(stored.millis);
    let is_contradicted = !is_step && by.saturating_abs() > tolerance;
    if is_contradicted && known.may_change(reading.at) {
        return Judgement::Change {
            version: stored.version,
            by,
        };
    }
    let unchecked = by.saturating_sub(step).saturating_abs() > tolerance;
    Judgement::Accept { unchecked }
}

impl ServerTimes {
    pub(super) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            nodes,
            known: Mutex::default(),
        }
    }

    /// What a script is given of the time of its server, after `tried` refusals: the correction,
    /// the expected time or nothing, and how far that may be off.
    pub(super) async fn argument(&self, at: &[u8], tried: u32) -> String {
        let Ok(target) = self.nodes.target_of(at).await else {
            return "0::0".to_owned();
        };
        let known = lock(&self.known).get(&target).copied();
        let known = match known {
            Some(known) => known,
            None => match self.look(&target).await {
                Ok(known) => known,
                // The script's own request fails for the same reason.
                Err(_) => return "0::0".to_owned(),
            },
        };
        let correction = known.correction.millis;
        if tried >= TRIES {
            return format!("{correction}::0");
        }
        let (expected, tolerance) = known.expected(BootTime::now());
        format!(
            "{correction}:{expected}:{}",
            millis(tolerance.saturating_mul(1 << tried))
        )
    }

    /// By how many milliseconds scripts correct the time of the server that has a key.
    pub(super) async fn correction_at(&self, at: &[u8]) -> i64 {
        let Ok(target) = self.nodes.target_of(at).await else {
            return 0;
        };
        let known = lock(&self.known).get(&target).copied();
        known.map_or(0, |known| known.correction.millis)
    }

    /// Reads the time of the server that has a key, and corrects it if it was set.
    pub(super) async fn look_at(&self, at: &[u8]) -> Result<(), RedisFault> {
        self.steady_at(at).await.map(drop)
    }

    /// The same; gives the corrected time, which does not follow steps of the wall clock.
    pub(super) async fn steady_at(&self, at: &[u8]) -> Result<i64, RedisFault> {
        let target = self.nodes.target_of(at).await?;
        let known = self.look(&target).await?;
        let passed = millis(BootTime::now().since(known.reading.at));
        Ok(known
            .reading
            .wall_millis
            .saturating_add(passed)
            .saturating_add(known.correction.millis))
    }

    async fn look(&self, target: &Target) -> Result<KnownTime, RedisFault> {
        let stored = self.stored(target).await;
        let sent = BootTime::now();
        let mut pipeline = redis::pipe();
        pipeline.add_command(cmd("TIME"));
        let answers = self.nodes.send_to(target.clone(), &pipeline).await?;
        let time = answers.into_iter().next().unwrap_or(Value::Nil);
        self.note(target, stored, sent, time).await
    }

    /// The same on a connection of its own.
    pub(super) async fn look_on(
        &self,
        connection: &Connection,
        target: &Target,
    ) -> Result<(), RedisFault> {
        let stored = self.stored(target).await;
        let sent = BootTime::now();
        let time = connection.ask::<Value>(cmd("TIME")).await?;
        self.note(target, stored, sent, time).await.map(drop)
    }

    async fn note(
        &self,
        target: &Target,
        stored: Option<Correction>,
        sent: BootTime,
        time: Value,
    ) -> Result<KnownTime, RedisFault> {
        let (seconds, micros): (i64, i64) = time
            .extract_error()
            .and_then(|time| Ok(redis::from_redis_value(time)?))
            .map_err(RedisFault::sent)?;
        let uncertainty = BootTime::now().since(sent) / 2;
        let reading = TimeReading {
            wall_millis: seconds.saturating_mul(1000).saturating_add(micros / 1000),
            at: sent.later(uncertainty),
            uncertainty,
        };
        let before = lock(&self.known).get(target).copied();
        let mut known = KnownTime {
            reading,
            correction: before.map_or_else(Correction::default, |known| known.correction),
            changed: before.and_then(|known| known.changed),
        };
        // Without an answer of where corrections are kept, this client goes on with its own.
        let stored = stored.unwrap_or(known.correction);
        known.correction = match before.map(|before| judge(&before, stored, &reading)) {
            Some(Judgement::Change { version, by }) => {
                known.changed = Some(reading.at);
                tracing::warn!(
                    millis = by,
                    "the server's wall clock was set, or this host's clock stood still: leases \
                        keep their time"
                );
                self.change(target, version, by)
                    .await
                    .unwrap_or(Correction {
                        version,
                        millis: stored.millis.saturating_add(by),
                    })
            }
            Some(Judgement::Accept { unchecked }) => {
                known.changed = if unchecked {
                    Some(reading.at)
                } else {
                    known.changed
                };
                stored
            }
            None => stored,
        };
        lock(&self.known).insert(target.clone(), known);
        Ok(known)
    }

    /// Where the correction of a server is kept. Not in a cluster there is one server, whatever
    /// each client calls it.
    fn field(&self, target: &Target) -> String {
        match target {
            Target::At(Address::Tcp(host, port)) if self.nodes.are_many() => {
                format!("{host}:{port}")
            }
            _ => "server".to_owned(),
        }
    }

    async fn stored(&self, target: &Target) -> Option<Correction> {
        let at = key(CLOCK_QUEUE, "corrections");
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGET").arg(&at).arg(self.field(target));
        let answers = self
            .nodes
            .send(at.as_bytes(), &pipeline, Purpose::Ask)
            .await
            .ok()?;
        match answers.into_iter().next()? {
            Value::Nil => Some(Correction::default()),
            Value::BulkString(text) => {
                let text = String::from_utf8(text).ok()?;
                let (version, millis) = text.split_once(':')?;
                Some(Correction {
                    version: version.parse().ok()?,
                    millis: millis.parse().ok()?,
                })
            }
            _ => None,
        }
    }

    /// Changes the correction unless another client has done so since; what it is now.
    async fn change(&self, target: &Target, version: u64, by: i64) -> Option<Correction> {
        let mut arguments = Arguments::default();
        arguments.push("0:0:0::0");
        arguments.push(&self.field(target));
        arguments.push_number(version);
        arguments.push_number(by);
        let at = key(CLOCK_QUEUE, "");
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("EVAL")
            .arg(&scripts::clock().code)
            .arg(1)
            .arg(&at)
            .arg(arguments);
        let answers = self
            .nodes
            .send(at.as_bytes(), &pipeline, Purpose::Ask)
            .await
            .ok()?;
        let answer = answers.into_iter().next()?.extract_error().ok()?;
        let (version, millis): (u64, i64) = redis::from_redis_value(answer).ok()?;
        Some(Correction { version, millis })
    }
}

#[cfg(test)]
mod tests;
