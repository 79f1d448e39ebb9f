use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

use super::super::hello::sessions;

fn pair(room: usize) -> (Sealed<DuplexStream>, Sealed<DuplexStream>) {
    let (a, b) = duplex(room);
    let (ours, theirs) = sessions(1);
    (Sealed::new(a, ours), Sealed::new(b, theirs))
}

/// What the bytes that a writer made become at the reader of the same session.
async fn read(bytes: &[u8], reader: TransportState) -> (Vec<u8>, io::Result<usize>) {
    let (mut raw, socket) = duplex(1 << 20);
    raw.write_all(bytes).await.unwrap();
    drop(raw);
    let mut out = Vec::new();
    let end = Sealed::new(socket, reader).read_to_end(&mut out).await;
    (out, end)
}

/// The records of these chunks, and the session that reads them.
async fn written(chunks: &[&[u8]], is_ended: bool) -> (Vec<u8>, TransportState) {
    let (socket, mut raw) = duplex(1 << 20);
    let (writer, reader) = sessions(1);
    let mut sealed = Sealed::new(socket, writer);
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
    (bytes, reader)
}

fn damage(end: io::Result<usize>) -> Option<Damage> {
    end.unwrap_err().get_ref()?.downcast_ref().copied()
}

#[tokio::test]
async fn what_is_written_comes_out_however_narrow_the_socket_is() {
    for room in [1, 17, 4096, 1 << 20] {
        let (mut ours, mut theirs) = pair(room);
        let bytes: Vec<u8> = (0..if room == 1 { 3_000 } else { 300_000 })
            .map(|n: u32| n.to_le_bytes()[0])
            .collect();
        let sent = bytes.clone();
        let write = async move {
            ours.write_all(&sent).await.unwrap();
            let parts = [IoSlice::new(b"and "), IoSlice::new(b"more")];
            assert_eq!(ours.write_vectored(&parts).await.unwrap(), 8);
            ours.shutdown().await.unwrap();
            assert_eq!(
                ours.write(b"x").await.unwrap_err().kind(),
                io::ErrorKind::BrokenPipe
            );
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
    let written =
        tokio::time::timeout(std::time::Duration::from_millis(50), ours.write_all(&bytes)).await;
    assert!(
        written.is_err()
            && ours.out.len() < OUT_BYTES_MAX + BYTES_MAX + 2 * (HEAD_BYTES + record::TAG_BYTES)
    );
}

#[tokio::test]
async fn g43_a_stream_that_was_cut_anywhere_is_an_error() {
    let (whole, reader) = written(&[b"some", b"bytes"], true).await;
    assert_eq!(read(&whole, reader).await.0, b"somebytes");
    for cut in 0..whole.len() {
        let (whole, reader) = written(&[b"some", b"bytes"], true).await;
        let (out, end) = read(&whole[..cut], reader).await;
        assert!(b"somebytes".starts_with(&out[..]), "cut at {cut}");
        assert_eq!(damage(end), Some(Damage::Cut), "cut at {cut}");
    }
}

#[tokio::test]
async fn g45_changed_bytes_are_an_error_and_never_other_bytes() {
    let bits = written(&[b"some", b"more", b"bytes"], true).await.0.len() * 8;
    for bit in 0..bits {
        let (mut flipped, reader) = written(&[b"some", b"more", b"bytes"], true).await;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (out, end) = read(&flipped, reader).await;
        assert!(b"somemorebytes".starts_with(&out[..]), "bit {bit}");
        // A length that grew waits for bytes that never come.
        assert!(damage(end).is_some(), "bit {bit}");
    }
}

#[tokio::test]
async fn g45_records_in_another_order_are_an_error() {
    let split = written(&[b"some"], false).await.0.len();
    type Arrange = fn(&[u8], &[u8]) -> Vec<u8>;
    let cases: [(&str, Arrange, &[u8]); 4] = [
        (
            "twice",
            |first, second| [first, first, second].concat(),
            b"some",
        ),
        ("left out", |_, second| second.to_vec(), b""),
        ("swapped", |first, second| [second, first].concat(), b""),
        (
            "noise",
            |first, _| [first, &[0x5a, 0][..], &[0x5a; 0x5a]].concat(),
            b"some",
        ),
    ];
    for (what, arrange, good) in cases {
        let (whole, reader) = written(&[b"some", b"more"], false).await;
        let (first, second) = whole.split_at(split);
        let (out, end) = read(&arrange(first, second), reader).await;
        assert_eq!(
            (&out[..], damage(end)),
            (good, Some(Damage::Changed)),
            "{what}"
        );
    }
}

#[tokio::test]
async fn one_read_gives_all_records_that_are_there() {
    let (good, reader) = written(&[b"some", b"more"], false).await;
    let bytes = [good, vec![0x5a, 0], vec![0x5a; 0x5a]].concat();
    let (mut raw, socket) = duplex(1 << 10);
    raw.write_all(&bytes).await.unwrap();
    let mut sealed = Sealed::new(socket, reader);
    let mut received = [0; 6];
    assert_eq!(sealed.read(&mut received).await.unwrap(), 6);
    assert_eq!(&received, b"somemo");
    assert_eq!(
        sealed.read(&mut received).await.unwrap(),
        2,
        "what is good before the noise"
    );
    assert_eq!(
        damage(sealed.read(&mut received).await),
        Some(Damage::Changed)
    );
}

#[tokio::test]
async fn a_writer_fed_with_its_own_words_does_not_take_them() {
    let (socket, mut raw) = duplex(1 << 10);
    let mut sealed = Sealed::new(socket, sessions(1).0);
    sealed.write_all(b"some").await.unwrap();
    let mut record = [0; HEAD_BYTES + 4 + record::TAG_BYTES];
    raw.read_exact(&mut record).await.unwrap();
    raw.write_all(&record).await.unwrap();
    assert_eq!(
        damage(sealed.read(&mut [0; 8]).await),
        Some(Damage::Changed)
    );
}
