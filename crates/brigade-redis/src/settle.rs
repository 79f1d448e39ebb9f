//! Settlements, cancels, and changes of jobs and queues.
//!
//! Settlements are written down by queue ([`SettlementBatch`]) and go to the server with those of
//! other callers (`Batcher`): one script settles all of a queue that arrive at about the same time,
//! and each has its own answer. A retry is decided here by `policy`; the script only compares its
//! pause with the time that is left, by the server's clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use redis::Value;

use super::arguments::{Arguments, millis};
use super::client::RedisClient;
use super::events::text_of_cost;
use super::keys::{check_name, id_of, key, parts_of};
use super::presence::holder;
use super::reply::convert;
use super::script_error::{duplicate, has_code, is_duplicate};
use super::scripts;
use crate::error::{Error, ErrorKind};
use crate::job::{AttemptKind, JobId, JobState};
use crate::limits::Limits;
use crate::policy::{Charged, ChargedEnd, RetryDecision, RetryRule, record_from_kind};
use crate::retry::jitter;
use crate::store::{
    CancelOutcome, CancelRequest, Disposition, Edit, Settled, Settlement, stays_in_its_queue,
};
use crate::sync::lock;
use brigade_core::options::Options;
use brigade_core::policy::RetryPolicy;

/// Queues, or jobs, that are looked at in one round trip.
const QUEUES_PAGE: usize = 500;

/// What the script costs of itself for a settlement, in bytes of arguments that it reads in that
/// time.
const SETTLEMENT_WEIGHT: usize = 512;

/// A job whose attempt failed.
#[derive(Default)]
struct FailedJob {
    charged: Charged,
    rule: RetryRule,
}

/// What one caller settles in a queue, as `settle.lua` wants it.
#[derive(Default)]
pub(super) struct SettlementBatch {
    /// The place of each among the caller's settlements.
    pub(super) places: Vec<usize>,
    arguments: Arguments,
}

impl SettlementBatch {
    /// For how much of a script it is.
    pub(super) fn weight(&self) -> usize {
        self.arguments.bytes() + self.places.len() * SETTLEMENT_WEIGHT
    }
}

