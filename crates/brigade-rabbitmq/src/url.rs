//! The URLs of RabbitMQ: where it is, and how to use it.
//!
//! ```text
//! amqp://[user:password@]host[:5672][,host[:5672]..][/vhost][?options]    amqps:// with TLS: port 5671
//! ```
//!
//! With several hosts, which are one cluster, the next one is tried when one cannot be reached.
//! Errors say which part is wrong and what to write, but never quote the URL: with one character
//! out of place, any part may be a password.

use std::time::Duration;

use super::fault::Fault;
use crate::error::{Error, ErrorKind};
use brigade_core::store::url::{self, TlsOptions};
use brigade_runtime::tls::Tls;

/// How long an answer may take, with all that it needs: a connection that is made again, a broker
/// that takes nothing for a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Far less than what queues of delays live longer than their longest delay.
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(600);
const HEARTBEAT: Duration = Duration::from_secs(10);
/// What RabbitMQ has by itself.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;
const MANAGEMENT_PORT: u16 = 15672;
const MANAGEMENT_TLS_PORT: u16 = 15671;
const NAMESPACE_BYTES_MAX: usize = 30;

/// All that a URL says. Not `Debug`: it has a password.
#[derive(Clone)]
pub(super) struct RabbitMqConfig {
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) vhost: String,
    tls: Option<TlsOptions>,
    /// In front of the names of all queues.
    pub(super) namespace: String,
    pub(super) heartbeat: Duration,
    pub(super) blocked: Blocked,
    pub(super) answer_timeout: Duration,
    /// After which the broker takes a delivery back that was not settled.
    pub(super) consumer_timeout: Duration,
    pub(super) management: Option<Management>,
    pub(super) queues: QueueType,
    /// Calls from here outlive a restart of the broker.
    pub(super) durable_calls: bool,
}

/// Where the management API is, for `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Management {
    pub(super) host: String,
    pub(super) port: u16,
    is_tls: bool,
}

/// What a push does while the broker takes nothing, because it is short of memory or disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// It waits, for as long as an answer may take.
    Wait,
    /// It fails at once.
    Error,
}

/// How queues are declared that are not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueType {
    /// As any client declares them, so that programs in other languages may declare them, too.
    Classic,
    /// With priorities from 0 to this.
    Priorities(u8),
    /// Replicated.
    Quorum,
}

impl RabbitMqConfig {
    /// # Errors
    ///
    /// `BadOption`, with what to write.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| bad("write amqp://host, with two slashes"))?;
        let is_tls = match scheme {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(bad("the schemes are amqp and amqps, which is with TLS")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('#') || query.contains('#') {
            return Err(bad(
                "write %23 for # in a password; a URL of RabbitMQ has no fragment",
            ));
        }
        if query.contains('@') && !rest.contains('@') {
            return Err(bad(
                "there is an @ behind a question mark: write %3F for a ? in a password, %40 for an \
                    @ in an option",
            ));
        }
        let location = Location::parse(rest, is_tls)?;
        let mut options = UrlOptions::parse(query)?;
        let config = Self {
            hosts: location.hosts,
            user: location.user,
            password: location.password,
            vhost: location.vhost,
            tls: if is_tls {
                Some(options.0.tls().map_err(bad)?)
            } else {
                None
            },
            namespace: options.namespace()?,
            heartbeat: options.heartbeat()?,
            blocked: options.blocked()?,
            answer_timeout: options.answer_timeout()?,
            consumer_timeout: options
                .duration("consumer_timeout")?
                .unwrap_or(CONSUMER_TIMEOUT),
            management: options.management()?,
            queues: options.queues()?,
            durable_calls: options.durable_calls()?,
        };
        options.none_left(is_tls)?;
        // Here, so that the error names the file.
        config.read_tls()?;
        Ok(config)
    }

    /// Reads the certificates.
    fn read_tls(&self) -> Result<Option<Tls>, Error> {
        self.tls.as_ref().map(Tls::new).transpose()
    }

    pub(super) fn tls(&self) -> Result<Option<Tls>, Fault> {
        self.read_tls().map_err(|error| {
            Fault::with_source(
                error.kind(),
                "the certificates of the URL cannot be used any more",
                error,
            )
        })
    }

    /// For the management API, if it is with TLS.
    pub(super) fn tls_of(&self, management: &Management) -> Result<Option<Tls>, Fault> {
        let options = management
            .is_tls
            .then(|| self.tls.clone().unwrap_or_default());
        let tls = options.map(|options| Tls::new(&options)).transpose();
        tls.map_err(|error| Fault::with_source(error.kind(), "TLS to it cannot be set up", error))
    }

    /// The highest priority, if its queues have any.
    pub(super) fn priority_max(&self) -> Option<u8> {
        match self.queues {
            QueueType::Priorities(highest) => Some(highest),
            QueueType::Classic | QueueType::Quorum => None,
        }
    }

    /// The user's name of a queue, from the broker's.
    pub(super) fn queue_of<'a>(&self, name: &'a str) -> &'a str {
        let own = name
            .strip_prefix(&*self.namespace)
            .and_then(|rest| rest.strip_prefix('.'));
        own.filter(|_| !self.namespace.is_empty()).unwrap_or(name)
    }

    /// The broker's name of a queue.
    pub(super) fn name_of(&self, queue: &str) -> String {
        if self.namespace.is_empty() {
            queue.to_owned()
        } else {
            format!("{}.{queue}", self.namespace)
        }
    }
}

/// What stands before the `?`. Not `Debug`: it has a password.
struct Location {
    hosts: Vec<(String, u16)>,
    user: String,
    password: String,
    vhost: String,
}

