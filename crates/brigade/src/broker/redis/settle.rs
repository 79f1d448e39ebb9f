//! Ending leases, and orders.

use std::collections::BTreeMap;

use redis::Value;

use super::link::{Link, parts_of, scripts};
use super::queue::{check_name, millis, read};
use crate::broker::{Ending, Order, Ordered, Settled, Settlement};
use crate::error::{Error, ErrorKind};
use crate::job::AttemptKind;
use crate::limits::Limits;

/// Jobs that one script removes: the server does nothing else meanwhile.
const PURGED_AT_ONCE: u64 = 10_000;

impl Link {
    pub(super) async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>, Error> {
        let mut answers = vec![Settled::Stale; settlements.len()];
        let mut queues: BTreeMap<&str, (Vec<usize>, Vec<Vec<u8>>)> = BTreeMap::new();
        for (place, settlement) in settlements.iter().enumerate() {
            // An id of another broker holds no lease here.
            let Some((queue, number)) = parts_of(&settlement.id) else { continue };
            let (places, arguments) = queues.entry(queue).or_default();
            places.push(place);
            arguments.extend([number.into_bytes(), settlement.token.to_string().into_bytes()]);
            arguments.extend(write_ending(settlement)?.into_iter().map(String::into_bytes));
        }
        for (queue, (places, arguments)) in queues {
            let told: Vec<Value> = self.run_safely("settle", scripts::settle(), queue, arguments).await?;
            for (place, value) in places.into_iter().zip(told) {
                answers[place] = match value {
                    Value::Int(0) => Settled::Stale,
                    Value::Int(_) => Settled::Accepted(None),
                    reason => Settled::Accepted(Some(read(reason)?)),
                };
            }
        }
        Ok(answers)
    }

    pub(super) async fn order(&self, order: &Order) -> Result<Ordered, Error> {
        let (queue, arguments) = match order {
            Order::Cancel(id, _) | Order::Retry(id) | Order::Delete(id) => {
                let Some((queue, number)) = parts_of(id) else { return Ok(Ordered::Nothing) };
                let arguments = match order {
                    Order::Cancel(_, reason) => vec!["cancel".to_owned(), number, reason.clone()],
                    Order::Retry(_) => vec!["retry".to_owned(), number],
                    _ => vec!["delete".to_owned(), number],
                };
                (queue, arguments)
            }
            Order::Purge(queue) => return self.purge(queue).await,
            Order::Pause(queue) => (&**queue, vec!["pause".to_owned()]),
            Order::Resume(queue) => (&**queue, vec!["resume".to_owned()]),
            Order::Schedule(schedule) => return self.schedule(schedule).await,
            Order::Unschedule(name) => return self.unschedule(name).await,
            Order::Manage(queue, time) => return self.manage(queue, *time).await,
            Order::Limit(queue, limits) => (&**queue, limit_arguments(limits.as_ref())?),
        };
        check_name(queue)?;
        self.list_queue(queue).await?;
        let count: i64 = self.run("change a job or a queue", scripts::order(), queue, arguments).await?;
        Ok(match u64::try_from(count) {
            Err(_) => Ordered::Asked,
            Ok(0) => Ordered::Nothing,
            Ok(count) => Ordered::Changed(count),
        })
    }

    async fn purge(&self, queue: &str) -> Result<Ordered, Error> {
        check_name(queue)?;
        let mut purged = 0;
        loop {
            let count: u64 = self.run("purge a queue", scripts::order(), queue, ("purge", PURGED_AT_ONCE)).await?;
            purged += count;
            if count == 0 {
                return Ok(if purged == 0 { Ordered::Nothing } else { Ordered::Changed(purged) });
            }
        }
    }
}

fn limit_arguments(limits: Option<&Limits>) -> Result<Vec<String>, Error> {
    let mut arguments = vec!["limit".to_owned()];
    let Some(limits) = limits else { return Ok(arguments) };
    let json = serde_json::to_string(limits).map_err(|e| Error::new(ErrorKind::Encode, "write the limits of a queue").with_source(e))?;
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let flag = |flag: bool| flag.then(|| "1".to_owned());
    let fields = [
        ("json", Some(json)),
        ("running", number(limits.running)),
        ("starts", number(limits.starts.map(|rate| rate.starts))),
        ("per", limits.starts.map(|rate| millis(rate.per).to_string())),
        ("running_per_partition", number(limits.running_per_partition)),
        ("starts_per_partition", number(limits.starts_per_partition.map(|rate| rate.starts))),
        ("per_per_partition", limits.starts_per_partition.map(|rate| millis(rate.per).to_string())),
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

/// What `settle.lua` wants of a settlement.
fn write_ending(settlement: &Settlement) -> Result<[String; 4], Error> {
    let word = |what: &str, first: String| Ok([what.to_owned(), first, String::new(), String::new()]);
    match &settlement.ending {
        Ending::Ack(result) => {
            let keep = settlement.account.keep.map(|keep| millis(keep).to_string()).unwrap_or_default();
            Ok(["done".to_owned(), keep, result.as_deref().unwrap_or("").to_owned(), String::new()])
        }
        Ending::DeadLetter(reason) => word("dead", reason.clone()),
        Ending::Cancelled(reason) => word("cancelled", reason.clone()),
        Ending::Extend(time) => word("extend", millis(*time).to_string()),
        Ending::GiveBack { kind, reason, after } => {
            let counter = if *kind == AttemptKind::Interrupted { "interrupted" } else { "" };
            Ok(["back".to_owned(), format!("scheduled:{}", millis(*after)), record(*kind, reason, None)?, counter.to_owned()])
        }
        Ending::Fail { kind, reason, certificate, retry_in, permanent } => {
            let record = record(*kind, reason, certificate.as_deref())?;
            let counter = if *kind == AttemptKind::Crashed { "crashed" } else { "failed" };
            Ok(match settlement.account.pause_after(*kind, *retry_in, *permanent) {
                Some(pause) => ["back".to_owned(), format!("retrying:{}", millis(pause)), record, counter.to_owned()],
                None => ["dead".to_owned(), reason.clone(), record, counter.to_owned()],
            })
        }
    }
}

/// An entry of a job's history from the kind on; the script puts attempt and moment before it.
fn record(kind: AttemptKind, reason: &str, certificate: Option<&crate::certificate::Certificate>) -> Result<String, Error> {
    #[derive(serde::Serialize)]
    struct Rest<'a> {
        kind: AttemptKind,
        reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate: Option<&'a crate::certificate::Certificate>,
    }
    let text = serde_json::to_string(&Rest { kind, reason, certificate })
        .map_err(|e| Error::new(ErrorKind::Encode, "write a history").with_source(e))?;
    Ok(text.trim_start_matches('{').to_owned())
}
