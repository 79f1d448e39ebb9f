//! `rediss://`.

use std::fs;
use std::path::Path;

use brigade::ErrorKind;
use brigade_testkit::places::free_port;
use brigade_testkit::redis::Redis;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{refused, run, works};

/// A directory with an authority and two certificates of it, one for the name `localhost` only.
fn certificates() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs::write(directory.path().join(name), text).unwrap();
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "an authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write("ca.pem", authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    for (name, subject) in [("server", "localhost"), ("client", "worker")] {
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec![subject.to_owned()]).unwrap();
        certificate.distinguished_name.push(DnType::CommonName, name);
        write(&format!("{name}.pem"), certificate.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    directory
}

/// A server that speaks TLS on a port, and plainly only on its socket.
fn server(port: u16, directory: &Path, clients: &str) -> Redis {
    let file = |name: &str| directory.join(name).display().to_string();
    let (port, certificate, key, authority) = (port.to_string(), file("server.pem"), file("server.key"), file("ca.pem"));
    let certificate = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &authority];
    Redis::start(&[&["--tls-port", &port, "--tls-auth-clients", clients][..], &certificate].concat()).unwrap()
}

#[test]
fn the_server_is_verified() {
    run(async {
        let (ours, theirs, port) = (certificates(), certificates(), free_port());
        let _server = server(port, ours.path(), "no");
        let (ca, other) = (ours.path().join("ca.pem"), theirs.path().join("ca.pem"));
        works(&format!("rediss://localhost:{port}?ca={}", ca.display())).await;
        works(&format!("rediss://127.0.0.1:{port}?insecure")).await;

        let (kind, text) = refused(&format!("rediss://localhost:{port}?ca={}", other.display())).await;
        assert!(kind == ErrorKind::Refused && text.contains("?ca="), "{text}");
        let (kind, text) = refused(&format!("rediss://127.0.0.1:{port}?ca={}", ca.display())).await;
        assert!(kind == ErrorKind::Refused && text.contains("another name"), "{text}");
    });
}

#[test]
fn the_server_may_want_a_certificate_of_this_side() {
    run(async {
        let (directory, port) = (certificates(), free_port());
        let _server = server(port, directory.path(), "yes");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let ca = path("ca.pem");
        works(&format!("rediss://localhost:{port}?ca={ca}&cert={}&key={}", path("client.pem"), path("client.key"))).await;

        let (kind, text) = refused(&format!("rediss://localhost:{port}?ca={ca}")).await;
        assert!(kind == ErrorKind::Refused && text.contains("?cert="), "{text}");
        let (kind, text) = refused(&format!("rediss://localhost:{port}?ca={ca}&cert={ca}&key={ca}")).await;
        assert!(kind == ErrorKind::BadOption && text.contains("the key"), "{text}");
        let (kind, text) = refused(&format!("rediss://localhost:{port}?ca={}", path("client.key"))).await;
        assert!(kind == ErrorKind::BadOption && text.contains("has none"), "{text}");
        let (kind, text) = refused(&format!("rediss://localhost:{port}?ca={}", path("nowhere.pem"))).await;
        assert!(kind == ErrorKind::BadOption && text.contains("nowhere.pem"), "{text}");
    });
}

#[test]
fn one_side_speaks_tls_and_the_other_does_not() {
    run(async {
        let (directory, port, plain) = (certificates(), free_port(), free_port());
        let _server = server(port, directory.path(), "no");
        let (_, text) = refused(&format!("redis://localhost:{port}")).await;
        assert!(text.contains("write rediss://"), "{text}");
        let _plain = brigade_testkit::places::start_at(plain, &[]).unwrap();
        let (_, text) = refused(&format!("rediss://localhost:{plain}?insecure")).await;
        assert!(text.contains("write redis://"), "{text}");
    });
}
