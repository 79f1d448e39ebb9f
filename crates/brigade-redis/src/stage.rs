//! Large pushes, which no single script could store in a time that others would not notice.
//!
//! It is staged in pieces, where no query shows it; then one cheap script makes it, all or
//! nothing; then it is moved into its queues in pieces, by its producer or, if that ends, by the
//! next one who has to do with the queue (`chores.lua`). A flow's last job is moved first, so no
//! member can end before the job that waits for it is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, UNIX_EPOCH};

use redis::{Value, cmd, pipe};

use super::arguments::{Arguments, millis};
use super::client::RedisClient;
use super::keys::{id_of, key};
use super::push::fields_of;
use super::reply::convert;
use super::script_error::{duplicate, has_code, is_duplicate, is_incoming};
use super::scripts;
use crate::error::{Error, ErrorKind};
use crate::job::{DependentKind, Job};
use crate::store::PushOutcome;

/// More jobs than this, or more bytes, are no matter of one script.
const JOBS_MAX: usize = 250;
const BYTES_MAX: usize = 4 << 20;
/// What is staged at once.
const PIECE_JOBS: usize = 1000;
const PIECE_BYTES: usize = 1 << 20;
/// A stage whose producer has ended goes by itself.
const STAGED_FOR: Duration = Duration::from_secs(600);
/// A producer that finds others in front moves those first, so often.
const TRIES: usize = 100;

pub(super) fn is_large(jobs: &[Job]) -> bool {
    jobs.len() > JOBS_MAX
        || (jobs.len() > 1 && jobs.iter().map(|job| job.payload.len()).sum::<usize>() > BYTES_MAX)
}

/// Where a job stands in a large push.
struct StagedPosition {
    /// The beginning of its queue's keys, and its place among the jobs of that queue.
    queue: String,
    offset: usize,
    /// Its place among the parents of the job that waits for it.
    place: usize,
    /// How many it waits for.
    parents: usize,
}

fn queue_positions(jobs: &[Job]) -> Vec<StagedPosition> {
    let mut offsets: HashMap<&str, usize> = HashMap::new();
    let mut queue_positions: Vec<StagedPosition> = jobs
        .iter()
        .map(|job| {
            let next = offsets.entry(&job.queue).or_default();
            *next += 1;
            StagedPosition {
                queue: key(&job.queue, ""),
                offset: *next - 1,
                place: 0,
                parents: 0,
            }
        })
        .collect();
    for (position, job) in jobs.iter().enumerate() {
        if let Some(next) = dependent_of(job) {
            queue_positions[position].place = queue_positions[next].parents;
            queue_positions[next].parents += 1;
        }
    }
    queue_positions
}

fn dependent_of(job: &Job) -> Option<usize> {
    job.link.as_ref().and_then(|link| link.dependent)
}

fn is_in_flow(job: &Job) -> bool {
    job.link
        .as_ref()
        .is_some_and(|link| link.dependent.is_some() || link.dependent_kind.is_some())
}

/// In which order they are moved: each behind the one that waits for it, and else as they are
/// handed out, so that what is there already is always what comes first.
fn order_of(jobs: &[Job]) -> Vec<usize> {
    let mut parents: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut order = Vec::with_capacity(jobs.len());
    for (position, job) in jobs.iter().enumerate() {
        match dependent_of(job) {
            Some(next) => parents.entry(next).or_default().push(position),
            None => order.push(position),
        }
    }
    order.sort_by_key(|position| std::cmp::Reverse(jobs[*position].options.priority()));
    let mut at = 0;
    while at < order.len() {
        if let Some(more) = parents.remove(&order[at]) {
            order.extend(more);
        }
        at += 1;
    }
    order
}

