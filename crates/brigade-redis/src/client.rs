//! The client: scripts and commands, each to the server that has its keys.
//!
//! [`RedisClient`] owns what this process remembers between two scripts: which queues are listed
//! and open, the time of each server, the presence of holders, the next tick. Methods that push,
//! hand out, settle and look are in the files of those names. A script names all its keys by one
//! queue; a server that forgot a script gets its code once more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use redis::{Arg, Cmd, FromRedisValue, Pipeline, RedisError, ToRedisArgs, Value, cmd};

use super::fault::RedisFault;
use super::holder_checks::HolderChecks;
use super::keys::{QUEUES, key};
use super::listed_queues::ListedQueues;
use super::next_tick::NextTick;
use super::nodes::{Nodes, Purpose, slot_of};
use super::open_queues::OpenQueues;
use super::presence::HolderPresence;
use super::reach::{Connection, Reach};
use super::reply::convert;
use super::scripts::{self, Lua, with_code};
use super::server_time::ServerTimes;
use super::url::{RedisConfig, ServerLayout};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::store::CancelRequest;

/// 6.2 has LPOP with a count and ZRANGE by all orders.
const VERSION_MIN: (u32, u32) = (6, 2);

/// The way to the server, and what this process remembers of it.
pub(super) struct RedisClient {
    nodes: Arc<Nodes>,
    clock: Clock,
    pub(super) times: Arc<ServerTimes>,
    pub(super) presence: Arc<HolderPresence>,
    pub(super) listed: ListedQueues,
    pub(super) open: Arc<OpenQueues>,
    pub(super) holder_checks: HolderChecks,
    pub(super) next_tick: Mutex<Option<NextTick>>,
    /// Cancels of leases of this process, by queue, as they were seen last. Bounded by the leases.
    pub(super) asked_cancels: Mutex<HashMap<Box<str>, Vec<CancelRequest>>>,
    /// Connections on which requests for events have waited.
    pub(super) waiting: Mutex<Vec<Connection>>,
    /// When this process last had the log of a queue go on, and the number before its first event.
    pub(super) recorded: Mutex<HashMap<Box<str>, (Instant, u64)>>,
    /// Schedules that could not be fired, and until when they are left alone.
    pub(super) put_off: Mutex<HashMap<Box<str>, Instant>>,
}

/// No queue of a user has this name.
const RIGHTS_QUEUE: &str = "brigade.rights";

fn is_unknown_command(error: &Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<RedisError>())
        .is_some_and(is_forbidden)
}

/// Whether a command is forbidden to the user, or has another name here.
fn is_forbidden(error: &RedisError) -> bool {
    let is_unknown = error
        .detail()
        .is_some_and(|text| text.to_ascii_lowercase().contains("unknown command"));
    is_unknown || error.code() == Some("NOPERM")
}

impl RedisClient {
    /// Must be called within the runtime.
    pub(super) async fn connect(url: &str, clock: Clock) -> Result<Self, Error> {
        let nodes = Arc::new(Nodes::new(Arc::new(Reach::new(RedisConfig::parse(url)?)?)));
        let what = "connect to Redis";
        // Lines connect when they are first used, and try for a while; a caller that connects wants
        // to hear at once what is wrong.
        let targets = nodes
            .targets()
            .await
            .map_err(|fault| fault.into_error(what, false))?;
        let (mut reached, mut away) = (false, None);
        for target in targets {
            let connection = match nodes.reach().open(&target, None).await {
                Ok(connection) => connection,
                // The queues of its other nodes can be used.
                Err(fault)
                    if fault.is_passing()
                        && matches!(nodes.reach().config.layout, ServerLayout::Cluster(_)) =>
                {
                    away = Some(fault);
                    continue;
                }
                Err(fault) => return Err(fault.into_error(what, false)),
            };
            reached = true;
            match server_facts(&connection).await {
                Ok(facts) => check_server(&facts, &nodes.reach().config.layout)?,
                Err(fault) => return Err(fault.into_error(what, false)),
            }
        }
        if let Some(fault) = away.clone().filter(|_| !reached) {
            return Err(fault.into_error(what, false));
        }
        let client = Self {
            times: Arc::new(ServerTimes::new(Arc::clone(&nodes))),
            presence: Arc::default(),
            nodes,
            clock,
            listed: ListedQueues::default(),
            open: Arc::default(),
            holder_checks: HolderChecks::default(),
            next_tick: Mutex::default(),
            asked_cancels: Mutex::default(),
            waiting: Mutex::default(),
            recorded: Mutex::default(),
            put_off: Mutex::default(),
        };
        if away.is_none() {
            client.check_rights(what).await?;
        }
        Ok(client)
    }

