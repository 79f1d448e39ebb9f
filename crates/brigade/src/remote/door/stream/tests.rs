use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

fn keys(send: u8, receive: u8) -> Keys {
    Keys { send: [send; 32], receive: [receive; 32] }
}

fn pair(room: usize) -> (Sealed<DuplexStream>, Sealed<DuplexStream>) {
    let (a, b) = duplex(room);
    (Sealed::new(a, keys(1, 2)), Sealed::new(b, keys(2, 1)))
}

/// What the bytes that a writer made become at a reader.
async fn read(bytes: &[u8]) -> (Vec<u8>, io::Result<usize>) {
    let (mut raw, socket) = duplex(1 << 20);
    raw.write_all(bytes).await.unwrap();
    drop(raw);
    let mut out = Vec::new();
    let end = Sealed::new(socket, keys(1, 2)).read_to_end(&mut out).await;
    (out, end)
}

async fn written(chunks: &[&[u8]], is_ended: bool) -> Vec<u8> {
    let (socket, mut raw) = duplex(1 << 20);
    let mut sealed = Sealed::new(socket, keys(2, 1));
    for chunk in chunks {
        sealed.write_all(chunk).await.unwrap();
    }
    if is_ended {
        sealed.shutdown().await.unwrap();
    } else {
        sealed.flush().await.unwrap();
    }
    drop(sealed);
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    bytes
}

fn damage(end: io::Result<usize>) -> Option<Damage> {
    end.unwrap_err().get_ref()?.downcast_ref().copied()
}

#[tokio::test]
async fn what_is_written_comes_out_however_narrow_the_socket_is() {
    for room in [1, 17, 4096, 1 << 20] {
        let (mut ours, mut theirs) = pair(room);
        let bytes: Vec<u8> = (0..if room == 1 { 3_000 } else { 300_000 }).map(|n: u32| n.to_le_bytes()[0]).collect();
        let sent = bytes.clone();
        let write = async move {
            ours.write_all(&sent).await.unwrap();
            let parts = [IoSlice::new(b"and "), IoSlice::new(b"more")];
            assert_eq!(ours.write_vectored(&parts).await.unwrap(), 8);
            ours.shutdown().await.unwrap();
            assert_eq!(ours.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        };
        let mut out = Vec::new();
        let (_, end) = tokio::join!(write, theirs.read_to_end(&mut out));
        assert_eq!(end.unwrap(), bytes.len() + 8);
        assert!(out.starts_with(&bytes) && out.ends_with(b"and more"));
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0, "the end stays");
    }
}

#[tokio::test]
async fn a_writer_waits_for_a_reader_that_does_not_read() {
    let (mut ours, _theirs) = pair(1 << 10);
    let bytes = vec![7; 4 << 20];
    let written = tokio::time::timeout(std::time::Duration::from_millis(50), ours.write_all(&bytes)).await;
    assert!(written.is_err() && ours.out.len() < OUT_BYTES_MAX + BYTES_MAX + 2 * HEAD_BYTES);
}

#[tokio::test]
async fn g43_a_stream_that_was_cut_anywhere_is_an_error() {
    let whole = written(&[b"some", b"bytes"], true).await;
    assert_eq!(read(&whole).await.0, b"somebytes");
    for cut in 0..whole.len() {
        let (out, end) = read(&whole[..cut]).await;
        assert!(b"somebytes".starts_with(&out[..]), "cut at {cut}");
        assert_eq!(damage(end), Some(Damage::Cut), "cut at {cut}");
    }
}

#[tokio::test]
async fn g45_changed_bytes_are_an_error_and_never_other_bytes() {
    let whole = written(&[b"some", b"more", b"bytes"], true).await;
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (out, end) = read(&flipped).await;
        assert!(b"somemorebytes".starts_with(&out[..]), "bit {bit}");
        assert_eq!(damage(end), Some(Damage::Changed), "bit {bit}");
    }
}

#[tokio::test]
async fn g45_records_in_another_order_are_an_error() {
    let records = [written(&[b"some"], false).await, b"".to_vec()];
    let whole = written(&[b"some", b"more"], false).await;
    let (first, second) = whole.split_at(records[0].len());
    let cases: [(&str, Vec<u8>, &[u8]); 4] = [
        ("twice", [first, first, second].concat(), b"some"),
        ("left out", second.to_vec(), b""),
        ("swapped", [second, first].concat(), b""),
        ("noise", [first, &[0x5a; 64]].concat(), b"some"),
    ];
    for (what, bytes, good) in cases {
        let (out, end) = read(&bytes).await;
        assert_eq!((&out[..], damage(end)), (good, Some(Damage::Changed)), "{what}");
    }
}

#[tokio::test]
async fn one_read_gives_all_records_that_are_there() {
    let bytes = [written(&[b"some", b"more"], false).await, vec![0x5a; 64]].concat();
    let (mut raw, socket) = duplex(1 << 10);
    raw.write_all(&bytes).await.unwrap();
    let mut sealed = Sealed::new(socket, keys(1, 2));
    let mut heard = [0; 6];
    assert_eq!(sealed.read(&mut heard).await.unwrap(), 6);
    assert_eq!(&heard, b"somemo");
    assert_eq!(sealed.read(&mut heard).await.unwrap(), 2, "what is good before the noise");
    assert_eq!(damage(sealed.read(&mut heard).await), Some(Damage::Changed));
}

#[tokio::test]
async fn the_other_direction_has_another_key() {
    let ours = written(&[b"some"], true).await;
    let (mut raw, socket) = duplex(1 << 10);
    raw.write_all(&ours).await.unwrap();
    // The writer itself, fed with its own words.
    let mut sealed = Sealed::new(socket, keys(2, 1));
    assert_eq!(damage(sealed.read(&mut [0; 8]).await), Some(Damage::Changed));
}
