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

use super::fault::AmqpFault;
use crate::error::{Error, ErrorKind};
use brigade_core::store::url::{self, ServerUrl, TlsOptions};
use brigade_runtime::tls::Tls;

/// How long an answer may take, with all that it needs: a connection that is made again, a broker
/// that takes nothing for a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Far less than what queues of delays live longer than their longest delay.
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(600);
const HEARTBEAT: Duration = Duration::from_secs(10);
/// RabbitMQ's default.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;
const MANAGEMENT_PORT: u16 = 15672;
const MANAGEMENT_TLS_PORT: u16 = 15671;
const NAMESPACE_BYTES_MAX: usize = 30;

/// What could be read of a URL, or why not.
type UrlResult<T> = Result<T, String>;

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
        let config = Self::read(url).map_err(|why| {
            let text = format!("read the URL of RabbitMQ: {why}");
            Error::new(ErrorKind::BadOption, text)
        })?;
        // Here, so that the error names the file.
        config.read_tls()?;
        Ok(config)
    }

    fn read(url: &str) -> UrlResult<Self> {
        let mut url = ServerUrl::parse(url, "amqp://host")?;
        let is_tls = match url.scheme {
            "amqp" => false,
            "amqps" => true,
            _ => return Err("the schemes are amqp and amqps, which is with TLS".into()),
        };
        let port = if is_tls { TLS_PORT } else { PORT };
        let hosts = url.hosts.split(',').map(|host| host_and_port(host, port));
        // RabbitMQ's own user, whom it lets in from its host alone.
        let default_login = || ("guest".to_owned(), "guest".to_owned());
        let (user, password) = url.login()?.unwrap_or_else(default_login);
        let mut options = url.options;
        let config = Self {
            hosts: hosts.collect::<UrlResult<_>>()?,
            user,
            password,
            vhost: vhost(url.path)?,
            tls: is_tls.then(|| options.tls()).transpose()?,
            namespace: namespace(&mut options)?,
            heartbeat: heartbeat(&mut options)?,
            blocked: choice(
                &mut options,
                "blocked",
                &[("wait", Blocked::Wait), ("error", Blocked::Error)],
                "what a push does while the broker takes nothing",
            )?,
            answer_timeout: answer_timeout(&mut options)?,
            consumer_timeout: options
                .duration("consumer_timeout")?
                .unwrap_or(CONSUMER_TIMEOUT),
            management: management(&mut options)?,
            queues: queues(&mut options)?,
            durable_calls: choice(
                &mut options,
                "calls",
                &[("transient", false), ("durable", true)],
                "whether they outlive a restart of the broker",
            )?,
        };
        none_left(&options, is_tls)?;
        Ok(config)
    }

    /// Reads the certificates.
    fn read_tls(&self) -> Result<Option<Tls>, Error> {
        self.tls.as_ref().map(Tls::new).transpose()
    }

    pub(super) fn tls(&self) -> Result<Option<Tls>, AmqpFault> {
        let hint = "the certificates of the URL cannot be used any more";
        self.read_tls().map_err(|error| AmqpFault::of(hint, error))
    }

    /// For the management API, if it is with TLS.
    pub(super) fn tls_of(&self, management: &Management) -> Result<Option<Tls>, AmqpFault> {
        let options = management
            .is_tls
            .then(|| self.tls.clone().unwrap_or_default());
        let tls = options.map(|options| Tls::new(&options)).transpose();
        tls.map_err(|error| AmqpFault::of("TLS to it cannot be set up", error))
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

fn host_and_port(host: &str, port: u16) -> UrlResult<(String, u16)> {
    let (host, port) = url::host_and_port(host, port)?;
    Ok((host.to_owned(), port))
}

fn vhost(path: &str) -> UrlResult<String> {
    match path {
        "" => Ok("/".to_owned()),
        path if path.contains('/') => {
            Err("write %2F for a slash in the name of a vhost".to_owned())
        }
        path => url::decode(path),
    }
}

/// An option with one of these values; the first is its default.
fn choice<T: Copy>(
    options: &mut url::UrlOptions,
    name: &str,
    values: &[(&str, T); 2],
    about: &str,
) -> UrlResult<T> {
    let text = options.take(name);
    let text = text.as_deref().unwrap_or(values[0].0);
    let mut known = values.iter();
    let value = known.find(|(value, _)| *value == text);
    let wrong = || format!("{name} is {} or {}: {about}", values[0].0, values[1].0);
    value.map(|(_, value)| *value).ok_or_else(wrong)
}

fn namespace(options: &mut url::UrlOptions) -> UrlResult<String> {
    let name = options.take("ns").unwrap_or_default();
    if name.len() > NAMESPACE_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "ns has at most {NAMESPACE_BYTES_MAX} bytes and no control characters"
        ));
    }
    Ok(name)
}

