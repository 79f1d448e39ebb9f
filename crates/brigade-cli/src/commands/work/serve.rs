//! The task that runs the programs: jobs come from the consumer's handler, and each is reported
//! once the consumer has settled it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brigade::{Broker, Consumer, HandlerEnd, JobId, LeasedJob, SettledAttempt};
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::options::Work;
use super::outcome::{ProgramOutcome, Request, Returned};
use super::runner::Runner;

/// A drain waits for the programs, however long they run; a second signal ends it.
const DRAIN: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// From the SIGKILL of a program until nothing of it is left, at most.
const REAP: Duration = Duration::from_secs(10);

/// What the consumer sends to the task.
pub(super) struct Serving {
    requests: mpsc::Receiver<Request>,
    settled: Arc<Settled>,
}

/// Attempts that were settled and not reported yet; at most as many as run at once, and a few.
#[derive(Default)]
struct Settled {
    attempts: Mutex<Vec<SettledAttempt>>,
    news: Notify,
}

impl Settled {
    fn add(&self, attempt: SettledAttempt) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(attempt);
        drop(attempts);
        self.news.notify_one();
    }

    fn take(&self) -> Vec<SettledAttempt> {
        std::mem::take(&mut *self.attempts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Serving {
    /// The consumer of a command line, and what it sends.
    pub(super) fn new(work: &Work, broker: &Broker) -> (Self, Consumer) {
        let (sender, requests) = mpsc::channel(work.jobs.into());
        let settled = Arc::<Settled>::default();
        let noting = Arc::clone(&settled);
        let handle = move |job: LeasedJob| {
            let sender = sender.clone();
            async move {
                let (reply, answer) = oneshot::channel();
                let gone = || HandlerEnd::GiveBack("its consumer was stopped".to_owned());
                sender
                    .send(Request { job, reply })
                    .await
                    .map_err(|_| gone())?;
                answer.await.unwrap_or_else(|_| Err(gone().into())) as Returned
            }
        };
        let consumer = broker
            .consumer()
            .queue(work.queue.as_str())
            .prefetch(work.jobs.into())
            .lease(work.lease)
            .drain_timeout(DRAIN)
            .abort_after(work.kill_after.saturating_add(REAP))
            .on_settled(move |attempt| noting.add(attempt.clone()))
            .handler(handle);
        let consumer = match work.until_empty {
            true => consumer.until_empty(),
            false => consumer,
        };
        (Self { requests, settled }, consumer)
    }
}

/// What a step of the task came to.
enum Step {
    /// A program has ended.
    Ended(JobId, u32, ProgramOutcome, Duration),
    /// An attempt was reported.
    Reported,
}

impl Runner {
    /// Runs until the consumer has ended, and with it every program.
    pub(super) async fn serve(&self, serving: Serving, consumer: Consumer) -> anyhow::Result<()> {
        let Serving {
            mut requests,
            settled,
        } = serving;
        let mut steps = FuturesUnordered::<LocalBoxFuture<'_, Step>>::new();
        let mut ended: HashMap<(JobId, u32), (LeasedJob, ProgramOutcome, Duration)> =
            HashMap::new();
        let mut jobs: HashMap<(JobId, u32), LeasedJob> = HashMap::new();
        let mut consuming = std::pin::pin!(consumer.run_until(self.stop.drain.cancelled()));
        let (mut open, mut served, mut is_killed) = (Vec::<SettledAttempt>::new(), None, false);
        loop {
            open.extend(settled.take());
            open.retain(|attempt| {
                let place = (attempt.id.clone(), attempt.attempt);
                let Some((job, ending, took)) = ended.remove(&place) else {
                    // Its end is on its way, or it never came here.
                    return jobs.contains_key(&place);
                };
                let report = self.report_settled(job, ending, attempt.accepted, took);
                steps.push(Box::pin(report));
                false
            });
            if served.is_some() && steps.is_empty() {
                break;
            }
            tokio::select! {
                result = &mut consuming, if served.is_none() => served = Some(result),
                Some(request) = requests.recv() => {
                    let place = (request.job.id().clone(), request.job.attempt());
                    jobs.insert(place, request.job.clone());
                    steps.push(Box::pin(self.run_program(request)));
                }
                Some(step) = steps.next() => if let Step::Ended(id, attempt, ending, took) = step {
                    let place = (id, attempt);
                    if let Some(job) = jobs.remove(&place) {
                        ended.insert(place, (job, ending, took));
                    }
                },
                () = settled.news.notified() => {}
                () = self.stop.halt.cancelled(), if !is_killed => {
                    is_killed = true;
                    self.consumer.kill();
                }
            }
        }
        match served {
            Some(Err(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn run_program(&self, mut request: Request) -> Step {
        let began = Instant::now();
        self.running.set(self.running.get() + 1);
        let ending = self.attend(&mut request).await;
        self.running.set(self.running.get() - 1);
        let Request { job, reply } = request;
        // The consumer may wait no longer.
        reply.send(ending.returned()).ok();
        Step::Ended(job.id().clone(), job.attempt(), ending, began.elapsed())
    }

    async fn report_settled(
        &self,
        job: LeasedJob,
        ending: ProgramOutcome,
        accepted: bool,
        took: Duration,
    ) -> Step {
        let ending = match (accepted, ending) {
            (true, ending) | (_, ending @ ProgramOutcome::Lost(_)) => ending,
            _ => ProgramOutcome::Lost("its lease had run out before it was settled".to_owned()),
        };
        let found = if matches!(ending, ProgramOutcome::Failed(_)) {
            self.broker.job(job.id()).await.ok().flatten()
        } else {
            None
        };
        if let Some(line) = self.report.settled(&job, &ending, found.as_ref(), took) {
            self.console.print(line).await;
        }
        Step::Reported
    }
}
