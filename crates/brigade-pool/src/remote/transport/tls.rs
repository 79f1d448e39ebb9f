//! TLS 1.3 over the socket, with a provider of its own: nothing is installed for the whole process.
//!
//! Certificates are read when a listener starts and at each connect. There are no tickets, so no
//! session is resumed and nothing can be replayed. Only the authority of the credentials is
//! trusted, never those of the system. A listener sends a refused peer an alert and gives it a
//! moment to read that (`ALERT_TIMEOUT`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, CommonState, RootCertStore,
    ServerConfig,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use webpki::EndEntityCert;

use super::authenticated::TransportStream;
use super::credentials::Credentials;
use super::opening::{Binding, Side};
use super::peer::Identity;
use super::pem::Pem;
use crate::error::{Error, ErrorKind};

/// Keeps TLS clients of other programs out of ours, and ours out of other servers (ALPN).
const PROTOCOL: &[u8] = b"brigade-transport/1";
const EXPORTER: &[u8] = b"EXPORTER-brigade-transport";
/// A peer that was refused may read the alert before the connection is closed, and may still send a
/// little.
const ALERT_TIMEOUT: Duration = Duration::from_millis(500);
const ALERT_BYTES: u64 = 64 << 10;

/// A connection with TLS, what binds a handshake to it, and the certificate that the peer showed.
pub(super) type TlsConnection = (Box<dyn TransportStream>, Binding, Option<Identity>);

/// The listening side.
pub(super) struct TlsListener(TlsAcceptor);

impl TlsListener {
    /// Reads the certificates.
    pub(super) fn new(credentials: &Credentials) -> Result<Self, Error> {
        let provider = provider();
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13]);
        let config = config.map_err(|error| bad("set up TLS", error))?;
        let config = match credentials.trusted() {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(authorities(authority)?),
                    provider,
                );
                config.with_client_cert_verifier(
                    verifier
                        .build()
                        .map_err(|error| bad("use the authority", error))?,
                )
            }
        };
        let Some((certificate, key)) = credentials.identity() else {
            return Err(Error::new(
                ErrorKind::BadOption,
                "listen with TLS without a certificate: give one with `Credentials::certificate`",
            ));
        };
        let config = config.with_single_cert(chain(certificate)?, private_key(key)?);
        let mut config = config.map_err(|error| bad("use the certificate and its key", error))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept(
        &self,
        socket: Box<dyn TransportStream>,
    ) -> Result<TlsConnection, Error> {
        match self.0.accept(socket).into_fallible().await {
            Ok(stream) => {
                let state = stream.get_ref().1;
                let binding =
                    binding(|output| state.export_keying_material(output, EXPORTER, None))?;
                let identity = identity(state);
                Ok((Box::new(stream), binding, identity))
            }
            Err((error, socket)) => {
                // It does not matter how far that came.
                timeout(ALERT_TIMEOUT, let_it_read(socket)).await.ok();
                Err(explain(error, Side::Listens))
            }
        }
    }
}

/// The connecting side.
pub(super) async fn connect(
    credentials: &Credentials,
    host: &str,
    socket: Box<dyn TransportStream>,
) -> Result<TlsConnection, Error> {
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let config = config.map_err(|error| bad("set up TLS", error))?;
    let Some(authority) = credentials.trusted() else {
        return Err(Error::new(
            ErrorKind::BadOption,
            "connect with TLS without the authority that signed the listener's certificate",
        ));
    };
    let config = config.with_root_certificates(authorities(authority)?);
    let mut config = match credentials.identity() {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let config = config.with_client_auth_cert(chain(certificate)?, private_key(key)?);
            config.map_err(|error| bad("use the certificate and its key", error))?
        }
    };
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    let name = credentials.expected_name().unwrap_or(host).to_owned();
    let name =
        ServerName::try_from(name).map_err(|error| bad("expect a server of that name", error))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await;
    let stream = stream.map_err(|error| explain(error, Side::Connects))?;
    let state = stream.get_ref().1;
    let binding = binding(|output| state.export_keying_material(output, EXPORTER, None))?;
    let identity = identity(state);
    Ok((Box::new(stream), binding, identity))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn binding(
    export: impl FnOnce(Binding) -> Result<Binding, rustls::Error>,
) -> Result<Binding, Error> {
    export([0; 32]).map_err(|error| {
        Error::new(ErrorKind::Protocol, "bind the handshake to TLS").with_source(error)
    })
}

