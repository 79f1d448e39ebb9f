//! Connecting to a listener: the socket, TLS where the URL asks for it, then the handshake.

use std::time::Duration;

use tokio::time::timeout;

use super::authenticated::Authenticated;
use super::credentials::Credentials;
use super::hello::{self, HANDSHAKE_TIMEOUT};
use super::host_addr::HostAddr;
use super::opening::Side;
use super::peer::Identity;
use super::socket::{self, RawConnection};
use super::{stream, tls};
use crate::error::{Error, ErrorKind};

/// For resolving the name and connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a listener: `tcp://host:port`, `tls://host:port` or `unix:///path`. Returns within
/// 10 seconds.
///
/// # Errors
///
/// `BadOption` for a URL or credentials that cannot be used; `Unreachable` if nothing answers
/// there or the listener is too busy; `Refused` if a key or certificate does not match, or only one
/// side uses a key; `Protocol` if the other end is not a listener of Brigade, or one of another
/// version.
///
/// # Cancel safety
///
/// Dropping it closes the connection.
pub async fn connect(url: &str, credentials: &Credentials) -> Result<Authenticated, Error> {
    let address = HostAddr::parse(url)?;
    credentials.check(&address, Side::Connects)?;
    let connecting = timeout(CONNECT_TIMEOUT, socket::connect(&address)).await;
    let raw = connecting.unwrap_or_else(|_| {
        Err(unreachable(
            "connect to the listener: nothing answered within 5 seconds",
        ))
    })?;
    let handshake = timeout(HANDSHAKE_TIMEOUT, shake_hands(raw, &address, credentials)).await;
    handshake.unwrap_or_else(|_| {
        Err(unreachable(
            "shake hands with the listener: it did not answer within 5 seconds",
        ))
    })
}

async fn shake_hands(
    raw: RawConnection,
    address: &HostAddr,
    credentials: &Credentials,
) -> Result<Authenticated, Error> {
    let peer = raw.peer().map_err(|error| {
        Error::new(ErrorKind::Unreachable, "connect to the listener").with_source(error)
    })?;
    if !peer.is_own_user() {
        return Err(Error::new(
            ErrorKind::Refused,
            "trust the listener: its process belongs to another user",
        ));
    }
    let mut socket = raw.into_stream();
    let HostAddr::Net {
        host, tls: true, ..
    } = address
    else {
        let session = hello::connecting(&mut socket, credentials.secret(), &[0; 32]).await;
        let session = session.map_err(|error| error.explain(Side::Connects))?;
        return Ok(Authenticated {
            stream: stream::sealed(socket, session),
            peer,
            identity: Identity::Key,
        });
    };
    let (mut stream, binding, identity) = tls::connect(credentials, host, socket).await?;
    let session = hello::connecting(&mut stream, credentials.secret(), &binding).await;
    // With TLS 1.3 the listener refuses a certificate only now. TLS encrypts, so the session is not
    // needed further.
    session.map_err(|error| error.explain_over_tls(Side::Connects))?;
    Ok(Authenticated {
        stream,
        peer,
        identity: identity.unwrap_or(Identity::Key),
    })
}

fn unreachable(text: &'static str) -> Error {
    Error::new(ErrorKind::Unreachable, text)
}
