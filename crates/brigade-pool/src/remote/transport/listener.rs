//! Listening: accept connections, run many handshakes at once, hand out those that authenticated.
//!
//! A [`Listener`] owns its socket and the handshakes under way, and drives them only while `accept`
//! is awaited. `pending` limits their number, each has a time limit, and after an error for want of
//! descriptors or memory accepting pauses. `refusals` counts and logs what was refused.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustix::process::{Resource, getrlimit};
use tokio::time::{sleep_until, timeout};

use super::authenticated::Authenticated;
use super::credentials::Credentials;
use super::hello::{self, HANDSHAKE_TIMEOUT};
use super::host_addr::HostAddr;
use super::opening::Side;
use super::peer::{Identity, Peer};
use super::pending::{HandshakePermit, PendingConnections};
use super::refusals::{Reason, Refusals, Report};
use super::socket::{ListeningSocket, RawConnection};
use super::stream;
use super::tls::TlsListener;
use crate::error::{Error, ErrorKind};
use crate::printable::printable;
use crate::sync::lock;

/// The first pause after accepting failed for want of descriptors or memory; each further one is
/// twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a listener spends on peers that have not authenticated.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// For a whole handshake, TLS included. Default: 5 seconds.
    pub handshake: Duration,
    /// Handshakes at a time. Default: 256, or a quarter of the descriptors that the process may
    /// have if that is less.
    pub waiting: usize,
    /// Handshakes at a time of one address. Default: a quarter of all.
    pub waiting_of_one: usize,
    /// No handshake is ended to make room for others before this time. Default: 200 ms.
    pub grace: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let waiting = usize::try_from(descriptors / 4)
            .unwrap_or(usize::MAX)
            .clamp(4, 256);
        Self {
            handshake: HANDSHAKE_TIMEOUT,
            waiting,
            waiting_of_one: (waiting / 4).max(2),
            grace: Duration::from_millis(200),
        }
    }
}

/// Listens for connections of other hosts. Dropping it closes it and all handshakes under way;
/// accepted connections stay open.
pub struct Listener {
    socket: ListeningSocket,
    url: String,
    security: Arc<ListenerSecurity>,
    pending: PendingConnections,
    handshakes: FuturesUnordered<Handshake>,
    report: Arc<Mutex<Report>>,
    /// No descriptor or no memory was left: nothing is accepted until then.
    pause_until: Option<Instant>,
    pause_next: Duration,
}

/// A handshake under way: its number in `pending`, and how it ended.
type Handshake =
    Pin<Box<dyn Future<Output = (u64, Peer, Result<Authenticated, HandshakeRefusal>)> + Send>>;

/// The refusals of a listener, which may have been dropped by now.
#[derive(Clone)]
pub struct RefusalCount(Arc<Mutex<Report>>);

impl RefusalCount {
    /// The counts as of now.
    pub fn get(&self) -> Refusals {
        lock(&self.0).counts()
    }
}

/// What a handshake needs.
struct ListenerSecurity {
    credentials: Credentials,
    tls: Option<TlsListener>,
    timeout: Duration,
}

struct HandshakeRefusal {
    reason: Reason,
    error: Error,
}

/// What `accept` waits for.
enum ListenerEvent {
    Connected(RawConnection),
    AcceptFailed(io::Error),
    HandshakeEnded(u64, Peer, Result<Authenticated, HandshakeRefusal>),
    /// The oldest handshake had its grace period, and other connections wait.
    RoomDue,
    PauseOver,
}

impl Listener {
    /// Listens at `tcp://host:port`, `tls://host:port` or `unix:///path`. With port 0 the system
    /// chooses one, see [`url`](Self::url).
    ///
    /// # Errors
    ///
    /// `BadOption` for a URL or credentials that cannot be used, for example TLS without a way to
    /// authenticate hosts; `Os` if the address or the path is taken or not allowed.
    pub async fn bind(
        url: &str,
        credentials: &Credentials,
        limits: ListenerLimits,
    ) -> Result<Self, Error> {
        let address = HostAddr::parse(url)?;
        credentials.check(&address, Side::Listens)?;
        let tls = if address.is_tls() {
            Some(TlsListener::new(credentials)?)
        } else {
            None
        };
        let socket = ListeningSocket::open(&address).await?;
        let url = socket
            .url(&address)
            .map_err(|error| Error::os("listen", error))?;
        Ok(Self {
            socket,
            url,
            security: Arc::new(ListenerSecurity {
                credentials: credentials.clone(),
                tls,
                timeout: limits.handshake,
            }),
            pending: PendingConnections::new(limits.waiting, limits.waiting_of_one, limits.grace),
            handshakes: FuturesUnordered::new(),
            report: Arc::default(),
            pause_until: None,
            pause_next: PAUSE_MIN,
        })
    }

    /// Where it listens, with the port that the system chose.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Counts of refused connections, also while `accept` is awaited.
    pub fn refusals(&self) -> RefusalCount {
        RefusalCount(Arc::clone(&self.report))
    }

    /// The next peer that authenticated. Handshakes go on only while this is awaited: await it
    /// again at once.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost when it is dropped.
    pub async fn accept(&mut self) -> Authenticated {
        loop {
            let event = self.next().await;
            if let Some(authenticated) = self.on(event) {
                return authenticated;
            }
        }
    }

