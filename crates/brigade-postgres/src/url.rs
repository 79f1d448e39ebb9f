//! The URLs of PostgreSQL: where it is, and how to reach it. They are libpq's.
//!
//! ```text
//! postgres://[user[:password]@]host[:5432][,host[:5432]..][/database][?options]     also postgresql://
//! postgres://[user[:password]@]/database?host=/run/postgresql                       the directory of its socket
//! ```
//!
//! With several hosts, which are one cluster, the one that takes writes is used. As in libpq,
//! `host`, `hostaddr`, `port`, `user`, `password` and `dbname` may be options as well. No file and
//! no variable of the environment is read (`~/.pgpass`, `PGPASSWORD`).
//!
//! Errors say which part is wrong and what to write, but never quote the URL: with one character
//! out of place, any part may be a password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use brigade_core::store::url::{self, ServerUrl, TlsOptions};

/// How long the server may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// For one host, with TLS and login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that work at the same time; one more listens for notifications.
const CONNECTIONS: usize = 8;
const CONNECTIONS_MAX: usize = 1000;
const HOSTS_MAX: usize = 16;
const PORT: u16 = 5432;
/// Where Debian, Red Hat and most others have the socket, and where PostgreSQL's own build has it.
const SOCKET_DIRECTORIES: [&str; 2] = ["/run/postgresql", "/tmp"];
const OPTIONS: &str = "host, hostaddr, port, user, password, dbname, sslmode, ca (sslrootcert), \
    cert (sslcert), key (sslkey), server_name, insecure, target_session_attrs, connect_timeout, \
    response_timeout, application_name, options, connections, pooler";

/// What could be read of a URL, or why not.
type UrlPart<T> = Result<T, String>;

/// All that a URL says. Not `Debug`: it has a password.
#[derive(Clone)]
pub(super) struct PostgresConfig {
    /// One at least.
    pub(super) hosts: Vec<HostAddress>,
    /// None: the user who runs this program.
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// None: called like the user.
    pub(super) database: Option<String>,
    pub(super) tls: Option<TlsOptions>,
    pub(super) target: SessionTarget,
    /// For one host.
    pub(super) connect_timeout: Duration,
    pub(super) answer_timeout: Duration,
    pub(super) application_name: String,
    /// Settings of the session, as `-c name=value`.
    pub(super) options: Option<String>,
    pub(super) connections: usize,
    /// `None`: find it out.
    pub(super) has_transaction_pooler: Option<bool>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostAddress {
    Tcp {
        /// What a certificate has to name.
        name: String,
        /// What to connect to: the name, or an address of it.
        address: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// Which of the hosts will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionTarget {
    /// The first that answers.
    Any,
    /// One that takes writes.
    ReadWrite,
}

impl PostgresConfig {
    /// # Errors
    ///
    /// `BadOption`, with what to write.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        Self::read(url).map_err(|why| {
            let text = format!("read the URL of PostgreSQL: {why}");
            Error::new(ErrorKind::BadOption, text)
        })
    }

    fn read(url: &str) -> UrlPart<Self> {
        let url = ServerUrl::parse(url, "postgres://host/database")?;
        if !matches!(url.scheme, "postgres" | "postgresql") {
            return Err("the scheme is postgres or postgresql; TLS is ?sslmode=require".into());
        }
        let mut options = PostgresUrlOptions(url.options);
        let hosts = options.hosts(url.hosts)?;
        let target = options.target(hosts.len())?;
        let (user, password) = url.user.unwrap_or_default();
        let database = filled(url::decode(url.path)?);
        let config = Self {
            user: options.either("user", "before the host", filled(user))?,
            password: options.either("password", "before the host", password)?,
            database: options.either("dbname", "behind the host", database)?,
            tls: options.tls()?,
            target,
            connect_timeout: options.connect_timeout()?,
            answer_timeout: options
                .0
                .duration("response_timeout")?
                .unwrap_or(ANSWER_TIMEOUT),
            application_name: options
                .0
                .take("application_name")
                .unwrap_or_else(|| "brigade".to_owned()),
            options: options.0.take("options"),
            connections: options.connections()?,
            has_transaction_pooler: options.pooler()?,
            hosts,
        };
        options.none_left()?;
        Ok(config)
    }

    pub(super) fn passwords(&self) -> Vec<&str> {
        self.password.as_deref().into_iter().collect()
    }
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// What stands behind the `?`; taken out one by one.
struct PostgresUrlOptions(url::UrlOptions);

