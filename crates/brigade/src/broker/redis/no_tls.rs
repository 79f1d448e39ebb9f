//! In the place of `tls` where the feature `redis-tls` is off: says so.

use std::convert::Infallible;
use std::io;

use tokio::net::TcpStream;

use super::url::TlsOptions;
use crate::error::{Error, ErrorKind};

/// There is none.
#[derive(Clone)]
pub(super) struct Tls(Infallible);

impl Tls {
    pub(super) fn new(_: &TlsOptions) -> Result<Self, Error> {
        let text = "connect to Redis with TLS: this program was built without; turn on the feature redis-tls of the crate brigade";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    #[expect(clippy::unused_async, reason = "as it is with TLS")]
    pub(super) async fn wrap(&self, _: &str, _: TcpStream) -> io::Result<TcpStream> {
        match self.0 {}
    }
}

pub(super) fn hint(_: &io::Error) -> Option<(ErrorKind, &'static str)> {
    None
}
