//! Peers that do not know the handshake, or not the key.

use brigade::ErrorKind;
use brigade_testkit::random::Random;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::*;

/// Bytes of an opening, and of a message of the pattern behind it.
const OPENING_BYTES: usize = 8;
const MESSAGE_BYTES: usize = 48;

/// An opening, and a first message without the key.
fn hello(version: u8, flags: u8, side: u8) -> Vec<u8> {
    [
        &b"BRGD"[..],
        &[version, 0, flags, side],
        &[0x5a; MESSAGE_BYTES],
    ]
    .concat()
}

#[test]
fn peers_of_other_protocols_get_no_answer_and_are_counted() {
    run(async {
        let mut listener = TestListener::plain().await;
        let mut random = Random::from_env();
        let noise: Vec<u8> = (0..4096).map(|_| random.draw().to_le_bytes()[0]).collect();
        let openings: [(&str, Vec<u8>); 7] = [
            (
                "an HTTP client",
                b"GET / HTTP/1.1\r\nHost: pool\r\n\r\n".to_vec(),
            ),
            (
                "TLS",
                [
                    &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
                    &[7; 500],
                ]
                .concat(),
            ),
            ("random bytes", noise),
            ("a listener", hello(2, 1, 1)),
            (
                "a frame over the limit",
                [&[0xff; 4][..], &[1, 0, 0, 0], &[0; 8]].concat(),
            ),
            ("a million zeros", vec![0; 1 << 20]),
            (
                "a call without a handshake",
                [&[5, 0, 0, 0, 1, 0, 0, 0][..], &[0; 8], b"hello"].concat(),
            ),
        ];
        for (index, (what, opening)) in openings.iter().enumerate() {
            let mut client = listener.connect_silently().await;
            // It may be gone before all is written.
            client.write_all(opening).await.ok();
            assert_eq!(rest_of(&mut client).await, b"", "{what}");
            let counts = listener.until(|counts| counts.total() > index as u64).await;
            assert_eq!(counts.unknown_protocol, index as u64 + 1, "{what}");
        }
        listener.accepts(&key()).await;
    });
}

#[test]
fn a_port_scanner_is_counted() {
    run(async {
        let listener = TestListener::plain().await;
        for _ in 0..10 {
            drop(listener.connect_silently().await);
        }
        listener
            .until(|counts| counts.left == 10 && counts.total() == 10)
            .await;
    });
}

#[test]
fn another_key_is_refused_on_both_sides() {
    run(async {
        let mut listener = TestListener::plain().await;
        let other = Credentials::key(OTHER_KEY).unwrap();
        let error = connect(&listener.url, &other).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Refused && error.to_string().contains("keys differ"),
            "{error}"
        );
        listener
            .until(|counts| counts.keys == 1 && counts.total() == 1)
            .await;
        // The listener gave away no proof on which a key could be tried.
        let mut client = listener.connect_silently().await;
        client.write_all(&hello(2, 1, 0)).await.unwrap();
        assert_eq!(rest_of(&mut client).await.len(), OPENING_BYTES);
        listener.until(|counts| counts.keys == 2).await;
        // Nor does it take part without one.
        let mut client = listener.connect_silently().await;
        client.write_all(&hello(2, 0, 0)).await.unwrap();
        assert_eq!(rest_of(&mut client).await.len(), OPENING_BYTES);
        listener.until(|counts| counts.keys == 3).await;
        listener.accepts(&key()).await;
    });
}

#[test]
fn g46_an_older_or_newer_version_is_named() {
    run(async {
        let listener = TestListener::plain().await;
        for version in [0, 1, 3, 255] {
            let mut client = listener.connect_silently().await;
            client.write_all(&hello(version, 1, 0)).await.unwrap();
            let answer = rest_of(&mut client).await;
            assert!(
                answer.len() == OPENING_BYTES && answer[4..6] == [2, 0],
                "it learns the listener's version"
            );
        }
        listener
            .until(|counts| counts.versions == 4 && counts.total() == 4)
            .await;

        // The other way round: a listener of another version.
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("tcp://{}", other.local_addr().unwrap());
        let answers = async {
            let (mut stream, _) = other.accept().await.unwrap();
            stream.write_all(&hello(7, 1, 1)).await.unwrap();
            rest_of(&mut stream).await
        };
        let credentials = key();
        let (said, connected) = tokio::join!(answers, connect(&url, &credentials));
        let error = connected.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Protocol && error.to_string().contains("version 7"),
            "{error}"
        );
        assert_eq!(
            said.len(),
            OPENING_BYTES + MESSAGE_BYTES,
            "and no more to one that speaks another version"
        );
    });
}

#[test]
fn a_replayed_handshake_is_refused() {
    run(async {
        let mut listener = TestListener::plain().await;
        // The handshake of a peer with the key, recorded on the way.
        let recorder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("tcp://{}", recorder.local_addr().unwrap());
        let mut to_listener = listener.connect_silently().await;
        let recorded = async {
            let (mut from_peer, _) = recorder.accept().await.unwrap();
            let mut said = vec![0; OPENING_BYTES + MESSAGE_BYTES];
            from_peer.read_exact(&mut said).await.unwrap();
            to_listener.write_all(&said).await.unwrap();
            let mut received = [0; OPENING_BYTES + MESSAGE_BYTES];
            to_listener.read_exact(&mut received).await.unwrap();
            from_peer.write_all(&received).await.unwrap();
            let mut confirmation = [0; 16];
            from_peer.read_exact(&mut confirmation).await.unwrap();
            to_listener.write_all(&confirmation).await.unwrap();
            said.extend(confirmation);
            said
        };
        let credentials = key();
        let (said, connected) = tokio::join!(recorded, connect(&url, &credentials));
        connected.unwrap();
        listener.next().await;

        // The listener cannot know yet that it is a recording; a replay cannot confirm what the
        // listener answered.
        let mut client = listener.connect_silently().await;
        client.write_all(&said).await.unwrap();
        assert_eq!(
            rest_of(&mut client).await.len(),
            OPENING_BYTES + MESSAGE_BYTES
        );
        listener
            .until(|counts| counts.keys == 1 && counts.total() == 1)
            .await;
        // Its own opening sent back to it is worth nothing either.
        let mut client = listener.connect_silently().await;
        client.write_all(&hello(2, 1, 0)).await.unwrap();
        let mut received = [0; OPENING_BYTES];
        client.read_exact(&mut received).await.unwrap();
        let mut mirror = listener.connect_silently().await;
        mirror.write_all(&received).await.unwrap();
        assert_eq!(rest_of(&mut mirror).await, b"");
        listener.until(|counts| counts.unknown_protocol == 1).await;
    });
}

