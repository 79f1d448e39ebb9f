//! Dead letters in groups: of one queue and task, with reasons of one pattern.
//!
//! Scripts give a piece of the dead letters of a queue each, and of them only what the groups need.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use redis::{Value, pipe};

use super::client::RedisClient;
use super::keys::{check_name, id_of, key};
use super::reply::read;
use super::scripts;
use crate::error::Error;
use crate::policy::reason_pattern;
use crate::store::DeadGroup;

/// Queues that are looked at in one round trip.
const QUEUES_PAGE: usize = 500;

/// The groups of a queue, by task and pattern.
type Groups = HashMap<(Option<String>, String), DeadGroup>;

impl RedisClient {
    pub(super) async fn dead_groups(&self, queue: Option<&str>) -> Result<Vec<DeadGroup>, Error> {
        let queues = match queue {
            Some(queue) => vec![queue.to_owned()],
            None => self.queues().await?,
        };
        let mut groups = Vec::new();
        for page in queues.chunks(QUEUES_PAGE) {
            for queue in page {
                check_name(queue)?;
            }
            self.bring_up_to_date(page).await?;
            let mut pipeline = pipe();
            page.iter().for_each(|queue| {
                pipeline.cmd("ZCARD").arg(key(queue, "dead"));
            });
            let dead: Vec<u64> = self.ask_all("count dead letters", &pipeline).await?;
            for (queue, _) in page.iter().zip(dead).filter(|(_, dead)| *dead > 0) {
                groups.extend(self.dead_groups_of(queue).await?.into_values());
            }
        }
        groups.sort_by(|one: &DeadGroup, other| {
            let place = |group: &DeadGroup| {
                let (queue, task) = (group.queue.clone(), group.task.clone());
                (queue, task, group.reason.clone())
            };
            let by_count = other.count.cmp(&one.count);
            by_count.then_with(|| place(one).cmp(&place(other)))
        });
        Ok(groups)
    }

    async fn dead_groups_of(&self, queue: &str) -> Result<Groups, Error> {
        let (mut groups, mut after) = (Groups::new(), String::new());
        loop {
            let answer: Vec<Value> = self
                .run("group dead letters", scripts::dead(), queue, &after)
                .await?;
            let mut values = answer.into_iter();
            after = read(values.next().unwrap_or(Value::Nil))?;
            while let Some(number) = values.next() {
                let mut next = || values.next().unwrap_or(Value::Nil);
                let number: String = read(number)?;
                let (task, reason) = (text_of(next())?, text_of(next())?.unwrap_or_default());
                let pushed: u64 = read::<String>(next())?.parse().unwrap_or(0);
                add(&mut groups, queue, &number, (task, &reason, pushed));
            }
            if after.is_empty() {
                return Ok(groups);
            }
        }
    }
}

/// What other programs have pushed may be no text.
fn text_of(value: Value) -> Result<Option<String>, Error> {
    let bytes: Option<Vec<u8>> = read(value)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Adds a dead letter, of a task, with a reason and the millisecond of its push.
fn add(groups: &mut Groups, queue: &str, number: &str, of: (Option<String>, &str, u64)) {
    let (task, reason, pushed) = of;
    let pushed = UNIX_EPOCH + Duration::from_millis(pushed);
    let reason = reason_pattern(reason);
    let group = groups
        .entry((task, reason))
        .or_insert_with_key(|(task, reason)| DeadGroup {
            queue: queue.to_owned(),
            task: task.clone(),
            reason: reason.clone(),
            count: 0,
            first: pushed,
            last: pushed,
            example: id_of(queue, number),
        });
    group.count += 1;
    group.first = group.first.min(pushed);
    group.last = group.last.max(pushed);
}
