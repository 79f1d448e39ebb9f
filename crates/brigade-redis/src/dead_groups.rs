//! Dead letters in groups: of one queue and task, with reasons of one pattern.
//!
//! The server keeps the groups of a queue for an hour after the last look at them (`dead.lua`): the
//! first look puts the dead letters into groups piece by piece, and from then on each script that
//! makes a dead letter, or takes one away, changes its group. So a later look reads no dead letter.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Value, pipe};

use super::arguments::Arguments;
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
        let mut groups = DeadGroup::bounded(groups);
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
        let what = "group dead letters";
        loop {
            let run = self.run(what, scripts::dead(), queue, Arguments::default());
            let answer: Vec<Value> = run.await?;
            if !answer.is_empty() {
                return groups_of(queue, answer);
            }
            // They may all have gone meanwhile.
            let mut command = redis::cmd("ZCARD");
            if self
                .ask::<u64>(what, command.arg(key(queue, "dead")))
                .await?
                == 0
            {
                return Ok(Groups::new());
            }
        }
    }
}

/// What the script answered.
fn groups_of(queue: &str, answer: Vec<Value>) -> Result<Groups, Error> {
    let mut groups = Groups::new();
    let mut values = answer.into_iter();
    while let Some(name) = values.next() {
        let mut next = || values.next().unwrap_or(Value::Nil);
        let (name, count) = (read::<Vec<u8>>(name)?, read::<u64>(next())?);
        let (first, last): (String, String) = (read(next())?, read(next())?);
        let (task, reason) = name_of(&name);
        let (first, example) = place_of(&first);
        let group = DeadGroup {
            queue: queue.to_owned(),
            task: task.clone(),
            reason: reason.clone(),
            count,
            first,
            last: place_of(&last).0,
            example: id_of(queue, example),
        };
        groups
            .entry((task, reason))
            .and_modify(|known| known.add(&group))
            .or_insert(group);
    }
    Ok(groups)
}

/// Task and pattern of a group. What other programs have pushed may be no text.
fn name_of(name: &[u8]) -> (Option<String>, String) {
    let name = String::from_utf8_lossy(name);
    let Some((task, reason)) = name.rsplit_once('\n') else {
        return (None, DeadGroup::OTHER_REASONS.to_owned());
    };
    let task = task.strip_prefix('+').map(str::to_owned);
    (task, reason_pattern(reason))
}

/// The moment of the push of a job in a group, and its number.
fn place_of(member: &str) -> (SystemTime, &str) {
    let mut words = member.splitn(3, ':').skip(1);
    let pushed = words.next().and_then(|millis| millis.parse().ok());
    let pushed = UNIX_EPOCH + Duration::from_millis(pushed.unwrap_or(0));
    (pushed, words.next().unwrap_or_default())
}