/// An element of a stage: a JSON list of texts, as `read_staged` of `chores.lua` reads it.
fn element(
    job: &Job,
    queue_positions: &[StagedPosition],
    position: usize,
) -> Result<String, Error> {
    let (options, in_queue) = (&job.options, &queue_positions[position]);
    let at = options
        .at
        .map_or(0, |at| at.duration_since(UNIX_EPOCH).map_or(0, millis));
    let delay = if options.at.is_some() {
        0
    } else {
        options.delay.map_or(0, millis)
    };
    let next = dependent_of(job).map(|next| &queue_positions[next]);
    let dependent_kind = job
        .link
        .as_ref()
        .and_then(|link| link.dependent_kind)
        .map_or("", DependentKind::name);
    let numbers =
        [at, delay, options.unique_for.map_or(0, millis)].map(|number| number.to_string());
    let (offset, place, parents) = (
        in_queue.offset.to_string(),
        in_queue.place.to_string(),
        in_queue.parents.to_string(),
    );
    let dependent_offset = next.map_or(String::new(), |next| next.offset.to_string());
    let dependent_queue = next.map_or("", |next| next.queue.as_str());
    let mut words = vec![
        &in_queue.queue,
        &offset,
        &numbers[0],
        &numbers[1],
        options.unique.as_deref().unwrap_or(""),
        &numbers[2],
    ];
    words.extend([
        dependent_queue,
        &dependent_offset,
        &place,
        dependent_kind,
        &parents,
    ]);
    let fields = fields_of(job, true)?;
    words.extend(fields.iter().flat_map(|(name, value)| [*name, value]));
    serde_json::to_string(&words)
        .map_err(|e| Error::new(ErrorKind::Encode, "write a job").with_source(e))
}

/// A large push that is being made.
struct LargePush<'a> {
    name: String,
    /// Of the first job: this one has the stage.
    home: &'a str,
    jobs: &'a [Job],
    queue_positions: Vec<StagedPosition>,
}

impl<'a> LargePush<'a> {
    fn new(home: &'a str, jobs: &'a [Job]) -> Self {
        let random = || RandomState::new().hash_one(jobs.len());
        Self {
            name: format!("{:016x}{:016x}", random(), random()),
            home,
            jobs,
            queue_positions: queue_positions(jobs),
        }
    }

    fn key(&self, name: &str) -> String {
        key(self.home, &format!("{name}:{}", self.name))
    }

    /// How many jobs each queue gets.
    fn queues(&self) -> BTreeMap<&str, u64> {
        let mut queues = BTreeMap::new();
        self.jobs
            .iter()
            .for_each(|job| *queues.entry(&*job.queue).or_default() += 1);
        queues
    }

    fn has_unique_keys(&self) -> bool {
        self.jobs.iter().any(|job| job.options.unique.is_some())
    }

    /// What `commit.lua` wants. A flow is made only if none of its unique keys is taken; other jobs
    /// are duplicates of what is there.
    fn commit(&self) -> Result<Arguments, Error> {
        let is_flow = self.jobs.iter().any(is_in_flow);
        let unique_keys: Vec<_> = self
            .jobs
            .iter()
            .filter_map(|job| Some((&*job.queue, job.options.unique.as_deref()?)))
            .collect();
        let unique_keys = if is_flow { unique_keys } else { Vec::new() };
        if unique_keys.iter().collect::<HashSet<_>>().len() < unique_keys.len() {
            return Err(Error::new(
                ErrorKind::Duplicate,
                "push a flow: another job of this push has the unique key of one of its jobs",
            ));
        }
        let mut arguments = Arguments::default();
        arguments.push(&self.name);
        arguments.push_number(self.jobs.len() as u64);
        arguments.push_number(unique_keys.len() as u64);
        for (queue, unique_key) in unique_keys {
            arguments.push(&key(queue, ""));
            arguments.push(unique_key);
        }
        for (queue, count) in self.queues() {
            arguments.push(&key(queue, ""));
            arguments.push_number(count);
        }
        Ok(arguments)
    }
}

