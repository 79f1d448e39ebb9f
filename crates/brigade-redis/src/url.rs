//! The URLs of Redis: where it is, and how to reach it.
//!
//! ```text
//! redis://[user:password@]host[:6379][/database]                    one server; rediss:// with TLS
//! redis+unix:///path[?db=0&user=..&password=..]                     its socket; also unix://
//! redis+sentinel://[user:password@]host[:26379],../name[/database]  the primary that the sentinels name; rediss+sentinel://
//! redis+cluster://[user:password@]host[:6379],..                    some nodes of a cluster; rediss+cluster://
//! ```
//!
//! Errors say which part is wrong and what to write, but never quote the URL: with one character
//! out of place, any part may be a password.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use brigade_core::store::url::{self, ServerUrl, TlsOptions};

/// How long the server may take for an answer before the call ends as uncertain.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// All that a URL says. Not `Debug`: it has passwords.
pub(super) struct RedisConfig {
    pub(super) layout: ServerLayout,
    pub(super) login: Login,
    /// For the sentinels, which have users of their own.
    pub(super) sentinel_login: Login,
    pub(super) database: i64,
    pub(super) tls: Option<TlsOptions>,
    pub(super) wait: Option<Wait>,
    pub(super) answer_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerLayout {
    One(Address),
    Sentinel {
        sentinels: Vec<Address>,
        name: String,
    },
    Cluster(Vec<Address>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    Tcp(Box<str>, u16),
    Unix(PathBuf),
}

#[derive(Clone, Default)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

/// How many replicas must have a push or a settlement before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) replicas: u32,
    pub(super) timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UrlKind {
    One,
    Unix,
    Sentinel,
    Cluster,
}

impl RedisConfig {
    /// # Errors
    ///
    /// `BadOption`, with what to write.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let mut url = ServerUrl::parse(url, "redis://host").map_err(bad)?;
        let user = url.login().map_err(bad)?;
        let (kind, is_tls) = kind_of(url.scheme)?;
        let (hosts, path) = (url.hosts, url.path);
        let mut options = RedisUrlOptions(url.options);
        let (layout, database) = match kind {
            UrlKind::One => (ServerLayout::One(address(hosts, PORT)?), database(path)?),
            UrlKind::Cluster => (cluster(hosts, path)?, 0),
            UrlKind::Sentinel => sentinel(hosts, path)?,
            UrlKind::Unix => (
                socket(hosts, path)?,
                database(&options.take("db").unwrap_or_default())?,
            ),
        };
        let login = match kind {
            UrlKind::Unix => options.login("user", "password"),
            _ => user.map(Login::from).unwrap_or_default(),
        };
        let sentinel_login = match kind {
            UrlKind::Sentinel => options.login("sentinel_user", "sentinel_password"),
            _ => Login::default(),
        };
        let tls = if is_tls { Some(options.tls()?) } else { None };
        let answer_timeout = options
            .duration("response_timeout")?
            .unwrap_or(ANSWER_TIMEOUT);
        let wait = options.wait(answer_timeout)?;
        options.none_left(kind, is_tls)?;
        Ok(Self {
            layout,
            login,
            sentinel_login,
            database,
            tls,
            wait,
            answer_timeout,
        })
    }
}

impl RedisConfig {
    pub(super) fn passwords(&self) -> Vec<&str> {
        [&self.login, &self.sentinel_login]
            .into_iter()
            .filter_map(|login| login.password.as_deref())
            .collect()
    }
}

fn bad(text: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::BadOption,
        format!("read the URL of Redis: {text}"),
    )
}

fn kind_of(scheme: &str) -> Result<(UrlKind, bool), Error> {
    Ok(match scheme {
        "redis" => (UrlKind::One, false),
        "rediss" => (UrlKind::One, true),
        "redis+unix" | "unix" => (UrlKind::Unix, false),
        "redis+sentinel" => (UrlKind::Sentinel, false),
        "rediss+sentinel" => (UrlKind::Sentinel, true),
        "redis+cluster" => (UrlKind::Cluster, false),
        "rediss+cluster" => (UrlKind::Cluster, true),
        _ => {
            return Err(bad(
                "the schemes are redis, rediss (TLS), redis+unix, redis+sentinel and \
                    redis+cluster, the last two also as rediss+",
            ));
        }
    })
}

impl From<(String, String)> for Login {
    /// An empty user is the default one.
    fn from((user, password): (String, String)) -> Self {
        let filled = |text: String| (!text.is_empty()).then_some(text);
        Self {
            user: filled(user),
            password: filled(password),
        }
    }
}

