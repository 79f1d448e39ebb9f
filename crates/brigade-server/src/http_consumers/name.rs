//! [`ConsumerName`]: how a program that takes jobs over HTTP names itself.
//!
//! The header is `Brigade-Consumer: HOST; pid=4711; version=1.2`, where the host may be any name
//! and the rest may be left out. Without the header, the address of the client is its name.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::peer::peer_in;
use crate::problem::Problem;

/// The name of the header.
const HEADER: &str = "brigade-consumer";
/// The longest header.
const HEADER_BYTES_MAX: usize = 300;

/// Who asks for jobs. Requests with the same name count as one consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConsumerName {
    pub(super) host: Box<str>,
    pub(super) pid: Option<u32>,
    pub(super) version: Option<Box<str>>,
}

/// The header, for the OpenAPI document.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct ConsumerHeader {
    /// Who asks, for the list of consumers: its host or another name, maybe with its process and
    /// version. Requests of one name are one consumer. Default: the address of the client.
    #[serde(rename = "Brigade-Consumer")]
    #[param(example = "web-1; pid=4711; version=1.2", max_length = 300)]
    #[expect(dead_code, reason = "for the document")]
    consumer: Option<String>,
}

impl ConsumerName {
    fn read(value: &HeaderValue) -> Result<Self, Problem> {
        let wrong = || {
            Problem::bad_request(format!(
                "`Brigade-Consumer` is `HOST; pid=4711; version=1.2`: a name of visible ASCII, the \
                    rest may be left out, {HEADER_BYTES_MAX} bytes at most"
            ))
        };
        let text = value
            .to_str()
            .ok()
            .filter(|text| text.len() <= HEADER_BYTES_MAX)
            .ok_or_else(wrong)?;
        let mut parts = text.split(';').map(str::trim);
        let host = parts
            .next()
            .filter(|host| !host.is_empty())
            .ok_or_else(wrong)?;
        let mut name = Self {
            host: host.into(),
            pid: None,
            version: None,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("pid", pid)) => name.pid = Some(pid.parse().map_err(|_| wrong())?),
                Some(("version", version)) => name.version = Some(version.into()),
                _ => return Err(wrong()),
            }
        }
        Ok(name)
    }

    fn of(headers: &HeaderMap, address: impl FnOnce() -> Option<String>) -> Result<Self, Problem> {
        match headers.get(HEADER) {
            Some(value) => Self::read(value),
            None => Ok(Self::unnamed(address())),
        }
    }

    /// The name of a client without the header.
    pub(crate) fn unnamed(address: Option<String>) -> Self {
        Self {
            host: address.unwrap_or_else(|| "unknown".to_owned()).into(),
            pid: None,
            version: None,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for ConsumerName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let address = || peer_in(&parts.extensions).map(|peer| peer.to_string());
        Self::of(&parts.headers, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_named_by_its_header_or_its_address() {
        let read = |text: &str| ConsumerName::read(&HeaderValue::from_str(text).unwrap());
        let name = read("web-1; pid=4711;version=1.2 beta").unwrap();
        assert_eq!(
            (&*name.host, name.pid, name.version.as_deref()),
            ("web-1", Some(4711), Some("1.2 beta"))
        );
        assert_eq!(read("mailer 3").unwrap().pid, None);
        let long = "x".repeat(HEADER_BYTES_MAX + 1);
        for wrong in ["", ";pid=1", "a; pid=x", "a; port=1", "a;", &long] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        let address = || Some("192.0.2.1".to_owned());
        let unnamed = ConsumerName::of(&HeaderMap::new(), address).unwrap();
        assert_eq!(&*unnamed.host, "192.0.2.1");
    }
}
