//! What a side authenticates with: a shared key, certificates, or both.
//!
//! [`Credentials`] are values that a listener or a connecting host is given and keeps. A key is
//! read and parsed when it is set, certificate files when they are used.
//!
//! Invariants: nothing secret shows in `Debug`, logs or errors. `check` refuses credentials with
//! which the two sides could not authenticate each other at an address, before anything is opened.
//! Names of certificates are compared without regard to case, and a star stands for exactly one
//! label.
//!
//! The handshake itself is in `hello` (keys) and `tls` (certificates).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::host_addr::HostAddr;
use super::key::{self, Key};
use super::opening::Side;
use super::pem::{self, Pem};
use crate::error::{Error, ErrorKind};

/// What a side of a connection between hosts authenticates with: a shared key, certificates, or
/// both.
///
/// Both sides need the same kinds. Nothing in it shows in `Debug`, logs or errors.
///
/// ```
/// use brigade::remote::{Credentials, Pem};
///
/// // A generated key that both sides have: for tcp:// and unix://, and together with certificates.
/// let key = brigade::remote::generate_key()?;
/// let shared = Credentials::key(&key)?;
/// assert!(!format!("{shared:?}").contains(&key[12..]));
///
/// // Certificates of both sides, for tls://. Hosts with a certificate of this authority may connect.
/// let host = Credentials::tls()
///     .authority(Pem::file("/etc/brigade/ca.pem"))
///     .certificate(Pem::file("/etc/brigade/host.pem"), Pem::file("/etc/brigade/host.key"));
/// # Ok::<(), brigade::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Credentials {
    secret: Option<Key>,
    identity: Option<(Pem, Pem)>,
    authority: Option<Pem>,
    server_name: Option<String>,
    names: Option<Arc<[String]>>,
}

impl Credentials {
    /// A key that both sides have, made by [`generate_key`](super::generate_key) or `brigade key`.
    /// It is never sent: each side proves that it has it.
    ///
    /// # Errors
    ///
    /// `BadOption` for any other text: a password could be guessed.
    pub fn key(secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self::default().with_key(secret)
    }

    /// A key from a file. White space around it does not count.
    ///
    /// # Errors
    ///
    /// `BadOption` if the file is another user's, if others may read or change it, or if it holds
    /// no generated key; `Os` if it cannot be read.
    pub fn key_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::key(pem::read_secret_file(path.as_ref())?.trim_ascii())
    }

    /// Credentials for `tls://`, to be filled. A listener needs a
    /// [`certificate`](Self::certificate), and an [`authority`](Self::authority) that vouches for
    /// who connects or a [key](Self::with_key); who connects needs an authority that vouches for
    /// the listener, and a certificate or a key.
    pub fn tls() -> Self {
        Self::default()
    }

    /// Adds a key, see [`key`](Self::key): the peer must have it besides what TLS asks for.
    ///
    /// # Errors
    ///
    /// `BadOption` if it is no generated key.
    pub fn with_key(mut self, secret: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.secret = Some(key::parse(secret.as_ref())?);
        Ok(self)
    }

    /// This side's certificate, with those between it and the authority behind it, and its private
    /// key. Files are read when a listener begins and at each connect; everybody's right to read a
    /// private key is refused.
    #[must_use]
    pub fn certificate(mut self, certificate: Pem, key: Pem) -> Self {
        self.identity = Some((certificate, key));
        self
    }

    /// Certificates of the authorities that vouch for the other side. With it a listener demands a
    /// certificate of who connects.
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

    /// Lets in only hosts whose certificate has one of these DNS names; `*.example.org` stands for
    /// one label in its place. Default: every certificate that the authority vouches for. For
    /// listeners with an [`authority`](Self::authority).
    #[must_use]
    pub fn allow_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = Some(
            names
                .into_iter()
                .map(|name| name.into().to_ascii_lowercase())
                .collect(),
        );
        self
    }

    pub(super) fn secret(&self) -> Option<&Key> {
        self.secret.as_ref()
    }

    /// Whether a certificate with these names may join.
    pub(super) fn allows(&self, theirs: &[String]) -> bool {
        let Some(allowed) = &self.names else {
            return true;
        };
        theirs.iter().any(|name| {
            allowed
                .iter()
                .any(|allowed| is_name(allowed, &name.to_ascii_lowercase()))
        })
    }

    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn identity(&self) -> Option<(&Pem, &Pem)> {
        self.identity
            .as_ref()
            .map(|(certificate, key)| (certificate, key))
    }

    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn trusted(&self) -> Option<&Pem> {
        self.authority.as_ref()
    }

    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "of TLS"))]
    pub(super) fn expected_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Checks that both sides can authenticate with them at this address.
    ///
    /// # Errors
    ///
    /// `BadOption` with what is missing.
    pub(super) fn check(&self, place: &HostAddr, side: Side) -> Result<(), Error> {
        let has_certificates =
            self.identity.is_some() || self.authority.is_some() || self.server_name.is_some();
        let missing = match (place.is_tls(), side) {
            (_, Side::Connects) if self.names.is_some() => {
                "allow names when connecting: set the name of the listener with `server_name`"
            }
            (_, Side::Listens) if self.names.is_some() && self.authority.is_none() => {
                "allow names without an authority: give the one that signs those certificates"
            }
            (false, _) if has_certificates => "use certificates without TLS: write tls://",
            (false, _) if self.secret.is_none() => {
                "go without a key: give one with `Credentials::key`"
            }
            (true, Side::Listens) if self.identity.is_none() => {
                "listen with TLS without a certificate: give one with `Credentials::certificate`"
            }
            (true, Side::Listens) if self.authority.is_none() && self.secret.is_none() => {
                "listen without authentication of hosts: give an authority that signs the certificates of hosts, or a key"
            }
            (true, Side::Connects) if self.authority.is_none() => {
                "connect to any listener: give the authority that signed its certificate"
            }
            (true, Side::Connects) if self.identity.is_none() && self.secret.is_none() => {
                "connect without authentication: give a certificate, or a key"
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
            .field(
                "certificate",
                &self.identity.as_ref().map(|(certificate, _)| certificate),
            )
            .field("authority", &self.authority)
            .field("server_name", &self.server_name)
            .field("names", &self.names)
            .finish()
    }
}

/// Whether a name is the allowed one, or one label in the place of its star.
fn is_name(allowed: &str, name: &str) -> bool {
    match allowed.strip_prefix("*.") {
        Some(rest) => name
            .split_once('.')
            .is_some_and(|(label, parent)| !label.is_empty() && parent == rest),
        None => allowed == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        let credentials =
            Credentials::tls().allow_names(["gpu-1.example.org", "*.Fleet.example.org"]);
        for (names, is_allowed) in [
            (&["gpu-1.example.org"][..], true),
            (&["other.example.org", "GPU-1.example.org"], true),
            (&["a.fleet.example.org"], true),
            (&["a.b.fleet.example.org"], false),
            (&["fleet.example.org", ".fleet.example.org"], false),
            (&["evil-gpu-1.example.org"], false),
            (&[], false),
        ] {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(credentials.allows(&names), is_allowed, "{names:?}");
        }
        assert!(Credentials::tls().allows(&[]));
    }
}
