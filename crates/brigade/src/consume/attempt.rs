//! One job from its lease to its settlement.
//!
//! ```text
//!   leased --- attend ---> held, its attempt in the pool's hands ---> ended: what becomes of the job is decided (`disposition`)
//!                                                                     ---> being settled, still held and renewed (`settling`) ---> let go
//! ```
//!
//! A panic of ours on that way ends this job as a crash of its attempt, so that it cannot take the
//! consumer down, or come back for ever.

use std::convert::Infallible;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::consumer::RunningConsumer;
use super::disposition::{EndedAttempt, disposition_of};
use super::handler::{Handled, HandlerStop};
use super::held::{HeldJob, LOSSES_BESIDE_OTHERS, ShownProgress, Why};
use super::here::Here;
use super::job_call::job_context;
use super::panic_text::text_of;
use crate::call::Call;
use crate::call_handle::{CallHandle, ProgressStream};
use crate::clock::FAR;
use crate::codec::Codec;
use crate::context::Sink;
use crate::error::Error;
use crate::outcome::{CallError, Cancelled, Failure};
use crate::progress::Progress;
use crate::store::{Answer, Leased};
use crate::sync::lock;
use brigade_core::span::{AttemptSpan, is_wanted, traceparent_of};

/// How long a handler may take to end when its consumer is killed.
const KILL_AFTER: Duration = Duration::from_secs(1);

/// A held job: let go when this is dropped.
pub(super) struct Hold {
    consumer: Arc<RunningConsumer>,
    pub(super) number: u64,
    pub(super) stop: CancellationToken,
    pub(super) lost: CancellationToken,
    /// The span of the attempt.
    span: Span,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = lock(&self.consumer.held);
        held.remove(&self.number);
        self.consumer.control.set_held(held.len());
        drop(held);
        self.consumer.held_changed.notify_one();
    }
}

/// An attempt on its way.
enum Attempt {
    InPool(CallHandle<Box<RawValue>>),
    Here(Work),
    /// Begins when nothing else is held here; one at a time.
    Alone(Work, OwnedSemaphorePermit),
    /// It has to be alone, and another has to be too.
    NotNow,
    Refused(Error),
    /// It is not run again.
    SetAside(String),
    Panicked(String),
}

/// What runs for a job.
enum Work {
    Call(Box<Call<Box<RawValue>>>),
    Handler(Box<Handled>),
}

/// Takes the progress of an attempt in this process.
struct HeldSink {
    consumer: Arc<RunningConsumer>,
    number: u64,
}

impl Sink for HeldSink {
    fn progress(&self, _call: u64, fraction: f64, codec: Codec, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        let progress = Progress {
            fraction,
            codec,
            payload,
        };
        self.consumer.note_progress(self.number, progress);
    }
}

impl RunningConsumer {
    /// Takes a job into our hands and has its attempt begin: here, so that attempts stand in the
    /// pool's queue in the order of their leases.
    pub(super) fn attend(self: &Arc<Self>, mut leased: Leased, permit: OwnedSemaphorePermit) {
        let span = self.span_of(&leased);
        if let Some(own) = traceparent_of(&span) {
            leased.job.options.traceparent = Some(own);
        }
        let leased = Arc::new(leased);
        let (mut hold, unsettled) = (self.hold(&leased), self.control.begin());
        hold.span = span;
        let attempt = catch_unwind(AssertUnwindSafe(|| self.begin(&leased)))
            .unwrap_or_else(|panic| Attempt::Panicked(text_of(&*panic)));
        let consumer = Arc::clone(self);
        self.scope.spawn(async move {
            consumer.see_through(attempt, leased, hold, permit).await;
            drop(unsettled);
        });
    }

    fn hold(self: &Arc<Self>, leased: &Arc<Leased>) -> Hold {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (stop, lost) = (CancellationToken::new(), CancellationToken::new());
        let held = HeldJob {
            leased: Arc::clone(leased),
            since: SystemTime::now(),
            progress: None,
            until: leased.since.later(self.trusted()),
            is_ended: false,
            stop: stop.clone(),
            lost: lost.clone(),
            why: Why::No,
        };
        let mut all = lock(&self.held);
        all.insert(number, held);
        self.control.set_held(all.len());
        drop(all);
        self.holding.notify_one();
        self.held_changed.notify_one();
        Hold {
            consumer: Arc::clone(self),
            number,
            stop,
            lost,
            span: Span::none(),
        }
    }

    /// The span of an attempt that begins; none if nothing wants it.
    fn span_of(&self, leased: &Leased) -> Span {
        if !is_wanted() {
            return Span::none();
        }
        let job = &leased.job;
        AttemptSpan {
            task: self.task_of(job).unwrap_or(&job.queue),
            attempt: leased.attempt,
            job: Some((leased.id.as_str(), &job.queue)),
            call: None,
            label: job.options.label.as_deref(),
            traceparent: job.options.traceparent.as_ref(),
            is_first: leased.attempt + leased.lost == 1,
        }
        .begin(&Span::none())
    }