#[test]
fn g47_a_slow_handshake_ends_at_its_deadline() {
    run(async {
        let limits = ListenerLimits {
            handshake: Duration::from_millis(300),
            ..ListenerLimits::default()
        };
        let mut listener = TestListener::open("tcp://127.0.0.1:0", &key(), limits).await;
        let (mut silent, mut slow) = (
            listener.connect_silently().await,
            listener.connect_silently().await,
        );
        let drips = async {
            // A byte now and then does not extend it.
            for byte in hello(2, 1, 0) {
                if slow.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            rest_of(&mut slow).await
        };
        let (of_slow, of_silent) = tokio::join!(drips, rest_of(&mut silent));
        assert!(
            of_slow.len() <= OPENING_BYTES && of_silent.is_empty(),
            "{of_slow:?}"
        );
        listener
            .until(|counts| counts.slow == 2 && counts.total() == 2)
            .await;
        listener.accepts(&key()).await;
    });
}

#[test]
fn listeners_want_a_generated_key_and_take_other_hosts_with_it() {
    run(async {
        let refused = async |url: &str, credentials: &Credentials| {
            let listening = Listener::bind(url, credentials, ListenerLimits::default())
                .await
                .err()
                .expect("not a listener");
            let connecting = connect(url, credentials).await.unwrap_err();
            assert_eq!(
                (listening.kind(), connecting.kind()),
                (ErrorKind::BadOption, ErrorKind::BadOption),
                "{url}"
            );
            format!("{listening}; {connecting}")
        };
        let directory = tempfile::tempdir().unwrap();
        let unix = format!("unix://{}/socket", directory.path().display());
        for url in ["tcp://127.0.0.1:0", &unix] {
            assert!(refused(url, &Credentials::tls()).await.contains("key"));
        }
        for weak in [
            "correct horse battery staple",
            "0123456789abcdef0123456789abcdef",
            "",
        ] {
            let error = Credentials::key(weak).unwrap_err();
            assert!(
                error.kind() == ErrorKind::BadOption && error.to_string().contains("brigade key"),
                "{error}"
            );
        }
        // The key encrypts, so that another host needs no TLS.
        let everywhere = Listener::bind("tcp://0.0.0.0:0", &key(), ListenerLimits::default())
            .await
            .unwrap();
        assert!(
            everywhere.url().starts_with("tcp://0.0.0.0:") && !everywhere.url().ends_with(":0")
        );
    });
}

/// Passes on all that one side sends and keeps a copy.
async fn tap(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Vec<u8> {
    let (mut seen, mut block) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = from.read(&mut block).await {
        seen.extend_from_slice(&block[..count]);
        to.write_all(&block[..count]).await.ok();
    }
    seen
}

#[test]
fn data_over_tcp_cannot_be_read_on_the_way() {
    run(async {
        let mut listener = TestListener::plain().await;
        let address = listener.address();
        let wire = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("tcp://{}", wire.local_addr().unwrap());
        let tapped = async {
            let (from, to) = (
                wire.accept().await.unwrap().0.into_split(),
                TcpStream::connect(address).await.unwrap().into_split(),
            );
            tokio::join!(tap(from.0, to.1), tap(to.0, from.1))
        };
        let credentials = key();
        let talk = async {
            let mut ours = connect(&url, &credentials).await.unwrap();
            ours.stream.write_all(b"attack at dawn").await.unwrap();
            ours.stream.shutdown().await.unwrap();
        };
        let receive_all = async {
            let mut received = String::new();
            listener
                .peers
                .recv()
                .await
                .unwrap()
                .stream
                .read_to_string(&mut received)
                .await
                .unwrap();
            received
        };
        let (seen, (), received) = tokio::join!(tapped, talk, receive_all);
        assert_eq!(received, "attack at dawn");
        for way in [&seen.0, &seen.1] {
            assert!(
                way.len() > OPENING_BYTES
                    && !way
                        .windows(4)
                        .any(|window| window == b"dawn" || window == b"atta")
            );
        }
    });
}

#[test]
fn a_key_file_is_for_few() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("  {KEY}\n")).unwrap();
    let mode = |mode| {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap()
    };
    mode(0o644);
    let error = Credentials::key_file(file.path()).unwrap_err();
    assert!(
        error.kind() == ErrorKind::BadOption && error.to_string().contains("chmod 600"),
        "{error}"
    );
    mode(0o600);
    let credentials = Credentials::key_file(file.path()).unwrap();
    run(async {
        TestListener::plain().await.accepts(&credentials).await;
    });
    assert_eq!(
        Credentials::key_file("nowhere").unwrap_err().kind(),
        ErrorKind::Os
    );
}
