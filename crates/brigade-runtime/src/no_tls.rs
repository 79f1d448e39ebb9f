//! In the place of `tls` where the feature `tls` is off: says so.

use std::convert::Infallible;
use std::io;

use tokio::net::TcpStream;

use brigade_core::error::{Error, ErrorKind};
use brigade_core::store::url::TlsOptions;

/// There is none.
#[derive(Clone)]
pub struct Tls(Infallible);

impl Tls {
    pub fn new(_: &TlsOptions) -> Result<Self, Error> {
        let text = "connect with TLS: this program was built without; turn on the feature tls of the \
            crate brigade";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    #[expect(clippy::unused_async, reason = "as it is with TLS")]
    pub async fn wrap(&self, _: &str, _: TcpStream) -> io::Result<TcpStream> {
        match self.0 {}
    }
}

pub fn hint(_: &io::Error, _: &'static str) -> Option<(ErrorKind, &'static str)> {
    None
}
