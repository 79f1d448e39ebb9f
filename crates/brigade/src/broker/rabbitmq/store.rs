//! Storing jobs: published, confirmed, and their queues declared when they are not there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep, timeout_at};

use super::RabbitMqCore;
use super::fault::Fault;
use super::fit::fitted;
use super::message::{self, Envelope};
use super::publish::{Message, Published};
use super::topology::{DELAY_MAX, Spot};
use crate::broker::{Ordered, PushOutcome};
use crate::error::{Error, ErrorKind};
use crate::job::Job;

/// Somebody may delete a queue between its declaration and what is put there, but not again and
/// again.
const ROUNDS_MAX: usize = 4;
const DECLINED_PAUSE: Duration = Duration::from_millis(150);

impl RabbitMqCore {
    /// Pushes jobs in this order.
    pub(super) async fn push(&self, jobs: Vec<Job>) -> Result<Vec<PushOutcome>, Error> {
        let mut ids = Vec::with_capacity(jobs.len());
        let mut parcels = Vec::with_capacity(jobs.len());
        for job in jobs {
            self.check(&job)?;
            let delay = match job.options.at {
                Some(at) => at.duration_since(SystemTime::now()).unwrap_or_default(),
                None => job.options.delay.unwrap_or_default(),
            };
            let envelope = Envelope::new(message::new_id(), job);
            ids.push(envelope.id.clone());
            parcels.push(self.parcel(envelope, delay)?);
        }
        let stored = self.store(parcels).await;
        let some = stored.iter().any(|one| matches!(one, Published::Safe));
        for one in stored {
            // The broker takes messages one by one: of a batch, a part may be there.
            one.into_result("push")
                .map_err(|error| if some { error.uncertain() } else { error })?;
        }
        Ok(ids.into_iter().map(PushOutcome::New).collect())
    }