    /// Whether the scripts may do what they have to.
    async fn check_rights(&self, what: &str) -> Result<(), Error> {
        let refused = |text: String| Err(Error::new(ErrorKind::Refused, format!("{what}: {text}")));
        match self
            .run::<Vec<String>>(
                what,
                scripts::rights(),
                RIGHTS_QUEUE,
                super::arguments::Arguments::default(),
            )
            .await
        {
            Ok(missing) if missing.is_empty() => Ok(()),
            Ok(missing) => refused(format!(
                "the server refuses {} on keys brigade:*, which the scripts that store, hand out \
                    and settle jobs need; give the user \
                 ~brigade:* and these commands, or take back their renaming",
                missing.join(", ")
            )),
            Err(error) if error.kind() == ErrorKind::Refused || is_unknown_command(&error) => {
                let text = format!(
                    "{what}: the server refuses EVALSHA or EVAL, or TIME, HMGET and UNLINK within \
                        scripts, by which every job is stored, handed out \
                     and settled; give the user +@scripting +@read +@write +time and ~brigade:*, \
                     or take back the renaming of these commands"
                );
                Err(Error::new(ErrorKind::Refused, text).with_source(error))
            }
            // It may be away, busy, or its memory full: that passes.
            Err(error) if error.kind() == ErrorKind::Unsupported => Err(error),
            Err(_) => Ok(()),
        }
    }

    pub(super) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// Whether the connection to a queue's server was ended and is not back, so that others may be
    /// taking the jobs of this process.
    pub(super) fn is_cut_off(&self, queue: &str) -> bool {
        let target = self.nodes.known_target_of(key(queue, "").as_bytes());
        target.is_some_and(|target| self.presence.is_cut_off(&target))
    }