impl Location {
    fn parse(rest: &str, is_tls: bool) -> Result<Self, Error> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err(bad(
                "there is an @ behind a slash: write %2F for a slash in a password, %40 for an @",
            ));
        }
        let (user, password, hosts) = match authority.rsplit_once('@') {
            None => ("guest".to_owned(), "guest".to_owned(), authority),
            Some((login, hosts)) => {
                let (user, password) = login
                    .split_once(':')
                    .ok_or_else(|| bad("write user:password@ before the host"))?;
                (decode(user)?, decode(password)?, hosts)
            }
        };
        let hosts = hosts
            .split(',')
            .map(|host| host_and_port(host, if is_tls { TLS_PORT } else { PORT }))
            .collect::<Result<_, _>>()?;
        let vhost = match path {
            "" => "/".to_owned(),
            path if path.contains('/') => {
                return Err(bad("write %2F for a slash in the name of a vhost"));
            }
            path => decode(path)?,
        };
        Ok(Self {
            hosts,
            user,
            password,
            vhost,
        })
    }
}

fn bad(text: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::BadOption,
        format!("read the URL of RabbitMQ: {text}"),
    )
}

fn host_and_port(host: &str, port: u16) -> Result<(String, u16), Error> {
    url::host_and_port(host, port)
        .map(|(host, port)| (host.to_owned(), port))
        .map_err(bad)
}

fn decode(text: &str) -> Result<String, Error> {
    url::decode(text).map_err(bad)
}

/// What stands behind the `?`; taken out one by one.
struct UrlOptions(url::Options);

impl UrlOptions {
    fn parse(query: &str) -> Result<Self, Error> {
        url::Options::parse(query).map(Self).map_err(bad)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.take(name)
    }

    fn namespace(&mut self) -> Result<String, Error> {
        let name = self.take("ns").unwrap_or_default();
        if name.len() > NAMESPACE_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(bad(format!(
                "ns has at most {NAMESPACE_BYTES_MAX} bytes and no control characters"
            )));
        }
        Ok(name)
    }

    fn blocked(&mut self) -> Result<Blocked, Error> {
        match self.take("blocked").as_deref() {
            None | Some("wait") => Ok(Blocked::Wait),
            Some("error") => Ok(Blocked::Error),
            Some(_) => Err(bad(
                "blocked is wait or error: what a push does while the broker takes nothing",
            )),
        }
    }

    fn durable_calls(&mut self) -> Result<bool, Error> {
        match self.take("calls").as_deref() {
            None | Some("transient") => Ok(false),
            Some("durable") => Ok(true),
            Some(_) => Err(bad(
                "calls is transient or durable: whether they outlive a restart of the broker",
            )),
        }
    }

    fn duration(&mut self, name: &str) -> Result<Option<Duration>, Error> {
        self.0.duration(name).map_err(bad)
    }

    fn answer_timeout(&mut self) -> Result<Duration, Error> {
        let time = self.duration("response_timeout")?.unwrap_or(ANSWER_TIMEOUT);
        if time <= ANSWER_TIMEOUT_MAX {
            Ok(time)
        } else {
            Err(bad("response_timeout is ten minutes at most"))
        }
    }

    fn heartbeat(&mut self) -> Result<Duration, Error> {
        let time = self.duration("heartbeat")?.unwrap_or(HEARTBEAT);
        // In whole seconds on the wire.
        if time.subsec_nanos() == 0 && time.as_secs() <= 3600 {
            Ok(time)
        } else {
            Err(bad(
                "heartbeat is whole seconds, an hour at most: after twice this time without a sign \
                    of it the broker is gone",
            ))
        }
    }

    fn management(&mut self) -> Result<Option<Management>, Error> {
        let Some(text) = self.take("management") else {
            return Ok(None);
        };
        let (is_tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => {
                return Err(bad(
                    "management is where the management API is: http://host:15672 or \
                        https://host:15671",
                ));
            }
        };
        let port = if is_tls {
            MANAGEMENT_TLS_PORT
        } else {
            MANAGEMENT_PORT
        };
        let (host, port) = host_and_port(rest.trim_end_matches('/'), port)?;
        Ok(Some(Management { host, port, is_tls }))
    }

    fn queues(&mut self) -> Result<QueueType, Error> {
        let kind = self.take("queues");
        let priorities = self.take("priorities");
        match (kind.as_deref(), priorities) {
            (None | Some("classic"), None) => Ok(QueueType::Classic),
            (None | Some("classic"), Some(text)) => match text.parse() {
                Ok(highest) if highest > 0 => Ok(QueueType::Priorities(highest)),
                _ => Err(bad(
                    "priorities is the highest priority, from 1 to 255; 9 is plenty",
                )),
            },
            (Some("quorum"), None) => Ok(QueueType::Quorum),
            (Some("quorum"), Some(_)) => Err(bad(
                "quorum queues have no priorities; leave one of them out",
            )),
            (Some(_), _) => Err(bad(
                "queues is classic or quorum: how queues are declared that are not there yet",
            )),
        }
    }

    fn none_left(&self, is_tls: bool) -> Result<(), Error> {
        Err(bad(match self.0.left() {
            None => return Ok(()),
            Some(name) if TlsOptions::has(name) && !is_tls => {
                "insecure, ca, cert, key and server_name are for TLS: write amqps://"
            }
            Some(_) => {
                "it has an option that is none of ns, heartbeat, blocked, response_timeout, \
                    consumer_timeout, management, queues, priorities, calls, \
                 with TLS insecure, ca, cert, key, server_name"
            }
        }))
    }
}