    async fn next(&mut self) -> ListenerEvent {
        let (pause, room) = (self.pause_until, self.pending.room_at());
        tokio::select! {
            Some((number, peer, ended)) = self.handshakes.next() => ListenerEvent::HandshakeEnded(number, peer, ended),
            () = at(pause) => ListenerEvent::PauseOver,
            () = at(room) => ListenerEvent::RoomDue,
            accepted = self.socket.accept(), if pause.is_none() && room.is_none() => match accepted {
                Ok(raw) => ListenerEvent::Connected(raw),
                Err(error) => ListenerEvent::AcceptFailed(error),
            },
        }
    }

    fn on(&mut self, event: ListenerEvent) -> Option<Authenticated> {
        let now = Instant::now();
        match event {
            ListenerEvent::Connected(raw) => self.on_connection(raw, now),
            ListenerEvent::AcceptFailed(error) => self.on_accept_failed(&error, now),
            ListenerEvent::RoomDue => self.pending.make_room(now),
            ListenerEvent::PauseOver => self.pause_until = None,
            ListenerEvent::HandshakeEnded(number, peer, ended) => {
                self.pending.leave(number);
                match ended {
                    Ok(authenticated) => return Some(authenticated),
                    Err(refusal) => {
                        lock(&self.report).refused(refusal.reason, &peer, &refusal.error, now)
                    }
                }
            }
        }
        None
    }

    fn on_connection(&mut self, raw: RawConnection, now: Instant) {
        self.pause_next = PAUSE_MIN;
        // A connection that is closed already has no peer.
        let Ok(peer) = raw.peer() else { return };
        let Some(permit) = self.pending.admit(peer.origin(), now) else {
            return lock(&self.report).refused(Reason::TooMany, &peer, &too_many(), now);
        };
        let security = Arc::clone(&self.security);
        self.handshakes.push(Box::pin(async move {
            let number = permit.number;
            (number, peer, security.handshake(raw, peer, permit).await)
        }));
    }

    fn on_accept_failed(&mut self, error: &io::Error, now: Instant) {
        // It was closed before it was accepted.
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        if self.pause_next == PAUSE_MIN {
            tracing::warn!(%error, "cannot accept connections; trying again");
        }
        lock(&self.report).pause();
        self.pending.make_room(now);
        self.pause_until = Some(now + self.pause_next);
        self.pause_next = (self.pause_next * 2).min(PAUSE_MAX);
    }
}

impl ListenerSecurity {
    /// One handshake, from the first byte to its end.
    async fn handshake(
        &self,
        raw: RawConnection,
        peer: Peer,
        permit: HandshakePermit,
    ) -> Result<Authenticated, HandshakeRefusal> {
        if !peer.is_own_user() {
            let error = Error::new(ErrorKind::Refused, "accept a process of another user");
            return Err(HandshakeRefusal {
                reason: Reason::User,
                error,
            });
        }
        let handshake = permit
            .go
            .run_until_cancelled(timeout(self.timeout, self.authenticate(raw, peer)));
        match handshake.await {
            Some(Ok(greeted)) => greeted,
            Some(Err(_)) => Err(HandshakeRefusal {
                reason: Reason::Slow,
                error: Error::new(ErrorKind::Timeout, "finish the handshake in time"),
            }),
            None => Err(HandshakeRefusal {
                reason: Reason::TooMany,
                error: too_many(),
            }),
        }
    }

    async fn authenticate(
        &self,
        raw: RawConnection,
        peer: Peer,
    ) -> Result<Authenticated, HandshakeRefusal> {
        let (mut socket, secret) = (raw.into_stream(), self.credentials.secret());
        let Some(tls) = &self.tls else {
            let session = hello::listening(&mut socket, secret, &[0; 32]).await;
            let session = session.map_err(|error| HandshakeRefusal {
                reason: error.reason(),
                error: error.explain(Side::Listens),
            })?;
            return Ok(Authenticated {
                stream: stream::sealed(socket, session),
                peer,
                identity: Identity::Key,
            });
        };
        let accepted = tls.accept(socket).await;
        let (mut stream, binding, identity) = accepted.map_err(|error| HandshakeRefusal {
            reason: Reason::Tls,
            error,
        })?;
        if let Some(Identity::Certificate(names)) = &identity
            && !self.credentials.allows(names)
        {
            let names = printable(&names.join(", "), 200);
            // Refused, whether this reaches it or not.
            hello::turn_away(&mut stream, secret).await.ok();
            let text = format!(
                "accept a host whose certificate is for {names}: none of these names is allowed \
                    (Credentials::allow_names)"
            );
            return Err(HandshakeRefusal {
                reason: Reason::Name,
                error: Error::new(ErrorKind::Refused, text),
            });
        }
        let session = hello::listening(&mut stream, secret, &binding).await;
        session.map_err(|error| HandshakeRefusal {
            reason: error.reason(),
            error: error.explain_over_tls(Side::Listens),
        })?;
        Ok(Authenticated {
            stream,
            peer,
            identity: identity.unwrap_or(Identity::Key),
        })
    }
}

fn too_many() -> Error {
    Error::new(ErrorKind::Refused, "shake hands with so many at once")
}

/// Waits until this time; for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
