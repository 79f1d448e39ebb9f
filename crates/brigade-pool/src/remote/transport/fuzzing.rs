//! The transport's part of [`crate::fuzzing`].

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::hello::{self, sessions};
use super::host_addr::HostAddr;
use super::key::Key;
use super::stream::sealed;

const KEY: Key = [7; 32];

/// URLs of listeners: no error repeats a secret.
pub fn urls(bytes: &[u8]) {
    if let Err(error) = HostAddr::parse(&String::from_utf8_lossy(bytes)) {
        assert!(
            !error.to_string().contains("secret") && !error.to_string().contains('\x1b'),
            "{error}"
        );
    }
}

/// What a peer sends in the handshake, on both sides: no handshake succeeds without the key.
pub fn handshakes(bytes: &[u8]) {
    for listens in [true, false] {
        let (mut theirs, mut ours) = duplex(1 << 17);
        let written = theirs.write_all(bytes).now_or_never();
        assert!(
            written.is_some_and(|written| written.is_ok()),
            "it has room"
        );
        theirs.shutdown().now_or_never();
        let outcome = if listens {
            hello::listening(&mut ours, Some(&KEY), &[0; 32]).now_or_never()
        } else {
            hello::connecting(&mut ours, Some(&KEY), &[0; 32]).now_or_never()
        };
        assert!(outcome.expect("it ends, as the peer did").is_err());
    }
}

/// What a reader of encrypted records is sent: never other bytes than [`RECORDED`].
pub fn records(bytes: &[u8]) {
    let (mut theirs, ours) = duplex(1 << 17);
    theirs.write_all(bytes).now_or_never();
    drop(theirs);
    let mut received = Vec::new();
    let end = sealed(Box::new(ours), sessions(1).1)
        .read_to_end(&mut received)
        .now_or_never();
    assert!(end.is_some(), "it ends, as the peer did");
    assert!(
        RECORDED.starts_with(&received),
        "other bytes than were sent"
    );
}

/// What the writer of [`recorded`] wrote.
pub(crate) const RECORDED: [u8; 8000] = [0x5a; 8000];

/// The records of [`RECORDED`].
#[cfg(test)]
pub(crate) fn recorded() -> Vec<u8> {
    let (ours, mut raw) = duplex(1 << 20);
    let written = async {
        let mut stream = sealed(Box::new(ours), sessions(1).0);
        for piece in RECORDED.chunks(700) {
            stream.write_all(piece).await?;
        }
        stream.shutdown().await?;
        drop(stream);
        let mut whole = Vec::new();
        raw.read_to_end(&mut whole).await?;
        Ok::<_, std::io::Error>(whole)
    };
    written
        .now_or_never()
        .expect("there is room")
        .expect("the other end stays open")
}
