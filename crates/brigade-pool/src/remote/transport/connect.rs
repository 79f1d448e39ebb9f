//! Connecting to a listener: the socket, TLS where the URL asks for it, then the handshake.

use std::time::Duration;

use tokio::time::timeout;

use super::authenticated::Authenticated;
use super::credentials::Credentials;
use super::hello::{self, HANDSHAKE_TIMEOUT};
use super::host_addr::HostAddr;
use super::opening::Side;
use super::peer::Identity;
use super::socket::{self, Raw};
use super::{stream, tls};
use crate::error::{Error, ErrorKind};

/// For the name and the connection itself.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a listener: `tcp://host:port`, `tls://host:port` or `unix:///path`. Returns within
/// 10 seconds.
///
/// # Errors
///
/// `BadOption` for a URL or credentials that cannot be used; `Unreachable` if nobody answers there
/// or the listener is too busy; `Refused` if one side's proof does not hold, or the two sides do
/// not want the same proofs; `Protocol` if what answers is no listener or one of another version.
///
/// # Cancel safety
///
/// Dropping it closes the connection.
pub async fn connect(url: &str, credentials: &Credentials) -> Result<Authenticated, Error> {
    let place = HostAddr::parse(url)?;
    credentials.check(&place, Side::Connects)?;
    let connecting = timeout(CONNECT_TIMEOUT, socket::connect(&place)).await;
    let raw = connecting
        .unwrap_or_else(|_| Err(unreachable("connect to the listener: nobody answers")))?;
    let shaking = timeout(HANDSHAKE_TIMEOUT, greet(raw, &place, credentials)).await;
    shaking.unwrap_or_else(|_| {
        Err(unreachable(
            "greet the listener: it does not answer in time",
        ))
    })
}

async fn greet(
    raw: Raw,
    place: &HostAddr,
    credentials: &Credentials,
) -> Result<Authenticated, Error> {
    let peer = raw.peer().map_err(|error| {
        Error::new(ErrorKind::Unreachable, "connect to the listener").with_source(error)
    })?;
    if !peer.is_own_user() {
        return Err(Error::new(
            ErrorKind::Refused,
            "believe the listener: it is a process of another user",
        ));
    }
    let mut socket = raw.into_stream();
    let HostAddr::Net {
        host, tls: true, ..
    } = place
    else {
        let session = hello::connecting(&mut socket, credentials.secret(), &[0; 32]).await;
        let session = session.map_err(|gone| gone.explain(Side::Connects))?;
        return Ok(Authenticated {
            stream: stream::sealed(socket, session),
            peer,
            identity: Identity::Key,
        });
    };
    let (mut stream, binding, identity) = tls::connect(credentials, host, socket).await?;
    let session = hello::connecting(&mut stream, credentials.secret(), &binding).await;
    // With TLS 1.3 the listener tells only now that it does not accept a certificate. TLS encrypts,
    // so the session is not needed further.
    session.map_err(|gone| gone.explain_over_tls(Side::Connects))?;
    Ok(Authenticated {
        stream,
        peer,
        identity: identity.unwrap_or(Identity::Key),
    })
}

fn unreachable(text: &'static str) -> Error {
    Error::new(ErrorKind::Unreachable, text)
}
