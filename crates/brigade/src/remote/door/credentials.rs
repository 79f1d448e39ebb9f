//! What a side proves itself with.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::hello::Side;
use super::pem::{self, Pem};
use super::place::Place;
use crate::error::{Error, ErrorKind};

/// A shorter key could be found by trying.
const KEY_BYTES_MIN: usize = 16;

/// What a side of a connection between hosts proves itself with: a shared key, certificates, or both.
///
/// Both sides need the same kinds. Nothing in it shows in `Debug`, logs or errors.
///
/// ```
/// use brigade::remote::{Credentials, Pem};
///
/// // A key that both sides have: for tcp:// and unix://, and beside certificates.
/// let shared = Credentials::key("4ePsiXy0uZGRaTgnVYbnFw")?;
/// assert!(!format!("{shared:?}").contains("4eP"));
///
/// // Certificates of both sides, for tls://. Whom the authority vouches for is let in.
/// let host = Credentials::tls()
///     .authority(Pem::file("/etc/brigade/ca.pem"))
///     .certificate(Pem::file("/etc/brigade/host.pem"), Pem::file("/etc/brigade/host.key"));
/// # Ok::<(), brigade::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Credentials {
    secret: Option<Arc<[u8]>>,
    identity: Option<(Pem, Pem)>,
    authority: Option<Pem>,
    server_name: Option<String>,
    is_insecure: bool,
}

impl Credentials {
    /// A key that both sides have: at least 16 bytes, of a generator of passwords. It is never sent: each side proves that it has it.
    ///
    /// # Errors
    ///
    /// `BadOption` if it is shorter.
    pub fn key(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self::default().with_key(secret)
    }

    /// A key from a file that not everybody may read. White space around it does not count.
    ///
    /// # Errors
    ///
    /// `BadOption` if everybody may read the file, if the key is shorter than 16 bytes or the file longer than 1 MiB; `Os` if it cannot be read.
    pub fn key_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::key(pem::read_secret_file(path.as_ref())?.trim_ascii())
    }

    /// Credentials for `tls://`, to be filled. A listener needs a [`certificate`](Self::certificate), and an [`authority`](Self::authority) that
    /// vouches for who connects or a [key](Self::with_key); who connects needs an authority that vouches for the listener, and a certificate or a key.
    pub fn tls() -> Self {
        Self::default()
    }

    /// Adds a key, see [`key`](Self::key): the peer must have it besides what TLS asks for.
    ///
    /// # Errors
    ///
    /// `BadOption` if it is shorter than 16 bytes.
    pub fn with_key(mut self, secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        let secret = secret.as_ref();
        if secret.len() < KEY_BYTES_MIN {
            return Err(Error::new(ErrorKind::BadOption, "use a key of fewer than 16 bytes: it could be found by trying"));
        }
        self.secret = Some(secret.into());
        Ok(self)
    }

    /// This side's certificate, with those between it and the authority behind it, and its private key. Files are read when a listener begins and
    /// at each connect; everybody's right to read a private key is refused.
    #[must_use]
    pub fn certificate(mut self, certificate: Pem, key: Pem) -> Self {
        self.identity = Some((certificate, key));
        self
    }

    /// Certificates of the authorities that vouch for the other side. With it a listener demands a certificate of who connects.
    #[must_use]
    pub fn authority(mut self, authority: Pem) -> Self {
        self.authority = Some(authority);
        self
    }

    /// The name that the listener's certificate must have. Default: the host of the URL.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Allows another host without TLS: what is said can be read on the way, and nobody gets in without the key. `?insecure` at the end of
    /// the URL is the same.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.is_insecure = true;
        self
    }

    pub(super) fn is_insecure(&self) -> bool {
        self.is_insecure
    }

    pub(super) fn secret(&self) -> Option<&[u8]> {
        self.secret.as_deref()
    }

    #[cfg_attr(not(feature = "remote-tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn identity(&self) -> Option<(&Pem, &Pem)> {
        self.identity.as_ref().map(|(certificate, key)| (certificate, key))
    }

    #[cfg_attr(not(feature = "remote-tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn trusted(&self) -> Option<&Pem> {
        self.authority.as_ref()
    }

    #[cfg_attr(not(feature = "remote-tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn expected_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Whether they are enough for this place: nobody listens without a proof of who comes, nor connects without one of who listens.
    pub(super) fn check(&self, place: &Place, side: Side) -> Result<(), Error> {
        let has_certificates = self.identity.is_some() || self.authority.is_some() || self.server_name.is_some();
        let missing = match (place.is_tls(), side) {
            (false, _) if has_certificates => "use certificates without TLS: write tls://",
            (false, _) if self.secret.is_none() => "go without a key: give one with `Credentials::key`",
            (true, Side::Listens) if self.identity.is_none() => "listen with TLS without a certificate",
            (true, Side::Listens) if self.authority.is_none() && self.secret.is_none() => {
                "let in anybody: give an authority that vouches for who connects, or a key"
            }
            (true, Side::Connects) if self.authority.is_none() => "believe anybody: give an authority that vouches for the listener",
            (true, Side::Connects) if self.identity.is_none() && self.secret.is_none() => {
                "connect without a proof: give a certificate, or a key"
            }
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::BadOption, missing))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.secret.as_ref().map(|_| format_args!("***"));
        f.debug_struct("Credentials")
            .field("key", &secret)
            .field("certificate", &self.identity.as_ref().map(|(certificate, _)| certificate))
            .field("authority", &self.authority)
            .field("server_name", &self.server_name)
            .field("insecure", &self.is_insecure)
            .finish()
    }
}
