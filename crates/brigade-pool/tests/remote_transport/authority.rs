//! A certificate authority for tests of `tls://`.

use brigade::remote::{Credentials, Pem};
use brigade_testkit::certificates::rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

/// Certificates of one authority.
pub(super) struct Authority {
    pub(super) pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = authority.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(authority, key),
        }
    }

    pub(super) fn ca(&self) -> Pem {
        Pem::text(&self.pem)
    }

    /// A certificate for a name, and its key.
    pub(super) fn signs(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Pem, Pem) {
        let mut certificate = CertificateParams::new(vec![name.to_owned()]).unwrap();
        certificate.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut certificate);
        let key = KeyPair::generate().unwrap();
        let signed = certificate.signed_by(&key, &self.issuer).unwrap();
        (Pem::text(signed.pem()), Pem::text(key.serialize_pem()))
    }

    pub(super) fn credentials(&self, name: &str) -> Credentials {
        self.with(self.signs(name, |_| {}))
    }

    pub(super) fn with(&self, (certificate, key): (Pem, Pem)) -> Credentials {
        Credentials::tls()
            .authority(self.ca())
            .certificate(certificate, key)
    }
}