impl RedisClient {
    /// Pushes jobs of which there are too many for one script.
    pub(super) async fn push_large(&self, jobs: &[Job]) -> Result<Vec<PushOutcome>, Error> {
        let Some(first) = jobs.first() else {
            return Ok(Vec::new());
        };
        self.admit(&first.queue, jobs).await?;
        let push = LargePush::new(&first.queue, jobs);
        let made = match self.stage(&push).await {
            Ok(()) => self.commit(&push).await,
            Err(error) => Err(error),
        };
        let firsts = match made {
            Ok(firsts) => firsts,
            Err(error) => {
                if !error.is_uncertain() {
                    // It would go by itself, later.
                    self.ask::<u64>(
                        "remove what was staged",
                        cmd("UNLINK").arg(push.key("stage")),
                    )
                    .await
                    .ok();
                }
                return Err(error);
            }
        };
        let mut moved = Ok(());
        for queue in push.queues().keys() {
            moved = moved.and(self.merge(queue).await);
        }
        match moved {
            Ok(()) => {}
            // Which of its jobs were there already is not known.
            Err(error) if push.has_unique_keys() => return Err(error.uncertain()),
            // The push was made; others go on with it.
            Err(error) => {
                tracing::warn!(%error, queue = push.home, "a large push is moved into its queue \
                    by those who use that")
            }
        }
        let known = if push.has_unique_keys() {
            self.duplicates(&push).await.map_err(Error::uncertain)?
        } else {
            HashMap::new()
        };
        let outcomes = jobs
            .iter()
            .zip(&push.queue_positions)
            .map(|(job, in_queue)| {
                match known.get(&format!("{}{}", in_queue.queue, in_queue.offset)) {
                    Some(number) => PushOutcome::Duplicate(id_of(&job.queue, number)),
                    None => PushOutcome::New(id_of(
                        &job.queue,
                        &(firsts.get(&*job.queue).copied().unwrap_or(0) + in_queue.offset as u64)
                            .to_string(),
                    )),
                }
            });
        Ok(outcomes.collect())
    }

    async fn stage(&self, push: &LargePush<'_>) -> Result<(), Error> {
        let stage = push.key("stage");
        let send = async |elements: &[String]| {
            let mut pipeline = pipe();
            pipeline.cmd("RPUSH").arg(&stage).arg(elements);
            pipeline.cmd("PEXPIRE").arg(&stage).arg(millis(STAGED_FOR));
            self.ask_all::<Vec<Value>>("push", &pipeline)
                .await
                .map(drop)
        };
        let (mut elements, mut bytes) = (Vec::new(), 0);
        for position in order_of(push.jobs) {
            let next = element(&push.jobs[position], &push.queue_positions, position)?;
            bytes += next.len();
            elements.push(next);
            if elements.len() == PIECE_JOBS || bytes >= PIECE_BYTES {
                send(&elements).await?;
                (elements, bytes) = (Vec::new(), 0);
            }
        }
        if elements.is_empty() {
            Ok(())
        } else {
            send(&elements).await
        }
    }

    /// From here on the push has been made. Gives the first number of each queue.
    async fn commit<'a>(&self, push: &LargePush<'a>) -> Result<HashMap<&'a str, u64>, Error> {
        let mut tries = 0;
        let answers = loop {
            tries += 1;
            match self
                .run_for_all("push", scripts::commit(), push.home, push.commit()?, true)
                .await
            {
                Err(error) if is_incoming(&error) && tries < TRIES => self.merge(push.home).await?,
                Err(error) if is_duplicate(&error) => return Err(duplicate("push a flow", &error)),
                Err(error) if has_code(&error, "UNSTAGED") => {
                    let text = format!(
                        "push {} jobs: nothing was stored, as writing them took longer than \
                            {STAGED_FOR:?}",
                        push.jobs.len()
                    );
                    return Err(Error::new(ErrorKind::Unreachable, text));
                }
                answers => break answers?,
            }
        };
        let firsts = push
            .jobs
            .iter()
            .map(|job| &*job.queue)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter();
        firsts
            .zip(answers)
            .map(|(queue, first)| Ok((queue, convert::<u64>("push", first, true)?)))
            .collect()
    }

    /// Jobs that were there already for their unique keys: by queue and place, the id of the other.
    async fn duplicates(&self, push: &LargePush<'_>) -> Result<HashMap<String, String>, Error> {
        let (of, mut found, mut cursor) = (push.key("duplicates"), HashMap::new(), 0_u64);
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(&of).arg(cursor).arg("COUNT").arg(PIECE_JOBS);
            let (next, some): (u64, Vec<(String, String)>) = self.ask("push", &scan).await?;
            found.extend(some);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        self.ask::<u64>("push", cmd("UNLINK").arg(&of)).await?;
        Ok(found)
    }
}
