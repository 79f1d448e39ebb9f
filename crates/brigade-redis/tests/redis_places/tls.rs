//! `rediss://`.

use brigade::ErrorKind;
use brigade_testkit::certificates::Certificates;
use brigade_testkit::places::free_port;
use brigade_testkit::redis::Redis;

use super::{refused, run, works};

/// A server that speaks TLS on a port, and plainly only on its socket.
fn server(port: u16, files: &Certificates, clients: &str) -> Redis {
    let (port, certificate, key, authority) = (
        port.to_string(),
        files.file("server.pem"),
        files.file("server.key"),
        files.file("ca.pem"),
    );
    let certificate = [
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
    ];
    Redis::start(
        &[
            &["--tls-port", &port, "--tls-auth-clients", clients][..],
            &certificate,
        ]
        .concat(),
    )
    .unwrap()
}

#[test]
fn the_server_is_verified() {
    run(async {
        let (ours, theirs, port) = (
            Certificates::new().unwrap(),
            Certificates::new().unwrap(),
            free_port(),
        );
        let _server = server(port, &ours, "no");
        let (ca, other) = (ours.file("ca.pem"), theirs.file("ca.pem"));
        works(&format!("rediss://localhost:{port}?ca={ca}")).await;
        works(&format!(
            "rediss://127.0.0.1:{port}?ca={ca}&server_name=localhost"
        ))
        .await;
        works(&format!("rediss://127.0.0.1:{port}?insecure")).await;

        let (kind, text) = refused(&format!("rediss://localhost:{port}?ca={other}")).await;
        assert!(
            kind == ErrorKind::Refused && text.contains("?ca="),
            "{text}"
        );
        let (kind, text) = refused(&format!("rediss://127.0.0.1:{port}?ca={ca}")).await;
        assert!(
            kind == ErrorKind::Refused && text.contains("another name"),
            "{text}"
        );
    });
}

#[test]
fn the_server_may_want_a_certificate_of_this_side() {
    run(async {
        let (files, port) = (Certificates::new().unwrap(), free_port());
        let _server = server(port, &files, "yes");
        let path = |name: &str| files.file(name);
        let ca = path("ca.pem");
        works(&format!(
            "rediss://localhost:{port}?ca={ca}&cert={}&key={}",
            path("client.pem"),
            path("client.key")
        ))
        .await;

        let (kind, text) = refused(&format!("rediss://localhost:{port}?ca={ca}")).await;
        assert!(
            kind == ErrorKind::Refused && text.contains("?cert="),
            "{text}"
        );
        let (kind, text) = refused(&format!(
            "rediss://localhost:{port}?ca={ca}&cert={ca}&key={ca}"
        ))
        .await;
        assert!(
            kind == ErrorKind::BadOption && text.contains("the key"),
            "{text}"
        );
        let (kind, text) = refused(&format!(
            "rediss://localhost:{port}?ca={}",
            path("client.key")
        ))
        .await;
        assert!(
            kind == ErrorKind::BadOption && text.contains("has none"),
            "{text}"
        );
        let (kind, text) = refused(&format!(
            "rediss://localhost:{port}?ca={}",
            path("nowhere.pem")
        ))
        .await;
        assert!(
            kind == ErrorKind::BadOption && text.contains("nowhere.pem"),
            "{text}"
        );
    });
}

#[test]
fn one_side_speaks_tls_and_the_other_does_not() {
    run(async {
        let (files, port, plain) = (Certificates::new().unwrap(), free_port(), free_port());
        let _server = server(port, &files, "no");
        let (_, text) = refused(&format!("redis://localhost:{port}")).await;
        assert!(text.contains("write rediss://"), "{text}");
        let _plain = brigade_testkit::places::start_at(plain, &[]).unwrap();
        let (_, text) = refused(&format!("rediss://localhost:{plain}?insecure")).await;
        assert!(text.contains("write redis://"), "{text}");
    });
}