impl RedisClient {
    /// Settlements by their queues. An id of another broker holds no lease here, and is left out.
    pub(super) async fn sort<'a>(
        &self,
        settlements: &'a [Arc<Settlement>],
    ) -> Result<BTreeMap<&'a str, SettlementBatch>, Error> {
        let mut queues: BTreeMap<&str, SettlementBatch> = BTreeMap::new();
        let mut failed = self.failed_jobs(settlements).await?;
        for (place, settlement) in settlements.iter().enumerate() {
            let Some((queue, number)) = parts_of(&settlement.id) else {
                continue;
            };
            let failed = failed.remove(&place).unwrap_or_default();
            let endings = queues.entry(queue).or_default();
            endings.places.push(place);
            endings.arguments.push(&number);
            endings.arguments.push_number(settlement.token);
            write_ending(&settlement.disposition, &failed, &mut endings.arguments)?;
        }
        Ok(queues)
    }

    /// One script for all that is settled in a queue. To each its answers. `waits`: it counts only
    /// once replicas have it, where the URL says so.
    pub(super) async fn settle_together(
        &self,
        queue: &str,
        all: &[SettlementBatch],
        waits: bool,
    ) -> Vec<Result<Vec<Value>, Error>> {
        let mut arguments = Arguments::default();
        all.iter()
            .for_each(|endings| arguments.append(&endings.arguments));
        match self
            .run_for_all("settle", scripts::settle(), queue, arguments, waits)
            .await
        {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                all.iter()
                    .map(|endings| Ok(answers.by_ref().take(endings.places.len()).collect()))
                    .collect()
            }
            Err(error) => all.iter().map(|_| Err(error.copy())).collect(),
        }
    }

    /// What is known of the jobs whose attempts failed, by the places of their settlements.
    async fn failed_jobs(
        &self,
        settlements: &[Arc<Settlement>],
    ) -> Result<HashMap<usize, FailedJob>, Error> {
        let mut pipeline = redis::pipe();
        let mut places = Vec::new();
        for (place, settlement) in settlements.iter().enumerate() {
            if let (Disposition::Fail { policy, .. }, Some((queue, number))) =
                (&settlement.disposition, parts_of(&settlement.id))
            {
                pipeline
                    .cmd("HMGET")
                    .arg(key(queue, &format!("job:{number}")))
                    .arg(&["failed", "crashed", "options"]);
                places.push((place, *policy));
            }
        }
        if places.is_empty() {
            return Ok(HashMap::new());
        }
        type Fields = (Option<u32>, Option<u32>, Option<String>);
        let answers: Vec<Fields> = self.ask_all("look up jobs", &pipeline).await?;
        let read =
            |((place, policy), (failed, crashed, options)): ((usize, RetryPolicy), Fields)| {
                // They were read when the job was handed out.
                let options = options
                    .and_then(|options| serde_json::from_str::<Options>(&options).ok())
                    .unwrap_or_default();
                (
                    place,
                    FailedJob {
                        charged: Charged {
                            failed: failed.unwrap_or(0),
                            crashed: crashed.unwrap_or(0),
                        },
                        rule: RetryRule::of_job(&options, policy),
                    },
                )
            };
        Ok(places.into_iter().zip(answers).map(read).collect())
    }

    /// The jobs that this process holds and that are to be cancelled: what is known
    /// of it, after a look at these queues.
    pub(super) async fn cancels(&self, queues: &[Box<str>]) -> Result<Vec<CancelRequest>, Error> {
        for page in queues.chunks(QUEUES_PAGE) {
            let mut pipeline = redis::pipe();
            page.iter().for_each(|queue| {
                pipeline.cmd("SMEMBERS").arg(key(queue, "stops"));
            });
            let numbers: Vec<Vec<String>> = self.ask_all("look for cancels", &pipeline).await?;
            for (queue, numbers) in page.iter().zip(numbers) {
                let found = self.cancels_of(queue, &numbers).await?;
                let mut asked = lock(&self.asked_cancels);
                if found.is_empty() {
                    asked.remove(queue)
                } else {
                    asked.insert(queue.clone(), found)
                };
            }
        }
        Ok(lock(&self.asked_cancels)
            .values()
            .flatten()
            .cloned()
            .collect())
    }

    async fn cancels_of(
        &self,
        queue: &str,
        numbers: &[String],
    ) -> Result<Vec<CancelRequest>, Error> {
        let mut found = Vec::new();
        for page in numbers.chunks(QUEUES_PAGE) {
            let mut pipeline = redis::pipe();
            for number in page {
                pipeline
                    .cmd("HMGET")
                    .arg(key(queue, &format!("job:{number}")))
                    .arg(&["holder", "token", "cancel"]);
            }
            let answers: Vec<(Option<String>, Option<i64>, Option<String>)> =
                self.ask_all("look for cancels", &pipeline).await?;
            for (number, answer) in page.iter().zip(answers) {
                if let (Some(by), Some(token), Some(reason)) = answer
                    && by == holder()
                {
                    found.push(CancelRequest {
                        id: id_of(queue, number),
                        token,
                        reason,
                    });
                }
            }
        }
        Ok(found)
    }

    pub(super) async fn cancel(&self, id: &JobId, reason: &str) -> Result<CancelOutcome, Error> {
        let Some((queue, number)) = parts_of(id) else {
            return Ok(CancelOutcome::Nothing);
        };
        let arguments = vec!["cancel".to_owned(), number, reason.to_owned()];
        let count = self.run_change(queue, arguments).await?;
        if count > 0
            && let Err(error) = self.merge_if_needed(queue).await
        {
            // The cancel was made; other processes go on with what was to end with it.
            tracing::debug!(%error, queue, "could not finish the cancel of a flow");
        }
        Ok(match count {
            ..0 => CancelOutcome::Asked,
            0 => CancelOutcome::Nothing,
            1.. => CancelOutcome::Cancelled,
        })
    }

    pub(super) async fn withdraw(&self, id: &JobId, reason: &str) -> Result<bool, Error> {
        let Some((queue, number)) = parts_of(id) else {
            return Ok(false);
        };
        let arguments = vec!["withdraw".to_owned(), number, reason.to_owned()];
        Ok(self.run_change(queue, arguments).await? != 0)
    }

    pub(super) async fn delete(&self, id: &JobId, only: Option<JobState>) -> Result<bool, Error> {
        let Some((queue, number)) = parts_of(id) else {
            return Ok(false);
        };
        let only = only.map(|state| state.to_string());
        let arguments = ["delete".to_owned(), number].into_iter().chain(only);
        Ok(self.run_change(queue, arguments.collect()).await? != 0)
    }

    pub(super) async fn limit(&self, queue: &str, limits: Option<Limits>) -> Result<(), Error> {
        self.change_queue(queue, limit_arguments(limits.as_ref())?)
            .await
    }

    pub(super) async fn change_queue(
        &self,
        queue: &str,
        arguments: Vec<String>,
    ) -> Result<(), Error> {
        self.run_change(queue, arguments).await.map(drop)
    }

    /// Runs `order.lua`. How many jobs it changed; -1 if the job is leased and its holder was
    /// asked.
    async fn run_change(&self, queue: &str, arguments: Vec<String>) -> Result<i64, Error> {
        check_name(queue)?;
        self.list_queue(queue).await?;
        self.merge_if_needed(queue).await?;
        self.run(
            "change a job or a queue",
            scripts::order(),
            queue,
            arguments,
        )
        .await
    }

    pub(super) async fn retry(&self, id: &JobId, edit: &Edit) -> Result<Option<JobId>, Error> {
        let Some((queue, number)) = parts_of(id) else {
            return Ok(None);
        };
        let other = edit.queue.as_deref().filter(|other| *other != queue);
        let mut arguments = vec!["retry".to_owned(), number];
        let fields = [
            ("payload", edit.payload.as_deref().map(str::to_owned)),
            ("task", edit.task.as_deref().map(str::to_owned)),
        ];
        let fields = fields
            .into_iter()
            .chain([("queue", other.map(|other| key(other, "")))]);
        for (name, value) in fields.filter_map(|(name, value)| Some((name, value?))) {
            arguments.extend([name.to_owned(), value]);
        }
        for queue in [queue].into_iter().chain(other) {
            check_name(queue)?;
            self.list_queue(queue).await?;
            self.merge_if_needed(queue).await?;
        }
        let answer = self
            .run::<i64>("retry a job", scripts::order(), queue, arguments)
            .await;
        let number = answer.map_err(|error| match () {
            () if is_duplicate(&error) => duplicate("retry a job", &error),
            () if has_code(&error, "FLOW") => stays_in_its_queue(id),
            () => error,
        })?;
        Ok(match (number, other) {
            (0, _) => None,
            (number, Some(other)) => Some(id_of(other, &number.to_string())),
            (_, None) => Some(id.clone()),
        })
    }

    pub(super) async fn purge(&self, queue: &str) -> Result<u64, Error> {
        check_name(queue)?;
        self.merge_if_needed(queue).await?;
        let mut purged = 0;
        // What the script said to go on with.
        let mut rest: Vec<String> = Vec::new();
        loop {
            let mut answer: Vec<String> = self
                .run("purge a queue", scripts::order(), queue, ("purge", rest))
                .await?;
            rest = answer.split_off(1.min(answer.len()));
            purged += answer
                .first()
                .and_then(|count| count.parse().ok())
                .unwrap_or(0);
            if rest.is_empty() {
                return Ok(purged);
            }
        }
    }
}