    /// What this broker cannot do is refused before anything is stored.
    pub(super) fn check(&self, job: &Job) -> Result<(), Error> {
        let options = &job.options;
        self.topology.check_name(&job.queue)?;
        let lacks = [
            (options.key.is_some(), "keys"),
            (options.unique.is_some(), "unique keys"),
            (options.keep.is_some(), "jobs and results that are kept"),
            (job.link.is_some(), "flows"),
            (
                options.priority != 0 && self.place.priority_max().is_none(),
                "priorities; ?priorities=9 in its URL gives its queues some",
            ),
        ];
        if let Some((_, what)) = lacks.iter().find(|(is_asked, _)| *is_asked) {
            let text = format!("push to {:?}: RabbitMQ has no {what}", job.queue);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let max = self.place.priority_max().unwrap_or(0);
        if !(0..=i32::from(max)).contains(&options.priority) {
            let text = format!(
                "push to {:?}: a priority is from 0 to {max}, and this one is {}",
                job.queue, options.priority
            );
            return Err(Error::new(ErrorKind::BadOption, text));
        }
        Ok(())
    }

    /// Where a job goes that is due after this time, and as what.
    pub(super) fn parcel(
        &self,
        mut envelope: Envelope,
        delay: Duration,
    ) -> Result<(Spot, Message), Error> {
        let queue = envelope.job.queue.clone();
        // The broker counts milliseconds.
        if delay < Duration::from_millis(1) {
            let spot = Spot::Jobs(queue);
            let message = envelope.write(&self.topology.name(&spot), None)?;
            return Ok((spot, message));
        }
        if delay > DELAY_MAX {
            envelope.due = SystemTime::now().checked_add(delay);
        }
        let delay = delay.min(DELAY_MAX);
        let spot = Spot::Later(queue, delay);
        let message = envelope.write(&self.topology.name(&spot), Some(delay))?;
        Ok((spot, message))
    }

    /// A job for the queue of dead letters.
    pub(super) fn dead_parcel(
        &self,
        queue: &str,
        why: &str,
        message: Message,
    ) -> Result<(Spot, Message), Error> {
        let spot = Spot::Dead(queue.into());
        let message = message::dead_letter(queue, &self.topology.name(&spot), why, message)?;
        Ok((spot, message))
    }

    /// Removes what waits in a queue; what is not due yet stays.
    pub(super) async fn purge(&self, queue: &str) -> Result<Ordered, Error> {
        self.topology.check_name(queue)?;
        let purged = self
            .topology
            .purge(&Spot::Jobs(queue.into()))
            .await
            .map_err(|fault| fault.into_error("purge a queue"))?;
        Ok(if purged == 0 {
            Ordered::Nothing
        } else {
            Ordered::Changed(purged)
        })
    }

    /// Stores messages in this order; one answer for each.
    pub(super) async fn store(&self, parcels: Vec<(Spot, Message)>) -> Vec<Published> {
        let frame_max = self.out.frame_max();
        let fitted = |message| Arc::new(fitted(message, frame_max));
        let parcels: Vec<(Spot, Arc<Message>)> = parcels
            .into_iter()
            .map(|(spot, message)| (spot, fitted(message)))
            .collect();
        let mut outcomes: Vec<Published> = vec![Published::Unroutable; parcels.len()];
        for round in 0..ROUNDS_MAX {
            let is_open =
                |n: &usize| matches!(outcomes[*n], Published::Unroutable | Published::Declined);
            let todo: Vec<usize> = (0..parcels.len()).filter(is_open).collect();
            if todo.is_empty() {
                break;
            }
            if todo
                .iter()
                .any(|n| matches!(outcomes[*n], Published::Declined))
            {
                // A quorum queue declines until it has a leader, which takes a moment after its
                // declaration.
                sleep(DECLINED_PAUSE * u32::try_from(round).unwrap_or(1)).await;
            }
            let mut declared = HashMap::new();
            for spot in todo.iter().map(|n| &parcels[*n].0) {
                if !declared.contains_key(spot) {
                    // What came back has no queue; queues of delays have to be told in time that
                    // they are needed.
                    let declaring = if round == 0 || !came_back(&outcomes, &parcels, spot) {
                        self.topology.prepare(spot).await
                    } else {
                        self.topology.forget(spot);
                        self.topology.declare(spot).await
                    };
                    declared.insert(spot, declaring.err());
                }
            }
            let scouted = self.scout_all(&parcels, &todo, &declared).await;
            let (mut now, mut later) = (Vec::with_capacity(todo.len()), Vec::new());
            for n in todo {
                let spot = &parcels[n].0;
                match (declared.get(spot), scouted.get(spot)) {
                    (Some(Some(fault)), _) => {
                        outcomes[n] = Published::Failed {
                            fault: fault.clone(),
                            uncertain: false,
                        }
                    }
                    (_, Some((first, outcome))) if *first == n => outcomes[n] = outcome.clone(),
                    (_, Some((_, outcome))) if !matches!(outcome, Published::Safe) => {
                        outcomes[n] = outcome.clone().not_sent()
                    }
                    _ if matches!(spot, Spot::Later(..)) => later.push(n),
                    _ => now.push(n),
                }
            }
            let messages = |places: &[usize]| {
                places
                    .iter()
                    .map(|n| Arc::clone(&parcels[*n].1))
                    .collect::<Vec<Arc<Message>>>()
            };
            let publishing = join(
                self.publisher.publish(messages(&now)),
                self.publisher.publish_slowly(messages(&later)),
            );
            let (published, published_later) = publishing.await;
            let all = now
                .into_iter()
                .chain(later)
                .zip(published.into_iter().chain(published_later));
            all.for_each(|(n, outcome)| outcomes[n] = outcome);
        }
        outcomes
    }

    /// Sends the first message for each queue that was declared and is not known to take any on
    /// this connection; which one, and what became of it.
    async fn scout_all<'a>(
        &self,
        parcels: &'a [(Spot, Arc<Message>)],
        todo: &[usize],
        declared: &HashMap<&'a Spot, Option<Fault>>,
    ) -> HashMap<&'a Spot, (usize, Published)> {
        let unknown = declared
            .iter()
            .filter(|(spot, fault)| fault.is_none() && !self.topology.is_reached(spot));
        let firsts = unknown.filter_map(|(spot, _)| {
            todo.iter()
                .find(|n| parcels[**n].0 == **spot)
                .map(|n| (*spot, *n))
        });
        let scouting =
            firsts.map(async |(spot, n)| Some((spot, (n, self.scout(spot, &parcels[n].1).await?))));
        join_all(scouting).await.into_iter().flatten().collect()
    }

    /// `None` if another one went first.
    async fn scout(&self, spot: &Spot, message: &Message) -> Option<Published> {
        let until = Instant::now() + self.place.answer_timeout;
        let scouting = self.topology.scouting(spot);
        let Ok(_alone) = timeout_at(until, scouting.lock()).await else {
            return Some(Published::Failed {
                fault: Fault::timeout(),
                uncertain: false,
            });
        };
        if self.topology.is_reached(spot) {
            return None;
        }
        let (published, generation) = self.scout.publish(message, until).await;
        if let (Published::Safe, Some(generation)) = (&published, generation) {
            self.topology.reached(spot, generation);
        }
        Some(published)
    }
}

/// Whether something for this queue came back.
fn came_back(outcomes: &[Published], parcels: &[(Spot, Arc<Message>)], spot: &Spot) -> bool {
    outcomes
        .iter()
        .zip(parcels)
        .any(|(outcome, (to, _))| to == spot && matches!(outcome, Published::Unroutable))
}
