//! Listening: accept, shake hands with many at once, let in who proved itself.

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
use super::socket::{Doorway, Raw};
use super::stream;
use super::tls::Listening;
use crate::error::{Error, ErrorKind};
use crate::printable::printable;
use crate::sync::lock;

/// The first pause after accepting failed for want of descriptors or memory; each further one is
/// twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How much a listener bears from peers that have not proved themselves.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// For a whole handshake, TLS included. Default: 5 seconds.
    pub handshake: Duration,
    /// Handshakes at a time. Default: 256, or a quarter of the descriptors that the process may
    /// have if that is less.
    pub waiting: usize,
    /// Handshakes at a time of one address. Default: a quarter of all.
    pub waiting_of_one: usize,
    /// Nobody is sent away for others before this time. Default: 200 ms.
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
/// those it let in stay.
pub struct Listener {
    doorway: Doorway,
    url: String,
    door: Arc<Door>,
    crowd: PendingConnections,
    shaking: FuturesUnordered<Shaking>,
    report: Arc<Mutex<Report>>,
    /// No descriptor or no memory was left: nothing is accepted until then.
    pause_until: Option<Instant>,
    pause_next: Duration,
}

/// A handshake under way: its number in the crowd, and how it ended.
type Shaking =
    Pin<Box<dyn Future<Output = (u64, Peer, Result<Authenticated, HandshakeRefusal>)> + Send>>;

/// A look at the refusals of a listener, which may be gone by now.
#[derive(Clone)]
pub struct RefusalCount(Arc<Mutex<Report>>);

impl RefusalCount {
    /// As many as there are now.
    pub fn get(&self) -> Refusals {
        lock(&self.0).counts()
    }
}

/// What a handshake needs.
struct Door {
    credentials: Credentials,
    tls: Option<Listening>,
    timeout: Duration,
}

struct HandshakeRefusal {
    reason: Reason,
    error: Error,
}

/// What `accept` waits for.
enum Happened {
    Knocked(Raw),
    AcceptFailed(io::Error),
    Shaken(u64, Peer, Result<Authenticated, HandshakeRefusal>),
    /// The oldest has had its time and others wait.
    RoomDue,
    PauseOver,
}

impl Listener {
    /// Listens at `tcp://host:port`, `tls://host:port` or `unix:///path`. With port 0 the system
    /// chooses one, see [`url`](Self::url).
    ///
    /// # Errors
    ///
    /// `BadOption` for a URL or credentials that cannot be used, such as TLS without a proof of the
    /// other side; `Os` if the address or the path is taken or not allowed.
    pub async fn bind(
        url: &str,
        credentials: &Credentials,
        limits: ListenerLimits,
    ) -> Result<Self, Error> {
        let place = HostAddr::parse(url)?;
        credentials.check(&place, Side::Listens)?;
        let tls = if place.is_tls() {
            Some(Listening::new(credentials)?)
        } else {
            None
        };
        let doorway = Doorway::open(&place).await?;
        let url = doorway
            .url(&place)
            .map_err(|error| Error::os("listen", error))?;
        Ok(Self {
            doorway,
            url,
            door: Arc::new(Door {
                credentials: credentials.clone(),
                tls,
                timeout: limits.handshake,
            }),
            crowd: PendingConnections::new(limits.waiting, limits.waiting_of_one, limits.grace),
            shaking: FuturesUnordered::new(),
            report: Arc::default(),
            pause_until: None,
            pause_next: PAUSE_MIN,
        })
    }

    /// Where it listens, with the port that the system chose.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Counts who was not let in, also while `accept` is awaited.
    pub fn refusals(&self) -> RefusalCount {
        RefusalCount(Arc::clone(&self.report))
    }

    /// The next peer that proved itself. Handshakes go on only while this is awaited: await it
    /// again at once.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost when it is dropped.
    pub async fn accept(&mut self) -> Authenticated {
        loop {
            let happened = self.next().await;
            if let Some(authenticated) = self.on(happened) {
                return authenticated;
            }
        }
    }

    async fn next(&mut self) -> Happened {
        let (pause, room) = (self.pause_until, self.crowd.room_at());
        tokio::select! {
            Some((number, peer, ended)) = self.shaking.next() => Happened::Shaken(number, peer, ended),
            () = at(pause) => Happened::PauseOver,
            () = at(room) => Happened::RoomDue,
            accepted = self.doorway.accept(), if pause.is_none() && room.is_none() => match accepted {
                Ok(raw) => Happened::Knocked(raw),
                Err(error) => Happened::AcceptFailed(error),
            },
        }
    }