    /// Runs a script on a queue.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        what: &str,
        script: &Lua,
        queue: &str,
        arguments: impl ToRedisArgs,
    ) -> Result<T, Error> {
        let mut answers = self
            .call(what, queue, script, Purpose::Ask, |time| {
                let mut pipeline = Pipeline::with_capacity(1);
                pipeline.add_command(self.evalsha(script, queue, time, &arguments));
                pipeline
            })
            .await?;
        convert(what, answers.swap_remove(0), true)
    }

    /// Runs a script on a queue for several callers; what it changed must outlive the server, where
    /// the URL says so. What it answers to each; an error may be among that.
    pub(super) async fn run_for_all(
        &self,
        what: &str,
        script: &Lua,
        queue: &str,
        arguments: impl ToRedisArgs,
        waits: bool,
    ) -> Result<Vec<Value>, Error> {
        let wait = self.nodes.reach().config.wait.filter(|_| waits);
        let purpose = if wait.is_some() {
            Purpose::Wait
        } else {
            Purpose::Ask
        };
        let mut answers = self
            .call(what, queue, script, purpose, |time| {
                let mut pipeline = Pipeline::with_capacity(2);
                pipeline.add_command(self.evalsha(script, queue, time, &arguments));
                if let Some(wait) = wait {
                    pipeline
                        .cmd("WAIT")
                        .arg(wait.replicas)
                        .arg(super::arguments::millis(wait.timeout));
                }
                pipeline
            })
            .await?;
        if let Some(wait) = wait {
            let have: u32 = answers
                .pop()
                .map_or(Ok(0), |answer| convert(what, answer, true))
                .map_err(Error::uncertain)?;
            if have < wait.replicas {
                let text = format!(
                    "{what}: the server has it, but only {have} of {} replicas said so within {:?}",
                    wait.replicas, wait.timeout
                );
                return Err(Error::new(ErrorKind::Unreachable, text).uncertain());
            }
        }
        match answers.swap_remove(0) {
            Value::Array(answers) => Ok(answers),
            answer => convert(what, answer, true),
        }
    }

    /// `time`: what the script is given of its server's time.
    fn evalsha(&self, script: &Lua, queue: &str, time: &str, arguments: impl ToRedisArgs) -> Cmd {
        let (passed, set) = self.clock_moved();
        let mut call = cmd("EVALSHA");
        call.arg(&script.hash);
        if self.is_cluster() {
            call.arg(1).arg(key(queue, ""))
        } else {
            call.arg(2).arg(key(queue, "")).arg(QUEUES)
        };
        call.arg(format!("{}:{set}:{time}", passed.as_millis()))
            .arg(arguments);
        call
    }

    /// All answers of commands of which the first is a script's. A script that did nothing, as its
    /// server's clock was set, is called again with the right time.
    async fn call(
        &self,
        what: &str,
        queue: &str,
        script: &Lua,
        purpose: Purpose,
        commands: impl Fn(&str) -> Pipeline,
    ) -> Result<Vec<Value>, Error> {
        let key = key(queue, "");
        let mut tried = 0;
        loop {
            let time = self.times.argument(key.as_bytes(), tried).await;
            let answers = self
                .call_once(key.as_bytes(), &commands(&time), script, purpose)
                .await
                .map_err(|fault| fault.into_error(what, true))?;
            if !is_answered_with(&answers, "STEPPED") {
                return Ok(answers);
            }
            tried += 1;
            // If this fails, so will the next call.
            self.times.look_at(key.as_bytes()).await.ok();
        }
    }

    async fn call_once(
        &self,
        key: &[u8],
        pipeline: &Pipeline,
        script: &Lua,
        purpose: Purpose,
    ) -> Result<Vec<Value>, RedisFault> {
        let answers = self.nodes.send(key, pipeline, purpose).await?;
        if !is_answered_with(&answers, "NOSCRIPT") {
            return Ok(answers);
        }
        // With its code this time, so that it does not matter when the server forgets it again.
        let mut again = Pipeline::with_capacity(pipeline.len());
        for command in pipeline.cmd_iter() {
            again.add_command(with_code(command, script));
        }
        self.nodes.send(key, &again, purpose).await
    }

    /// The time of the server that has a queue, in milliseconds since 1970, as scripts see it.
    pub(super) async fn now_at(&self, queue: &str) -> Result<i64, Error> {
        self.now_of(key(queue, "").as_bytes()).await
    }

    /// The same of the server that has a key.
    pub(super) async fn now_of(&self, at: &[u8]) -> Result<i64, Error> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("TIME");
        let mut answers = self.ask_together("ask for the time", at, &pipeline).await?;
        let (seconds, micros): (i64, i64) = convert(
            "ask for the time",
            answers.pop().unwrap_or(Value::Nil),
            false,
        )?;
        let (passed, set) = self.clock_moved();
        Ok(seconds * 1000
            + micros / 1000
            + i64::try_from(passed.as_millis()).unwrap_or(i64::MAX / 4)
            + set)
    }

    /// The time of the server that has a key, in milliseconds, as leases count it: a step of the
    /// server's wall clock is no part of it.
    pub(super) async fn steady_of(&self, at: &[u8]) -> Result<i64, Error> {
        let steady = self.times.steady_at(at).await;
        let steady = steady.map_err(|fault| fault.into_error("ask for the time", false))?;
        let (passed, _) = self.clock_moved();
        Ok(steady.saturating_add_unsigned(super::arguments::millis(passed)))
    }

    /// How far a test has moved the clock: time that passed, and milliseconds by which the wall
    /// clock was set.
    pub(super) fn clock_moved(&self) -> (Duration, i64) {
        (self.clock.ahead(), self.clock.wall_off_millis())
    }

    /// A command whose key comes first; one that has none goes to any server.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        what: &str,
        command: &Cmd,
    ) -> Result<T, Error> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command.clone());
        let mut answers = self.ask_together(what, key_of(command), &pipeline).await?;
        convert(what, answers.pop().unwrap_or(Value::Nil), false)
    }

    /// Commands that change nothing that could not be done twice, each with its key first. Those of
    /// one server go to it together.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        what: &str,
        pipeline: &Pipeline,
    ) -> Result<T, Error> {
        let mut slots: BTreeMap<u16, (Vec<usize>, Pipeline)> = BTreeMap::new();
        for (place, command) in pipeline.cmd_iter().enumerate() {
            let slot = if self.is_cluster() {
                slot_of(key_of(command))
            } else {
                0
            };
            let (places, part) = slots.entry(slot).or_default();
            places.push(place);
            part.add_command(command.clone());
        }
        let mut answers = vec![Value::Nil; pipeline.len()];
        // At the same time, so that they share their way to each node.
        let asked = slots.into_values().map(async |(places, part)| {
            let key = part.cmd_iter().next().map(key_of).unwrap_or_default();
            let answers = self.ask_together(what, key, &part).await?;
            Ok::<_, Error>((places, answers))
        });
        for (places, part) in try_join_all(asked).await? {
            for (place, answer) in places.into_iter().zip(part) {
                answers[place] = answer;
            }
        }
        convert(what, Value::Array(answers), false)
    }

    /// Whether one script may use both queues.
    pub(super) fn are_together(&self, one: &str, other: &str) -> bool {
        one == other
            || !self.is_cluster()
            || slot_of(key(one, "").as_bytes()) == slot_of(key(other, "").as_bytes())
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.nodes.reach().config.layout, ServerLayout::Cluster(_))
    }

    async fn ask_together(
        &self,
        what: &str,
        key: &[u8],
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, Error> {
        self.nodes
            .send(key, pipeline, Purpose::Ask)
            .await
            .map_err(|fault| fault.into_error(what, false))
    }
}

