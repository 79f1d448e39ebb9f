//! Opening connections: to an address, or to the primary that the sentinels name.
//!
//! A connection is ready when this returns: encrypted if the URL says so, logged in, in its
//! database. Each step has a bound of its own. Errors never contain a password, also where a server
//! quotes the arguments of a command that it does not know.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{
    AsyncConnectionConfig, ErrorKind as Kind, FromRedisValue, ProtocolVersion, PushInfo,
    RedisConnectionInfo, RedisError, Value,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fault::RedisFault;
use super::url::{Address, Login, RedisConfig, ServerLayout};
use crate::error::{Error, ErrorKind};
use crate::shutdown::Scope;
use brigade_runtime::tls::{self, Tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Then the next sentinel is asked.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(1);

/// Whom to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    At(Address),
    /// The server that is primary now.
    Primary,
}

pub(super) struct Reach {
    pub(super) config: RedisConfig,
    tls: Option<Tls>,
    scope: Scope,
}

/// A connection that many calls share. It ends with its last clone.
#[derive(Clone)]
pub(super) struct Connection {
    shared: MultiplexedConnection,
    /// Cancelled once it broke.
    over: CancellationToken,
    _ends: Arc<DropGuard>,
}

/// Gets what the server sends without being asked.
pub(super) type PushListener = Arc<dyn Fn(PushInfo) + Send + Sync>;

trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

impl Reach {
    /// Must be called within the runtime.
    pub(super) fn new(config: RedisConfig) -> Result<Self, Error> {
        let scope = Scope::current().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "open a broker outside of an async runtime (tokio)",
            )
        })?;
        let tls = config.tls.as_ref().map(Tls::new).transpose()?;
        Ok(Self { config, tls, scope })
    }

    /// Does something in the background, for as long as the runtime runs.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.scope.spawn(work);
    }

    /// Opens a connection. With a listener, the server may send what was not asked for.
    pub(super) async fn open(
        &self,
        target: &Target,
        listener: Option<PushListener>,
    ) -> Result<Connection, RedisFault> {
        let opening = async {
            match target {
                Target::At(address) => {
                    self.open_at(address, &self.config.login, self.config.database, listener)
                        .await
                }
                Target::Primary => {
                    let primary = self.primary().await?;
                    let connection = self
                        .open_at(&primary, &self.config.login, self.config.database, listener)
                        .await?;
                    // A sentinel may name the one before for a moment.
                    let role: Vec<Value> = connection.ask(redis::cmd("ROLE")).await?;
                    match role.first() {
                        Some(Value::BulkString(role)) if role == b"master" => Ok(connection),
                        _ => Err(other(
                            "the server that the sentinels name is no primary yet",
                        )),
                    }
                }
            }
        };
        let opened = timeout(CONNECT_TIMEOUT, opening)
            .await
            .unwrap_or_else(|_| Err(RedisFault::timeout()));
        opened.map_err(|fault| fault.into_unsent().without(&self.config.passwords()))
    }

    async fn open_at(
        &self,
        address: &Address,
        login: &Login,
        database: i64,
        listener: Option<PushListener>,
    ) -> Result<Connection, RedisFault> {
        let stream = self.stream(address).await?;
        let mut info =
            RedisConnectionInfo::default().set_lib_name("brigade", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &login.user {
            info = info.set_username(user);
        }
        if let Some(password) = &login.password {
            info = info.set_password(password);
        }
        let mut config =
            AsyncConnectionConfig::new().set_response_timeout(Some(self.config.answer_timeout));
        if let Some(listener) = listener {
            info = info.set_protocol(ProtocolVersion::RESP3);
            config = config.set_push_sender(move |info| {
                listener(info);
                Ok::<(), SendError>(())
            });
        }
        let (shared, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(|error| self.explain(error))?;
        let (ends, over) = (CancellationToken::new(), CancellationToken::new());
        let (until, ended) = (ends.clone(), over.clone().drop_guard());
        self.scope.spawn(async move {
            until.run_until_cancelled(driver).await;
            drop(ended);
        });
        let connection = Connection {
            shared,
            over,
            _ends: Arc::new(ends.drop_guard()),
        };
        if database != 0 {
            select(&connection, database).await?;
        }
        Ok(connection)
    }

    async fn stream(&self, address: &Address) -> Result<Box<dyn ByteStream>, RedisFault> {
        match address {
            Address::Unix(path) => Ok(Box::new(
                UnixStream::connect(path)
                    .await
                    .map_err(RedisFault::unsent)?,
            )),
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((&**host, *port))
                    .await
                    .map_err(RedisFault::unsent)?;
                stream.set_nodelay(true).map_err(RedisFault::unsent)?;
                let Some(tls) = &self.tls else {
                    return Ok(Box::new(stream));
                };
                match timeout(HANDSHAKE_TIMEOUT, tls.wrap(host, stream)).await {
                    Ok(Ok(stream)) => Ok(Box::new(stream)),
                    Ok(Err(error)) => Err(
                        match tls::hint(
                            &error,
                            "the server does not speak TLS there; write redis://, or the port of \
                                TLS",
                        ) {
                            Some((kind, hint)) => RedisFault::hinted(kind, hint, error),
                            None => RedisFault::unsent(error),
                        },
                    ),
                    // A server without TLS waits for the end of a line.
                    Err(_) => {
                        let hint = "the server does not answer the TLS handshake; if it speaks \
                            none, write redis://";
                        Err(RedisFault::hinted(
                            ErrorKind::Unreachable,
                            hint,
                            io::Error::from(io::ErrorKind::TimedOut),
                        ))
                    }
                }
            }
        }
    }

    /// A fresh connection that breaks at the first word has often met the other kind of server.
    fn explain(&self, error: RedisError) -> RedisFault {
        if self.tls.is_none() && error.kind() == Kind::Parse {
            return RedisFault::hinted(
                ErrorKind::Protocol,
                "what answers there is not Redis; if it wants TLS, write rediss://",
                error,
            );
        }
        if matches!(error.kind(), Kind::Io | Kind::Parse) {
            return match self.tls {
                // With TLS 1.3, a server refuses a certificate only after the handshake.
                Some(_) => RedisFault::hinted(
                    ErrorKind::Refused,
                    "the server ended the connection; it may want a certificate of this side: \
                        ?cert=file.pem&key=file.pem",
                    error,
                ),
                None => RedisFault::hinted(
                    ErrorKind::Unreachable,
                    "the server ended the connection at the first word; if it wants TLS, write \
                        rediss://",
                    error,
                ),
            };
        }
        RedisFault::unsent(error)
    }

    /// Asks one sentinel after the other.
    async fn primary(&self) -> Result<Address, RedisFault> {
        let ServerLayout::Sentinel { sentinels, name } = &self.config.layout else {
            return Err(other("there are no sentinels"));
        };
        let mut fault = RedisFault::timeout();
        for sentinel in sentinels {
            let asking = async {
                let connection = self
                    .open_at(sentinel, &self.config.sentinel_login, 0, None)
                    .await?;
                let mut command = redis::cmd("SENTINEL");
                command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
                connection.ask::<Option<(String, u16)>>(command).await
            };
            match timeout(SENTINEL_TIMEOUT, asking).await {
                Ok(Ok(Some((host, port)))) => return Ok(Address::Tcp(host.into(), port)),
                Ok(Ok(None)) => {
                    let hint = "the sentinels know no primary of that name; write the one of \
                        `sentinel monitor`";
                    fault = RedisFault::hinted(
                        ErrorKind::BadOption,
                        hint,
                        (Kind::Client, "unknown primary"),
                    );
                }
                Ok(Err(error)) if !error.is_passing() => fault = error,
                Ok(Err(error)) => fault = if fault.is_passing() { error } else { fault },
                Err(_) => {}
            }
        }
        Err(fault)
    }
}

