//! `tls://`: G46.

use std::io::ErrorKind as ErrorOf;
use std::sync::Arc;
use std::time::Instant;

use brigade::ErrorKind;
use brigade::remote::{Identity, Pem};
use brigade_testkit::certificates::rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use super::authority::Authority;
use super::*;

async fn open(credentials: &Credentials) -> TestListener {
    TestListener::open("tls://127.0.0.1:0", credentials, ListenerLimits::default()).await
}

/// Refused on this side, with this text, and counted there; at once.
async fn refused(listener: &TestListener, credentials: &Credentials, kind: ErrorKind, text: &str) {
    let (before, began) = (listener.refusals.get(), Instant::now());
    let error = connect(&listener.url, credentials).await.unwrap_err();
    assert!(
        error.kind() == kind && error.to_string().contains(text),
        "{text}: {error:?}"
    );
    // A safety bound: the deadline of a handshake is 5 s, and this must not be what ends it.
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{text}: it took {:?}",
        began.elapsed()
    );
    let after = listener
        .until(|counts| counts.total() > before.total())
        .await;
    assert_eq!(
        (after.total(), after.slow),
        (before.total() + 1, 0),
        "{text}"
    );
}

#[test]
fn both_sides_know_each_other_by_name() {
    run(async {
        let authority = Authority::new();
        let mut listener = open(&authority.credentials("127.0.0.1")).await;
        assert!(listener.url.starts_with("tls://127.0.0.1:"));
        let peer = listener
            .accepts(&authority.credentials("host-7.example"))
            .await;
        assert_eq!(
            peer.identity,
            Identity::Certificate(vec!["host-7.example".to_owned()])
        );

        // By a name that is not the URL's host.
        let mut listener = open(&authority.credentials("pool.example")).await;
        let credentials = authority
            .credentials("host-8.example")
            .server_name("pool.example");
        let url = listener.url.clone();
        let ours = connect(&url, &credentials).await.unwrap();
        assert_eq!(
            ours.identity,
            Identity::Certificate(vec!["pool.example".to_owned()])
        );
        listener.next().await;
    });
}

#[test]
fn a_key_may_replace_the_certificate_or_accompany_it() {
    run(async {
        let authority = Authority::new();
        let (certificate, private) = authority.signs("127.0.0.1", |_| {});
        let credentials = Credentials::key(KEY)
            .unwrap()
            .certificate(certificate.clone(), private.clone());
        let mut listener = open(&credentials).await;
        let peer = listener.accepts(&key().authority(authority.ca())).await;
        assert_eq!(peer.identity, Identity::Key);
        let wrong = Credentials::key(OTHER_KEY)
            .unwrap()
            .authority(authority.ca());
        refused(&listener, &wrong, ErrorKind::Refused, "keys differ").await;
        assert_eq!(listener.refusals.get().keys, 1);

        let mut listener = open(&credentials.authority(authority.ca())).await;
        let both = authority.credentials("host").with_key(KEY).unwrap();
        assert!(matches!(
            listener.accepts(&both).await.identity,
            Identity::Certificate(_)
        ));
        refused(
            &listener,
            &authority.credentials("host"),
            ErrorKind::Refused,
            "uses a key",
        )
        .await;
        refused(
            &listener,
            &key().authority(authority.ca()),
            ErrorKind::Refused,
            "requires a certificate",
        )
        .await;
        assert_eq!(
            (listener.refusals.get().keys, listener.refusals.get().tls),
            (1, 1)
        );
    });
}

#[test]
fn g46_invalid_certificates_are_refused_at_once() {
    run(async {
        let (authority, other) = (Authority::new(), Authority::new());
        let mut listener = open(&authority.credentials("127.0.0.1")).await;
        let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
        let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(3001, 1, 1);

        // Of who connects.
        let of_other = Credentials::tls().authority(authority.ca());
        let (certificate, key) = other.signs("host", |_| {});
        refused(
            &listener,
            &of_other.certificate(certificate, key),
            ErrorKind::Refused,
            "not signed by",
        )
        .await;
        refused(
            &listener,
            &authority.with(authority.signs("host", expired)),
            ErrorKind::Refused,
            "expired",
        )
        .await;
        refused(
            &listener,
            &authority.with(authority.signs("host", future)),
            ErrorKind::Refused,
            "expired, or is not valid yet",
        )
        .await;
        let none = Credentials::tls()
            .authority(authority.ca())
            .with_key(KEY)
            .unwrap();
        refused(
            &listener,
            &none,
            ErrorKind::Refused,
            "requires a certificate",
        )
        .await;
        // Of who listens.
        let trusts_other = authority.signs("host", |_| {});
        let trusts_other = Credentials::tls()
            .authority(other.ca())
            .certificate(trusts_other.0, trusts_other.1);
        refused(
            &listener,
            &trusts_other,
            ErrorKind::Refused,
            "not signed by",
        )
        .await;
        let other_name = authority.credentials("host").server_name("pool.example");
        refused(&listener, &other_name, ErrorKind::Refused, "another name").await;
        assert_eq!(listener.refusals.get().tls, 6);
        listener.accepts(&authority.credentials("host")).await;
        for (change, text) in [
            (expired as fn(&mut CertificateParams), "has expired"),
            (future, "not valid yet"),
        ] {
            let listener = open(&authority.with(authority.signs("127.0.0.1", change))).await;
            refused(
                &listener,
                &authority.credentials("host"),
                ErrorKind::Refused,
                text,
            )
            .await;
        }
    });
}

