//! Replaces `tls` where the feature `tls` is off: every use is an error that says so.

use std::convert::Infallible;
use std::io;

use super::authenticated::TransportStream;
use super::credentials::Credentials;
use super::opening::{Binding, Side};
use super::peer::Identity;
use crate::error::{Error, ErrorKind};

pub(super) type TlsConnection = (Box<dyn TransportStream>, Binding, Option<Identity>);

/// Never exists.
pub(super) struct TlsListener(Infallible);

impl TlsListener {
    pub(super) fn new(_: &Credentials) -> Result<Self, Error> {
        Err(without())
    }

    #[expect(clippy::unused_async, reason = "as it is with TLS")]
    pub(super) async fn accept(&self, _: Box<dyn TransportStream>) -> Result<TlsConnection, Error> {
        match self.0 {}
    }
}

#[expect(clippy::unused_async, reason = "as it is with TLS")]
pub(super) async fn connect(
    _: &Credentials,
    _: &str,
    _: Box<dyn TransportStream>,
) -> Result<TlsConnection, Error> {
    Err(without())
}

pub(super) fn explain(error: io::Error, _: Side) -> Error {
    Error::new(ErrorKind::Unreachable, "shake hands").with_source(error)
}

fn without() -> Error {
    let text = "speak TLS: this program was built without; turn on the feature tls of the \
        crate brigade";
    Error::new(ErrorKind::Unsupported, text)
}
