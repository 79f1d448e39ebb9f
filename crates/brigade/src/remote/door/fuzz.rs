//! I50 for the door: damaged URLs, handshakes and records. See `crate::fuzz`.

use std::time::Duration;

use brigade_testkit::count;
use brigade_testkit::mutate::Mutator;
use brigade_testkit::random::Random;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::time::timeout;

use super::hello::{self, tests::sessions};
use super::place::Place;
use super::stream::sealed;

const KEY: [u8; 32] = [7; 32];
/// Nothing here waits for anybody: what is missing is the end of the stream.
const BOUND: Duration = Duration::from_secs(60);

fn inputs(corpus: Vec<Vec<u8>>, (quick, whole): (usize, usize)) -> impl Iterator<Item = Vec<u8>> {
    let mut mutator = Mutator::new(Random::from_env(), corpus);
    (0..count(quick, whole)).map(move |_| mutator.draw())
}

#[test]
fn i50_urls() {
    let corpus = ["tcp://127.0.0.1:7000", "tls://[::1]:7000/", "unix:///run/brigade/door", "tcp://user:secret@host:1"];
    for input in inputs(corpus.iter().map(|url| url.as_bytes().to_vec()).collect(), (20_000, 500_000)) {
        if let Err(error) = Place::parse(&String::from_utf8_lossy(&input)) {
            assert!(!error.to_string().contains("secret") && !error.to_string().contains('\x1b'), "{error}");
        }
    }
}

/// Nobody without the key comes in, whatever he says.
#[tokio::test]
async fn i50_handshakes() {
    let hello = |side: u8| [&b"BRGD"[..], &[2, 0, 1, side], &[0x5a; 32], &[0xa5; 32]].concat();
    for input in
        inputs(vec![hello(0), hello(1), b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"\x16\x03\x01\x02\x00\x01".to_vec()], (5_000, 100_000))
    {
        for listens in [true, false] {
            let (mut theirs, mut ours) = duplex(1 << 17);
            theirs.write_all(&input).await.unwrap();
            theirs.shutdown().await.unwrap();
            let shaken = async {
                if listens {
                    hello::listening(&mut ours, Some(&KEY), &[0; 32]).await
                } else {
                    hello::connecting(&mut ours, Some(&KEY), &[0; 32]).await
                }
            };
            assert!(timeout(BOUND, shaken).await.expect("it ends").is_err(), "{input:?}");
        }
    }
}

/// No reader gets other bytes than were written.
#[tokio::test]
async fn i50_records() {
    let sent: Vec<u8> = (0..2000_u32).flat_map(u32::to_le_bytes).collect();
    let (ours, mut raw) = duplex(1 << 20);
    let mut stream = sealed(Box::new(ours), sessions().0);
    for piece in sent.chunks(700) {
        stream.write_all(piece).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    drop(stream);
    let mut whole = Vec::new();
    raw.read_to_end(&mut whole).await.unwrap();
    for input in inputs(vec![whole.clone()], (5_000, 100_000)) {
        let (mut theirs, ours) = duplex(1 << 20);
        theirs.write_all(&input).await.unwrap();
        drop(theirs);
        let mut heard = Vec::new();
        let end = timeout(BOUND, sealed(Box::new(ours), sessions().1).read_to_end(&mut heard)).await.expect("it ends");
        assert!(sent.starts_with(&heard), "other bytes than were sent");
        assert_eq!(end.is_ok(), input.starts_with(&whole));
    }
}
