//! Reads the source, time after time, in a task of its own: what is on the screen stays there while
//! a broker is slow or gone.
//!
//! The reader owns what must be kept from reading to reading: statistics, which are read less
//! often, and depths of queues. It looks only at the page that is shown, and drops a reading when
//! the page changes. A reading that takes longer than [`READ_BOUND`] counts as a failure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use brigade::{
    Broker, DeadGroup, Error, ErrorKind, JobFilter, JobState, LiveConsumer, QueueCounts,
    RunningJob, StatisticsFilter,
};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::data::{Data, Reading, Run, Totals};
use super::page::{JobsOf, Page};
use super::pool;
use super::rates::{self, Depths, QueueRates};
use super::source::{BrokerSource, Source};
use crate::causes::with_causes;

/// How long a reading may take.
const READ_BOUND: Duration = Duration::from_secs(10);
/// How long statistics and groups of dead letters are shown before they are read again: a broker
/// reads much for them.
const SUMMARY_AGE: Duration = Duration::from_secs(5);
/// Jobs that a page lists.
pub(super) const JOBS_MAX: usize = 500;

pub(super) struct Reader {
    source: Arc<Source>,
    every: Duration,
    again: Arc<Notify>,
    depths: Depths,
    rates: Option<(Instant, HashMap<String, QueueRates>)>,
    dead: Option<(Instant, Vec<DeadGroup>)>,
}

impl Reader {
    /// `again` asks for a reading at once.
    pub(super) fn new(source: Arc<Source>, every: Duration, again: Arc<Notify>) -> Self {
        Self {
            source,
            every,
            again,
            depths: Depths::default(),
            rates: None,
            dead: None,
        }
    }

