//! G43 and G45 at the stream: through a proxy that breaks what goes through, no reader ever gets
//! other bytes than were written.

use std::io;

use brigade::remote::transport::Damage;
use brigade_testkit::count;
use brigade_testkit::proxy::{BOTH, Cut, Faults, Proxy, Target, Way};
use brigade_testkit::random::Random;

use super::*;

/// Two ends of a connection with a proxy in between.
async fn through(listener: &mut TestListener, proxy: &Proxy) -> (Authenticated, Authenticated) {
    let url = format!("tcp://{}", proxy.address());
    let ours = connect(&url, &key()).await.unwrap();
    (ours, listener.next().await)
}

fn proxy(listener: &TestListener, seed: u64) -> Proxy {
    Proxy::start(Target::of(&listener.url).unwrap(), seed).unwrap()
}

/// Bytes that tell their place.
fn bytes(count: usize) -> Vec<u8> {
    (0..count / 4)
        .flat_map(|word| u32::try_from(word).unwrap().to_le_bytes())
        .collect()
}

fn damage(error: &io::Error) -> Option<Damage> {
    error.get_ref()?.downcast_ref().copied()
}

/// Writes in pieces and reads; what was read and how it ended. The writer may fail as soon as the
/// reader did.
async fn pump(
    mut from: Authenticated,
    mut to: Authenticated,
    sent: &[u8],
) -> (Vec<u8>, io::Result<usize>) {
    let write = async {
        for piece in sent.chunks(3000) {
            from.stream.write_all(piece).await?;
        }
        from.stream.shutdown().await
    };
    let read = async {
        let mut received = Vec::new();
        let end = timeout(BOUND, to.stream.read_to_end(&mut received))
            .await
            .expect("the stream ends");
        drop(to);
        (received, end)
    };
    let (_, received) = tokio::join!(write, read);
    received
}