/// Names in the peer's certificate, which TLS has verified.
fn identity(state: &CommonState) -> Option<Identity> {
    let certificate = state.peer_certificates()?.first()?;
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    Some(Identity::Certificate(
        certificate.valid_dns_names().map(str::to_owned).collect(),
    ))
}

/// Ends our side and throws away what still comes: closing a socket with unread bytes would take
/// the alert from the peer.
async fn let_it_read(mut socket: Box<dyn TransportStream>) -> io::Result<()> {
    socket.shutdown().await?;
    tokio::io::copy(&mut socket.take(ALERT_BYTES), &mut tokio::io::sink())
        .await
        .map(drop)
}

/// What a person can do about a handshake that failed. With TLS 1.3 a listener refuses a
/// certificate only after the handshake, so this also explains errors after it.
pub(super) fn explain(error: io::Error, side: Side) -> Error {
    let (peer, kind, text) = match (
        side,
        error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>()),
    ) {
        (Side::Connects, found) => {
            let (kind, text) = found.map_or(
                (
                    ErrorKind::Unreachable,
                    "it ended the connection; if it speaks no TLS, write tcp://",
                ),
                hint,
            );
            ("the listener", kind, text)
        }
        (Side::Listens, found) => {
            let (kind, text) =
                found.map_or((ErrorKind::Unreachable, "it ended the connection"), hint);
            ("the peer", kind, text)
        }
    };
    Error::new(kind, format!("shake hands with {peer} over TLS: {text}")).with_source(error)
}

fn hint(error: &rustls::Error) -> (ErrorKind, &'static str) {
    match error {
        rustls::Error::InvalidMessage(_) => (
            ErrorKind::Protocol,
            "it does not speak TLS there; write tls:// on both sides, or tcp:// on both",
        ),
        rustls::Error::PeerIncompatible(_) => (ErrorKind::Protocol, "it does not speak TLS 1.3"),
        rustls::Error::NoCertificatesPresented => (ErrorKind::Refused, "it has no certificate"),
        rustls::Error::NoApplicationProtocol => (ErrorKind::Protocol, "it is not Brigade"),
        rustls::Error::InvalidCertificate(what) => (ErrorKind::Refused, of_certificate(what)),
        rustls::Error::AlertReceived(what) => (ErrorKind::Refused, of_alert(*what)),
        _ => (ErrorKind::Refused, "the handshake failed"),
    }
}

fn of_certificate(what: &CertificateError) -> &'static str {
    match what {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by the authority of these credentials"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; check the clocks of both hosts"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name; connect by that name, or name it with \
                `server_name`"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is for another purpose"
        }
        _ => "its certificate is not valid",
    }
}

fn of_alert(what: AlertDescription) -> &'static str {
    match what {
        AlertDescription::CertificateRequired => "it requires a certificate of this side",
        // The second, if its authority has the name of ours and another key.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "this side's certificate is not signed by its authority"
        }
        AlertDescription::CertificateExpired => {
            "this side's certificate has expired, or is not valid yet"
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not accept this side's certificate"
        }
        AlertDescription::ProtocolVersion => "it requires another version of TLS",
        AlertDescription::NoApplicationProtocol => "it is not Brigade",
        _ => "it refused",
    }
}

fn bad(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::BadOption, what).with_source(source)
}

fn chain(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = pem.read()?;
    let what = format!("read the certificates of {pem}");
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(&what, error))?;
    if certificates.is_empty() {
        return Err(Error::new(
            ErrorKind::BadOption,
            format!("{what}: it has none; it must be in the PEM format"),
        ));
    }
    Ok(certificates)
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, Error> {
    // Its errors say what was expected, never what was there.
    PrivateKeyDer::from_pem_slice(&pem.read_secret()?)
        .map_err(|error| bad(&format!("read the private key of {pem}"), error))
}

fn authorities(pem: &Pem) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in chain(pem)? {
        store
            .add(certificate)
            .map_err(|error| bad(&format!("trust the certificates of {pem}"), error))?;
    }
    Ok(store)
}