    /// Reads the page that `pages` names until it is dropped.
    pub(super) async fn run(
        mut self,
        mut pages: watch::Receiver<Page>,
        readings: watch::Sender<Reading>,
    ) {
        let again = Arc::clone(&self.again);
        loop {
            let page = pages.borrow_and_update().clone();
            let outcome = tokio::select! {
                outcome = timeout(READ_BOUND, self.read(&page)) => outcome.unwrap_or_else(|_| {
                    let bound = READ_BOUND.as_secs();
                    Err(anyhow::anyhow!("no answer within {bound} s"))
                }),
                changed = pages.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            readings.send_modify(|reading| publish(reading, page, outcome));
            tokio::select! {
                () = sleep(self.every) => {}
                // An action may have changed all of it.
                () = again.notified() => self.dead = None,
                changed = pages.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn read(&mut self, page: &Page) -> anyhow::Result<(Data, Option<Totals>)> {
        let source = Arc::clone(&self.source);
        match &*source {
            Source::Pool(path) => Ok((Data::Pool(pool::read(path).await?), None)),
            Source::Broker(broker) => {
                let read = self.read_broker(broker, page).await;
                if let Err(error) = &read
                    && error.kind() == ErrorKind::Closed
                {
                    broker.connect_again().await?;
                }
                Ok(read?)
            }
        }
    }

    async fn read_broker(
        &mut self,
        source: &BrokerSource,
        page: &Page,
    ) -> Result<(Data, Option<Totals>), Error> {
        let broker = source.broker();
        let can = broker.capabilities();
        let queues = match can.listing {
            true => broker.queues().await?,
            false => Vec::new(),
        };
        let totals = can.listing.then(|| Totals::of(&queues));
        let needs_listing = match page {
            Page::Consumers | Page::Schedules => false,
            Page::Running => !can.consumers,
            _ => true,
        };
        let data = match page {
            _ if needs_listing && !can.listing => Data::Lacks("listing"),
            Page::Queues => {
                let rates = self.rates(&broker, &queues).await?;
                Data::Queues(queues, rates)
            }
            Page::Running => Data::Running(running(&broker).await?),
            Page::Consumers if !can.consumers => Data::Lacks("consumers"),
            Page::Consumers => Data::Consumers(broker.consumers().await?),
            Page::Dead => Data::Dead(self.dead_groups(&broker).await?),
            Page::Schedules if !can.schedules => Data::Lacks("schedules"),
            Page::Schedules => Data::Schedules(broker.schedules().await?),
            Page::Jobs(of) => {
                let page = broker.find(&filter_of(of)).await?;
                Data::Jobs(page.jobs, page.next.is_some())
            }
            Page::Job(id) => match broker.job(id).await? {
                Some(job) => Data::Job(Some(Box::new((job, broker.why(id).await?)))),
                None => Data::Job(None),
            },
            Page::Workers | Page::Calls => Data::Unread,
        };
        Ok((data, totals))
    }

    async fn dead_groups(&mut self, broker: &Broker) -> Result<Vec<DeadGroup>, Error> {
        if let Some((at, groups)) = &self.dead
            && at.elapsed() < SUMMARY_AGE
        {
            return Ok(groups.clone());
        }
        let groups = broker.dead_groups(None).await?;
        self.dead = Some((Instant::now(), groups.clone()));
        Ok(groups)
    }

    /// Rates of the queues: by the broker's own counts if it has them.
    async fn rates(
        &mut self,
        broker: &Broker,
        queues: &[QueueCounts],
    ) -> Result<HashMap<String, QueueRates>, Error> {
        let now = Instant::now();
        if !broker.capabilities().statistics {
            return Ok(self.depths.note(queues, now));
        }
        if let Some((at, rates)) = &self.rates
            && now.saturating_duration_since(*at) < SUMMARY_AGE
        {
            return Ok(rates.clone());
        }
        let wall = SystemTime::now();
        let minutes = u32::try_from(rates::MINUTES).unwrap_or(u32::MAX);
        let filter = StatisticsFilter {
            since: wall.checked_sub(Duration::from_secs(60) * minutes),
            ..StatisticsFilter::default()
        };
        let rates = rates::of_minutes(&broker.statistics(filter).await?, wall);
        self.rates = Some((now, rates.clone()));
        Ok(rates)
    }
}

/// Which jobs a page lists.
pub(super) fn filter_of(of: &JobsOf) -> JobFilter {
    match of {
        JobsOf::Queue(queue) => JobFilter {
            queue: Some(queue.as_str().into()),
            limit: JOBS_MAX,
            ..JobFilter::default()
        },
        JobsOf::Dead(group) => JobFilter {
            queue: Some(group.queue.as_str().into()),
            state: Some(JobState::Dead),
            task: group.task.as_deref().map(Into::into),
            no_task: group.task.is_none(),
            reason: Some(group.reason.as_str().into()),
            limit: JOBS_MAX,
            ..JobFilter::default()
        },
    }
}

/// The jobs that run: those that the broker has handed out, with what their consumers report of
/// them. From a broker that does not list its jobs, only what the consumers report.
async fn running(broker: &Broker) -> Result<Vec<Run>, Error> {
    let filter = JobFilter {
        state: Some(JobState::Leased),
        limit: JOBS_MAX,
        ..JobFilter::default()
    };
    let consumers = match broker.capabilities().consumers {
        true => broker.consumers().await?,
        false => Vec::new(),
    };
    let said = |consumer: &LiveConsumer| {
        let process = match consumer.pid {
            Some(pid) => format!("{} {pid}", consumer.host),
            None => consumer.host.clone(),
        };
        let runs = consumer.running.clone().into_iter();
        runs.map(move |run| (run.job.clone(), (run, process.clone())))
    };
    if !broker.capabilities().listing {
        let runs = consumers.iter().flat_map(said).map(|(_, run)| run);
        return Ok(runs.map(Run::of_consumer).collect());
    }
    let mut said: HashMap<_, _> = consumers.iter().flat_map(said).collect();
    let jobs = broker.find(&filter).await?.jobs.into_iter();
    let run = move |job: brigade::JobInfo| {
        let (said, process) = said.remove(&job.id).unzip();
        let since = job.leased_at.or(said.as_ref().map(|said| said.since));
        let attempt = job.failed + job.crashed + job.interrupted + 1;
        let holder = job.holder_in_words();
        Run {
            job: said.unwrap_or_else(|| RunningJob::new(job.id, job.queue, job.task, attempt)),
            holder: process.or(holder).unwrap_or_default(),
            cancel: job.cancel,
            since,
        }
    };
    Ok(jobs.map(run).collect())
}

/// Puts the outcome of a reading in the place of the one before. After a failure, what could be
/// read of the same page before stays.
fn publish(reading: &mut Reading, page: Page, outcome: anyhow::Result<(Data, Option<Totals>)>) {
    match outcome {
        Ok((data, totals)) => {
            *reading = Reading {
                page: Some(page),
                at: Some(Instant::now()),
                data,
                totals,
                failure: None,
            };
        }
        Err(error) => {
            if reading.page.as_ref() != Some(&page) {
                reading.data = Data::Unread;
                reading.page = Some(page);
            }
            reading.failure = Some(with_causes(&error));
        }
    }
}
