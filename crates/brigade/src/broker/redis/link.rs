//! The connection for scripts, and what its errors mean.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind as Kind, FromRedisValue, RedisError, Script, ServerErrorKind, ToRedisArgs};

use super::schedules::NextTick;
use crate::broker::api::Clock;
use crate::error::{Error, ErrorKind};
use crate::job::JobId;
use crate::sync::lock;

/// How long the server may take for an answer before the call ends as uncertain.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A call tries so often to connect again, with growing pauses, before it ends as unreachable; the next call begins anew.
const TRIES: usize = 4;
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// 6.2 has LPOP with a count and ZRANGE by all orders.
const VERSION_MIN: (u32, u32) = (6, 2);

pub(super) struct Link {
    client: Client,
    connection: ConnectionManager,
    clock: Clock,
    /// Queues that this process has put on the list of queues.
    listed: Mutex<HashSet<Box<str>>>,
    pub(super) next_tick: Mutex<Option<NextTick>>,
}

/// The list of queues, the one key that is no queue's.
pub(super) const QUEUES: &str = "brigade:queues";

/// Each is loaded by the first call that finds it missing on the server.
pub(super) mod scripts {
    use super::{OnceLock, Script};

    macro_rules! scripts {
        ($($name:ident),*) => {
            $(pub(in crate::broker::redis) fn $name() -> &'static Script {
                static SCRIPT: OnceLock<Script> = OnceLock::new();
                SCRIPT.get_or_init(|| Script::new(concat!(include_str!("common.lua"), include_str!(concat!(stringify!($name), ".lua")))))
            })*
        };
    }

    scripts! { push, lease, settle, order, schedule, why }
}

impl Link {
    pub(super) async fn connect(url: &str, clock: Clock) -> Result<Self, Error> {
        let client = Client::open(url).map_err(|e| {
            let text = "connect to Redis: the URL is redis://[user:password@]host[:6379][/database] or redis+unix:///path";
            Error::new(ErrorKind::BadOption, text).with_source(e)
        })?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_max_delay(PAUSE_MAX)
            .set_number_of_retries(TRIES);
        // The manager connects when it is first used; whoever connects wants to hear at once what is wrong.
        let first = tokio::time::timeout(CONNECT_TIMEOUT, client.get_multiplexed_async_connection()).await;
        let mut first = match first {
            Ok(first) => first.map_err(|e| error("connect to Redis", e, false))?,
            Err(_) => return Err(Error::new(ErrorKind::Unreachable, "connect to Redis: it does not answer")),
        };
        check_version(&mut first).await?;
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), config);
        let connection = connection.map_err(|e| error("connect to Redis", e, false))?;
        Ok(Self { client, connection, clock, listed: Mutex::default(), next_tick: Mutex::default() })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a script on a queue.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        what: &str,
        script: &Script,
        queue: &str,
        arguments: impl ToRedisArgs,
    ) -> Result<T, Error> {
        let mut call = script.prepare_invoke();
        let (passed, set) = self.clock_moved();
        let clock = format!("{}:{set}", passed.as_millis());
        call.key(key(queue, "")).arg(clock).arg(arguments);
        call.invoke_async(&mut self.connection.clone()).await.map_err(|e| error(what, e, true))
    }

    /// The server's time, in milliseconds since 1970, as scripts see it.
    pub(super) async fn now(&self) -> Result<i64, Error> {
        let (seconds, micros): (i64, i64) = self.ask("ask for the time", &redis::cmd("TIME")).await?;
        let (passed, set) = self.clock_moved();
        Ok(seconds * 1000 + micros / 1000 + i64::try_from(passed.as_millis()).unwrap_or(i64::MAX / 4) + set)
    }

    /// How far a test has moved the clock: time that passed, and milliseconds by which the wall clock was set.
    pub(super) fn clock_moved(&self) -> (Duration, i64) {
        (self.clock.ahead(), self.clock.wall_off_millis())
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, what: &str, command: &Cmd) -> Result<T, Error> {
        command.query_async(&mut self.connection.clone()).await.map_err(|e| error(what, e, false))
    }

    pub(super) async fn ask_all<T: FromRedisValue>(&self, what: &str, pipeline: &redis::Pipeline) -> Result<T, Error> {
        pipeline.query_async(&mut self.connection.clone()).await.map_err(|e| error(what, e, false))
    }

    /// Sees to it that a queue is on the list of queues.
    pub(super) async fn list_queue(&self, queue: &str) -> Result<(), Error> {
        if lock(&self.listed).contains(queue) {
            return Ok(());
        }
        self.ask::<u64>("list a queue", Cmd::new().arg("SADD").arg(QUEUES).arg(queue)).await?;
        let mut listed = lock(&self.listed);
        if listed.len() >= LISTED_MAX {
            listed.clear();
        }
        listed.insert(queue.into());
        Ok(())
    }
}