    /// How long a lease can be trusted after the request for it. The rest is the time to stop an
    /// attempt, so that no process of it runs at the same time as the next attempt.
    pub(super) fn trusted(&self) -> Duration {
        self.lease - self.lease / 6
    }

    fn begin(&self, leased: &Arc<Leased>) -> Attempt {
        if leased.lost >= self.losses_max {
            let text = format!(
                "its lease ended {} times without a word of its holder, which died or hung: it is \
                    not run again",
                leased.lost
            );
            return Attempt::SetAside(text);
        }
        if let Some(reason) = self.policy(leased).too_late() {
            return Attempt::SetAside(reason);
        }
        match (self.work_of(leased), &self.pool) {
            (Err(error), _) => Attempt::Refused(error),
            (Ok(work), _) if leased.lost >= LOSSES_BESIDE_OTHERS => Arc::clone(&self.alone)
                .try_acquire_owned()
                .map_or(Attempt::NotNow, |alone| Attempt::Alone(work, alone)),
            (Ok(Work::Call(call)), Some(pool)) => Attempt::InPool(pool.call(*call)),
            (Ok(work), _) => Attempt::Here(work),
        }
    }

    fn work_of(&self, leased: &Arc<Leased>) -> Result<Work, Error> {
        Ok(match &self.handler {
            Some(handler) => Work::Handler(Box::new(handler.begin(leased, job_context(leased)?))),
            None => Work::Call(Box::new(self.call_of(leased)?)),
        })
    }

    async fn see_through(
        self: &Arc<Self>,
        attempt: Attempt,
        leased: Arc<Leased>,
        mut hold: Hold,
        mut permit: OwnedSemaphorePermit,
    ) {
        let span = std::mem::replace(&mut hold.span, Span::none());
        let running = AssertUnwindSafe(self.run(attempt, &leased, &hold, &mut permit))
            .catch_unwind()
            .instrument(span.clone())
            .await;
        let ended = running.unwrap_or_else(|panic| EndedAttempt::panicked(text_of(&*panic)));
        if !span.is_disabled() {
            ended.for_span().record(&span);
        }
        drop(span);
        let why = self.note_end(hold.number);
        let answer = ended
            .outcome
            .as_ref()
            .err()
            .filter(|_| leased.is_call)
            .map(|error| Box::new(Answer::of(error)));
        self.settle(
            &leased,
            &hold,
            disposition_of(ended, why, &self.policy(&leased)),
            answer,
            permit,
        )
        .await;
    }

    fn note_end(&self, number: u64) -> Why {
        lock(&self.held).get_mut(&number).map_or(Why::No, |held| {
            held.is_ended = true;
            held.why.clone()
        })
    }

    async fn run(
        &self,
        attempt: Attempt,
        leased: &Leased,
        hold: &Hold,
        permit: &mut OwnedSemaphorePermit,
    ) -> EndedAttempt {
        match attempt {
            Attempt::InPool(handle) => self.run_in_pool(handle, hold).await,
            Attempt::Here(work) => self.run_work(work, leased, hold).await,
            Attempt::Alone(work, alone) => {
                let ended = match self.wait_for_all_room(hold, permit).await {
                    false => EndedAttempt::cancelled("before it ran"),
                    true => self.run_work(work, leased, hold).await,
                };
                drop(alone);
                ended
            }
            Attempt::NotNow => EndedAttempt::not_now(),
            Attempt::Refused(error) => EndedAttempt::of(Err(CallError::Rejected(error))),
            Attempt::SetAside(reason) => EndedAttempt::set_aside(reason),
            Attempt::Panicked(text) => EndedAttempt::panicked(text),
        }
    }

