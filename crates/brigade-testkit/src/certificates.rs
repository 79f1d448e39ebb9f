//! Certificates of a test's own, in a directory that goes with it.

use std::fs;
use std::io;
use std::path::Path;

pub use rcgen;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// An authority (`ca.pem`) and what it vouches for: `server` for the name `localhost` alone,
/// `client`.
pub struct Certificates {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// Makes them.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn new() -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("brigade-certificates-")
            .tempdir()?;
        let mut authority = CertificateParams::default();
        authority
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = authority.self_signed(&key).map_err(io::Error::other)?;
        fs::write(directory.path().join("ca.pem"), certificate.pem())?;
        let this = Self {
            directory,
            issuer: Issuer::new(authority, key),
        };
        this.vouch("server", "localhost")?;
        this.vouch("client", "worker")?;
        Ok(this)
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// One of the files, as text.
    pub fn file(&self, name: &str) -> String {
        self.directory().join(name).display().to_string()
    }

    /// Writes a certificate for a host's name, `name.pem`, and its key, `name.key`.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn vouch(&self, name: &str, host: &str) -> io::Result<()> {
        self.write(name, host, |_| {})
    }

    /// The same, expired long ago.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn vouch_expired(&self, name: &str, host: &str) -> io::Result<()> {
        self.write(name, host, |certificate| {
            certificate.not_before = date_time_ymd(2001, 1, 1);
            certificate.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    fn write(
        &self,
        name: &str,
        host: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> io::Result<()> {
        let mut certificate =
            CertificateParams::new(vec![host.to_owned()]).map_err(io::Error::other)?;
        certificate
            .distinguished_name
            .push(DnType::CommonName, name);
        change(&mut certificate);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let signed = certificate
            .signed_by(&key, &self.issuer)
            .map_err(io::Error::other)?;
        fs::write(self.directory().join(format!("{name}.pem")), signed.pem())?;
        fs::write(
            self.directory().join(format!("{name}.key")),
            key.serialize_pem(),
        )
    }
}
