//! One connection of a remote host, from its first message to its end.
//!
//! `receive` has it in order. A host introduces itself, joins the pool or is turned away, is
//! welcomed, and is served until the connection ends. The worker that it is in `core` outlives the
//! connection.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::super::core::HostArrival;
use super::super::super::ids::{CallId, WorkerId};
use super::super::super::shared::Shared;
use super::RemoteHost;
use super::connection::JoinedHost;
use super::introduction::introduce;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::remote::transport::Authenticated;
use crate::remote::{ConnectionEnd, FrameConnection, printable};
use crate::sync::lock;
use crate::wire::remote::{MAGIC, TurnedAway, VERSION, kind};

/// From the connection to the introduction.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What stands before a payload: reports have 64 KiB of output, and an attempt may have to bring
/// more.
const META_BYTES_MAX: usize = 256 << 10;
const IDENTITY_BYTES_MAX: usize = 256;

/// One connection of a host: introduction, joining, service, end.
pub(in super::super::super) async fn receive(shared: Arc<Shared>, peer: Authenticated) {
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
        let conn: Arc<dyn Any + Send + Sync> = conn;
        let Ok(host) = conn.downcast::<RemoteHost>() else {
            unreachable!("invariant: the connection of a session is that of a host")
        };
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
    let refusal = TurnedAway {
        magic: MAGIC,
        version: VERSION,
        brigade: env!("CARGO_PKG_VERSION").to_owned(),
        reason,
    };
    timeout(JOIN_TIMEOUT, line.send(kind::TURNED_AWAY, &refusal))
        .await
        .ok();
    line.close().await;
}