/// Whether the first of these answers is an error with this code.
fn is_answered_with(answers: &[Value], code: &str) -> bool {
    matches!(answers.first(), Some(Value::ServerError(error)) if error.code() == code)
}

/// What stands behind a command's name.
fn key_of(command: &Cmd) -> &[u8] {
    match command.args_iter().nth(1) {
        Some(Arg::Simple(key)) => key,
        _ => &[],
    }
}

/// What a server says of itself, as lines of a name, a colon and a value. A user that may not use
/// INFO may use HELLO.
async fn server_facts(connection: &Connection) -> Result<String, RedisFault> {
    let mut info = cmd("INFO");
    info.arg("server");
    match connection.ask::<String>(info).await {
        Err(fault) if is_forbidden(&fault.source) => {}
        facts => return facts,
    }
    let mut hello = cmd("HELLO");
    hello.arg(2);
    match connection.ask::<Vec<Value>>(hello).await {
        Ok(values) => {
            let text = |value: &Value| {
                redis::from_redis_value::<String>(value.clone()).unwrap_or_default()
            };
            let facts = values
                .chunks_exact(2)
                .map(|pair| format!("redis_{}:{}\n", text(&pair[0]), text(&pair[1])));
            Ok(facts.collect())
        }
        // Nothing can be known of it; what it cannot do shows when it is used, and `check` says so.
        Err(fault) if is_forbidden(&fault.source) => Ok(String::new()),
        Err(fault) => Err(fault),
    }
}

/// Whether it is new enough, and of the kind that the URL says.
fn check_server(info: &str, layout: &ServerLayout) -> Result<(), Error> {
    let fact = |name: &str| {
        info.lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
    };
    if info.is_empty() {
        tracing::warn!(
            "the server does not say its version: INFO and HELLO are forbidden or renamed"
        );
        return Ok(());
    }
    let version = fact("redis_version");
    let mut numbers = version
        .split('.')
        .filter_map(|part| part.parse::<u32>().ok());
    let known = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if known < VERSION_MIN {
        let text =
            format!("connect to Redis {version}: it is too old; use Redis 6.2 or newer, or Valkey");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    // Valkey calls it otherwise.
    let mode = [fact("redis_mode"), fact("server_mode")]
        .into_iter()
        .find(|mode| !mode.is_empty())
        .unwrap_or_default();
    let hint = match (mode, layout) {
        ("cluster", ServerLayout::One(_) | ServerLayout::Sentinel { .. }) => {
            "the server is a node of a cluster; write redis+cluster://"
        }
        ("sentinel", _) => "the server is a sentinel; write redis+sentinel://host:26379/mymaster",
        _ => return Ok(()),
    };
    Err(Error::new(
        ErrorKind::BadOption,
        format!("connect to Redis: {hint}"),
    ))
}