fn addresses(hosts: &str, port: u16) -> Result<Vec<Address>, Error> {
    hosts.split(',').map(|host| address(host, port)).collect()
}

fn address(host: &str, default_port: u16) -> Result<Address, Error> {
    if host.contains(',') {
        return Err(bad(
            "it has several hosts; write redis+sentinel:// or redis+cluster://",
        ));
    }
    url::host_and_port(host, default_port)
        .map(|(host, port)| Address::Tcp(host.into(), port))
        .map_err(bad)
}

fn cluster(hosts: &str, path: &str) -> Result<ServerLayout, Error> {
    if database(path)? != 0 {
        return Err(bad("a cluster has database 0 only; leave it out"));
    }
    Ok(ServerLayout::Cluster(addresses(hosts, PORT)?))
}

fn sentinel(hosts: &str, path: &str) -> Result<(ServerLayout, i64), Error> {
    let (name, path) = path.split_once('/').unwrap_or((path, ""));
    if name.is_empty() {
        return Err(bad(
            "write the name that the sentinels know the primary by: \
                redis+sentinel://host:26379/mymaster",
        ));
    }
    let layout = ServerLayout::Sentinel {
        sentinels: addresses(hosts, SENTINEL_PORT)?,
        name: decode(name)?,
    };
    Ok((layout, database(path)?))
}

fn socket(hosts: &str, path: &str) -> Result<ServerLayout, Error> {
    if !hosts.is_empty() || path.is_empty() {
        return Err(bad("write three slashes and the path of the socket: \
                redis+unix:///run/redis.sock"));
    }
    Ok(ServerLayout::One(Address::Unix(
        format!("/{}", decode(path)?).into(),
    )))
}

fn database(path: &str) -> Result<i64, Error> {
    if path.is_empty() {
        return Ok(0);
    }
    path.parse::<u32>()
        .map(i64::from)
        .map_err(|_| bad("a database is a number, 0 if it is left out"))
}

fn decode(text: &str) -> Result<String, Error> {
    url::decode(text).map_err(bad)
}

/// What stands behind the `?`; taken out one by one.
struct RedisUrlOptions(url::UrlOptions);

impl RedisUrlOptions {
    fn take(&mut self, name: &str) -> Option<String> {
        self.0.take(name)
    }

    fn login(&mut self, user: &str, password: &str) -> Login {
        Login {
            user: self.take(user),
            password: self.take(password),
        }
    }

    fn duration(&mut self, name: &str) -> Result<Option<Duration>, Error> {
        self.0.duration(name).map_err(bad)
    }

    fn wait(&mut self, answer_timeout: Duration) -> Result<Option<Wait>, Error> {
        let timeout = self.duration("wait_timeout")?;
        let Some(replicas) = self.take("wait") else {
            return if timeout.is_some() {
                Err(bad("wait_timeout goes with wait=1, for one replica"))
            } else {
                Ok(None)
            };
        };
        let replicas = replicas.parse().ok().filter(|replicas| *replicas > 0);
        let replicas = replicas
            .ok_or_else(|| bad("wait is how many replicas must have a push, 1 at least"))?;
        let timeout = timeout.unwrap_or(WAIT_TIMEOUT.min(answer_timeout / 2));
        if timeout >= answer_timeout {
            return Err(bad(
                "wait_timeout must be shorter than response_timeout, which is 10s if it is left \
                    out",
            ));
        }
        Ok(Some(Wait { replicas, timeout }))
    }

    fn tls(&mut self) -> Result<TlsOptions, Error> {
        self.0.tls().map_err(bad)
    }

    fn none_left(&self, kind: UrlKind, is_tls: bool) -> Result<(), Error> {
        let Some(name) = self.0.left() else {
            return Ok(());
        };
        Err(match name {
            name if TlsOptions::has(name) && !is_tls => {
                bad("insecure, ca, cert, key and server_name are for TLS: write rediss://")
            }
            "user" | "password" | "db" if kind != UrlKind::Unix => bad(
                "write user:password@ before the host and the database behind it; only redis+unix \
                    has them as options",
            ),
            "sentinel_user" | "sentinel_password" => {
                bad("sentinel_user and sentinel_password are for redis+sentinel://")
            }
            _ => bad(
                "it has an option that is none of wait, wait_timeout, response_timeout, with TLS \
                    insecure, ca, cert, key, server_name, with a \
                 socket user, password, db, with sentinels sentinel_user, sentinel_password",
            ),
        })
    }
}

#[cfg(test)]
mod tests;
