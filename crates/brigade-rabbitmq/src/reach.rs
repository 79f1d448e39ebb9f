//! Opening a connection: the way to the broker, and what the broker says of itself first.
//!
//! lapin is given a socket of ours ([`Wire`]): so TLS is the same as for other brokers, a dead peer
//! is noticed by TCP too, a handshake that hangs can be ended, and the broker's version is known,
//! which lapin keeps to itself.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::{DummyIO, RuntimeParts};
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::AsyncTcpStream;
use lapin::types::{AMQPValue, parsing};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties};
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use super::fault::AmqpFault;
use super::incoming::Incoming;
use super::url::RabbitMqConfig;
use crate::error::ErrorKind;
use crate::sync::lock;
use brigade_runtime::tls::{self, Tls};

/// For TCP, and again for the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TLS_TIMEOUT: Duration = Duration::from_secs(3);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The broker's first frame is far smaller.
const GREETING_BYTES_MAX: usize = 64 << 10;
/// Read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// A connection, and what the broker said of itself.
pub(super) struct OpenedConnection {
    pub(super) connection: Arc<Connection>,
    /// "3.10.8"; `None` if it is another product.
    pub(super) version: Option<String>,
    pub(super) end: End,
}

/// Ends a connection from outside, whatever it is doing.
#[derive(Clone, Default)]
pub(super) struct End(Arc<Mutex<Option<OwnedFd>>>);

impl End {
    pub(super) fn now(&self) {
        if let Some(socket) = lock(&self.0).take() {
            // It may have ended by itself.
            shutdown(socket, Shutdown::Both).ok();
        }
    }
}

impl OpenedConnection {
    /// Closes gracefully, then shuts down the socket, so that leaked clones cannot keep a consumer
    /// alive.
    pub(super) async fn close(self) {
        timeout(CLOSE_TIMEOUT, self.connection.close(200, "".into()))
            .await
            .ok();
        self.end.now();
    }
}

/// What only the opening knows.
#[derive(Clone, Default)]
struct Notes {
    end: End,
    greeting: Arc<Mutex<Greeting>>,
    /// Better than what lapin makes of it.
    fault: Arc<Mutex<Option<AmqpFault>>>,
}

/// Connects to the first of these hosts that answers, beginning with this one.
pub(super) async fn open(
    config: &RabbitMqConfig,
    purpose: &str,
    first: usize,
) -> Result<OpenedConnection, AmqpFault> {
    let mut fault = AmqpFault::timeout();
    for number in 0..config.hosts.len() {
        let (host, port) = &config.hosts[(first + number) % config.hosts.len()];
        match open_one(config, purpose, host, *port).await {
            Ok(opened) => return Ok(opened),
            Err(why) => fault = why,
        }
    }
    Err(fault)
}

async fn open_one(
    config: &RabbitMqConfig,
    purpose: &str,
    host: &str,
    port: u16,
) -> Result<OpenedConnection, AmqpFault> {
    let notes = Notes::default();
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: config.user.clone(),
                password: config.password.clone(),
            },
            host: host.to_owned(),
            port,
        },
        vhost: config.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: u16::try_from(config.heartbeat.as_secs()).ok(),
            ..AMQPQueryString::default()
        },
    };
    let name = format!("brigade {purpose} {}", std::process::id());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let kit = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(kit.clone(), Sockets(kit)));
    let making = notes.clone();
    // Read again for each connection: certificates are renewed while programs run.
    let tls = config.tls()?;
    let make = async move |uri: AMQPUri, _: Runtime<Kit>| {
        let wire = Wire::open(
            &uri.authority.host,
            uri.authority.port,
            tls.as_ref(),
            &making,
        )
        .await;
        wire.map(AsyncTcpStream::Plain).map_err(|fault| {
            let error = io::Error::other(fault.to_string());
            *lock(&making.fault) = Some(fault);
            error.into()
        })
    };
    let opening = Connection::connector(uri, runtime, make, properties);
    let opened = timeout(CONNECT_TIMEOUT * 2, opening).await;
    let known = lock(&notes.fault).take();
    match opened {
        Ok(Ok(connection)) => {
            let version = lock(&notes.greeting).version.take();
            Ok(OpenedConnection {
                connection: Arc::new(connection),
                version,
                end: notes.end,
            })
        }
        Ok(Err(error)) => Err(known.unwrap_or_else(|| error.into())),
        Err(_) => {
            // Its thread would wait for ever.
            notes.end.now();
            Err(AmqpFault::timeout())
        }
    }
}

type Kit = RuntimeParts<Tokio, Sockets>;

/// tokio, but for its sockets.
#[derive(Clone, Debug)]
struct Sockets(Tokio);

impl Reactor for Sockets {
    type TcpStream = Wire;
    type Sleep = tokio::time::Sleep;

    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    #[expect(clippy::manual_async_fn, reason = "the trait wants it to be 'static")]
    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        // Connections are made by `Wire::open` alone.
        async { Err(io::ErrorKind::Unsupported.into()) }
    }
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

/// A socket that lapin reads and writes.
struct Wire {
    io: Compat<Box<dyn Io>>,
    is_tls: bool,
    /// Until the broker's first frame is complete.
    notes: Option<Notes>,
    /// What came, made readable.
    incoming: Incoming,
    chunk: Box<[u8]>,
}

