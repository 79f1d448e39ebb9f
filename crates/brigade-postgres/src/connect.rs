//! Opening connections: to the first host that will do, with TLS if the URL says so, logged in.
//!
//! Hosts are tried in the order of the URL; where one takes its time, the next is tried at the same
//! time. A host has to answer within `connect_timeout`, with TLS, login and the question whether it
//! takes writes. Each connection has a task that reads what the server sends; it ends with the
//! [`Connection`]. Errors never contain the password.
//!
//! TLS is made here and not by tokio-postgres: the request for it is eight bytes, and only so the
//! errors of a handshake are known for what they are.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification, SimpleQueryMessage};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect_error::ConnectError;
use super::url::{HostAddress, PostgresConfig, SessionTarget};
use crate::error::{Error, ErrorKind};
use crate::shutdown::Scope;
use brigade_runtime::tls::{self, Tls};

/// A host that has not answered by then does not keep the next one waiting.
const NEXT_HOST_AFTER: Duration = Duration::from_millis(500);
/// For the goodbye of a connection that is not needed any more.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// "Do you speak TLS?" in the protocol: its length and a number of its own.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Gets notifications as they arrive.
pub(super) type NotificationListener = Arc<dyn Fn(&Notification) + Send + Sync>;

/// Opens connections.
pub(super) struct Connector {
    pub(super) config: PostgresConfig,
    session: Config,
    tls: Option<Tls>,
    scope: Scope,
    /// A connection has a session of the server for itself. `false`: that is not so, or not known.
    keeps_sessions: AtomicBool,
}

/// A connection, logged in.
pub(super) struct ServerConnection {
    pub(super) client: Client,
    /// The statements that are prepared on it, by their text.
    pub(super) prepared: HashMap<&'static str, tokio_postgres::Statement>,
    /// Whether its session has the settings that statements need.
    pub(super) is_set_up: bool,
    /// Cancelled once it broke.
    pub(super) over: CancellationToken,
    _ends: DropGuard,
}

trait SocketStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> SocketStream for T {}