fn limit_arguments(limits: Option<&Limits>) -> Result<Vec<String>, Error> {
    let mut arguments = vec!["limit".to_owned()];
    let Some(limits) = limits else {
        return Ok(arguments);
    };
    let json = serde_json::to_string(limits)
        .map_err(|e| Error::new(ErrorKind::Encode, "write the limits of a queue").with_source(e))?;
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let flag = |flag: bool| flag.then(|| "1".to_owned());
    let fields = [
        ("json", Some(json)),
        ("running", number(limits.running)),
        ("starts", number(limits.starts.map(|rate| rate.starts))),
        (
            "per",
            limits.starts.map(|rate| millis(rate.per).to_string()),
        ),
        (
            "running_per_partition",
            number(limits.running_per_partition),
        ),
        (
            "starts_per_partition",
            number(limits.starts_per_partition.map(|rate| rate.starts)),
        ),
        (
            "per_per_partition",
            limits
                .starts_per_partition
                .map(|rate| millis(rate.per).to_string()),
        ),
        ("by_partition", flag(limits.is_by_partition())),
        ("turns", flag(limits.turns)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            arguments.extend([name.to_owned(), value]);
        }
    }
    Ok(arguments)
}

/// An answer of the script.
pub(super) fn settled(answer: Value) -> Result<Settled, Error> {
    Ok(match answer {
        Value::Int(0) => Settled::Stale,
        Value::Int(_) => Settled::Accepted(None),
        reason => Settled::Accepted(Some(convert("settle", reason, true)?)),
    })
}

