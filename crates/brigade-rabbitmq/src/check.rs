//! Finds what is wrong with a broker: as far as its clients can see, and, if the URL names its
//! management API, what policies and arguments do to its queues.
//!
//! Rights are tried with an exclusive queue that is gone afterwards; the queues that this process
//! serves are declared. Nothing else is changed. Each finding says what is wrong, with the name of
//! the queue or policy, and what to do; the worst come first.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::fault::AmqpFault;
use super::intake::Intake;
use super::link::LiveConnection;
use super::management::{self, Described};
use super::topology::QueueKind;
use super::values::random_id;
use crate::error::{Error, ErrorKind};
use crate::finding::{Finding, Level};

/// Older ones lose jobs that wait for their time when they crash: `x-dead-letter-strategy` came
/// with it.
const VERSION_MIN: (u32, u32) = (3, 10);
/// The management API knows of a new queue then.
const KNOWN_WITHIN: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(500);
/// The default of quorum queues from RabbitMQ 4.0 on.
const DELIVERY_LIMIT_DEFAULT: i64 = 20;
/// More than a fleet restarts while a job waits.
const DELIVERY_LIMIT_MIN: i64 = 1000;
const NO_LIMITS: &str = "no policy may limit or expire these queues; change its pattern, or clear \
    it (rabbitmqctl clear_policy)";

const OTHER_ARGUMENTS: &str = "look whether it is durable, whether anything in it expires or is \
    dropped, and, for a quorum queue, whether its x-delivery-limit is at least 1000 (without one \
    it is 20 from RabbitMQ 4.0 on)";
const DECLARE_AGAIN: &str = "delete the queue when it is empty; it will be declared again";
const LOOK_YOURSELF: &str = "look yourself (rabbitmqctl list_policies)";

fn problem(what: impl Into<String>, advice: &str) -> Finding {
    Finding::new(Level::Problem, what, advice)
}

fn warning(what: impl Into<String>, advice: &str) -> Finding {
    Finding::new(Level::Warning, what, advice)
}

pub(super) async fn check(intake: &Intake) -> Result<Vec<Finding>, Error> {
    let found = look(intake).await;
    let mut found = found.map_err(|fault| fault.into_error("check"))?;
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    Ok(found)
}

async fn look(intake: &Intake) -> Result<Vec<Finding>, AmqpFault> {
    let connection = intake.storage.out.connection().await?;
    let (mut found, served) = (Vec::new(), served(intake));
    check_server(&connection, &mut found);
    check_rights(intake, &connection, &mut found).await?;
    check_served(intake, &connection, &served, &mut found).await?;
    let what = format!(
        "the broker lets a delivery be held for {:?} (consumer_timeout), as far as is known; what \
            is held for longer is refreshed in time",
        intake.consumer_timeout()
    );
    let advice = "if the broker has less, say so in the URL: ?consumer_timeout=10m";
    found.push(Finding::new(Level::Note, what, advice));
    let version = connection.version.as_deref().map_or(VERSION_MIN, number_of);
    check_policies(intake, &served, version, &mut found).await;
    Ok(found)
}

fn check_server(connection: &LiveConnection, found: &mut Vec<Finding>) {
    match connection.version.as_deref() {
        None => found.push(warning(
            "the broker does not say that it is RabbitMQ",
            "nothing else was tried",
        )),
        Some(version) if number_of(version) < VERSION_MIN => {
            let what =
                format!("RabbitMQ {version} is too old: it may lose jobs that wait for their time");
            found.push(problem(what, "use 3.10 or newer"));
        }
        Some(_) => {}
    }
    if let Some(why) = connection.blocked.borrow().as_deref() {
        found.push(problem(
            format!("the broker takes nothing now: {why}"),
            "give it memory and room on its disk",
        ));
    }
}

