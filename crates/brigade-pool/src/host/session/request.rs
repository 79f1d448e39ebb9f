//! A call that the pool sent, made a request of this host's own pool.

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use crate::address;
use crate::error::{Error, ErrorKind};
use crate::options::Options;
use crate::registry;
use crate::request::{AttemptOf, CallTarget, RemoteAttempt, Request};
use crate::sync::lock;
use crate::wire::remote::Run;
use crate::wire::{self, Frame};

/// What was sent ahead of its turn is given back if that does not come within this time.
const AHEAD_WAIT: Duration = Duration::from_millis(20);

impl Session {
    /// # Errors
    ///
    /// `Protocol` if the frame makes no sense, or names a function that this host does not run.
    pub(in crate::host) fn request(&self, frame: &Frame) -> Result<Request, Error> {
        let garbled = |e| Error::new(ErrorKind::Protocol, "read a call").with_source(e);
        let (run, rest) = postcard::take_from_bytes::<Run<'_>>(&frame.body).map_err(garbled)?;
        let payload = frame.body.slice(frame.body.len() - rest.len()..);
        let target = match run.target {
            wire::RunTarget::Task(name) => CallTarget::Task {
                name: name.into_owned().into(),
            },
            wire::RunTarget::Listed(number) if lock(&self.state).functions => {
                let function = registry::function_at(number);
                let (invoke, name) = function.ok_or_else(|| {
                    Error::new(
                        ErrorKind::Protocol,
                        "read a call: of a function that is not in the list",
                    )
                })?;
                CallTarget::Function {
                    offset: address::offset_of(invoke as *const ())?,
                    name,
                }
            }
            wire::RunTarget::Listed(_) => {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    "read a call: of a plain function, which this host did not offer to run",
                ));
            }
            // Another host may not choose what code runs here, whichever build it claims to be.
            wire::RunTarget::Function(_) => {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    "read a call: of a function by its address",
                ));
            }
        };
        let mut options = Options {
            timeout: run.timeout,
            sandbox: run.sandbox,
            ..Options::default()
        };
        options.set_limits(run.limits);
        options.capture_bytes = run
            .capture
            .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        options.alone = run.alone;
        options.queue_timeout = run.ahead.then_some(AHEAD_WAIT);
        options.traceparent = run.traceparent;
        let attempt_of = AttemptOf {
            call: Some(RemoteAttempt {
                call: run.number,
                attempt: run.attempt,
            }),
            job: run.job.map(|job| Arc::new(job.into_owned())),
            tick: run.tick,
            fresh: run.fresh,
        };
        Ok(Request {
            target,
            codec: run.codec,
            payload: Ok(payload),
            options: Some(Box::new(options)),
            attempt_of: Some(Box::new(attempt_of)),
            signature: None,
            args: None,
            queue: None,
            caller: None,
        })
    }
}