    /// Waits until nothing else is held here, and lets nothing begin: what this job takes along
    /// would count as lost too. `false` if it is not to run any more.
    async fn wait_for_all_room(&self, hold: &Hold, permit: &mut OwnedSemaphorePermit) -> bool {
        // Given back first: another job that waits for the same would wait for this one.
        drop(permit.split(permit.num_permits()));
        let all = u32::try_from(self.prefetch).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = self.control.draining.cancelled() => false,
            () = hold.stop.cancelled() => false,
            whole = Arc::clone(&self.room).acquire_many_owned(all) => whole.map(|whole| permit.merge(whole)).is_ok(),
        }
    }

    async fn run_in_pool(
        &self,
        mut handle: CallHandle<Box<RawValue>>,
        hold: &Hold,
    ) -> EndedAttempt {
        let progress = handle.progress();
        tokio::select! {
            // In this order, so that the last progress arrives before the end.
            biased;
            never = self.read_progress(hold.number, progress) => match never {},
            outcome = &mut handle => {
                return EndedAttempt::of(outcome).reported(handle.report());
            }
            () = hold.stop.cancelled() => {}
        }
        let receipt = handle.cancel(&self.why(hold.number).reason());
        let outcome = tokio::select! {
            outcome = &mut handle => outcome,
            () = self.control.killing.cancelled() => {
                handle.hurry();
                (&mut handle).await
            }
        };
        EndedAttempt::stopped(outcome, receipt.await).reported(handle.report())
    }

    async fn run_work(&self, work: Work, leased: &Leased, hold: &Hold) -> EndedAttempt {
        let began = Instant::now();
        let ended = match (work, &self.pool) {
            (Work::Handler(handled), _) => self.run_handler(*handled, leased, hold).await,
            (Work::Call(call), None) => self.run_here(*call, leased, hold).await,
            (Work::Call(call), Some(pool)) => {
                return self.run_in_pool(pool.call(*call), hold).await;
            }
        };
        let task = self.task_of(&leased.job).unwrap_or(&leased.job.queue);
        ended.ran_here(task, leased.attempt, began.elapsed())
    }

    async fn run_handler(
        &self,
        mut handled: Handled,
        leased: &Leased,
        hold: &Hold,
    ) -> EndedAttempt {
        let timeout = leased
            .job
            .options
            .timeout
            .map_or(FAR, |timeout| timeout.min(FAR));
        let reason = tokio::select! {
            biased;
            ended = handled.ended() => return ended,
            () = hold.stop.cancelled() => match self.why(hold.number) {
                Why::Cancel(reason) => HandlerStop::Cancelled(reason),
                Why::Lost => HandlerStop::LeaseLost,
                Why::No | Why::Shutdown => HandlerStop::ConsumerEnds,
            },
            () = sleep(timeout) => HandlerStop::TimedOut(timeout),
        };
        let abort_after = async {
            tokio::select! {
                // It must have ended before the job can be another consumer's.
                () = hold.lost.cancelled() => sleep(self.abort_after.min(self.lease / 12)).await,
                () = self.control.killing.cancelled() => sleep(self.abort_after.min(KILL_AFTER)).await,
                () = sleep(self.abort_after) => {}
            }
        };
        handled.stop(reason, abort_after).await
    }

    /// On a thread of its own, so that neither renewals nor anything else of this process waits for
    /// it.
    async fn run_here(
        &self,
        call: Call<Box<RawValue>>,
        leased: &Leased,
        hold: &Hold,
    ) -> EndedAttempt {
        let timeout = call
            .request
            .options()
            .timeout
            .map_or(FAR, |timeout| timeout.min(FAR));
        let sink = Arc::new(HeldSink {
            consumer: Arc::clone(&hold.consumer),
            number: hold.number,
        });
        let mut here = match Here::begin(call, Some(sink)) {
            Ok(here) => here,
            Err(error) => return EndedAttempt::of(Err(CallError::Rejected(error))),
        };
        let instead = tokio::select! {
            biased;
            outcome = here.ended() => return EndedAttempt::of(outcome),
            () = hold.stop.cancelled() => CallError::Cancelled(Cancelled::without_report("stopped at its next await")),
            () = sleep(timeout) => {
                CallError::Failed(Box::new(Failure::new(format_args!("it ran for longer than its \
                    timeout of {timeout:?}"))))
            }
        };
        here.stop(&match &instead {
            CallError::Failed(failure) => failure.message.clone(),
            _ => self.why(hold.number).reason(),
        });
        tokio::select! {
            biased;
            // Its result does not count: it may have done only a part of its work.
            _ = here.ended() => EndedAttempt::of(Err(instead)),
            () = self.abandoning.cancelled() => {
                tracing::warn!(job = %leased.id, "an attempt in this process does not end: it is \
                    left alone, and so is its lease");
                EndedAttempt::abandoned()
            }
        }
    }

    fn why(&self, number: u64) -> Why {
        lock(&self.held)
            .get(&number)
            .map_or(Why::No, |held| held.why.clone())
    }

    /// Notes the progress of an attempt in a pool.
    async fn read_progress(&self, number: u64, mut progress: ProgressStream) -> Infallible {
        while let Some(progress) = progress.next().await {
            self.note_progress(number, progress);
        }
        pending().await
    }

    /// Notes the progress of an attempt for the next announcement, and passes that of a call to its
    /// caller.
    fn note_progress(&self, number: u64, progress: Progress) {
        let is_shown = self.store.capabilities().consumers;
        let shown = is_shown.then(|| ShownProgress::of(&progress));
        let leased = {
            let mut held = lock(&self.held);
            let Some(held) = held.get_mut(&number) else {
                return;
            };
            held.progress = shown;
            Arc::clone(&held.leased)
        };
        self.held_changed.notify_one();
        if let Some(transport) = self.transport.as_ref().filter(|_| leased.is_call) {
            transport.report_progress(&leased.id, leased.token, progress);
        }
    }

    /// Has an attempt stopped; the first reason counts.
    pub(super) fn stop(&self, number: u64, why: Why) {
        if let Some(held) = lock(&self.held).get_mut(&number) {
            if why == Why::Lost {
                held.lost.cancel();
            }
            if held.why == Why::No && !held.is_ended {
                held.why = why;
                held.stop.cancel();
            }
        }
    }
}