const LISTED_MAX: usize = 10_000;

async fn check_version(connection: &mut redis::aio::MultiplexedConnection) -> Result<(), Error> {
    let info: String = redis::cmd("INFO").arg("server").query_async(connection).await.map_err(|e| error("connect to Redis", e, false))?;
    let version = info.lines().find_map(|line| line.trim().strip_prefix("redis_version:")).unwrap_or_default();
    let mut numbers = version.split('.').filter_map(|part| part.parse::<u32>().ok());
    let known = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if known < VERSION_MIN {
        let text = format!("connect to Redis {version}: it is too old; use Redis 6.2 or newer, or Valkey");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(())
}

/// A key of a queue. The braces make a cluster keep all of a queue's together.
pub(super) fn key(queue: &str, name: &str) -> String {
    format!("brigade:{{{queue}}}:{name}")
}

// -- ids: `emails/17` outside, the number with leading zeros within its queue

const ID_DIGITS: usize = 16;

pub(super) fn id_of(queue: &str, number: &str) -> JobId {
    JobId::new(format!("{queue}/{}", number.trim_start_matches('0')))
}

/// Queue and number of an id; `None` if it is not of this broker's kind.
pub(super) fn parts_of(id: &JobId) -> Option<(&str, String)> {
    let (queue, number) = id.as_str().rsplit_once('/')?;
    let is_number = !number.is_empty() && number.len() <= ID_DIGITS && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| (queue, format!("{number:0>ID_DIGITS$}")))
}

/// What a person is told of an error of the server's, or of the way to it. `writes`: whether the request changes something.
pub(super) fn error(what: &str, source: RedisError, writes: bool) -> Error {
    let (kind, hint) = match (source.kind(), source.code()) {
        (Kind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            (ErrorKind::Refused, "wrong user or password; put them into the URL")
        }
        (Kind::Server(ServerErrorKind::NoPerm), _) => {
            (ErrorKind::Refused, "the user may not do that; give it the keys brigade:* and @scripting")
        }
        (_, Some("WRONGTYPE")) => (ErrorKind::Unsupported, "a key of another program is in the way; use another database, or rename it"),
        (_, Some("OOM")) => (ErrorKind::QueueFull, "the server is out of memory (maxmemory); nothing of this was stored"),
        (_, Some("MISCONF")) => (ErrorKind::Os, "the server cannot write to its disk; nothing of this was stored"),
        (Kind::Server(ServerErrorKind::ReadOnly), _) => (ErrorKind::Unreachable, "this is a replica; connect to the primary"),
        (Kind::Server(ServerErrorKind::CrossSlot), _) => {
            (ErrorKind::Unsupported, "that needs several queues at once, which a cluster cannot do")
        }
        (Kind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown), _) => {
            (ErrorKind::Unreachable, "the server is not ready yet")
        }
        (_, Some("BUSY")) => (ErrorKind::Unreachable, "a script of somebody's blocks the server (SCRIPT KILL ends it)"),
        (Kind::Io, _) => return unreachable(what, source, writes),
        _ => (ErrorKind::Protocol, "the server refused"),
    };
    Error::new(kind, format!("{what}: {hint}")).with_source(source)
}

fn unreachable(what: &str, source: RedisError, writes: bool) -> Error {
    let certain = source.is_connection_refusal();
    let hint = if source.is_timeout() { "the server does not answer" } else { "the server cannot be reached" };
    let error = Error::new(ErrorKind::Unreachable, format!("{what}: {hint}")).with_source(source);
    if writes && !certain { error.uncertain() } else { error }
}
