//! One attempt, from its frame to its answer.
//!
//! The frame is decoded, the task is found and run on the thread that took it, or on the worker's
//! async runtime, and exactly one answer is sent. A panic that unwinds is an answer as well. Limits
//! on memory and the marks for the signal handler are set before and taken back after it.

use std::borrow::Cow;
use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Instant;

use tracing::Span;

use super::limits::LimitsInForce;
use super::meter::Meter;
use super::serve::Worker;
use super::{crash_note, hygiene, logs, panics, title};
use crate::address;
use crate::attempt_limits::AttemptLimits;
use crate::attempt_report::Cost;
use crate::codec::Codec;
use crate::context::{Context, Sink};
use crate::error::ErrorKind;
use crate::invocation::{Invocation, Invoke, Refusal, Returned};
use crate::job_context::JobContext;
use crate::outcome::{Failure, REASON_BYTES_MAX};
use crate::refused::Refused;
use crate::registry;
use crate::sandbox::Sandbox;
use crate::sync::lock;
use crate::traceparent::TraceParent;
use crate::traceparent::ambient::AmbientTrace;
use crate::wire::{CallMeta, Frame, PanicNote, RunTarget, kind};
use brigade_core::printable::shorten;
use brigade_core::span::{RunSpan, record_run};

type AttemptResult = Result<Returned, PanicNote>;

impl Worker {
    /// Runs what a frame asks for and answers it; an async task of a worker with many slots answers
    /// later.
    pub(super) fn run_frame(self: &Arc<Self>, frame: &Frame) {
        let parsed = postcard::take_from_bytes::<CallMeta<'_>>(&frame.body);
        let (meta, payload) = match parsed {
            Ok(parsed) if frame.kind == kind::CALL => parsed,
            // The pool speaks nonsense: end, as if the stream had.
            _ => std::process::abort(),
        };
        match self.find(&meta.target) {
            Err(refused) => {
                self.settle(frame.id, Ok(Returned::Refused(Refusal::new(refused))), None);
            }
            Ok((invoke, task)) => self.begin(frame.id, &meta, invoke, task, payload),
        }
    }

    fn begin(
        self: &Arc<Self>,
        call: u64,
        meta: &CallMeta<'_>,
        invoke: Invoke,
        task: &'static str,
        payload: &[u8],
    ) {
        let context = self.context_of(call, meta, task);
        if !self.register(call, &context) {
            self.send(kind::RETURNED, call, &[]);
            self.flush();
            return self.end_busy();
        }
        if meta.tell_start {
            self.send(kind::STARTED, call, &[]);
            self.flush();
        }
        if let Some(sandbox) = &meta.sandbox
            && let Err(refused) = self.enter_sandbox(sandbox)
        {
            return self.settle(call, Ok(Returned::Refused(Refusal::new(refused))), None);
        }
        title::set_task(self.settings.worker, task);
        if !self.is_shared() {
            hygiene::begin();
        }
        let _logs = logs::enter();
        let mut limits = self.limits_in_force(&meta.limits);
        crash_note::clear_errno();
        let before = crash_note::set_current(call);
        let since = panics::moment();
        let span = span_of(&context);
        let mut meter = Meter::begin(self.is_shared());
        let invoked = panics::catch(since, || {
            let _trace = AmbientTrace::enter(context.traceparent());
            let _entered = span.enter();
            invoke(context.clone(), meta.codec, payload)
        });
        let ending = match invoked {
            Ok(Invocation::Now(returned)) => Ok(returned),
            Ok(Invocation::Future(future)) => {
                let guarded = Guarded {
                    call,
                    since,
                    future,
                    span: span.clone(),
                    traceparent: context.traceparent().cloned(),
                };
                let ran = self.run_future(guarded, context, &mut limits, meter);
                let Some((ending, own)) = ran else {
                    crash_note::set_current(before);
                    return;
                };
                meter = own;
                ending
            }
            Err(panic) => Err(panic),
        };
        crash_note::set_current(before);
        self.take_back(limits);
        let cost = meter.end();
        record_end(&span, &ending);
        drop(span);
        self.settle(call, ending, cost);
    }

