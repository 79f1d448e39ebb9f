//! A remote host, over all its connections.
//!
//! `arrival` has one connection from its first message to its end. The worker in `core` and this
//! [`RemoteHost`] outlive it: the next connection of the same session takes the place of the one
//! before, which has ended by then (`line`).
//!
//! Modules, from bottom to top: `message` (decoding of what a host sends), `introduction` (what
//! it sends about itself), `connection` (what it sends after that), `arrival`.

pub(in super::super) mod arrival;
mod connection;
mod introduction;
pub(in super::super) mod message;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Mutex;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::super::config::Config;
use super::super::core::HostWelcome;
use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::WorkerConn;
use super::outgoing::{OutgoingAttempt, TASK_NAME_BYTES_MAX, target_of, written};
use crate::address;
use crate::codec::Codec;
use crate::outcome::REASON_BYTES_MAX;
use crate::registry;
use crate::remote::SendQueue;
use crate::request::{CallTarget, Request};
use crate::wire;
use crate::wire::remote::{MAGIC, Run, StopCall, VERSION, Welcome, kind};
use brigade_core::printable::shorten;

/// A host over all its connections.
pub(super) struct RemoteHost {
    outbox: SendQueue,
    /// Cancelled when its session is over.
    leave: CancellationToken,
    /// Ends the connection that is up.
    cut: Mutex<CancellationToken>,
    /// Held by the connection that is up.
    line: tokio::sync::Mutex<()>,
}

impl RemoteHost {
    fn new() -> Self {
        Self {
            outbox: SendQueue::new(),
            leave: CancellationToken::new(),
            cut: Mutex::default(),
            line: tokio::sync::Mutex::default(),
        }
    }

    /// Sends the first that is said on a connection.
    fn welcome(&self, worker: WorkerId, config: &Config, welcome: &HostWelcome) {
        let welcome = Welcome {
            magic: MAGIC,
            version: VERSION,
            brigade: env!("CARGO_PKG_VERSION").to_owned(),
            build: address::build_id(),
            pool: config.hosts.mark,
            worker: worker.number,
            resumed: welcome.resumed,
            drop: welcome.drop.iter().map(|call| call.to_wire()).collect(),
            payload_bytes_max: config.payload_bytes_max as u64,
            beat: config.hosts.beat,
            keep: config.hosts.keep,
        };
        if let Ok(body) = Codec::Postcard.encode(&welcome) {
            self.outbox.open(kind::WELCOME, &body);
        }
    }
}

impl WorkerConn for RemoteHost {
    fn append(&self, attempt: &OutgoingAttempt<'_>) {
        let request = attempt.request;
        let (options, of) = (request.options(), request.attempt_of());
        let run = Run {
            target: listed(request),
            number: attempt.call.number(),
            attempt: attempt.number,
            codec: request.codec,
            timeout: options.timeout,
            limits: options.limits().or(options.default_limits),
            sandbox: attempt.sandbox.cloned(),
            capture: options.capture_bytes.map(|bytes| bytes as u64),
            alone: attempt.alone,
            fresh: attempt.fresh,
            ahead: attempt.is_ahead,
            tick: of.tick,
            job: of.job.as_deref().map(Cow::Borrowed),
            traceparent: attempt.traceparent.cloned(),
        };
        let mut space = [0; TASK_NAME_BYTES_MAX + 256];
        let is_long = of.job.is_some() || attempt.sandbox.is_some();
        let run = written(&run, is_long, &mut space);
        let payload = request
            .payload
            .as_ref()
            .expect("a call that could not be encoded is not admitted");
        let call = attempt.call.to_wire();
        self.outbox.append(kind::RUN, call, &run, payload);
    }

    fn is_congested(&self) -> bool {
        self.outbox.is_congested()
    }

    fn flush(&self) {
        self.outbox.kick();
    }

    fn kick(&self) {
        self.outbox.kick();
    }

    fn let_go(&self) {
        self.leave.cancel();
    }

    fn ask_to_stop(&self, call: CallId, reason: &StopReason, hurry: bool) {
        let stop = StopCall {
            reason: shorten(reason.text(), REASON_BYTES_MAX).into(),
            hurry,
        };
        if let Ok(body) = Codec::Postcard.encode(&stop) {
            let call = call.to_wire();
            self.outbox.append(kind::STOP, call, &body, &Bytes::new());
            self.outbox.kick();
        }
    }
}

/// What a request asks for, as another host reads it: a function only by its place in the list,
/// where `HostInfo::can_run` found it.
fn listed(request: &Request) -> wire::RunTarget<'_> {
    match &request.target {
        CallTarget::Function { name, .. } => {
            wire::RunTarget::Listed(registry::function_number(name).unwrap_or(u32::MAX))
        }
        CallTarget::Task { .. } => target_of(request),
    }
}