/// What `settle.lua` wants of an ending.
fn write_ending(
    disposition: &Disposition,
    failed: &FailedJob,
    arguments: &mut Arguments,
) -> Result<(), Error> {
    let mut write = |words: &[&str]| words.iter().for_each(|word| arguments.push(word));
    match disposition {
        Disposition::Ack { result, report } => {
            let record = record_from_kind(AttemptKind::Done, "", report.as_deref(), None)?;
            let cost = text_of_cost(report.as_deref().map(|report| &report.cost));
            let both = format!("{cost}\n{record}");
            write(&["done", result.as_deref().unwrap_or(""), &both]);
        }
        Disposition::DeadLetter(reason) => {
            let record = record_from_kind(AttemptKind::SetAside, reason, None, None)?;
            write(&["dead", reason, &record, "", ""]);
        }
        Disposition::Cancelled {
            reason,
            stop,
            report,
        } => {
            let (report, stop) = (report.as_deref(), stop.as_ref());
            let cost = text_of_cost(report.map(|report| &report.cost));
            let record = record_from_kind(AttemptKind::Cancelled, reason, report, stop)?;
            write(&["cancelled", reason, &record, &cost]);
        }
        Disposition::Extend(time) => write(&["extend", &millis(*time).to_string()]),
        Disposition::GiveBack {
            kind,
            reason,
            after,
        } => {
            let record = record_from_kind(*kind, reason, None, None)?;
            let state = format!("scheduled:{}", millis(*after));
            write(&["back", &state, &record, counter(*kind), reason, ""]);
        }
        Disposition::Fail {
            kind,
            reason,
            report,
            advice,
            ..
        } => {
            let record = record_from_kind(*kind, reason, report.as_deref(), None)?;
            let cost = text_of_cost(report.as_deref().map(|report| &report.cost));
            let (end, counter) = (ChargedEnd::of(*kind, *advice), counter(*kind));
            // The script compares the pause with the time that is left, by the server's clock.
            match failed.rule.decide(failed.charged, end, None, jitter(0.5)) {
                RetryDecision::Retry(pause) => {
                    let state = format!("retrying:{}", millis(pause));
                    write(&["back", &state, &record, counter, reason, &cost]);
                }
                RetryDecision::Stop(_) => write(&["dead", reason, &record, counter, &cost]),
            }
        }
    }
    Ok(())
}

/// The field of a job that counts attempts of this kind; empty if they are not counted.
fn counter(kind: AttemptKind) -> &'static str {
    match kind {
        AttemptKind::Failed => "failed",
        AttemptKind::Crashed => "crashed",
        AttemptKind::Interrupted => "interrupted",
        AttemptKind::Unserved => "unserved",
        _ => "",
    }
}