/// Here, because the client keeps what the server says of it to itself.
async fn select(connection: &Connection, database: i64) -> Result<(), RedisFault> {
    let mut command = redis::cmd("SELECT");
    command.arg(database);
    connection.ask(command).await.map_err(|fault| match fault.source.kind() {
        Kind::Server(redis::ServerErrorKind::ResponseError) => {
            let hint = "the server has no database of that number; they begin at 0, and it has as \
                many as its option `databases` says";
            RedisFault::hinted(ErrorKind::BadOption, hint, fault.source)
        }
        _ => fault,
    })
}

fn other(text: &'static str) -> RedisFault {
    RedisFault::hinted(ErrorKind::Unreachable, text, (Kind::Client, text))
}

impl Connection {
    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// All answers, errors among them, of commands that go together.
    pub(super) async fn send(&self, pipeline: &redis::Pipeline) -> Result<Vec<Value>, RedisFault> {
        self.shared
            .clone()
            .send_packed_commands(pipeline, 0, pipeline.len())
            .await
            .map_err(RedisFault::sent)
    }

    /// Listens to a channel. Only a connection with a listener may.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<(), RedisFault> {
        let mut shared = self.shared.clone();
        shared.subscribe(channel).await.map_err(RedisFault::sent)
    }

    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: redis::Cmd,
    ) -> Result<T, RedisFault> {
        let answer = self
            .shared
            .clone()
            .send_packed_command(&command)
            .await
            .and_then(Value::extract_error);
        answer
            .and_then(|value| Ok(redis::from_redis_value(value)?))
            .map_err(RedisFault::sent)
    }
}
