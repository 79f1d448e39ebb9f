//! An attempt in this very process, on a thread that it has to itself.
//!
//! The thread drives the attempt alone: code that computes for minutes keeps neither the runtime
//! nor the renewal of leases from going on. It cannot be stopped by force. Asked to stop, its
//! context says so, and its future is dropped at its next await. Then the thread takes another
//! attempt ([`SpareThreads`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use brigade_runtime::spare_threads::SpareThreads;
use serde_json::value::RawValue;
use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::panic_text::text_of;
use crate::call::Call;
use crate::context::{Context, Sink};
use crate::error::{Error, ErrorKind};
use crate::outcome::{CallError, Cancelled, Failure};

/// As much as a main thread has.
const STACK_BYTES: usize = 8 << 20;
/// A consumer with work takes the next job long before.
const IDLE_FOR: Duration = Duration::from_secs(1);
static THREADS: SpareThreads = SpareThreads::new("brigade-task", STACK_BYTES, IDLE_FOR);

type Outcome = Result<Box<RawValue>, CallError>;

pub(super) struct Here {
    outcome: oneshot::Receiver<Outcome>,
    stop: CancellationToken,
    context: Arc<OnceLock<Context>>,
}

impl Here {
    /// # Errors
    ///
    /// `CannotStart` if the system gives no thread.
    pub(super) fn begin(
        call: Call<Box<RawValue>>,
        sink: Option<Arc<dyn Sink>>,
    ) -> Result<Self, Error> {
        let (tell, outcome) = oneshot::channel();
        let (stop, context) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let here = Self {
            outcome,
            stop: stop.clone(),
            context: Arc::clone(&context),
        };
        let runtime = Runtime::try_current()
            .map_err(|_| Error::new(ErrorKind::Closed, "run a task in a runtime that has ended"))?;
        // That of the attempt.
        let span = Span::current();
        let run = move || {
            let running = run(call, sink, &stop, &context).instrument(span);
            let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(running)));
            let panicked = |text| {
                Err(CallError::Failed(Box::new(Failure::new(format_args!(
                    "it panicked: {text}"
                )))))
            };
            // The consumer may have given it up.
            tell.send(outcome.unwrap_or_else(|panic| panicked(text_of(&*panic))))
                .ok();
        };
        THREADS.run(run).map_err(|error| {
            Error::new(ErrorKind::CannotStart, "start a thread for a task").with_source(error)
        })?;
        Ok(here)
    }

    /// Waits for its end. Cancel safe; not to be awaited again after it has ended.
    pub(super) async fn ended(&mut self) -> Outcome {
        let lost = |_| {
            Err(CallError::Rejected(Error::new(
                ErrorKind::Closed,
                "run a task: its thread ended without a word",
            )))
        };
        (&mut self.outcome).await.unwrap_or_else(lost)
    }

    /// Asks it to end.
    pub(super) fn stop(&self, reason: &str) {
        if let Some(context) = self.context.get() {
            context.cancel(reason);
        }
        self.stop.cancel();
    }
}

async fn run(
    call: Call<Box<RawValue>>,
    sink: Option<Arc<dyn Sink>>,
    stop: &CancellationToken,
    context: &OnceLock<Context>,
) -> Outcome {
    let run = call.run_here_as(sink, |begun| {
        // It begins once.
        context.set(begun.clone()).ok();
    });
    tokio::select! {
        biased;
        outcome = run => outcome,
        () = stop.cancelled() => Err(CallError::Cancelled(Cancelled::without_report("stopped at its next await"))),
    }
}