async fn check_rights(
    intake: &Intake,
    connection: &LiveConnection,
    found: &mut Vec<Finding>,
) -> Result<(), AmqpFault> {
    let name = intake
        .config
        .name_of(&format!("brigade-check-{}", random_id()));
    let queue = name.as_str().into();
    // A refusal ends its channel.
    let owner = connection.channel().await?;
    let options = QueueDeclareOptions::exclusive().auto_delete();
    let declared = connection.declare(&owner, &queue, options, FieldTable::default());
    let mut rights = vec![("configure", declared.await.map(drop))];
    if rights[0].1.is_ok() {
        let reader = connection.channel().await?;
        let reading = reader.basic_get(queue.clone(), BasicGetOptions { no_ack: true });
        rights.push(("read", connection.answer(reading).await.map(drop)));
        if connection.blocked.borrow().is_none() {
            let writer = connection.confirming_channel().await?;
            let written = connection.publish_note(&writer, &queue, b"{}");
            rights.push(("write", written.await.map(drop)));
        }
        let deleting = owner.queue_delete(queue, QueueDeleteOptions::default());
        connection.answer(deleting).await.ok();
    }
    for (right, tried) in rights {
        match tried {
            Err(fault) if fault.kind() == ErrorKind::Refused => {
                let what = format!("this user has not the right to {right} queues like {name}");
                found.push(problem(
                    what,
                    "give it the rights to configure, write and read them, and to write to \
                        amq.default (rabbitmqctl set_permissions)",
                ));
            }
            other => other?,
        }
    }
    Ok(())
}

async fn check_served(
    intake: &Intake,
    connection: &LiveConnection,
    served: &BTreeMap<ShortString, QueueKind>,
    found: &mut Vec<Finding>,
) -> Result<(), AmqpFault> {
    for (name, target) in served {
        let declared = intake.storage.topology.declare_on(connection, target).await;
        let difference = match declared {
            Ok(queue) => queue.difference,
            Err(fault) if fault.kind() == ErrorKind::Refused => {
                let what = format!("this user may not declare queue {name}");
                found.push(problem(
                    what,
                    "give it the rights to configure, write and read",
                ));
                continue;
            }
            Err(fault) => return Err(fault),
        };
        if let Some(difference) = difference {
            let what = format!(
                "queue {name} exists with other arguments than this URL asks for, and is used as \
                    it is: {difference}"
            );
            found.push(warning(what, OTHER_ARGUMENTS));
        }
    }
    Ok(())
}

async fn check_policies(
    intake: &Intake,
    served: &BTreeMap<ShortString, QueueKind>,
    version: (u32, u32),
    found: &mut Vec<Finding>,
) {
    let Some(management) = &intake.config.management else {
        let advice = "name its management API in the URL, ?management=http://host:15672, or look \
            yourself (rabbitmqctl list_policies): none may limit or expire these queues";
        let what = "policies cannot be seen by a client";
        return found.push(Finding::new(Level::Note, what, advice));
    };
    let in_namespace = |queue: &Described| intake.config.queue_of(&queue.name) != queue.name;
    let until = Instant::now() + KNOWN_WITHIN;
    let all = loop {
        let asked = management::queues(&intake.config, management).await;
        let ours: Vec<Described> = match asked {
            Ok(all) => all
                .into_iter()
                .filter(|queue| served.contains_key(queue.name.as_str()) || in_namespace(queue))
                .collect(),
            Err(fault) => {
                let what = format!(
                    "the management API of the URL does not say what policies there are: {fault}"
                );
                let advice = "look yourself (rabbitmqctl list_policies): none may limit or expire \
                    these queues";
                return found.push(warning(what, advice));
            }
        };
        if Instant::now() > until
            || ours
                .iter()
                .all(|queue| queue.effective_policy_definition.is_some())
        {
            break ours;
        }
        sleep(AGAIN).await;
    };
    for queue in &all {
        check_policies_of(queue, found);
        check_delivery_limit(queue, version, found);
        if served.contains_key(queue.name.as_str()) {
            check_own(queue, found);
        }
    }
}

fn check_policies_of(queue: &Described, found: &mut Vec<Finding>) {
    let given = [
        ("policy", &queue.policy),
        ("operator policy", &queue.operator_policy),
    ];
    let names = given.iter().filter_map(|(kind, name)| {
        Some(format!(
            "{kind} {}",
            name.as_deref().filter(|name| !name.is_empty())?
        ))
    });
    let names = names.collect::<Vec<_>>().join(" and ");
    let Some(policy) = &queue.effective_policy_definition else {
        let what = format!(
            "the management API does not say which policies are in force for queue {}",
            queue.name
        );
        return found.push(warning(what, LOOK_YOURSELF));
    };
    for (key, value) in policy {
        if let Some((level, does)) = harm(key, rejects(policy, "overflow")) {
            let what = format!("{names}: {key} {value} {does} queue {}", queue.name);
            found.push(Finding::new(level, what, NO_LIMITS));
        }
    }
}

