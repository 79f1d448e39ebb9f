//! Staying connected to one master.
//!
//! [`live`] has the whole life in order: connect, introduce this host, serve, and again, until the
//! host drains and its session holds nothing any more. `session` holds the calls, which outlive a
//! connection; nothing is kept here but the pause before the next try.

mod master;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::master::Master;
use super::failures::Failures;
use super::session::Session;
use super::welcome::{self, NotJoined};
use crate::error::{Error, ErrorKind};
use crate::remote::{ConnectionEnd, FrameConnection, transport};
use crate::retry::jitter;
use crate::sync::lock;
use crate::wire::remote::{Welcome, kind};

/// The first pause before connecting again, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// From the introduction to the welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// What stands before a payload.
const META_BYTES_MAX: usize = 64 << 10;
/// The largest payload that a pool may allow.
const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Connects and serves, again and again, until it drains and holds nothing any more.
pub(super) async fn live(session: &Arc<Session>, drain: &CancellationToken, failures: &Failures) {
    let (mut pause, mut logged) = (PAUSE_MIN, String::new());
    while !(drain.is_cancelled() && session.is_idle()) {
        let joined = tokio::select! {
            joined = join(session, drain.is_cancelled()) => joined,
            () = session.expired() => continue,
        };
        match joined {
            Ok((connection, welcome)) => {
                pause = PAUSE_MIN;
                logged.clear();
                serve(session, connection, welcome, drain).await;
                continue;
            }
            Err(NotJoined { error, is_final }) => {
                if is_final && lock(&session.state).pool.is_none() {
                    return failures.add(error);
                }
                // Once per cause: the same one comes with each try.
                let text = error.to_string();
                if text == logged {
                    tracing::debug!(url = session.url, %error, "cannot join the pool; trying \
                        again");
                } else {
                    tracing::warn!(url = session.url, %error, "cannot join the pool; trying again");
                    logged = text;
                }
            }
        }
        tokio::select! {
            () = sleep(pause.mul_f64(jitter(0.5))) => {}
            () = session.expired() => {}
            () = drain.cancelled(), if !drain.is_cancelled() => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Connects, introduces this host, and reads the answer.
async fn join(session: &Session, leaving: bool) -> Result<(FrameConnection, Welcome), NotJoined> {
    let authenticated = transport::connect(&session.url, &session.credentials)
        .await
        .map_err(NotJoined::before_proof)?;
    let mut connection = FrameConnection::new(authenticated.stream);
    let introduction = async {
        connection
            .send(kind::JOIN, &session.introduction(leaving)?)
            .await?;
        let frame = connection.listen().await?;
        welcome::read(&frame, &session.url)
    };
    let late = |_| {
        Err(Error::new(
            ErrorKind::Unreachable,
            "join a pool: it did not answer within 5 seconds",
        ))
    };
    let welcome = timeout(WELCOME_TIMEOUT, introduction)
        .await
        .unwrap_or_else(late)
        .map_err(NotJoined::by_the_pool)?;
    Ok((connection, welcome))
}

/// Serves until the connection ends.
async fn serve(
    session: &Arc<Session>,
    mut connection: FrameConnection,
    welcome: Welcome,
    drain: &CancellationToken,
) {
    let payload_bytes_max = usize::try_from(welcome.payload_bytes_max)
        .unwrap_or(usize::MAX)
        .min(PAYLOAD_BYTES_MAX);
    connection.admit(payload_bytes_max + META_BYTES_MAX, &session.budget);
    let beat = welcome.beat;
    session.on_welcome(welcome);
    let master = Master {
        session,
        draining: drain,
        over: CancellationToken::new(),
    };
    let until = async {
        tokio::select! {
            () = master.over.cancelled() => {}
            () = async {
                drain.cancelled().await;
                session.outbox.append(kind::LEAVING, 0, &[], &Bytes::new());
                session.outbox.kick();
                std::future::pending().await
            } => {}
        }
    };
    let end = connection.run(&session.outbox, beat, &master, until).await;
    session.outbox.close(kind::ANSWER);
    lock(&session.state).down = Some(Instant::now());
    match end {
        // The farewell and the end of the connection may come together.
        _ if master.over.is_cancelled() => session.forget_all("its master has let this host go"),
        ConnectionEnd::Closed => {}
        ConnectionEnd::Lost(how) => {
            tracing::debug!(
                url = session.url,
                how,
                "the connection to the master is down"
            )
        }
        ConnectionEnd::InvalidMessage(error) => {
            tracing::warn!(url = session.url, %error, "the master sent an invalid message")
        }
    }
    if master.over.is_cancelled() && !drain.is_cancelled() {
        // It may be shutting down; connecting at once would not help.
        sleep(PAUSE_MIN.mul_f64(jitter(0.5))).await;
    }
}