    /// Takes a sandbox on, unless that has happened before. A worker that could not begins nothing
    /// more: some of its threads may be restricted.
    fn enter_sandbox(&self, sandbox: &Sandbox) -> Result<(), Refused> {
        // Attempts that come at the same time wait for the first one of them.
        let mut own = lock(&self.sandbox);
        match &*own {
            Some(own) if own == sandbox => return Ok(()),
            // The pool speaks nonsense: end, as for a frame that makes no sense.
            Some(_) => std::process::abort(),
            None => {}
        }
        if let Err(error) = super::sandbox::take_on(sandbox) {
            self.retire("it could not take on a sandbox");
            let text = error.to_string();
            return Err(match error.kind() {
                ErrorKind::BadOption => Refused::BadOption(text),
                _ => Refused::Unsupported(text),
            });
        }
        *own = Some(sandbox.clone());
        if !self.is_shared() {
            // The filters and what else shows of it are no change by a task.
            hygiene::take_baseline();
        }
        Ok(())
    }

    fn context_of(self: &Arc<Self>, call: u64, meta: &CallMeta<'_>, task: &'static str) -> Context {
        let number = meta
            .job
            .as_ref()
            .map_or(meta.attempt, |job| job.nth(meta.attempt));
        let mut attempt =
            Context::attempt_of(meta.number.unwrap_or(call >> 32), number, task, meta.codec);
        attempt.job = meta.job.as_deref().map(|job| {
            Arc::new(JobContext {
                attempt: number,
                traceparent: meta.traceparent.clone(),
                ..job.clone()
            })
        });
        attempt.worker = self.settings.worker;
        attempt.deadline = meta
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        attempt.tick = meta.tick;
        attempt.traceparent.clone_from(&meta.traceparent);
        attempt.state.clone_from(&self.state);
        attempt.sink = Some((call, Arc::clone(self) as Arc<dyn Sink>));
        attempt.into_context()
    }

    fn find(&self, target: &RunTarget<'_>) -> Result<(Invoke, &'static str), Refused> {
        match target {
            RunTarget::Task(name) => match registry::find(name) {
                Some(entry) => Ok((entry.invoke, entry.name)),
                None => Err(Refused::UnknownTask(Cow::clone(name).into_owned())),
            },
            RunTarget::Function(_) if !self.same_build => Err(Refused::OtherBuild(
                "run a function in a worker of another build: make it a \
                    #[task] and call it by name"
                    .to_owned(),
            )),
            RunTarget::Listed(_) => Err(Refused::OtherBuild(
                "run a function by its place in a list: \
                its pool asks by address"
                    .to_owned(),
            )),
            RunTarget::Function(offset) => match address::invoke_at(*offset) {
                Ok(invoke) => Ok((invoke, "function")),
                Err(error) => Err(Refused::OtherBuild(error.to_string())),
            },
        }
    }

    /// Runs an async task: here if the worker has one slot, otherwise among the others on its
    /// runtime.
    fn run_future(
        self: &Arc<Self>,
        guarded: Guarded,
        context: Context,
        limits: &mut Option<LimitsInForce>,
        meter: Meter,
    ) -> Option<(AttemptResult, Meter)> {
        let call = guarded.call;
        let runtime = match self.runtime(limits) {
            Ok(runtime) => runtime,
            Err(e) => {
                let panic = PanicNote {
                    message: format!("could not start an async runtime: {e}"),
                    location: "worker".to_owned(),
                };
                return Some((Err(panic), meter));
            }
        };
        let drop_after = self.settings.drop_after;
        let span = guarded.span.clone();
        let stoppable = async move {
            tokio::select! {
                ending = guarded => ending,
                () = async {
                    context.cancelled().await;
                    tokio::time::sleep(drop_after).await;
                } => Ok(Returned::Failed(Box::new(Failure::new("dropped after it was asked \
                    to stop")))),
            }
        };
        if self.settings.slots == 1 {
            return Some((runtime.block_on(stoppable), meter));
        }
        let worker = Arc::clone(self);
        let (limits, meter) = (limits.take(), meter.without_cpu());
        // Tracked by the worker's count of busy attempts.
        drop(runtime.spawn(async move {
            let ending = stoppable.await;
            worker.take_back(limits);
            record_end(&span, &ending);
            drop(span);
            worker.settle(call, ending, meter.end());
            worker.flush();
        }));
        None
    }

    fn limits_in_force(&self, limits: &AttemptLimits) -> Option<LimitsInForce> {
        (!limits.is_empty()).then(|| LimitsInForce::set(*limits, self.settings.runs_once))
    }

    /// Ends the limits of an attempt. What it left running would not be held any more, so it ends
    /// with this worker.
    fn take_back(&self, limits: Option<LimitsInForce>) {
        if limits.as_ref().is_some_and(LimitsInForce::left_processes) {
            self.retire("a task with limits left processes behind");
        }
        drop(limits);
    }