    fn on(&mut self, happened: Happened) -> Option<Authenticated> {
        let now = Instant::now();
        match happened {
            Happened::Knocked(raw) => self.on_knock(raw, now),
            Happened::AcceptFailed(error) => self.on_accept_failed(&error, now),
            Happened::RoomDue => self.crowd.make_room(now),
            Happened::PauseOver => self.pause_until = None,
            Happened::Shaken(number, peer, ended) => {
                self.crowd.leave(number);
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

    fn on_knock(&mut self, raw: Raw, now: Instant) {
        self.pause_next = PAUSE_MIN;
        // A connection that is gone already has no peer.
        let Ok(peer) = raw.peer() else { return };
        let Some(ticket) = self.crowd.admit(peer.origin(), now) else {
            return lock(&self.report).refused(Reason::Crowded, &peer, &crowded(), now);
        };
        let door = Arc::clone(&self.door);
        self.shaking.push(Box::pin(async move {
            let number = ticket.number;
            (number, peer, door.shake(raw, peer, ticket).await)
        }));
    }

    fn on_accept_failed(&mut self, error: &io::Error, now: Instant) {
        // That one was gone before it was accepted.
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        if self.pause_next == PAUSE_MIN {
            tracing::warn!(%error, "cannot accept connections; trying again");
        }
        lock(&self.report).pause();
        self.crowd.make_room(now);
        self.pause_until = Some(now + self.pause_next);
        self.pause_next = (self.pause_next * 2).min(PAUSE_MAX);
    }
}

impl Door {
    /// One handshake, from the first byte to its end.
    async fn shake(
        &self,
        raw: Raw,
        peer: Peer,
        ticket: HandshakePermit,
    ) -> Result<Authenticated, HandshakeRefusal> {
        if !peer.is_own_user() {
            let error = Error::new(ErrorKind::Refused, "let in a process of another user");
            return Err(HandshakeRefusal {
                reason: Reason::User,
                error,
            });
        }
        let shaking = ticket
            .go
            .run_until_cancelled(timeout(self.timeout, self.greet(raw, peer)));
        match shaking.await {
            Some(Ok(greeted)) => greeted,
            Some(Err(_)) => Err(HandshakeRefusal {
                reason: Reason::Slow,
                error: Error::new(ErrorKind::Timeout, "finish the handshake in time"),
            }),
            None => Err(HandshakeRefusal {
                reason: Reason::Crowded,
                error: crowded(),
            }),
        }
    }

    async fn greet(&self, raw: Raw, peer: Peer) -> Result<Authenticated, HandshakeRefusal> {
        let (mut socket, secret) = (raw.into_stream(), self.credentials.secret());
        let Some(tls) = &self.tls else {
            let session = hello::listening(&mut socket, secret, &[0; 32]).await;
            let session = session.map_err(|gone| HandshakeRefusal {
                reason: gone.reason(),
                error: gone.explain(Side::Listens),
            })?;
            return Ok(Authenticated {
                stream: stream::sealed(socket, session),
                peer,
                identity: Identity::Key,
            });
        };
        let upon = tls.accept(socket).await;
        let (mut stream, binding, identity) = upon.map_err(|error| HandshakeRefusal {
            reason: Reason::Tls,
            error,
        })?;
        if let Some(Identity::Certificate(names)) = &identity
            && !self.credentials.allows(names)
        {
            let names = printable(&names.join(", "), 200);
            // Whether it hears that or not, it is refused.
            hello::turn_away(&mut stream, secret).await.ok();
            let text = format!(
                "let in a host whose certificate is for {names}: none of these names is allowed \
                    (Credentials::allow_names)"
            );
            return Err(HandshakeRefusal {
                reason: Reason::Name,
                error: Error::new(ErrorKind::Refused, text),
            });
        }
        let session = hello::listening(&mut stream, secret, &binding).await;
        session.map_err(|gone| HandshakeRefusal {
            reason: gone.reason(),
            error: gone.explain_over_tls(Side::Listens),
        })?;
        Ok(Authenticated {
            stream,
            peer,
            identity: identity.unwrap_or(Identity::Key),
        })
    }
}

fn crowded() -> Error {
    Error::new(ErrorKind::Refused, "shake hands with so many at once")
}

/// Never, where there is no time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