fn check_own(queue: &Described, found: &mut Vec<Finding>) {
    let rejects = rejects(&queue.arguments, "x-overflow");
    // Of dead letters only the newest are kept, on purpose.
    let arguments = queue
        .arguments
        .iter()
        .filter(|_| !queue.name.ends_with(".dead"));
    for (key, value) in arguments {
        if let Some((level, does)) = key.strip_prefix("x-").and_then(|key| harm(key, rejects)) {
            let what = format!("its argument {key} {value} {does} queue {}", queue.name);
            found.push(Finding::new(level, what, DECLARE_AGAIN));
        }
    }
    if !queue.durable || queue.auto_delete {
        let what = format!(
            "queue {} goes with a restart of the broker, or with its last consumer, and its jobs \
                with it",
            queue.name
        );
        found.push(problem(what, DECLARE_AGAIN));
    }
}

/// How often the server hands out a message of this queue before it gives it up; `None` if it never
/// does.
fn delivery_limit(queue: &Described, version: (u32, u32)) -> Option<i64> {
    if queue.kind != "quorum" {
        return None;
    }
    let policies = queue.effective_policy_definition.iter().flatten();
    let by_policy = policies.filter(|(key, _)| *key == "delivery-limit");
    let by_argument = queue
        .arguments
        .iter()
        .filter(|(key, _)| *key == "x-delivery-limit");
    let limit = by_policy
        .chain(by_argument)
        .filter_map(|(_, value)| value.as_i64())
        .min();
    let limit = limit.or((version >= (4, 0)).then_some(DELIVERY_LIMIT_DEFAULT));
    // A negative one is none.
    limit.filter(|limit| *limit >= 0)
}

fn check_delivery_limit(queue: &Described, version: (u32, u32), found: &mut Vec<Finding>) {
    let Some(limit) = delivery_limit(queue, version).filter(|limit| *limit < DELIVERY_LIMIT_MIN)
    else {
        return;
    };
    let keeps = queue.arguments.contains_key("x-dead-letter-exchange")
        || queue
            .effective_policy_definition
            .as_ref()
            .is_some_and(|policy| policy.contains_key("dead-letter-exchange"));
    let (level, becomes) = if keeps {
        (Level::Warning, "becomes a dead letter")
    } else {
        (Level::Problem, "is lost")
    };
    let what = format!(
        "a job of queue {} {becomes} when it has been handed out {limit} times (x-delivery-limit): \
            each end of a consumer and each lost connection counts, also if the job never ran",
        queue.name
    );
    let advice = "declare the queue again with x-delivery-limit 1000000 when it is empty (Brigade \
        does so with ?queues=quorum), or raise the policy's delivery-limit";
    found.push(Finding::new(level, what, advice));
}

/// Whether a queue refuses what is too much; if not, it drops the oldest.
fn rejects(settings: &BTreeMap<String, Value>, name: &str) -> bool {
    let overflow = settings.get(name).and_then(Value::as_str);
    overflow.is_some_and(|what| what != "drop-head")
}

/// What a key of a policy does to jobs; `rejects`: what is too much is refused, not dropped.
fn harm(key: &str, rejects: bool) -> Option<(Level, &'static str)> {
    Some(match key {
        "max-length" | "max-length-bytes" if rejects => (Level::Warning, "refuses pushes to"),
        "max-length" | "max-length-bytes" => (Level::Problem, "drops jobs of"),
        "message-ttl" => (Level::Problem, "lets jobs expire in"),
        "expires" => (Level::Problem, "deletes, when it is not used,"),
        "consumer-timeout" => (Level::Note, "is how long a delivery may be held of"),
        _ => return None,
    })
}

/// The queues that are served from here, by their names at the broker.
fn served(intake: &Intake) -> BTreeMap<ShortString, QueueKind> {
    let names = intake.served.names().into_iter();
    names
        .map(|name| {
            let kind = QueueKind::Jobs(intake.config.queue_of(name.as_str()).into());
            (name, kind)
        })
        .collect()
}

fn number_of(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
