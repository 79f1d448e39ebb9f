//! Where a listener is: `tcp://host:port`, `tls://host:port`, `unix:///path`.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostAddr {
    Net {
        host: Box<str>,
        port: u16,
        tls: bool,
    },
    Unix(PathBuf),
}

impl HostAddr {
    /// No error repeats the URL: it may contain a secret.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| bad("it must begin with tcp://, tls:// or unix://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let tls = match scheme {
            "unix" if !query.is_empty() => return Err(bad("unix:// takes no options")),
            "unix" if rest.starts_with('/') && !rest.ends_with('/') => {
                return Ok(Self::Unix(rest.into()));
            }
            "unix" => {
                return Err(bad(
                    "unix:// wants an absolute path, as in unix:///run/brigade/pool",
                ));
            }
            "tcp" => false,
            "tls" => true,
            _ => return Err(bad("it must begin with tcp://, tls:// or unix://")),
        };
        if !query.is_empty() {
            return Err(bad("it takes no options"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['@', '/', '#']) {
            return Err(bad(
                "it must be a host and a port; keys belong into the credentials",
            ));
        }
        let (host, port) = rest
            .rsplit_once(':')
            .ok_or_else(|| bad("it needs a port, as in tcp://127.0.0.1:7000"))?;
        let port = port
            .parse()
            .map_err(|_| bad("its port must be a number up to 65535"))?;
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !is_bracketed) {
            return Err(bad(
                "it needs a host, with an IPv6 address in brackets, as in tcp://[::1]:7000",
            ));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').into();
        Ok(Self::Net { host, port, tls })
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Net { tls: true, .. })
    }
}

fn bad(what: &str) -> Error {
    Error::new(
        ErrorKind::BadOption,
        format!("read the URL of a listener: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused_and_never_repeated() {
        let net = |host: &str, port, tls| HostAddr::Net {
            host: host.into(),
            port,
            tls,
        };
        assert_eq!(
            HostAddr::parse("tcp://127.0.0.1:0").unwrap(),
            net("127.0.0.1", 0, false)
        );
        assert_eq!(
            HostAddr::parse("tcp://[::1]:70/").unwrap(),
            net("::1", 70, false)
        );
        assert_eq!(
            HostAddr::parse("tcp://10.0.0.1:70").unwrap(),
            net("10.0.0.1", 70, false)
        );
        assert_eq!(
            HostAddr::parse("tls://pool.example:7000").unwrap(),
            net("pool.example", 7000, true)
        );
        assert_eq!(
            HostAddr::parse("unix:///run/pool").unwrap(),
            HostAddr::Unix("/run/pool".into())
        );
        for url in [
            "",
            "sesame",
            "tcp:",
            "tcp://",
            "tcp://sesame",
            "tcp://sesame:",
            "tcp://sesame:70000",
            "tcp://:70",
            "tcp://::1:70",
            "udp://a:1",
            "tcp://user:sesame@host:70",
            "tcp://host:70/sesame",
            "tls://host:70?insecure",
            "tcp://host:70?insecure",
            "tcp://host:70?key=sesame",
            "unix://sesame",
            "unix:///sesame/",
            "unix:///a?b",
        ] {
            let error = HostAddr::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadOption, "{url}");
            assert!(!format!("{error} {error:?}").contains("sesame"), "{url}");
        }
    }
}