/// The name that a host gives itself proves nothing; the table and the events have what it proved.
#[test]
fn a_pool_shows_as_whom_a_host_joined_and_another_cannot_take_its_session() {
    use super::frame_peer::{FramePeer, JOIN, join, packed};
    run(async {
        let authority = Authority::new();
        let pool = brigade::Pool::builder()
            .workers(0)
            .listen("tls://127.0.0.1:0", authority.credentials("127.0.0.1"));
        let pool = pool.start().await.unwrap();
        let mut events = pool.events();
        let url = pool.listening().remove(0);
        let session = join();
        let mut first = FramePeer::new(
            connect(&url, &authority.credentials("gpu-1.example"))
                .await
                .unwrap()
                .stream,
        );
        first.send(JOIN, 0, &packed(&session)).await;
        first.recv().await.unwrap();
        assert_eq!(
            pool.workers()[0].identity.as_deref(),
            Some("certificate gpu-1.example")
        );
        let joined = timeout(BOUND, events.next()).await.unwrap().unwrap();
        assert!(
            matches!(&joined, brigade::Event::HostJoined { identity, .. } if &**identity == "certificate gpu-1.example"),
            "{joined:?}"
        );
        let mut thief = FramePeer::new(
            connect(&url, &authority.credentials("gpu-2.example"))
                .await
                .unwrap()
                .stream,
        );
        thief.send(JOIN, 0, &packed(&session)).await;
        let (kind, _, body) = thief.recv().await.unwrap();
        assert!(
            kind == 81
                && String::from_utf8_lossy(&body)
                    .contains("its session is that of certificate gpu-1.example")
        );
        pool.kill().await;
    });
}

/// A certificate says who a host is; `allow_names` says who may join.
#[test]
fn a_host_whose_name_is_not_allowed_is_refused_and_counted() {
    run(async {
        let authority = Authority::new();
        let credentials = authority
            .credentials("127.0.0.1")
            .allow_names(["gpu-1.example", "*.fleet.example"]);
        let mut listener = open(&credentials).await;
        for name in ["gpu-1.example", "seven.fleet.example"] {
            assert_eq!(
                listener
                    .accepts(&authority.credentials(name))
                    .await
                    .identity,
                Identity::Certificate(vec![name.to_owned()])
            );
        }
        let error = connect(&listener.url, &authority.credentials("stranger.example"))
            .await
            .unwrap_err();
        assert!(
            error.kind() == ErrorKind::Refused
                && error.to_string().contains("allows none of the names"),
            "{error}"
        );
        listener
            .until(|counts| counts.names == 1 && counts.total() == 1)
            .await;
        let error = connect(
            &listener.url,
            &authority.credentials("host").allow_names(["127.0.0.1"]),
        )
        .await
        .unwrap_err();
        assert!(
            error.kind() == ErrorKind::BadOption && error.to_string().contains("server_name"),
            "{error}"
        );
    });
}

#[test]
fn g46_tls_1_2_and_other_protocols_are_refused() {
    run(async {
        let authority = Authority::new();
        let (certificate, private) = authority.signs("127.0.0.1", |_| {});
        let listener = open(&key().certificate(certificate, private)).await;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
            .unwrap();
        for (version, protocol) in [
            (&version::TLS12, &b"brigade-transport/1"[..]),
            (&version::TLS13, b"h2"),
        ] {
            let config =
                ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
            let config = config.with_protocol_versions(&[version]).unwrap();
            let mut config = config
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let before = listener.refusals.get().tls;
            connector
                .connect(name, listener.connect_silently().await)
                .await
                .unwrap_err();
            listener.until(|counts| counts.tls == before + 1).await;
        }
        assert_eq!(listener.refusals.get().total(), 2);
    });
}

#[test]
fn g46_plain_text_to_the_tls_port_and_tls_to_the_plain_port_are_named() {
    run(async {
        let authority = Authority::new();
        let listener = open(&authority.credentials("127.0.0.1")).await;
        let plain = listener.url.replace("tls://", "tcp://");
        let error = connect(&plain, &key()).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Unreachable && error.to_string().contains("expects TLS"),
            "{error:?}"
        );
        listener
            .until(|counts| counts.tls == 1 && counts.total() == 1)
            .await;
        let mut client = listener.connect_silently().await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let said = rest_of(&mut client).await;
        assert!(said.len() < 16, "an alert and no more: {said:?}");
        listener.until(|counts| counts.tls == 2).await;

        let mut listener = TestListener::plain().await;
        let over = listener.url.replace("tcp://", "tls://");
        let error = connect(&over, &authority.credentials("host"))
            .await
            .unwrap_err();
        assert!(
            error.kind() == ErrorKind::Unreachable && error.to_string().contains("write tcp://"),
            "{error:?}"
        );
        listener
            .until(|counts| counts.unknown_protocol == 1 && counts.total() == 1)
            .await;
        listener.accepts(&key()).await;
    });
}

