//! Pushing and handing out.

use std::time::{Duration, Instant, UNIX_EPOCH};

use redis::Value;

use super::PAYLOAD_BYTES_MAX;
use super::link::{Link, id_of, key, scripts};
use crate::broker::{LeaseAsk, Leased, Ordered, Pushed, Terms};
use crate::error::{Error, ErrorKind};
use crate::job::{Gather, Job, JobId, JobOptions};

/// What a worker's process calls itself: its number on its host, and the host.
pub(super) fn holder() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| {
        let system = rustix::system::uname();
        format!("{}:{}", system.nodename().to_string_lossy(), std::process::id())
    })
}

pub(super) fn millis(duration: Duration) -> u64 {
    // Larger ones than the server's numbers can hold.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 50)
}

impl Link {
    /// One script for all, so all are stored or none.
    pub(super) async fn push(&self, jobs: &[Job]) -> Result<Vec<Pushed>, Error> {
        let Some(first) = jobs.first() else { return Ok(Vec::new()) };
        // A script that meets a key of another node ends in the middle.
        if let Some(other) = jobs.iter().find(|job| !self.are_together(&first.queue, &job.queue)) {
            let text = format!(
                "push to queues {:?} and {:?} at once: in this cluster they are in different slots; push to each for itself, and let the jobs \
                 of a flow share one queue",
                first.queue, other.queue
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let mut arguments: Vec<Vec<u8>> = Vec::new();
        for job in jobs {
            check_name(&job.queue)?;
            self.list_queue(&job.queue).await?;
            write_job(job, &mut arguments)?;
        }
        let pushed = self.run_safely::<Vec<(String, u8)>>("push", scripts::push(), &first.queue, arguments).await;
        let answers = pushed.map_err(|e| if is_duplicate(&e) { duplicate("push a flow") } else { e })?;
        let is_first = |(number, is_new): &(String, u8)| *is_new == 1 && number.trim_start_matches('0') == "1";
        for (_, job) in answers.iter().zip(jobs).filter(|(answer, _)| is_first(answer)) {
            self.list_queue_again(&job.queue).await;
        }
        let told = answers.into_iter().zip(jobs).map(|((number, is_new), job)| {
            let id = id_of(&job.queue, &number);
            if is_new == 1 { Pushed::New(id) } else { Pushed::Duplicate(id) }
        });
        Ok(told.collect())
    }

    /// Hands out jobs; also says in how long another falls due.
    pub(super) async fn lease(&self, ask: &LeaseAsk) -> Result<(Vec<Leased>, Option<Duration>), Error> {
        let mut leased = Vec::new();
        let since = Instant::now();
        let mut due_in = self.fire_schedules().await?;
        for queue in &ask.queues {
            check_name(queue)?;
            self.list_queue(queue).await?;
            while leased.len() < ask.max {
                let time = match ask.terms {
                    Terms::Take => 0,
                    Terms::Lease(time) => millis(time).max(1),
                };
                let arguments = (holder(), ask.max - leased.len(), time);
                let answer: Vec<Value> = self.run("lease", scripts::lease(), queue, arguments).await?;
                let (found, damaged, due) = self.read_leased(queue, answer, ask.terms, since).await?;
                leased.extend(found);
                due_in = due_in.into_iter().chain(due).min();
                // Damaged jobs were set aside and leave room for others.
                if !damaged {
                    break;
                }
            }
        }
        Ok((leased, due_in))
    }

    /// Hands out jobs to plain clients. What cannot be read goes to them as well: who wrote it knows.
    pub(super) async fn manage(&self, queue: &str, collect_within: Duration) -> Result<Ordered, Error> {
        check_name(queue)?;
        self.list_queue(queue).await?;
        let next_tick = self.fire_schedules().await?;
        let arguments = (holder(), MANAGED_MAX, -1, millis(collect_within));
        let answer: Vec<Value> = self.run("manage a queue", scripts::lease(), queue, arguments).await?;
        let handed = (answer.len().saturating_sub(1) / LEASED_VALUES) as u64;
        let due: i64 = read(answer.into_iter().next().unwrap_or(Value::Nil))?;
        let due = u64::try_from(due).ok().map(Duration::from_millis);
        // As many as fit: there may be more.
        let next = if handed == MANAGED_MAX { Some(Duration::ZERO) } else { next_tick.into_iter().chain(due).min() };
        Ok(Ordered::Managed { handed, next })
    }

    async fn read_leased(
        &self,
        queue: &str,
        answer: Vec<Value>,
        terms: Terms,
        since: Instant,
    ) -> Result<(Vec<Leased>, bool, Option<Duration>), Error> {
        let mut values = answer.into_iter();
        let due: i64 = read(values.next().unwrap_or(Value::Nil))?;
        let due = u64::try_from(due).ok().map(Duration::from_millis);
        let (mut leased, mut damaged) = (Vec::new(), false);
        while let Some(number) = values.next() {
            let mut next = || values.next().unwrap_or(Value::Nil);
            let found = Found {
                number: read(number)?,
                token: read(next())?,
                failed: read(next())?,
                crashed: read(next())?,
                payload: read(next())?,
                task: read(next())?,
                options: read(next())?,
            };
            match found.check(queue, since) {
                Ok(job) => leased.push(job),
                Err(unreadable) => {
                    damaged = true;
                    match terms {
                        Terms::Lease(_) => self.set_aside(queue, &unreadable).await?,
                        Terms::Take => self.bury(queue, &unreadable).await?,
                    }
                }
            }
        }
        Ok((leased, damaged, due))
    }

    async fn set_aside(&self, queue: &str, job: &Unreadable) -> Result<(), Error> {
        let arguments = (&job.number, job.token, "dead", &job.why, "", "", "");
        self.run::<Value>("set a job aside", scripts::settle(), queue, arguments).await.map(drop)
    }

    /// One that was taken is not there any more.
    async fn bury(&self, queue: &str, job: &Unreadable) -> Result<(), Error> {
        let arguments = ("bury", &job.number, &job.payload, &job.why);
        self.run::<Value>("set a job aside", scripts::order(), queue, arguments).await.map(drop)
    }
}

/// Jobs that one script hands to plain clients.
const MANAGED_MAX: u64 = 100;
/// Values of a job in the answer of `lease.lua`.
const LEASED_VALUES: usize = 7;

/// A job as it is stored.
struct Found {
    number: String,
    token: i64,
    failed: u32,
    crashed: u32,
    payload: Vec<u8>,
    task: Option<String>,
    options: Option<String>,
}

/// A job that can never be run: other programs push here too.
struct Unreadable {
    number: String,
    token: i64,
    payload: Vec<u8>,
    why: String,
}

impl Found {
    fn check(self, queue: &str, since: Instant) -> Result<Leased, Unreadable> {
        let Self { number, token, failed, crashed, payload, task, options } = self;
        let options = options.map_or(Ok(JobOptions::default()), |options| serde_json::from_str(&options));
        let (options, payload) = match (options, text_of(payload)) {
            (Ok(options), Ok(payload)) => (options, payload),
            (Err(e), Ok(payload)) => {
                return Err(Unreadable { number, token, payload: payload.into(), why: format!("its options cannot be read: {e}") });
            }
            (_, Err((payload, why))) => return Err(Unreadable { number, token, payload, why }),
        };
        let mut job = Job::new(queue, task.map(Into::into), payload);
        job.options = options;
        Ok(Leased { id: id_of(queue, &number), token, job, attempt: failed + crashed + 1, crashed, since, is_call: false })
    }
}

/// A payload as JSON text, or why it is none.
fn text_of(payload: Vec<u8>) -> Result<String, (Vec<u8>, String)> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        let why = format!("its payload has {} bytes and {PAYLOAD_BYTES_MAX} are allowed", payload.len());
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

pub(super) fn read<T: redis::FromRedisValue>(value: Value) -> Result<T, Error> {
    redis::from_redis_value(value)
        .map_err(|e| Error::new(ErrorKind::Protocol, "read an answer of Redis: it is not what a script gives").with_source(e))
}

/// What `push.lua` wants of a job.
fn write_job(job: &Job, arguments: &mut Vec<Vec<u8>>) -> Result<(), Error> {
    let options = &job.options;
    let due = options.at.map_or(0, |at| at.duration_since(UNIX_EPOCH).map_or(0, millis));
    let delay = if options.at.is_some() { 0 } else { options.delay.map_or(0, millis) };
    let mark = options.unique.as_deref().unwrap_or("");
    let kept = options.unique_for.map_or(0, millis);
    let link = job.link.clone().unwrap_or_default();
    let next = link.next.map_or(0, |next| next + 1).to_string();
    let gather = link.gather.map_or("", name_of);
    let fields = fields_of(job)?;
    let (queue, count) = (key(&job.queue, ""), fields.len().to_string());
    for value in [&*queue, &due.to_string(), &delay.to_string(), mark, &kept.to_string(), &next, gather, &count] {
        arguments.push(value.as_bytes().to_vec());
    }
    arguments.extend(fields);
    Ok(())
}

fn name_of(gather: Gather) -> &'static str {
    match gather {
        Gather::Then => "then",
        Gather::Front => "front",
        Gather::Collect => "collect",
        Gather::Finally => "finally",
        Gather::Barrier => "barrier",
    }
}

/// A script said that a unique mark is taken.
pub(super) fn is_duplicate(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<redis::RedisError>());
    source.is_some_and(|source| source.code() == Some("DUPLICATE"))
}

