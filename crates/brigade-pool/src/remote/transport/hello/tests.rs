use tokio::io::duplex;

use super::*;

const KEY: Key = [7; KEY_BYTES];

type Outcomes = (
    Result<TransportState, HandshakeError>,
    Result<TransportState, HandshakeError>,
);

async fn handshake(ours: Option<&Key>, theirs: Option<&Key>, bindings: [Binding; 2]) -> Outcomes {
    let (mut a, mut b) = duplex(1 << 10);
    let connects = async {
        let ended = connecting(&mut a, ours, &bindings[0]).await;
        drop(a);
        ended
    };
    let listens = async {
        let ended = listening(&mut b, theirs, &bindings[1]).await;
        drop(b);
        ended
    };
    tokio::join!(connects, listens)
}

#[tokio::test]
async fn both_sides_understand_each_other_and_no_session_is_like_another() {
    let (ours, theirs) = handshake(Some(&KEY), Some(&KEY), [[0; 32]; 2]).await;
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    let mut other = handshake(Some(&KEY), Some(&KEY), [[0; 32]; 2])
        .await
        .1
        .unwrap();
    let (mut message, mut received) = ([0; 64], [0; 64]);
    let sealed = ours.write_message(b"hello", &mut message).unwrap();
    assert!(
        other
            .read_message(&message[..sealed], &mut received)
            .is_err()
    );
    assert_eq!(
        theirs
            .read_message(&message[..sealed], &mut received)
            .unwrap(),
        5
    );
    assert_eq!(&received[..5], b"hello");
    let (without, _) = handshake(None, None, [[0; 32]; 2]).await;
    assert!(without.is_ok(), "certificates alone");
}

#[tokio::test]
async fn another_key_or_another_connection_below_is_refused() {
    let other = [8; KEY_BYTES];
    for (ours, bindings) in [
        (other, [[0; 32]; 2]),
        (KEY, [[1; 32], [2; 32]]),
        ([0; KEY_BYTES], [[0; 32]; 2]),
    ] {
        let (ours, theirs) = handshake(Some(&ours), Some(&KEY), bindings).await;
        assert!(matches!(theirs, Err(HandshakeError::Proof)));
        assert!(matches!(
            ours,
            Err(HandshakeError::Closed {
                after_opening: true
            })
        ));
    }
    let (ours, theirs) = handshake(None, Some(&KEY), [[0; 32]; 2]).await;
    assert!(matches!(
        (ours, theirs),
        (
            Err(HandshakeError::OneKey { theirs: true }),
            Err(HandshakeError::OneKey { theirs: false })
        )
    ));
}

#[tokio::test]
async fn an_impostor_that_listens_without_the_key_is_not_believed() {
    let (ours, theirs) = handshake(Some(&KEY), Some(&[8; KEY_BYTES]), [[0; 32]; 2]).await;
    assert!(ours.is_err() && theirs.is_err());
    // A listener that does not check the first message, and answers as if it had the key.
    let (mut a, mut b) = duplex(1 << 10);
    let answers = async {
        let mut received = [0; OPENING_BYTES + MESSAGE_BYTES];
        b.read_exact(&mut received).await.unwrap();
        b.write_all(&opening(Side::Listens, Some(&KEY)))
            .await
            .unwrap();
        // What it was sent, sent back.
        b.write_all(&received[OPENING_BYTES..]).await.unwrap();
    };
    let (ended, ()) = tokio::join!(connecting(&mut a, Some(&KEY), &[0; 32]), answers);
    assert!(matches!(ended, Err(HandshakeError::Proof)));
}

#[tokio::test]
async fn strangers_are_refused_at_their_first_words() {
    let openings: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"BRGDxxxxxx",
        &[0; 40],
        b"SSH-2.0-x\r\n",
    ];
    for opening in openings {
        let (mut raw, mut socket) = duplex(1 << 10);
        raw.write_all(opening).await.unwrap();
        let ended = listening(&mut socket, Some(&KEY), &[0; 32]).await;
        assert!(
            matches!(ended, Err(HandshakeError::UnknownProtocol(_))),
            "{opening:?}"
        );
        drop(socket);
        let mut answer = Vec::new();
        raw.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty(), "not a byte for {opening:?}");
    }
}

#[tokio::test]
async fn both_versions_are_named_on_both_sides() {
    let (mut raw, mut socket) = duplex(1 << 10);
    let mut hello = opening(Side::Connects, Some(&KEY));
    hello[4] = 9;
    raw.write_all(&hello).await.unwrap();
    let ended = listening(&mut socket, Some(&KEY), &[0; 32]).await;
    let error = ended.err().unwrap().explain(Side::Listens).to_string();
    assert!(
        error.contains("version 9") && error.contains("program 2"),
        "{error}"
    );
    let mut answer = [0; OPENING_BYTES];
    raw.read_exact(&mut answer).await.unwrap();
    assert_eq!(
        answer[4..6],
        VERSION.to_le_bytes(),
        "the other side learns ours"
    );
}