#[test]
fn g45_tls_ends_at_a_changed_byte() {
    use brigade_testkit::proxy::{Faults, Proxy, Target, Way};
    run(async {
        let authority = Authority::new();
        let mut listener = open(&authority.credentials("127.0.0.1")).await;
        for faults in [
            Faults {
                flips: 1000,
                ..Faults::default()
            },
            Faults {
                duplicates: 1000,
                ..Faults::default()
            },
            Faults {
                drops: 1000,
                ..Faults::default()
            },
            Faults {
                swaps: 1000,
                ..Faults::default()
            },
        ] {
            let proxy = Proxy::start(Target::of(&listener.url).unwrap(), 7).unwrap();
            let url = format!("tls://{}", proxy.address());
            let mut ours = connect(&url, &authority.credentials("host")).await.unwrap();
            let mut theirs = listener.next().await;
            talk(&mut ours, &mut theirs).await;
            proxy.set([Way::There], &faults);
            ours.stream.write_all(b"one").await.unwrap();
            ours.stream.flush().await.unwrap();
            // Without a word: what was changed is noticed before that.
            drop(ours);
            let mut received = Vec::new();
            let end = timeout(BOUND, theirs.stream.read_to_end(&mut received))
                .await
                .unwrap();
            let kind = if faults.drops > 0 {
                ErrorOf::UnexpectedEof
            } else {
                ErrorOf::InvalidData
            };
            assert!(
                end.unwrap_err().kind() == kind && b"one".starts_with(&received[..]),
                "{faults:?}: {received:?}"
            );
        }
    });
}

#[test]
fn credentials_that_would_accept_any_host_are_refused_at_the_start() {
    run(async {
        let authority = Authority::new();
        let (certificate, private) = authority.signs("127.0.0.1", |_| {});
        let listening = async |credentials: &Credentials| {
            Listener::bind("tls://127.0.0.1:0", credentials, ListenerLimits::default())
                .await
                .err()
                .unwrap()
                .to_string()
        };
        assert!(listening(&key()).await.contains("without a certificate"));
        let alone = Credentials::tls().certificate(certificate.clone(), private.clone());
        assert!(listening(&alone).await.contains("without authentication"));
        assert!(
            connect("tls://127.0.0.1:1", &alone)
                .await
                .unwrap_err()
                .to_string()
                .contains("any listener")
        );
        let error = connect(
            "tls://127.0.0.1:1",
            &Credentials::tls().authority(authority.ca()),
        )
        .await
        .unwrap_err();
        assert!(
            error.kind() == ErrorKind::BadOption
                && error.to_string().contains("without authentication"),
            "{error}"
        );
        let mixed = key().certificate(certificate.clone(), private.clone());
        let error = Listener::bind("tcp://127.0.0.1:0", &mixed, ListenerLimits::default())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("write tls://"), "{error}");
        // What is no certificate, no key, or no pair, and a secret that everybody may read.
        let wrong = [
            authority.with((private.clone(), private.clone())),
            authority.with((certificate.clone(), certificate.clone())),
            authority.with((certificate.clone(), authority.signs("x", |_| {}).1)),
            authority.with((Pem::file("nowhere.pem"), private.clone())),
        ];
        for credentials in wrong {
            let said = format!("{} {credentials:?}", listening(&credentials).await);
            assert!(!said.contains("BEGIN"), "{said}");
        }
    });
}

#[test]
fn certificates_come_from_files_too() {
    use std::os::unix::fs::PermissionsExt as _;
    run(async {
        let authority = Authority::new();
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let private = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("ca.pem"), &authority.pem).unwrap();
        std::fs::write(
            path("cert.pem"),
            params.signed_by(&private, &authority.issuer).unwrap().pem(),
        )
        .unwrap();
        std::fs::write(path("key.pem"), private.serialize_pem()).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(path("key.pem"), std::fs::Permissions::from_mode(mode))
                .unwrap()
        };
        let (certificate, key) = (Pem::file(path("cert.pem")), Pem::file(path("key.pem")));
        let credentials = Credentials::tls()
            .authority(Pem::file(path("ca.pem")))
            .certificate(certificate, key);
        mode(0o644);
        let error = Listener::bind("tls://127.0.0.1:0", &credentials, ListenerLimits::default())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        mode(0o660);
        let error = Listener::bind("tls://127.0.0.1:0", &credentials, ListenerLimits::default())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("a group may use"), "{error}");
        mode(0o600);
        let mut listener = open(&credentials).await;
        listener.accepts(&authority.credentials("host")).await;
    });
}
