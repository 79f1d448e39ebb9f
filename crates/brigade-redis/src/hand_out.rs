//! Handing out jobs: to consumers as leases, to plain clients through their line.
//!
//! A lease asks the queues in the order of the request, one script each, until it has enough jobs;
//! of many queues only the open ones (`probe`). What was handed out is in this process's hands
//! whatever becomes of the other queues. A job that cannot be read is set aside on the way: other
//! programs push too. Behind that come the jobs of holders that are gone (`takeover`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;

use super::arguments::millis;
use super::client::RedisClient;
use super::keys::{check_name, id_of, key};
use super::open_queues::FEW;
use super::presence::holder;
use super::reply::read;
use super::scripts;
use crate::clock::BootTime;
use crate::error::{Error, ErrorKind};
use crate::job::{Job, Unserved};
use crate::policy::PAYLOAD_BYTES_MAX;
use crate::store::{DeliveryMode, LeaseRequest, Leased, Managed, Queues};
use brigade_core::options::Options;
use brigade_runtime::owner::own_name;

/// What was handed out.
#[derive(Default)]
pub(super) struct LeaseAnswer {
    pub(super) leased: Vec<Leased>,
    /// In how long another job falls due.
    pub(super) due_in: Option<Duration>,
    /// Other processes that ask for jobs of the same queues.
    pub(super) others: u64,
}

/// What stands before the jobs in an answer of `lease.lua`.
#[derive(Default)]
struct LeaseHead {
    due_in: Option<Duration>,
    others: u64,
}

impl LeaseHead {
    fn read(value: Value) -> Result<Self, Error> {
        let text: String = read(value)?;
        let numbers = text
            .split_once(' ')
            .and_then(|(due, others)| Some((due.parse::<i64>().ok()?, others.parse().ok()?)));
        let Some((due, others)) = numbers else {
            return Err(unreadable(&text));
        };
        Ok(Self {
            due_in: u64::try_from(due).ok().map(Duration::from_millis),
            others,
        })
    }
}

impl RedisClient {
    /// Hands out jobs.
    pub(super) async fn lease(&self, ask: &LeaseRequest) -> Result<LeaseAnswer, Error> {
        let (mut leased, mut others) = (Vec::new(), 0);
        let mut due_in = self.fire_schedules().await;
        let mut failed = None;
        let queues = if ask.queues.len() <= FEW {
            ask.queues.iter().cloned().collect()
        } else {
            let (queues, next) = self.worth_asking(&ask.queues, ask.max).await?;
            due_in = due_in.into_iter().chain([next]).min();
            queues
        };
        for queue in &queues {
            if leased.len() >= ask.max {
                break;
            }
            check_name(queue)?;
            if ask.queues.len() > 1 && self.nodes().is_away(key(queue, "").as_bytes()).await {
                continue;
            }
            self.open.begin(queue);
            let leased_from = self.lease_from(queue, ask, &mut leased).await;
            let due = leased_from
                .as_ref()
                .map_or(Some(AGAIN_AFTER_ERROR), |head| head.due_in);
            self.open
                .end(queue, leased_from.is_ok() && leased.len() >= ask.max, due);
            match leased_from {
                Ok(head) => {
                    due_in = due_in.into_iter().chain(head.due_in).min();
                    others = others.max(head.others);
                }
                Err(error) => {
                    tracing::debug!(%error, %queue, "could not lease from a queue");
                    failed = failed.or(Some(error));
                }
            }
        }
        if leased.len() < ask.max {
            self.lease_of_gone(&queues, ask, &mut leased).await;
        }
        // What was handed out is in this process's hands, whatever became of the other queues.
        match failed {
            Some(error) if leased.is_empty() => Err(error),
            _ => Ok(LeaseAnswer {
                leased,
                due_in,
                others,
            }),
        }
    }

    /// In how long these queues may have something to hand out; `None` for not by time. Costs the
    /// server less than asking for jobs.
    pub(super) async fn due_in(&self, queues: &Queues) -> Result<Option<Duration>, Error> {
        if queues.len() > FEW {
            return Ok(Some(Duration::ZERO));
        }
        let queues: Vec<Box<str>> = queues.iter().cloned().collect();
        let dues = self.probe(&queues).await?;
        let dues = dues.into_iter().filter_map(|due| u64::try_from(due).ok());
        Ok(dues.min().map(Duration::from_millis))
    }

