//! TLS to brokers, with a provider of its own: nothing is installed for the whole process.
//!
//! A [`Tls`] belongs to the settings of one broker connection; clones share its configuration. All
//! certificates and keys are read once, when it is made, and not again for new connections.
//!
//! Invariants: a server is verified against the given authority, or those of the system, and
//! against the host of the URL or the given name. Only `?insecure` turns that off, for this
//! connection alone.
//!
//! It opens no sockets. [`hint`] turns a failed handshake into a text on what to do about it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use brigade_core::error::{Error, ErrorKind};
use brigade_core::store::url::TlsOptions;

#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    /// The name that the server's certificate must have, if it is not the host of the URL.
    server_name: Option<Box<str>>,
}

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    ///
    /// `BadOption` for files that are not what they should be, `Os` where the system has no
    /// certificates.
    pub fn new(options: &TlsOptions) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions();
        let config = config.map_err(|e| bad("set up TLS", e))?;
        let config = if options.insecure {
            config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else {
            config.with_root_certificates(match &options.ca {
                Some(path) => authorities_of(path)?,
                None => authorities_of_the_system()?,
            })
        };
        let config = match &options.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates_of(certificate)?;
                let text = read(key)?;
                let key_der = PrivateKeyDer::from_pem_slice(&text)
                    .map_err(|e| bad(&format!("read the key {}", key.display()), e))?;
                config
                    .with_client_auth_cert(chain, key_der)
                    .map_err(|e| bad("use the certificate and the key of the URL", e))?
            }
        };
        let server_name = options.server_name.as_deref().map(Into::into);
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            server_name,
        })
    }

    pub async fn wrap(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        self.connector.connect(name, stream).await
    }
}

/// What a person can do about a handshake that failed; `plain`: if the server speaks no TLS.
pub fn hint(error: &io::Error, plain: &'static str) -> Option<(ErrorKind, &'static str)> {
    use rustls::CertificateError as Wrong;
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidMessage(_) => (ErrorKind::BadOption, plain),
        rustls::Error::InvalidCertificate(Wrong::UnknownIssuer | Wrong::BadSignature) => (
            ErrorKind::Refused,
            "no trusted authority signed the server's certificate; name its authority with \
                ?ca=file.pem",
        ),
        rustls::Error::InvalidCertificate(
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. },
        ) => {
            let hint = "the server's certificate is for another name; write the host as the \
                certificate has it, or ?server_name=..";
            (ErrorKind::Refused, hint)
        }
        rustls::Error::InvalidCertificate(Wrong::Expired | Wrong::ExpiredContext { .. }) => (
            ErrorKind::Refused,
            "the server's certificate has expired, or the clock of this host is wrong; give the \
                server a new one",
        ),
        rustls::Error::InvalidCertificate(
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. },
        ) => (
            ErrorKind::Refused,
            "the server's certificate is not valid yet, or the clock of this host is wrong",
        ),
        rustls::Error::InvalidCertificate(_) => {
            (ErrorKind::Refused, "the server's certificate is not valid")
        }
        rustls::Error::AlertReceived(_) => (
            ErrorKind::Refused,
            "the server refused the handshake; it may want a certificate of this side: \
                ?cert=file.pem&key=file.pem",
        ),
        _ => (ErrorKind::Refused, "the TLS handshake failed"),
    })
}

fn bad(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::BadOption, what).with_source(source)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| {
        Error::new(ErrorKind::BadOption, format!("read {}", path.display())).with_source(e)
    })
}

fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let what = format!("read the certificates of {}", path.display());
    let text = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| bad(&what, e))?;
    if certificates.is_empty() {
        return Err(Error::new(
            ErrorKind::BadOption,
            format!("{what}: it has none; it must be a PEM file"),
        ));
    }
    Ok(certificates)
}

fn authorities_of(path: &Path) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates_of(path)? {
        store.add(certificate).map_err(|e| {
            bad(
                &format!("believe the certificates of {}", path.display()),
                e,
            )
        })?;
    }
    Ok(store)
}

fn authorities_of_the_system() -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    // Systems have odd ones among theirs, which other programs leave out as well.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        let text = "find certificates of authorities: this system has none; install \
            ca-certificates, or name a file with ?ca=file.pem";
        return Err(Error::new(ErrorKind::Os, text));
    }
    Ok(store)
}

/// Believes any certificate: `?insecure`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