pub(super) fn duplicate(what: &str) -> Error {
    Error::new(ErrorKind::Duplicate, format!("{what}: a unique mark stands for another job that is not settled"))
}

/// The hash of a job, names and values.
pub(super) fn fields_of(job: &Job) -> Result<Vec<Vec<u8>>, Error> {
    let options = &job.options;
    let text = (*options != JobOptions::default()).then(|| serde_json::to_string(options)).transpose();
    let text = text.map_err(|e| Error::new(ErrorKind::Encode, "write a job's options").with_source(e))?;
    let [keep, within] = [options.keep, options.retry.within].map(|time| time.map(|time| millis(time).to_string()));
    let priority = (options.priority != 0).then(|| options.priority.to_string());
    let fields = [
        ("payload", Some(&*job.payload)),
        ("task", job.task.as_deref()),
        ("priority", priority.as_deref()),
        ("key", options.key.as_deref()),
        ("partition", options.partition.as_deref().or(options.key.as_deref())),
        ("mark", options.unique.as_deref()),
        ("keep", keep.as_deref()),
        ("within", within.as_deref()),
        ("options", text.as_deref()),
    ];
    let given = fields.iter().filter_map(|(name, value)| value.map(|value| [*name, value]));
    Ok(given.flatten().map(|text| text.as_bytes().to_vec()).collect())
}

/// A brace in a queue's name would end the hash tag of its keys.
pub(super) fn check_name(queue: &str) -> Result<(), Error> {
    if queue.contains(['{', '}']) {
        return Err(Error::new(ErrorKind::BadOption, format!("name a queue {queue:?} on Redis: a name has no braces")));
    }
    Ok(())
}

/// An id that no job has, for what is asked about ids of other brokers.
pub(super) fn no_such(id: &JobId) -> Error {
    Error::new(ErrorKind::BadOption, format!("look for job {id}: ids of this broker look like emails/17"))
}
