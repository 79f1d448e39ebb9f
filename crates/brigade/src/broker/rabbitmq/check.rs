//! What is wrong with a broker, as far as its clients can see.

use std::sync::Arc;

use super::RabbitMqCore;
use super::tap::Tap;
use super::topology::{Found, Spot};
use crate::error::{Error, ErrorKind};
use crate::finding::{Finding, Level};
use crate::sync::lock;

/// Older ones lose jobs that wait for their time when they crash: `x-dead-letter-strategy` came with it.
const VERSION_MIN: (u32, u32) = (3, 10);

pub(super) async fn check(core: &RabbitMqCore) -> Result<Vec<Finding>, Error> {
    let line = core.out.line().await.map_err(|fault| fault.into_error("check"))?;
    let mut findings = Vec::new();
    let mut find = |level: Level, what: String, advice: &str| findings.push(Finding::new(level, what, advice));
    match line.version.as_deref() {
        None => find(Level::Warning, "the broker does not say that it is RabbitMQ".to_owned(), "nothing else was tried"),
        Some(version) if number_of(version) < VERSION_MIN => {
            let what = format!("RabbitMQ {version} is too old: it may lose jobs that wait for their time");
            find(Level::Problem, what, "use 3.10 or newer");
        }
        Some(_) => {}
    }
    if let Some(why) = line.blocked.borrow().as_deref() {
        find(Level::Problem, format!("the broker takes nothing now: {why}"), "give it memory and room on its disk");
    }
    for queue in queues(core) {
        let spot = Spot::Jobs(queue);
        let name = core.topology.name(&spot);
        match core.topology.declare_on(&line, &spot).await {
            Ok(Found::Ours) => {}
            Ok(Found::Other) => find(
                Level::Warning,
                format!("queue {name} is there with other arguments than this URL asks for; it is used as it is"),
                "look whether it is durable, and whether anything in it expires or is dropped",
            ),
            Err(fault) if fault.kind() == ErrorKind::Refused => {
                find(Level::Problem, format!("this user may not declare queue {name}"), "give it the rights to configure, write and read");
            }
            Err(fault) => return Err(fault.into_error("check")),
        }
    }
    let limit = core.consumer_timeout();
    find(
        Level::Note,
        format!(
            "the broker lets a delivery be held for {limit:?} (consumer_timeout), as far as is known; what is held for longer is exchanged in time"
        ),
        "if the broker has less, say so in the URL: ?consumer_timeout=10min",
    );
    find(
        Level::Note,
        "policies cannot be seen by a client".to_owned(),
        "none may limit or expire these queues (rabbitmqctl list_policies)",
    );
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    Ok(findings)
}

/// Those that are served from here.
fn queues(core: &RabbitMqCore) -> Vec<Box<str>> {
    let taps: Vec<Arc<Tap>> = lock(&core.taps).values().cloned().collect();
    taps.iter().map(|tap| tap.queue.clone()).collect()
}

fn number_of(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