#[test]
fn g45_garbled_bytes_end_the_stream_and_are_never_taken_for_others() {
    run(async {
        let mut listener = TestListener::plain().await;
        let mut random = Random::from_env();
        let sent = bytes(300_000);
        let mut damaged = 0;
        for round in 0..count(24, 400) {
            let proxy = proxy(&listener, random.draw());
            let (ours, theirs) = through(&mut listener, &proxy).await;
            let mut faults = Faults {
                chunk_bytes: 5000,
                ..Faults::default()
            };
            *[
                &mut faults.flips,
                &mut faults.duplicates,
                &mut faults.drops,
                &mut faults.swaps,
            ][round % 4] = 50;
            proxy.set([Way::There], &faults);
            let (received, end) = pump(ours, theirs, &sent).await;
            assert!(
                sent.starts_with(&received),
                "round {round}: other bytes than were sent"
            );
            let garbled = proxy.traffic().garbled > 0;
            match end {
                // What came once more behind the end of the stream is no part of it.
                Ok(_) => assert!(
                    received == sent && (!garbled || round % 4 == 1),
                    "round {round}: {:?}",
                    proxy.traffic()
                ),
                Err(error) => {
                    // A chunk that was dropped at the very end is a cut.
                    assert!(
                        garbled && damage(&error).is_some(),
                        "round {round}: {error:?}"
                    );
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 0);
    });
}

#[test]
fn g45_a_garbled_handshake_never_succeeds() {
    run(async {
        let mut listener = TestListener::plain().await;
        let mut random = Random::from_env();
        for way in BOTH {
            for flips in [true, false] {
                let proxy = proxy(&listener, random.draw());
                let faults = if flips {
                    Faults {
                        flips: 1000,
                        ..Faults::default()
                    }
                } else {
                    Faults {
                        swaps: 1000,
                        ..Faults::default()
                    }
                };
                proxy.set([way], &faults);
                let url = format!("tcp://{}", proxy.address());
                let ended = connect(&url, &key()).await;
                assert!(ended.is_err(), "{way:?} {flips}");
            }
        }
        // The listener may have believed the one whose answer was garbled on its way back; that one
        // ends at once.
        while let Ok(mut peer) = listener.peers.try_recv() {
            let end = timeout(BOUND, peer.stream.read(&mut [0; 8])).await.unwrap();
            assert!(end.is_err(), "{end:?}");
        }
        listener.accepts(&key()).await;
    });
}

#[test]
fn g43_rst_or_fin_in_the_middle_is_an_error_at_both_ends() {
    run(async {
        let mut listener = TestListener::plain().await;
        let mut random = Random::from_env();
        let sent = bytes(100_000);
        for how in [Cut::Reset, Cut::Finish] {
            for _ in 0..count(10, 200) {
                let proxy = proxy(&listener, random.draw());
                let (ours, theirs) = through(&mut listener, &proxy).await;
                let cut_at = random.within(72..90_000);
                proxy.set(
                    [Way::There],
                    &Faults {
                        cut_after: Some((cut_at, how)),
                        ..Faults::default()
                    },
                );
                let (received, end) = pump(ours, theirs, &sent).await;
                let error = end.expect_err("the stream was cut");
                assert!(sent.starts_with(&received) && received.len() < sent.len());
                let kind = error.kind();
                assert!(
                    damage(&error) == Some(Damage::Cut)
                        || (how == Cut::Reset && kind == io::ErrorKind::ConnectionReset),
                    "{error:?}"
                );
            }
        }
    });
}

#[test]
fn g43_a_trickle_and_a_silence_lose_nothing() {
    run(async {
        let mut listener = TestListener::plain().await;
        let proxy = proxy(&listener, 7);
        let (mut ours, mut theirs) = through(&mut listener, &proxy).await;
        proxy.set(
            BOTH,
            &Faults {
                bytes_per_second: Some(300),
                chunk_bytes: 7,
                ..Faults::default()
            },
        );
        talk(&mut ours, &mut theirs).await;
        proxy.set(BOTH, &Faults::default());
        proxy.freeze(BOTH);
        ours.stream.write_all(b"held").await.unwrap();
        ours.stream.flush().await.unwrap();
        let mut received = [0; 4];
        let read = timeout(
            Duration::from_millis(50),
            theirs.stream.read_exact(&mut received),
        )
        .await;
        assert!(read.is_err(), "nothing comes, and nothing ends");
        // New ones are as silent; the one that connects gives up by itself.
        let url = format!("tcp://{}", proxy.address());
        assert!(
            timeout(Duration::from_millis(50), connect(&url, &key()))
                .await
                .is_err()
        );
        proxy.thaw();
        timeout(BOUND, theirs.stream.read_exact(&mut received))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&received, b"held");
        talk(&mut ours, &mut theirs).await;
    });
}

#[test]
fn large_and_small_writes_arrive_in_both_ways_at_once() {
    run(async {
        let mut listener = TestListener::plain().await;
        let credentials = key();
        let url = listener.url.clone();
        let (ours, theirs) = (
            connect(&url, &credentials).await.unwrap(),
            listener.next().await,
        );
        let sent = bytes(count(4 << 20, 256 << 20));
        let (ours, theirs) = (
            tokio::io::split(ours.stream),
            tokio::io::split(theirs.stream),
        );
        let send = |mut half: tokio::io::WriteHalf<
            Box<dyn brigade::remote::transport::TransportStream>,
        >| {
            let sent = &sent;
            async move {
                let mut rest = &sent[..];
                let mut random = Random::new(7);
                while !rest.is_empty() {
                    let count = usize::try_from(random.within(1..200_000))
                        .unwrap()
                        .min(rest.len());
                    half.write_all(&rest[..count]).await.unwrap();
                    rest = &rest[count..];
                }
                half.shutdown().await.unwrap();
                half
            }
        };
        let receive = |mut half: tokio::io::ReadHalf<
            Box<dyn brigade::remote::transport::TransportStream>,
        >| async move {
            let mut received = Vec::new();
            half.read_to_end(&mut received).await.unwrap();
            received
        };
        let (_a, _b, one, other) = tokio::join!(
            send(ours.1),
            send(theirs.1),
            receive(ours.0),
            receive(theirs.0)
        );
        assert!(one == sent && other == sent);
    });
}
