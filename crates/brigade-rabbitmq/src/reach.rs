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
use bytes::BytesMut;
use futures_util::Stream;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties};
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tokio_util::io::StreamReader;

use super::fault::AmqpFault;
use super::incoming::{Frames, Version};
use super::url::RabbitMqConfig;
use crate::error::ErrorKind;
use crate::sync::lock;
use brigade_runtime::tls::{self, Tls};

/// For TCP, and again for the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TLS_TIMEOUT: Duration = Duration::from_secs(3);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
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
    /// Set when the broker has introduced itself.
    version: Version,
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
        let wire = wire.map(|wire| AsyncTcpStream::Plain(wire.compat()));
        wire.map_err(|fault| {
            let error = io::Error::other(fault.to_string());
            *lock(&making.fault) = Some(fault);
            error.into()
        })
    };
    let opening = Connection::connector(uri, runtime, make, properties);
    let opened = timeout(CONNECT_TIMEOUT * 2, opening).await;
    let known = lock(&notes.fault).take();
    match opened {
        Ok(Ok(connection)) => Ok(OpenedConnection {
            connection: Arc::new(connection),
            version: notes.version.get().cloned().flatten(),
            end: notes.end,
        }),
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
    type TcpStream = Compat<Wire>;
    type Sleep = tokio::time::Sleep;

    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl futures_util::AsyncRead + futures_util::AsyncWrite + Send + Unpin + 'static>
    {
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

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A socket that lapin reads and writes.
struct Wire {
    reader: StreamReader<FramedRead<Box<dyn Io>, Frames>, BytesMut>,
    is_tls: bool,
    notes: Notes,
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
        let frames = Frames {
            version: Arc::clone(&notes.version),
        };
        Ok(Self {
            reader: StreamReader::new(FramedRead::with_capacity(io, frames, CHUNK_BYTES)),
            is_tls: tls.is_some(),
            notes: notes.clone(),
        })
    }

    fn io(&mut self) -> Pin<&mut Box<dyn Io>> {
        Pin::new(self.reader.get_mut().get_mut())
    }

    /// What a read says of a connection on which the broker has not introduced itself yet: that has
    /// often met the other kind of server.
    fn note(&self, read: &io::Result<()>, bytes: &[u8]) {
        const TLS_ALERT: u8 = 0x15;
        let fault = match (read, bytes.first()) {
            (Err(error), _) => self.ended(Some(error)),
            (Ok(()), None) => self.ended(None),
            (Ok(()), Some(&TLS_ALERT)) if !self.is_tls => AmqpFault::new(
                ErrorKind::BadOption,
                "the broker wants TLS there; write amqps://, or the port without TLS",
            ),
            _ => return,
        };
        *lock(&self.notes.fault) = Some(fault);
        // Nothing that comes later says more.
        self.notes.version.get_or_init(|| None);
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
        if let Poll::Ready(Err(error)) = &written
            && self.notes.version.get().is_none()
        {
            lock(&self.notes.fault).get_or_insert_with(|| self.ended(Some(error)));
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.reader).poll_read(cx, buffer));
        if self.notes.version.get().is_none() {
            self.note(&read, &buffer.filled()[before..]);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.io().poll_write(cx, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.io().poll_write_vectored(cx, bytes);
        self.written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.io().poll_flush(cx);
        self.written(written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
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
