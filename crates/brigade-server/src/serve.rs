//! [`Server`]: a router on a listener, for `brigade serve`.
//!
//! `axum::serve` has no limits, so the connections are driven here: their number is limited,
//! headers have a size and a time, a client that reads nothing is cut off, and TLS handshakes have
//! a time. A connection that is idle for longer than its headers may take is closed; when nearly
//! all are taken, each is closed after its answer, so that the others come in.
//!
//! One task per connection, all owned by [`Server::run`]. When `stop` is cancelled, it accepts
//! nothing more, lets the requests that are being answered and their tasks come to their end, and
//! drops what is left after the drain time.

mod stall;
#[cfg(feature = "tls")]
mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use self::stall::StallGuard;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use self::tls::ServerTls;

/// For the headers of a request, and between two requests of a connection.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// Bytes of the headers of a request. Their number is hyper's own limit, 100: said once more, it
/// would cost every request a large allocation.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// A client that takes no byte of a response for this long is cut off.
const STALL_TIME: Duration = Duration::from_secs(30);
#[cfg(feature = "tls")]
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// After an error of `accept`, as when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router over HTTP/1.1.
#[derive(Debug)]
#[must_use = "a server does nothing until it runs"]
pub struct Server {
    listener: TcpListener,
    connections_max: usize,
    drain_time: Duration,
    tasks: TaskTracker,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
}

/// What each connection needs.
#[derive(Clone)]
struct ServedConnection {
    app: Router,
    /// Of all connections.
    room: Arc<Semaphore>,
    /// With less room than this, no connection is kept for a further request.
    room_min: usize,
    stop: CancellationToken,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
}

impl Server {
    /// A server on this listener.
    pub fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            connections_max: 1_000,
            drain_time: Duration::from_secs(25),
            tasks: TaskTracker::new(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The most connections at once; further ones wait to be accepted. Default: 1,000.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How long requests may take to come to their end after a stop. Default: 25 s.
    pub fn drain_time(mut self, time: Duration) -> Self {
        self.drain_time = time;
        self
    }

    /// Waits for these tasks as well after a stop: give the tracker of
    /// [`ServerOptions::tasks`](crate::ServerOptions::tasks). Default: none.
    pub fn tasks(mut self, tasks: TaskTracker) -> Self {
        self.tasks = tasks;
        self
    }

    /// Speaks TLS only.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Serves until `stop` is cancelled and the connections and the tasks of their requests have
    /// ended, or the drain time is over.
    /// Give the same token to [`ServerOptions::stop`](crate::ServerOptions::stop), so that requests
    /// that wait are answered at once.
    pub async fn run(self, app: Router, stop: CancellationToken) {
        let (connections, tasks) = (TaskTracker::new(), self.tasks);
        let room = Arc::new(Semaphore::new(self.connections_max));
        // Dropping what is left after the drain time.
        let end = CancellationToken::new();
        let connection = ServedConnection {
            app,
            room: Arc::clone(&room),
            room_min: self.connections_max / 10,
            stop: stop.clone(),
            #[cfg(feature = "tls")]
            tls: self.tls,
        };
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &room) => accepted,
            };
            let Some((permit, stream, peer)) = accepted else {
                continue;
            };
            let (connection, end) = (connection.clone(), end.clone());
            connections.spawn(async move {
                let _permit = permit;
                end.run_until_cancelled(connection.serve(stream, peer))
                    .await;
            });
        }
        drop(self.listener);
        connections.close();
        let drained = async {
            connections.wait().await;
            // Only requests begin tasks.
            tasks.close();
            tasks.wait().await;
        };
        if timeout(self.drain_time, drained).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                tasks = tasks.len(),
                "what is left was cut off: the drain time is over"
            );
        }
        end.cancel();
        connections.wait().await;
    }
}

type Accepted = (tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr);

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<Accepted> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((permit, stream, peer)),
        Err(error) => {
            if !is_of_the_client(&error) {
                tracing::warn!(%error, "could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// Whether a client went away before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

impl ServedConnection {
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        // An answer is one write: it need not wait for more.
        stream.set_nodelay(true).ok();
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls.clone() {
            match timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.speak(stream, peer).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
            return;
        }
        self.speak(stream, peer).await;
    }

    /// Speaks HTTP until the client leaves or the server stops.
    async fn speak<S>(self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (app, room, room_min) = (self.app, self.room, self.room_min);
        let service = service_fn(move |request: Request<Incoming>| {
            let (mut app, room) = (app.clone(), Arc::clone(&room));
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            async move {
                let mut response = app.call(request).await?;
                if room.available_permits() < room_min {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let io = TokioIo::new(StallGuard::new(stream, STALL_TIME));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = &mut connection => served,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "a connection ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_waits_for_the_tasks_of_its_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stopped = stop.clone();
        tasks.spawn(async move {
            stopped.cancelled().await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        });
        stop.cancel();
        let server = Server::new(listener).tasks(tasks.clone());
        server.run(Router::new(), stop).await;
        assert!(tasks.is_empty());
    }
}