impl PostgresUrlOptions {
    /// What stands in its place in the URL, or as an option, but not in both.
    fn either(
        &mut self,
        name: &str,
        place: &str,
        in_place: Option<String>,
    ) -> UrlPart<Option<String>> {
        match (in_place, self.0.take(name).and_then(filled)) {
            (Some(_), Some(_)) => Err(format!("{name} stands both {place} and as an option")),
            (in_place, option) => Ok(in_place.or(option)),
        }
    }

    fn hosts(&mut self, in_place: &str) -> UrlPart<Vec<HostAddress>> {
        let named = self.0.take("host").and_then(filled);
        let addresses = self.0.take("hostaddr").and_then(filled);
        let ports = self.0.take("port").and_then(filled);
        if !in_place.is_empty() && named.is_some() {
            return Err("host stands both before the database and as an option".into());
        }
        let hosts: Vec<&str> = match (&named, &addresses) {
            _ if !in_place.is_empty() => in_place.split(',').collect(),
            (Some(named), _) => named.split(',').collect(),
            (None, Some(addresses)) => addresses.split(',').collect(),
            (None, None) => vec![""],
        };
        if hosts.len() > HOSTS_MAX {
            return Err(format!("it has more than {HOSTS_MAX} hosts"));
        }
        let ports = Ports::parse(ports.as_deref(), hosts.len())?;
        let addresses: Vec<&str> = addresses.as_deref().unwrap_or("").split(',').collect();
        if addresses != [""] && addresses.len() != hosts.len() {
            return Err("hostaddr has as many addresses as there are hosts".into());
        }
        hosts
            .iter()
            .enumerate()
            .map(|(place, host)| {
                let port = ports.of(place);
                let is_in_place = !in_place.is_empty();
                let address = addresses.get(place).copied().unwrap_or_default();
                address_of(host, address, port, is_in_place)
            })
            .collect()
    }

    fn target(&mut self, hosts: usize) -> UrlPart<SessionTarget> {
        match self.0.take("target_session_attrs").as_deref() {
            // One server says better itself that it is a standby than that it is none.
            None if hosts == 1 => Ok(SessionTarget::Any),
            None | Some("read-write" | "primary") => Ok(SessionTarget::ReadWrite),
            Some("any") => Ok(SessionTarget::Any),
            Some(_) => Err(
                "target_session_attrs is any or read-write (with several hosts the default): \
                    jobs cannot be kept by a server that only reads"
                    .into(),
            ),
        }
    }

    /// Whether to use TLS, and how.
    fn tls(&mut self) -> UrlPart<Option<TlsOptions>> {
        for (libpq, ours) in [
            ("sslrootcert", "ca"),
            ("sslcert", "cert"),
            ("sslkey", "key"),
        ] {
            if let Some(value) = self.0.take(libpq) {
                // libpq's word for the authorities of the system, which are the default here.
                if (ours, &*value) != ("ca", "system") && !self.0.put(ours, value) {
                    return Err(format!("{libpq} and {ours} are the same; leave one out"));
                }
            }
        }
        match self.0.take("sslmode").as_deref() {
            None | Some("disable") => Ok(None),
            Some("require" | "verify-full") => self.0.tls().map(Some),
            Some("verify-ca") => Err(
                "sslmode=verify-ca accepts any host that its authority knows; write \
                    sslmode=verify-full, with server_name=.. if the certificate has another name"
                    .into(),
            ),
            Some("allow" | "prefer") => Err(
                "sslmode=allow and prefer protect nothing, as anyone in between can turn TLS off; \
                    write sslmode=require or sslmode=disable"
                    .into(),
            ),
            Some(_) => Err("sslmode is disable (the default), require or verify-full".into()),
        }
    }