impl Connector {
    /// Must be called within the runtime.
    pub(super) fn new(config: PostgresConfig) -> Result<Self, Error> {
        let scope = Scope::current().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "open a broker outside of an async runtime (tokio)",
            )
        })?;
        let tls = config.tls.as_ref().map(Tls::new).transpose()?;
        let mut session = Config::new();
        session
            .ssl_mode(SslMode::Disable)
            .application_name(&config.application_name);
        if let Some(user) = &config.user {
            session.user(user);
        }
        if let Some(password) = &config.password {
            session.password(password);
        }
        if let Some(database) = &config.database {
            session.dbname(database);
        }
        if let Some(options) = &config.options {
            session.options(options);
        }
        let keeps_sessions = config.has_transaction_pooler == Some(false);
        Ok(Self {
            config,
            session,
            tls,
            scope,
            keeps_sessions: AtomicBool::new(keeps_sessions),
        })
    }

    /// Whether each transaction may be in another session of the server, as far as is known.
    pub(super) fn has_transaction_pooler(&self) -> bool {
        !self.keeps_sessions.load(Ordering::Relaxed)
    }

    /// Connections have sessions of the server for themselves.
    pub(super) fn note_kept_sessions(&self) {
        self.keeps_sessions.store(true, Ordering::Relaxed);
    }

    /// Does something in the background, for as long as the runtime runs.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.scope.spawn(work);
    }

    /// Opens a connection, to the first host that will do.
    pub(super) async fn open(
        &self,
        listener: Option<&NotificationListener>,
    ) -> Result<ServerConnection, ConnectError> {
        let mut hosts = self.config.hosts.iter();
        let mut attempts = FuturesUnordered::new();
        let mut worst: Option<ConnectError> = None;
        loop {
            let is_last = match hosts.next() {
                Some(host) => {
                    attempts.push(self.open_in_time(host, listener));
                    false
                }
                None => true,
            };
            while !attempts.is_empty() {
                let patience = if is_last {
                    self.config.connect_timeout
                } else {
                    NEXT_HOST_AFTER
                };
                match timeout(patience, attempts.next()).await {
                    Ok(Some(Ok(connection))) => return Ok(connection),
                    Ok(Some(Err(error))) => {
                        worst = Some(match worst.take() {
                            Some(worst) => worst.or(error),
                            None => error,
                        });
                    }
                    Ok(None) => break,
                    Err(_) if is_last => {}
                    Err(_) => break,
                }
            }
            if is_last {
                let error = worst.unwrap_or_else(ConnectError::silence);
                return Err(error.without(&self.config.passwords()));
            }
        }
    }

    async fn open_in_time(
        &self,
        host: &HostAddress,
        listener: Option<&NotificationListener>,
    ) -> Result<ServerConnection, ConnectError> {
        timeout(
            self.config.connect_timeout,
            Box::pin(self.open_at(host, listener)),
        )
        .await
        .unwrap_or_else(|_| Err(ConnectError::silence()))
    }

    async fn open_at(
        &self,
        host: &HostAddress,
        listener: Option<&NotificationListener>,
    ) -> Result<ServerConnection, ConnectError> {
        let stream = self.stream(host).await?;
        let (client, mut messages) = self
            .session
            .connect_raw(stream, NoTls)
            .await
            .map_err(|error| ConnectError::login(error, self.config.password.is_some()))?;
        let (ends, over) = (CancellationToken::new(), CancellationToken::new());
        let (until, ended) = (ends.clone(), over.clone().drop_guard());
        let listener = listener.cloned();
        self.scope.spawn(async move {
            let reading = async {
                while let Some(Ok(message)) = poll_fn(|cx| messages.poll_message(cx)).await {
                    match message {
                        AsyncMessage::Notification(notification) => {
                            if let Some(listener) = &listener {
                                listener(&notification);
                            }
                        }
                        AsyncMessage::Notice(notice) => tracing::debug!(%notice, "PostgreSQL"),
                        _ => {}
                    }
                }
            };
            let mut reading = pin!(reading);
            tokio::select! {
                () = &mut reading => {}
                // It ends by itself then, unless the server takes nothing any more.
                () = until.cancelled() => drop(timeout(GOODBYE_TIMEOUT, reading).await),
            }
            drop(ended);
        });
        let connection = ServerConnection {
            client,
            prepared: HashMap::new(),
            is_set_up: false,
            over,
            _ends: ends.drop_guard(),
        };
        if self.config.target == SessionTarget::ReadWrite {
            connection.must_take_writes().await?;
        }
        Ok(connection)
    }

    async fn stream(&self, host: &HostAddress) -> Result<Box<dyn SocketStream>, ConnectError> {
        let (name, address, port) = match host {
            HostAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                return Ok(Box::new(stream.map_err(ConnectError::unreachable)?));
            }
            HostAddress::Tcp {
                name,
                address,
                port,
            } => (name, address, *port),
        };
        let stream = TcpStream::connect((&**address, port)).await;
        let mut stream = stream.map_err(ConnectError::unreachable)?;
        stream
            .set_nodelay(true)
            .map_err(ConnectError::unreachable)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        ask_for_tls(&mut stream).await?;
        match tls.wrap(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(match tls::hint(&error, NO_TLS) {
                Some((kind, hint)) => ConnectError::hinted(kind, hint, error),
                None => ConnectError::unreachable(error),
            }),
        }
    }
}

const NO_TLS: &str = "the server does not speak TLS; turn it on there (ssl = on), or write \
    sslmode=disable";

/// Asks whether the server speaks TLS; nothing else may arrive before the handshake.
async fn ask_for_tls(stream: &mut TcpStream) -> Result<(), ConnectError> {
    let mut answer = [0];
    let asked = async {
        stream.write_all(&TLS_REQUEST).await?;
        stream.read_exact(&mut answer).await
    };
    asked.await.map_err(ConnectError::unreachable)?;
    if answer == *b"S" {
        return Ok(());
    }
    Err(ConnectError::hinted(
        ErrorKind::BadOption,
        NO_TLS,
        io::Error::from(io::ErrorKind::Unsupported),
    ))
}

impl ServerConnection {
    /// Whether the server takes writes: a standby does not.
    async fn must_take_writes(&self) -> Result<(), ConnectError> {
        let rows = self.client.simple_query("show transaction_read_only").await;
        let rows = rows.map_err(|error| ConnectError::login(error, true))?;
        let is_read_only = rows
            .iter()
            .any(|row| matches!(row, SimpleQueryMessage::Row(row) if row.get(0) == Some("on")));
        if is_read_only {
            return Err(ConnectError::read_only());
        }
        Ok(())
    }

    /// Ends it at once and not with the next statement.
    pub(super) fn is_over(&self) -> bool {
        self.client.is_closed() || self.over.is_cancelled()
    }
}

/// Pauses between tries to connect: short ones first, so that a server that is back soon is found
/// soon.
pub(super) async fn pause(tried: u32) {
    const SHORT: Duration = Duration::from_millis(25);
    const LONG: Duration = Duration::from_millis(400);
    let pause = SHORT.saturating_mul(1 << tried.min(5)).min(LONG);
    sleep(pause.mul_f64(crate::retry::jitter(0.5))).await;
}