    /// Hands out what processes held that are gone.
    async fn lease_of_gone(
        &self,
        queues: &[Box<str>],
        ask: &LeaseRequest,
        leased: &mut Vec<Leased>,
    ) {
        let with_leases;
        let queues = if ask.queues.len() <= FEW {
            queues
        } else {
            with_leases = self.open.closed_by_time(HOLDERS_OF_MAX);
            &with_leases
        };
        let taken_over = async {
            for queue in self
                .take_over(queues)
                .await?
                .into_iter()
                .filter(|queue| ask.queues.rank(queue).is_some())
            {
                self.lease_from(&queue, ask, leased).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = taken_over.await {
            tracing::debug!(%error, "could not look for holders that are gone");
        }
    }

    /// Hands out jobs of one queue, and adds them to these.
    async fn lease_from(
        &self,
        queue: &str,
        ask: &LeaseRequest,
        leased: &mut Vec<Leased>,
    ) -> Result<LeaseHead, Error> {
        self.list_queue_if_possible(queue).await;
        if self.is_cluster() && self.is_list_away().await {
            self.fire_of(queue).await?;
        }
        let mut head = LeaseHead::default();
        while leased.len() < ask.max {
            let time = match ask.mode {
                DeliveryMode::Take => 0,
                DeliveryMode::Lease(time) => millis(time).max(1),
            };
            let owner = self.owner_at(queue, ask.mode).await;
            let since = BootTime::now();
            let wanted = (ask.max - leased.len()).min(AT_ONCE_MAX);
            let answer: Vec<Value> = self
                .run(
                    "lease",
                    scripts::lease(),
                    queue,
                    (holder(), wanted, time, owner),
                )
                .await?;
            let found;
            let damaged;
            (found, damaged, head) = self.read_leased(queue, answer, ask.mode, since).await?;
            let is_all = found.len() < wanted;
            leased.extend(found);
            // Damaged jobs were set aside and leave room for others.
            if is_all && !damaged {
                break;
            }
        }
        Ok(head)
    }

    /// The name of this process for leases of a queue.
    async fn owner_at(&self, queue: &str, mode: DeliveryMode) -> String {
        match self.nodes().known_target_of(key(queue, "").as_bytes()) {
            Some(target) if matches!(mode, DeliveryMode::Lease(_)) => {
                self.presence.wait_until_tried(&target).await;
                self.presence.name_at(&target)
            }
            _ => own_name().to_owned(),
        }
    }

    /// Hands out jobs to plain clients. What cannot be read goes to them as well: who wrote it
    /// knows.
    pub(super) async fn manage(
        &self,
        queue: &str,
        collect_within: Duration,
    ) -> Result<Managed, Error> {
        check_name(queue)?;
        self.list_queue_if_possible(queue).await;
        let next_tick = self.fire_schedules().await;
        let arguments = (holder(), MANAGED_MAX, -1, millis(collect_within), "");
        let answer: Vec<Value> = self
            .run("manage a queue", scripts::lease(), queue, arguments)
            .await?;
        let handed = (answer.len().saturating_sub(1) / LEASED_VALUES) as u64;
        let head = LeaseHead::read(answer.into_iter().next().unwrap_or(Value::Nil))?;
        // As many as fit: there may be more.
        let next = if handed == MANAGED_MAX {
            Some(Duration::ZERO)
        } else {
            next_tick.into_iter().chain(head.due_in).min()
        };
        Ok(Managed { handed, next })
    }

    async fn read_leased(
        &self,
        queue: &str,
        answer: Vec<Value>,
        mode: DeliveryMode,
        since: BootTime,
    ) -> Result<(Vec<Leased>, bool, LeaseHead), Error> {
        let mut values = answer.into_iter();
        let answer_head = LeaseHead::read(values.next().unwrap_or(Value::Nil))?;
        let (mut leased, mut damaged) = (Vec::new(), false);
        while let Some(head) = values.next() {
            let mut next = || values.next().unwrap_or(Value::Nil);
            let found = FoundJob::read(
                &read::<String>(head)?,
                read(next())?,
                read(next())?,
                read(next())?,
            )?;
            match found.check(queue, since) {
                Ok(job) => leased.push(job),
                Err(unreadable) => {
                    damaged = true;
                    let set_aside = match mode {
                        DeliveryMode::Lease(_) => self.set_aside(queue, &unreadable).await,
                        DeliveryMode::Take => self.bury(queue, &unreadable).await,
                    };
                    if let Err(error) = set_aside {
                        // What else was handed out must reach its caller. On a lease this one comes
                        // again.
                        tracing::error!(%error, queue, job = unreadable.number, "could not set a \
                            job aside that cannot be read");
                    }
                }
            }
        }
        Ok((leased, damaged, answer_head))
    }

    async fn set_aside(&self, queue: &str, job: &UnreadableJob) -> Result<(), Error> {
        let arguments = (&job.number, job.token, "dead", &job.why, "", "", "");
        self.run::<Value>("set a job aside", scripts::settle(), queue, arguments)
            .await
            .map(drop)
    }

    /// One that was taken is not there any more.
    async fn bury(&self, queue: &str, job: &UnreadableJob) -> Result<(), Error> {
        let arguments = ("bury", &job.number, &job.payload, &job.why);
        self.run::<Value>("set a job aside", scripts::order(), queue, arguments)
            .await
            .map(drop)
    }
}

/// Queues of many whose holders are looked at.
const HOLDERS_OF_MAX: usize = 1000;
/// One of many queues that could not be asked is asked again.
const AGAIN_AFTER_ERROR: Duration = Duration::from_secs(1);
/// Jobs that one script hands out.
const AT_ONCE_MAX: usize = 250;
/// Jobs that one script hands to plain clients.
const MANAGED_MAX: u64 = 100;
/// Values of a job in the answer of `lease.lua`.
const LEASED_VALUES: usize = 4;

/// A job as it is stored.
struct FoundJob {
    number: String,
    token: i64,
    failed: u32,
    crashed: u32,
    lost: u32,
    unserved: Option<Unserved>,
    began_at: SystemTime,
    payload: Vec<u8>,
    task: Option<String>,
    options: Option<String>,
}

/// A job that can never be run: other programs push here too.
struct UnreadableJob {
    number: String,
    token: i64,
    payload: Vec<u8>,
    why: String,
}

impl FoundJob {
    fn read(
        head: &str,
        payload: Vec<u8>,
        task: Option<String>,
        options: Option<String>,
    ) -> Result<Self, Error> {
        let mut words = head.split(' ');
        let found = (|| {
            let number = words.next()?.to_owned();
            let [token, failed, crashed, lost] =
                [words.next()?, words.next()?, words.next()?, words.next()?];
            let times: u32 = words.next()?.parse().ok()?;
            let (since, began_at) = (moment_of(words.next()?)?, moment_of(words.next()?)?);
            Some(Self {
                number,
                token: token.parse().ok()?,
                failed: failed.parse().ok()?,
                crashed: crashed.parse().ok()?,
                lost: lost.parse().ok()?,
                unserved: (times > 0).then_some(Unserved { times, since }),
                began_at,
                payload,
                task,
                options,
            })
        })();
        found.ok_or_else(|| unreadable(head))
    }

    fn check(self, queue: &str, since: BootTime) -> Result<Leased, UnreadableJob> {
        let Self {
            number,
            token,
            failed,
            crashed,
            lost,
            unserved,
            began_at,
            payload,
            task,
            options,
        } = self;
        let options = options.map_or(Ok(Options::default()), |options| {
            serde_json::from_str(&options)
        });
        let (options, payload) = match (options, text_of(payload)) {
            (Ok(options), Ok(payload)) => (options, payload),
            (Err(e), Ok(payload)) => {
                return Err(UnreadableJob {
                    number,
                    token,
                    payload: payload.into(),
                    why: format!("its options cannot be read: {e}"),
                });
            }
            (_, Err((payload, why))) => {
                return Err(UnreadableJob {
                    number,
                    token,
                    payload,
                    why,
                });
            }
        };
        let mut job = Job::new(queue, task.map(Into::into), payload);
        job.options = options;
        let id = id_of(queue, &number);
        Ok(Leased {
            id,
            token,
            job,
            attempt: failed + crashed + 1,
            crashed,
            lost,
            unserved,
            since,
            is_call: false,
            began_at,
        })
    }
}

/// The moment of these milliseconds since 1970.
fn moment_of(millis: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis.parse().ok()?))
}

fn unreadable(head: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("read an answer of Redis: {head:?} is not what a script gives"),
    )
}

/// A payload as JSON text, or why it is none.
fn text_of(payload: Vec<u8>) -> Result<String, (Vec<u8>, String)> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        let why = format!(
            "its payload has {} bytes and {PAYLOAD_BYTES_MAX} are allowed",
            payload.len()
        );
        return Err((payload, why));
    }
    let text = String::from_utf8(payload).map_err(|e| {
        let why = format!("its payload is not UTF-8: {e}");
        (e.into_bytes(), why)
    })?;
    match serde_json::from_str::<&serde_json::value::RawValue>(&text) {
        Ok(_) => Ok(text),
        Err(e) => {
            let why = format!("its payload is not JSON: {e}");
            Err((text.into_bytes(), why))
        }
    }
}
