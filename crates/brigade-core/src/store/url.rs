//! Parts of a broker's URL: [`ServerUrl`] takes one of a server apart, [`UrlOptions`] gives out
//! what stands behind the `?`, [`redact`] hides passwords wherever a URL is shown.
//!
//! What the parts mean is for each store to say: a path is a database of Redis and a vhost of
//! RabbitMQ. Errors are sentences for people; they never quote the URL, as any part may be a
//! password.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub mod percent;
pub mod redact;

type Parsed<T> = Result<T, String>;

/// The URL of a server, in its parts: `scheme://[user[:password]@]hosts[/path][?options]`.
pub struct ServerUrl<'a> {
    pub scheme: &'a str,
    /// User and password, with their `%` undone. See [`login`](Self::login) where both are needed.
    pub user: Option<(String, Option<String>)>,
    /// One host or several, see [`host_and_port`]; empty in the URL of a socket.
    pub hosts: &'a str,
    /// Behind the first slash after the hosts.
    pub path: &'a str,
    pub options: UrlOptions,
}

impl<'a> ServerUrl<'a> {
    /// Takes a URL apart. `example` is the beginning of a right one, for the error.
    pub fn parse(url: &'a str, example: &str) -> Parsed<Self> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| format!("write {example}, with two slashes"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('#') || query.contains('#') {
            return Err("write %23 for # in a password; this URL has no fragment".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // Most likely the end of a password that has one of these characters.
        if path.contains('@') && !authority.is_empty() {
            return Err(
                "there is an @ behind a slash: write %2F for a slash in a password, %40 for an @"
                    .to_owned(),
            );
        }
        if query.contains('@') && !rest.contains('@') && !authority.is_empty() {
            return Err(
                "there is an @ behind a question mark: write %3F for a ? in a password, %40 for \
                an @ in an option"
                    .to_owned(),
            );
        }
        let (user, hosts) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((login, hosts)) => {
                let (user, password) = match login.split_once(':') {
                    Some((user, password)) => (user, Some(decode(password)?)),
                    None => (login, None),
                };
                (Some((decode(user)?, password)), hosts)
            }
        };
        Ok(Self {
            scheme,
            user,
            hosts,
            path,
            options: UrlOptions::parse(query)?,
        })
    }

    /// User and password, where one without the other is a mistake.
    pub fn login(&mut self) -> Parsed<Option<(String, String)>> {
        match self.user.take() {
            None => Ok(None),
            Some((user, Some(password))) => Ok(Some((user, password))),
            Some((_, None)) => Err("write user:password@ before the host".to_owned()),
        }
    }
}

/// `host[:port]`, an IPv6 address in brackets.
pub fn host_and_port(text: &str, default_port: u16) -> Parsed<(&str, u16)> {
    if !text.starts_with('[') && text.matches(':').count() > 1 {
        return Err(format!(
            "an IPv6 address stands in brackets: [::1]:{default_port}"
        ));
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (
            host,
            rest.strip_prefix(':').or(rest.is_empty().then_some("")),
        ),
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            (host, Some(port))
        }
    };
    if host.is_empty() {
        return Err("a host is missing".to_owned());
    }
    let port = match port {
        Some("") => default_port,
        port => match port.and_then(|port| port.parse().ok()) {
            None | Some(0) => return Err("a port is a number from 1 to 65535".to_owned()),
            Some(port) => port,
        },
    };
    Ok((host, port))
}

/// Undoes `%2F` and the like.
pub fn decode(text: &str) -> Parsed<String> {
    String::from_utf8(percent::decode(text)?)
        .map_err(|_| "it is not UTF-8 once the % are undone".to_owned())
}

/// How a server that speaks TLS is verified, and what it may want of this side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Believe any certificate.
    pub insecure: bool,
    /// Authorities to believe, instead of the system's.
    pub ca: Option<PathBuf>,
    /// This side's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have, if it is not the host of the URL.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// Whether this is the name of one of them.
    pub fn has(name: &str) -> bool {
        matches!(name, "insecure" | "ca" | "cert" | "key" | "server_name")
    }
}

/// What stands behind the `?`; taken out one by one.
pub struct UrlOptions(BTreeMap<String, String>);

impl UrlOptions {
    pub fn parse(query: &str) -> Parsed<Self> {
        let mut options = BTreeMap::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            if options.insert(name.to_owned(), decode(value)?).is_some() {
                return Err("an option stands there twice".to_owned());
            }
        }
        Ok(Self(options))
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Adds one that stands under another name in the URL; whether it was not there.
    pub fn put(&mut self, name: &str, value: String) -> bool {
        self.0.insert(name.to_owned(), value).is_none()
    }

    pub fn duration(&mut self, name: &str) -> Parsed<Option<Duration>> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let time = text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|time| Duration::try_from(time).ok());
        match time.filter(|time| !time.is_zero()) {
            Some(time) => Ok(Some(time)),
            None => Err(format!(
                "{name} is a time like 250ms or 5s, longer than none"
            )),
        }
    }

    pub fn tls(&mut self) -> Parsed<TlsOptions> {
        let insecure = match self.take("insecure").as_deref() {
            None => false,
            Some("" | "true" | "1") => true,
            Some(_) => {
                return Err(
                    "insecure has no value: it says that any certificate is believed".to_owned(),
                );
            }
        };
        let ca = self.take("ca").map(PathBuf::from);
        let identity = match (self.take("cert"), self.take("key")) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            _ => return Err(
                "cert and key go together: a certificate of this side and its key, two PEM files"
                    .to_owned(),
            ),
        };
        let server_name = self.take("server_name");
        if insecure && (ca.is_some() || server_name.is_some()) {
            return Err(
                "insecure believes any certificate, so ca and server_name say nothing; \
                leave them out"
                    .to_owned(),
            );
        }
        Ok(TlsOptions {
            insecure,
            ca,
            identity,
            server_name,
        })
    }

    /// The name of an option that was not taken.
    pub fn left(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }
}