impl Wire {
    async fn open(
        host: &str,
        port: u16,
        tls: Option<&Tls>,
        notes: &Notes,
    ) -> Result<Self, AmqpFault> {
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)));
        let stream = connecting.await.map_err(|_| AmqpFault::timeout())??;
        stream.set_nodelay(true)?;
        // What was written and is not acknowledged for so long will never be.
        sockopt::set_tcp_user_timeout(&stream, 30_000).map_err(io::Error::from)?;
        let socket = stream.as_fd().try_clone_to_owned()?;
        *lock(&notes.end.0) = Some(socket);
        let io: Box<dyn Io> = match tls {
            None => Box::new(stream),
            Some(tls) => match timeout(TLS_TIMEOUT, tls.wrap(host, stream)).await {
                Ok(Ok(stream)) => Box::new(stream),
                Ok(Err(error)) => return Err(tls_fault(error)),
                Err(_) => {
                    let hint = "the broker does not answer the TLS handshake; if it speaks none \
                        there, write amqp://";
                    return Err(AmqpFault::new(ErrorKind::Unreachable, hint));
                }
            },
        };
        let chunk = vec![0; CHUNK_BYTES].into_boxed_slice();
        Ok(Self {
            io: io.compat(),
            is_tls: tls.is_some(),
            notes: Some(notes.clone()),
            incoming: Incoming::default(),
            chunk,
        })
    }

    /// Keeps what only the beginning of a connection shows.
    fn note(&mut self, read: &io::Result<usize>) {
        let Some(notes) = &self.notes else { return };
        let bytes = &self.chunk[..read.as_ref().map_or(0, |count| *count)];
        let fault = self.look(read, bytes, notes);
        let is_over = fault.is_some();
        if is_over {
            *lock(&notes.fault) = fault;
        }
        let is_complete = lock(&notes.greeting).add(bytes);
        if is_complete || is_over {
            self.notes = None;
        }
    }

    /// What this says of a connection on which the broker has not introduced itself yet: that has
    /// often met the other kind of server.
    fn look(&self, read: &io::Result<usize>, bytes: &[u8], notes: &Notes) -> Option<AmqpFault> {
        const TLS_ALERT: u8 = 0x15;
        match read {
            Err(error) => Some(self.ended(Some(error))),
            Ok(0) => Some(self.ended(None)),
            Ok(_)
                if !self.is_tls
                    && bytes.first() == Some(&TLS_ALERT)
                    && lock(&notes.greeting).bytes.is_empty() =>
            {
                Some(AmqpFault::new(
                    ErrorKind::BadOption,
                    "the broker wants TLS there; write amqps://, or the port without TLS",
                ))
            }
            Ok(_) => None,
        }
    }

    /// Why the broker may have ended it at the first word.
    fn ended(&self, error: Option<&io::Error>) -> AmqpFault {
        if !self.is_tls {
            let hint = "the broker ended the connection at the first word; if it wants TLS, write \
                amqps://";
            return AmqpFault::new(ErrorKind::Unreachable, hint);
        }
        // With TLS 1.3, a broker refuses a certificate only after the handshake.
        let hint = "the broker ended the connection; it may want a certificate of this side: \
            ?cert=file.pem&key=file.pem";
        let known = error.and_then(|error| tls::hint(error, NO_TLS));
        let (kind, hint) = known.unwrap_or((ErrorKind::Unreachable, hint));
        AmqpFault::new(kind, hint)
    }

    /// The end may be met by writing first. What is read then says more.
    fn written<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let (Poll::Ready(Err(error)), Some(notes)) = (&written, &self.notes) {
            lock(&notes.fault).get_or_insert_with(|| self.ended(Some(error)));
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self;
        loop {
            let count = wire.incoming.read(buffer);
            if count > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(count));
            }
            let read = ready!(Pin::new(&mut wire.io).poll_read(cx, &mut wire.chunk));
            wire.note(&read);
            match read? {
                0 => return Poll::Ready(Ok(0)),
                count => wire.incoming.push(&wire.chunk[..count])?,
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.io).poll_flush(cx);
        self.written(written)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

const NO_TLS: &str =
    "the broker does not speak TLS there; write amqp://, or the port of TLS, which is 5671";

fn tls_fault(error: io::Error) -> AmqpFault {
    match tls::hint(&error, NO_TLS) {
        Some((kind, hint)) => AmqpFault::with_source(kind, hint, error),
        None => error.into(),
    }
}

/// The broker's first frame, `connection.start`, as it comes in.
#[derive(Default)]
struct Greeting {
    bytes: Vec<u8>,
    version: Option<String>,
}

impl Greeting {
    /// Whether nothing more is wanted.
    fn add(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        // Type, channel, size; then class, method, protocol version, and the table of the broker's
        // properties.
        let Some(size) = self
            .bytes
            .get(3..7)
            .and_then(|size| size.try_into().ok())
            .map(u32::from_be_bytes)
        else {
            return false;
        };
        let whole = usize::try_from(size)
            .unwrap_or(usize::MAX)
            .saturating_add(7);
        if self.bytes.len() < whole && whole <= GREETING_BYTES_MAX {
            return false;
        }
        let table = self
            .bytes
            .get(7 + 6..)
            .and_then(|rest| parsing::parse_field_table(rest).ok());
        let version = table.and_then(|(_, table)| match table.inner().get("version") {
            Some(AMQPValue::LongString(version)) => Some(version.to_string()),
            _ => None,
        });
        *self = Self {
            bytes: Vec::new(),
            version,
        };
        true
    }
}
