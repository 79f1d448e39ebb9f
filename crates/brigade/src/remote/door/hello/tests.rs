use tokio::io::duplex;

use super::*;

const KEY: &[u8] = b"correct horse battery staple";

async fn shake(ours: Option<&[u8]>, theirs: Option<&[u8]>, bindings: [Binding; 2]) -> (Result<Keys, Gone>, Result<Keys, Gone>) {
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
async fn both_sides_get_the_same_keys_and_never_the_same_twice() {
    let (ours, theirs) = shake(Some(KEY), Some(KEY), [[0; 32]; 2]).await;
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert!(ours.send == theirs.receive && ours.receive == theirs.send && ours.send != ours.receive);
    let (again, _) = shake(Some(KEY), Some(KEY), [[0; 32]; 2]).await;
    assert_ne!(again.unwrap().send, ours.send);
    let (without, _) = shake(None, None, [[0; 32]; 2]).await;
    assert!(without.is_ok(), "certificates alone");
}

#[tokio::test]
async fn another_key_or_another_connection_below_is_refused() {
    let other = &b"another key of length"[..];
    for (ours, bindings) in [(other, [[0; 32]; 2]), (KEY, [[1; 32], [2; 32]])] {
        let (ours, theirs) = shake(Some(ours), Some(KEY), bindings).await;
        assert!(matches!(theirs, Err(Gone::Proof)));
        assert!(matches!(ours, Err(Gone::Closed { after_hello: true })));
    }
    let (ours, theirs) = shake(None, Some(KEY), [[0; 32]; 2]).await;
    assert!(matches!((ours, theirs), (Err(Gone::OneKey { theirs: true }), Err(Gone::OneKey { theirs: false }))));
}

/// The vectors of `docs/wire-protocol.md`: numbers that count up from 0 and from 32.
#[test]
fn the_vectors_of_the_documentation_hold() {
    let hello = |side: Side, first: u8| {
        let mut hello = Hello([0; HELLO_BYTES]);
        hello.0[..4].copy_from_slice(&MAGIC);
        hello.0[4..8].copy_from_slice(&[1, 0, FLAG_KEY, side as u8]);
        for (byte, value) in hello.0[OPENING_BYTES..].iter_mut().zip(first..) {
            *byte = value;
        }
        hello
    };
    let (connects, listens) = (hello(Side::Connects, 0), hello(Side::Listens, 32));
    let talk = Talk { key: KEY, binding: &[0; 32], hellos: [&connects, &listens] };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut line = super::super::record::Line::new(&talk.say(RECORDS_OF_CONNECTING));
    let vectors = [
        hex(&connects.0),
        hex(&listens.0),
        hex(&talk.say(PROOF_OF_CONNECTING)),
        hex(&talk.say(PROOF_OF_LISTENING)),
        hex(&talk.say(RECORDS_OF_CONNECTING)),
        hex(&talk.say(RECORDS_OF_LISTENING)),
        hex(&line.seal(&[b"hello"])),
        hex(&line.seal(&[])),
    ];
    let text = include_str!("../../../../../../docs/wire-protocol.md");
    for vector in &vectors {
        assert!(text.contains(vector), "not in docs/wire-protocol.md: {vector}\n{vectors:#?}");
    }
}

#[tokio::test]
async fn strangers_are_refused_at_their_first_words() {
    let openings: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"BRGDxxxxxx", &[0; 40], b"SSH-2.0-x\r\n"];
    for opening in openings {
        let (mut raw, mut socket) = duplex(1 << 10);
        raw.write_all(opening).await.unwrap();
        let ended = listening(&mut socket, Some(KEY), &[0; 32]).await;
        assert!(matches!(ended, Err(Gone::Stranger(_))), "{opening:?}");
        drop(socket);
        let mut answer = Vec::new();
        raw.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty(), "not a byte for {opening:?}");
    }
}

#[tokio::test]
async fn both_versions_are_named_on_both_sides() {
    let (mut raw, mut socket) = duplex(1 << 10);
    let mut hello = ours(Side::Connects, Some(KEY)).unwrap();
    hello.0[4] = 9;
    raw.write_all(&hello.0).await.unwrap();
    let ended = listening(&mut socket, Some(KEY), &[0; 32]).await;
    let error = ended.err().unwrap().explain(Side::Listens).to_string();
    assert!(error.contains("version 9") && error.contains("program 1"), "{error}");
    let mut answer = [0; HELLO_BYTES];
    raw.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[4..6], VERSION.to_le_bytes(), "the other side learns ours");
}
