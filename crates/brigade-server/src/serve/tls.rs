//! [`ServerTls`]: the certificate of a server, which may change while it runs.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// The certificate and the key of a server. All clones share them, so a program can replace them in
/// a server that runs.
#[derive(Clone)]
pub struct ServerTls(Arc<RwLock<TlsAcceptor>>);

impl ServerTls {
    /// Reads a certificate chain and its key, both PEM.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with the file and what is wrong with it.
    pub fn read(certificate: &Path, key: &Path) -> io::Result<Self> {
        let wrong = |path: &Path, what: &str, error: &dyn fmt::Display| {
            let text = format!("{} has no {what} in PEM form: {error}", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(certificate, "certificate", &error))?;
        if chain.is_empty() {
            return Err(wrong(certificate, "certificate", &"it has none"));
        }
        let private =
            PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, "private key", &error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| {
                let text = format!(
                    "the key {} is not of the certificate: {error}",
                    key.display()
                );
                io::Error::new(io::ErrorKind::InvalidInput, text)
            })?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self(Arc::new(RwLock::new(acceptor))))
    }

    /// Uses the certificate and the key of `new` for all connections that begin from now on, in
    /// this and all its clones. Open connections continue with the certificate that they began
    /// with.
    pub fn replace(&self, new: &Self) {
        // Of two values that are replaced by each other at once, neither waits for the other.
        let new = new.acceptor();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor().accept(stream).await
    }

    fn acceptor(&self) -> TlsAcceptor {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}
