//! A remote host: its handshake, its connections, its leave.
//!
//! [`receive`] tells the story of one connection. The worker in `core` and this [`RemoteHost`]
//! outlive it: the next connection of the same session takes the place of the one before, which has
//! ended by then (`line`).
//!
//! Modules: `introduction` (what a host says of itself), `connection` (what it says then),
//! `message` (how that is decoded).

mod connection;
mod introduction;
mod message;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::connection::JoinedHost;
use self::introduction::introduce;
use super::super::config::Config;
use super::super::core::{HostArrival, HostWelcome, StopOrder};
use super::super::ids::{CallId, WorkerId};
use super::super::stop_reason::StopReason;
use super::super::{Shared, stop};
use super::{OutgoingAttempt, TASK_NAME_BYTES_MAX, WorkerConn, target_of, written};
use crate::address;
use crate::call::{CallTarget, Request};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::{REASON_BYTES_MAX, shorten};
use crate::registry;
use crate::remote::transport::Authenticated;
use crate::remote::{ConnectionEnd, FrameConnection, SendQueue, printable};
use crate::sync::lock;
use crate::wire;
use crate::wire::remote::{MAGIC, Run, StopCall, TurnedAway, VERSION, Welcome, kind};

pub(in super::super) use message::HostMessage;
#[cfg(any(test, fuzzing))]
pub(crate) use message::read_host_message;

/// From the connection to the introduction.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What stands before a payload: reports have 64 KiB of output, and an attempt may have to bring
/// more.
const META_BYTES_MAX: usize = 256 << 10;
const IDENTITY_BYTES_MAX: usize = 256;

/// A host over all its connections.
pub(in super::super) struct RemoteHost {
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
        let (request, options) = (attempt.request, attempt.request.options());
        let run = Run {
            target: listed(request),
            number: attempt.call.number(),
            attempt: attempt.number,
            codec: request.codec,
            timeout: options.timeout,
            memory: options.memory,
            capture: options.capture_bytes.map(|bytes| bytes as u64),
            alone: attempt.alone,
            fresh: attempt.fresh,
            ahead: attempt.is_ahead,
            tick: options.tick,
            job: options.job.as_deref().map(Cow::Borrowed),
            traceparent: options.traceparent.clone(),
        };
        let mut space = [0; TASK_NAME_BYTES_MAX + 192];
        let run = written(&run, options, &mut space);
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

    /// The host takes the steps; its answer says which one succeeded. What it does not receive,
    /// because its connection is down, it is sent again when it is back.
    fn stop(self: Arc<Self>, shared: &Arc<Shared>, order: StopOrder) {
        shared.scope.spawn(stop::escalate_remote(order, self));
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

    fn remote_host(self: Arc<Self>) -> Option<Arc<RemoteHost>> {
        Some(self)
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

/// One connection of a host: introduction, joining, service, end.
pub(in super::super) async fn receive(shared: Arc<Shared>, peer: Authenticated) {
    let from = peer.peer.to_string();
    let identity = printable(&peer.identity.to_string(), IDENTITY_BYTES_MAX);
    let mut line = FrameConnection::new(peer.stream);
    let introduced = match timeout(JOIN_TIMEOUT, introduce(&mut line, &identity)).await {
        // It said nothing in time.
        Err(_) => return,
        Ok(introduced) => introduced,
    };
    let joined = introduced.and_then(|(info, arrival)| {
        let (info, conn) = (Arc::new(info), Arc::new(RemoteHost::new()));
        let mut joined = Err(String::new());
        shared.step(|core, effects| joined = core.join(&info, conn, effects));
        let (worker, conn) = joined.map_err(|text| Error::new(ErrorKind::Refused, text))?;
        let host = conn
            .remote_host()
            .expect("invariant: the connection of a session is that of a host");
        Ok((worker, host, arrival))
    });
    let (worker, host, arrival) = match joined {
        Ok(joined) => joined,
        Err(error) => return turn_away(&shared, line, &from, &error).await,
    };
    // What is left of the connection before this one ends first, so that nothing is written to it
    // any more.
    let cut = CancellationToken::new();
    std::mem::replace(&mut *lock(&host.cut), cut.clone()).cancel();
    let _up = host.line.lock().await;
    if welcome(&shared, worker, &host, &arrival) {
        tracing::debug!(worker = worker.number, peer = from, "host connected");
        serve(&shared, worker, &host, line, &cut).await;
    }
}

/// Welcomes a host whose connection is up. `false` if its session is over.
fn welcome(
    shared: &Arc<Shared>,
    worker: WorkerId,
    host: &RemoteHost,
    arrival: &HostArrival,
) -> bool {
    let mut is_welcome = false;
    shared.step(|core, effects| {
        // With the dispatcher locked, so that no call is appended before the welcome.
        if let Some(welcome) = core.on_host_up(worker, arrival) {
            host.welcome(worker, &shared.config, &welcome);
            core.on_host_welcomed(worker, arrival, &welcome, effects);
            is_welcome = true;
        }
    });
    is_welcome
}

/// Carries a connection until it ends, and reports how to the dispatcher.
async fn serve(
    shared: &Arc<Shared>,
    worker: WorkerId,
    host: &Arc<RemoteHost>,
    mut line: FrameConnection,
    cut: &CancellationToken,
) {
    line.admit(
        shared.config.payload_bytes_max + META_BYTES_MAX,
        &shared.partial,
    );
    let connection = JoinedHost {
        shared,
        worker,
        host,
    };
    let until = async {
        tokio::select! {
            () = host.leave.cancelled() => {}
            () = shared.killed.cancelled() => {}
            // A newer one has nothing to say on this one.
            () = cut.cancelled() => return,
        }
        host.outbox.urgent(kind::BYE, 0, b"the pool has let it go");
    };
    let end = line
        .run(&host.outbox, shared.config.hosts.beat, &connection, until)
        .await;
    let unseen: Vec<CallId> = host
        .outbox
        .close(kind::RUN)
        .into_iter()
        .map(CallId::from_wire)
        .collect();
    shared.step(|core, effects| match end {
        ConnectionEnd::InvalidMessage(error) => core.part_with(worker, &error.to_string(), effects),
        ConnectionEnd::Closed if shared.killed.is_cancelled() => {
            core.part_with(worker, "the pool was dropped", effects);
        }
        ConnectionEnd::Closed => core.on_host_down(worker, "it connected again", &unseen, effects),
        ConnectionEnd::Lost(how) => core.on_host_down(worker, &how, &unseen, effects),
    });
}

async fn turn_away(shared: &Shared, mut line: FrameConnection, from: &str, error: &Error) {
    let reason = error.to_string();
    tracing::warn!(peer = from, reason, "a host was turned away");
    shared.emit(|| Event::HostRefused {
        peer: from.into(),
        reason: reason.as_str().into(),
    });
    let told = TurnedAway {
        magic: MAGIC,
        version: VERSION,
        brigade: env!("CARGO_PKG_VERSION").to_owned(),
        reason,
    };
    timeout(JOIN_TIMEOUT, line.send(kind::TURNED_AWAY, &told))
        .await
        .ok();
    line.close().await;
}