fn answer_timeout(options: &mut url::UrlOptions) -> UrlResult<Duration> {
    match options.duration("response_timeout")? {
        None => Ok(ANSWER_TIMEOUT),
        Some(time) if time <= ANSWER_TIMEOUT_MAX => Ok(time),
        Some(_) => Err("response_timeout is ten minutes at most".to_owned()),
    }
}

fn heartbeat(options: &mut url::UrlOptions) -> UrlResult<Duration> {
    let time = options.duration("heartbeat")?.unwrap_or(HEARTBEAT);
    // In whole seconds on the wire.
    if time.subsec_nanos() == 0 && time.as_secs() <= 3600 {
        return Ok(time);
    }
    let why = "heartbeat is whole seconds, an hour at most: after twice this time without a sign \
        of it the broker is gone";
    Err(why.to_owned())
}

fn management(options: &mut url::UrlOptions) -> UrlResult<Option<Management>> {
    let Some(text) = options.take("management") else {
        return Ok(None);
    };
    let (is_tls, port, rest) = match text.split_once("://") {
        Some(("http", rest)) => (false, MANAGEMENT_PORT, rest),
        Some(("https", rest)) => (true, MANAGEMENT_TLS_PORT, rest),
        _ => {
            let why = "management is where the management API is: http://host:15672 or \
                https://host:15671";
            return Err(why.to_owned());
        }
    };
    let (host, port) = host_and_port(rest.trim_end_matches('/'), port)?;
    Ok(Some(Management { host, port, is_tls }))
}

fn queues(options: &mut url::UrlOptions) -> UrlResult<QueueType> {
    let (kind, priorities) = (options.take("queues"), options.take("priorities"));
    let why = match (kind.as_deref(), priorities) {
        (None | Some("classic"), None) => return Ok(QueueType::Classic),
        (Some("quorum"), None) => return Ok(QueueType::Quorum),
        (None | Some("classic"), Some(text)) => match text.parse() {
            Ok(highest) if highest > 0 => return Ok(QueueType::Priorities(highest)),
            _ => "priorities is the highest priority, from 1 to 255; 9 is plenty",
        },
        (Some("quorum"), Some(_)) => "quorum queues have no priorities; leave one of them out",
        (Some(_), _) => {
            "queues is classic or quorum: how queues are declared that are not there yet"
        }
    };
    Err(why.to_owned())
}

/// Refuses options that no part of the configuration has taken.
fn none_left(options: &url::UrlOptions, is_tls: bool) -> UrlResult<()> {
    let why = match options.left() {
        None => return Ok(()),
        Some(name) if TlsOptions::has(name) && !is_tls => {
            "insecure, ca, cert, key and server_name are for TLS: write amqps://"
        }
        Some(_) => {
            "it has an option that is none of ns, heartbeat, blocked, response_timeout, \
                consumer_timeout, management, queues, priorities, calls, with TLS insecure, ca, \
                cert, key, server_name"
        }
    };
    Err(why.to_owned())
}