    /// As libpq has it, a number of seconds, or a time with its unit.
    fn connect_timeout(&mut self) -> UrlPart<Duration> {
        let Some(text) = self.0.take("connect_timeout") else {
            return Ok(CONNECT_TIMEOUT);
        };
        if let Ok(seconds) = text.parse::<u16>() {
            // libpq's "as long as it takes" is none for us.
            return match seconds {
                0 => Err("connect_timeout is 1 second at least".into()),
                seconds => Ok(Duration::from_secs(seconds.into())),
            };
        }
        self.0.put("connect_timeout", text);
        Ok(self
            .0
            .duration("connect_timeout")?
            .unwrap_or(CONNECT_TIMEOUT))
    }

    fn connections(&mut self) -> UrlPart<usize> {
        let Some(text) = self.0.take("connections") else {
            return Ok(CONNECTIONS);
        };
        let number = text.parse().ok();
        number
            .filter(|number| (2..=CONNECTIONS_MAX).contains(number))
            .ok_or_else(|| format!("connections is a number from 2 to {CONNECTIONS_MAX}"))
    }

    fn pooler(&mut self) -> UrlPart<Option<bool>> {
        match self.0.take("pooler").as_deref() {
            None => Ok(None),
            Some("none" | "session") => Ok(Some(false)),
            Some("transaction") => Ok(Some(true)),
            Some(_) => Err(
                "pooler is none, session or transaction: in which mode one stands in front of the \
                    server; it is found out where it is left out"
                    .into(),
            ),
        }
    }

    fn none_left(&self) -> UrlPart<()> {
        match self.0.left() {
            None => Ok(()),
            Some(name) if TlsOptions::has(name) => Err(
                "insecure, ca, cert, key and server_name are for TLS: write sslmode=require".into(),
            ),
            Some("ns") => Err("there is no namespace here; use another database".into()),
            Some(_) => Err(format!("it has an option that is none of {OPTIONS}")),
        }
    }
}

/// One port for all hosts, or one for each.
struct Ports(Vec<Option<u16>>);

impl Ports {
    fn parse(text: Option<&str>, hosts: usize) -> UrlPart<Self> {
        let Some(text) = text else {
            return Ok(Self(vec![None]));
        };
        let ports: Vec<Option<u16>> = text
            .split(',')
            .map(|port| match port {
                "" => Ok(None),
                port => match port.parse() {
                    Err(_) | Ok(0) => Err("a port is a number from 1 to 65535"),
                    Ok(port) => Ok(Some(port)),
                },
            })
            .collect::<Result<_, _>>()?;
        if ports.len() != 1 && ports.len() != hosts {
            return Err("port is one number, or one for each host".into());
        }
        Ok(Self(ports))
    }

    fn of(&self, place: usize) -> Option<u16> {
        let at = if self.0.len() == 1 { 0 } else { place };
        self.0.get(at).copied().flatten()
    }
}

/// `host`: as it stands in its place, with a port, or as an option, without.
fn address_of(
    host: &str,
    address: &str,
    port: Option<u16>,
    is_in_place: bool,
) -> UrlPart<HostAddress> {
    let host = if is_in_place {
        // The directory of a socket in the place of a host has each slash as %2F.
        let bare = host.split(':').next().unwrap_or_default();
        let directory = url::decode(bare)?;
        if directory.starts_with('/') {
            let own = match host.split_once(':') {
                None => None,
                Some((_, port)) => Some(port.parse().map_err(|_| "a port is a number")?),
            };
            return Ok(socket(Path::new(&directory), own.or(port)));
        }
        let (name, own) = url::host_and_port(host, port.unwrap_or(PORT))?;
        return Ok(tcp(name, address, own));
    } else {
        host
    };
    if host.starts_with('/') {
        return Ok(socket(Path::new(host), port));
    }
    if !host.is_empty() {
        return Ok(tcp(host, address, port.unwrap_or(PORT)));
    }
    let found = SOCKET_DIRECTORIES.map(Path::new);
    let directory = found.iter().find(|path| path.is_dir()).unwrap_or(&found[0]);
    Ok(socket(directory, port))
}

fn tcp(name: &str, address: &str, port: u16) -> HostAddress {
    let address = if address.is_empty() { name } else { address };
    HostAddress::Tcp {
        name: name.to_owned(),
        address: address.to_owned(),
        port,
    }
}

fn socket(directory: &Path, port: Option<u16>) -> HostAddress {
    let name = format!(".s.PGSQL.{}", port.unwrap_or(PORT));
    HostAddress::Unix(directory.join(name))
}

#[cfg(test)]
mod tests;