    /// The runtime of async tasks. What it takes is the worker's own, so it is made outside of an
    /// attempt's limit.
    fn runtime(
        &self,
        limits: &mut Option<LimitsInForce>,
    ) -> std::io::Result<&tokio::runtime::Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        if let Some(limits) = limits {
            limits.lift_address_space();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("brigade-async")
            .on_thread_start(|| {
                crash_note::prepare_thread();
                logs::enter_thread();
            })
            .on_thread_unpark(logs::look_again)
            .enable_all()
            .build()?;
        // Its thread has started and has memory of its own once it has run something.
        drop(runtime.block_on(runtime.spawn(async { drop(vec![0_u8; 1 << 10]) })));
        let runtime = self.runtime.get_or_init(|| runtime);
        if let Some(limits) = limits {
            limits.set_address_space();
        }
        Ok(runtime)
    }

    /// Answers, then looks whether the process can take another attempt.
    fn settle(&self, call: u64, ending: AttemptResult, cost: Option<Cost>) {
        if let Some(cost) = cost {
            self.append_cost(call, cost);
        }
        logs::report_dropped(call);
        // What a task printed without an end of line is its own, not the next one's.
        std::io::stdout().flush().ok();
        match ending {
            Ok(Returned::Done(result)) if result.len() as u64 > self.settings.payload_bytes_max => {
                let refused = Refused::ResultTooLarge {
                    bytes: result.len() as u64,
                    max: self.settings.payload_bytes_max,
                };
                self.answer_with(kind::REFUSED, call, &refused);
            }
            Ok(Returned::Done(result)) => self.answer(kind::DONE, call, &result),
            Ok(Returned::Failed(failure)) => self.answer_with(kind::FAILED, call, &*failure),
            Ok(Returned::Passed(reason)) => self.answer(
                kind::PASSED,
                call,
                shorten(&reason, REASON_BYTES_MAX).as_bytes(),
            ),
            Ok(Returned::Refused(refused)) => self.answer_with(kind::REFUSED, call, &*refused.0),
            Err(panic) => self.answer_with(kind::PANICKED, call, &panic),
        }
        if !self.is_shared()
            && let Some(reason) = hygiene::changed()
        {
            self.retire(&reason);
        }
        self.end_busy();
    }

    /// Puts what the attempt cost before its answer.
    fn append_cost(&self, call: u64, cost: Cost) {
        // Without it the attempt has no CPU time in its report, and nothing else is wrong.
        if let Ok(body) = Codec::Postcard.encode(&cost) {
            self.append(kind::COST, call, &body);
        }
    }

    fn answer_with(&self, kind: u8, call: u64, message: &impl serde::Serialize) {
        match Codec::Postcard.encode(message) {
            Ok(body) => self.answer(kind, call, &body),
            // Our own flat types always encode.
            Err(_) => std::process::abort(),
        }
    }
}

type GuardedFuture = Pin<Box<dyn Future<Output = Returned> + Send>>;

/// Polls a task with its panics caught and its thread marked.
struct Guarded {
    call: u64,
    /// When the attempt began, as `panics` counts.
    since: u64,
    future: GuardedFuture,
    /// Entered while the task's code runs.
    span: Span,
    traceparent: Option<TraceParent>,
}

impl Future for Guarded {
    type Output = AttemptResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<AttemptResult> {
        let before = crash_note::set_current(self.call);
        let since = self.since;
        let this = &mut *self;
        let polled = panics::catch(since, || {
            let _trace = AmbientTrace::enter(this.traceparent.as_ref());
            let _entered = this.span.enter();
            this.future.as_mut().poll(cx)
        });
        crash_note::set_current(before);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(returned)) => Poll::Ready(Ok(returned)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// The span around the code of an attempt. A worker without a subscriber of its own has none.
fn span_of(context: &Context) -> Span {
    RunSpan {
        task: context.task(),
        attempt: context.attempt(),
        job: context.job().map(|job| (&*job.id, &*job.queue)),
        call: context.call(),
        worker: context.worker(),
        traceparent: context.traceparent(),
    }
    .begin()
}

fn record_end(span: &Span, ending: &AttemptResult) {
    if span.is_disabled() {
        return;
    }
    match ending {
        Ok(Returned::Done(_)) => record_run(span, "done", None),
        Ok(Returned::Failed(failure)) => record_run(span, "failed", Some(&failure.message)),
        Ok(Returned::Passed(_)) => record_run(span, "passed", None),
        Ok(Returned::Refused(_)) => record_run(span, "rejected", Some("it cannot run here")),
        Err(panic) => record_run(span, "panicked", Some(&panic.message)),
    }
}
