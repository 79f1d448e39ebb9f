//! Peers that have the key and break the protocol: hosts at a pool, and a pool at a host. Tests
//! write their frames byte by byte.

use brigade::{CallError, ErrorKind};
use brigade_testkit::{count, facts};

use super::frame_peer::*;
use super::*;

/// Text that would change a terminal and forge a line of a log.
const ESCAPE: &str = "\x1b[31m\r\nforged: yes\0";

fn absurd_introductions() -> [Join; 7] {
    let tasks = (0..10_001).map(|number| task_line(&format!("task {number}")));
    [
        Join {
            slots: 1_000_000,
            ..join()
        },
        Join { slots: 0, ..join() },
        Join {
            slots: u32::MAX,
            ..join()
        },
        Join {
            tasks: tasks.collect(),
            ..join()
        },
        Join {
            labels: vec![String::new(); 300],
            ..join()
        },
        Join {
            version: 9,
            brigade: ESCAPE.repeat(1000),
            ..join()
        },
        Join {
            magic: *b"HTTP",
            ..join()
        },
    ]
}

#[test]
fn bad_use_absurd_introductions_are_turned_away() {
    run(async {
        let pool = fleet().await;
        for absurd in absurd_introductions() {
            let mut peer = FramePeer::at(&pool).await;
            peer.send(JOIN, 0, &packed(&absurd)).await;
            let (kind, _, body) = peer.recv().await.expect("it learns why");
            let reason = String::from_utf8_lossy(&body[7..]).into_owned();
            assert_eq!(kind, TURNED_AWAY, "{reason:.200}");
            assert!(
                reason.len() < 2048 && !reason.contains(['\x1b', '\n', '\r']),
                "{reason:.200?}"
            );
            peer.is_ended().await;
        }
        for garbage in [
            &[][..],
            &[0xff; 64],
            &packed(&join())[..30],
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut peer = FramePeer::at(&pool).await;
            peer.send(JOIN, 0, garbage).await;
            peer.is_ended().await;
        }
        // A frame over the limit of an introduction is not waited for.
        for length in [(1 << 20) + 1, u32::MAX] {
            let mut peer = FramePeer::at(&pool).await;
            peer.writing
                .write_all(&header(length, JOIN, 0))
                .await
                .unwrap();
            peer.writing.flush().await.unwrap();
            peer.is_ended().await;
        }
        assert_eq!((pool.workers().len(), pool.refusals().total()), (0, 0));
        let other = Credentials::key(OTHER_KEY).unwrap();
        connect(&pool.listening()[0], &other).await.unwrap_err();
        let counted = async {
            while pool.refusals().keys == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(BOUND, counted).await.unwrap();

        // A name may be odd, but not long, and terminals do not obey it.
        let mut peer = FramePeer::at(&pool).await;
        peer.send(
            JOIN,
            0,
            &packed(&Join {
                name: format!("{ESCAPE}{}", "x".repeat(500_000)),
                ..join()
            }),
        )
        .await;
        assert_eq!(peer.recv().await.unwrap().0, WELCOME);
        let host = pool.workers()[0].host.as_deref().unwrap().to_owned();
        assert!(
            host.len() < 1024 && host.contains("forged") && !host.contains(char::is_control),
            "{host:?}"
        );
        drop(peer);
        still_works(&pool).await;
    });
}

#[test]
fn bad_use_answers_to_calls_that_it_was_not_given_end_its_session() {
    run(async {
        let pool = fleet().await;
        let mut events = pool.events();
        for body in [&done(b"42")[..], &[], &[0xff; 40]] {
            let mut peer = FramePeer::joined(&pool).await;
            peer.send(ANSWER, 12_345, body).await;
            peer.is_ended().await;
            let reason = leaves(&mut events).await;
            assert!(
                reason.contains("12345") || reason.contains("read an answer"),
                "{reason}"
            );
        }
        // Twice the same answer.
        let mut peer = FramePeer::joined(&pool).await;
        let handle = pool.call(call());
        let (kind, id, _) = peer.recv().await.unwrap();
        assert_eq!(kind, RUN);
        peer.send(ANSWER, id, &done(b"42")).await;
        peer.send(ANSWER, id, &done(b"43")).await;
        assert_eq!(timeout(BOUND, handle).await.unwrap().unwrap(), 42);
        assert!(leaves(&mut events).await.contains("does not run"));
        // Another's call.
        let (mut honest, mut thief) = (FramePeer::joined(&pool).await, None);
        let handle = pool.call(call());
        let (_, id, _) = honest.recv().await.unwrap();
        thief
            .insert(FramePeer::joined(&pool).await)
            .send(ANSWER, id, &done(b"66"))
            .await;
        assert!(leaves(&mut events).await.contains("does not run"));
        honest.send(ANSWER, id, &done(b"42")).await;
        assert_eq!(timeout(BOUND, handle).await.unwrap().unwrap(), 42);
    });
}

#[test]
fn bad_use_garbled_answers_and_unknown_kinds_lose_only_its_own_calls() {
    run(async {
        let pool = fleet().await;
        let mut events = pool.events();
        for (kind, body) in [
            (ANSWER, &[0xff; 40][..]),
            (ANSWER, &[]),
            (JOIN, &[0; 8]),
            (200, &[]),
            (PART, &[1, 2]),
            (WELCOME, &[]),
        ] {
            let mut peer = FramePeer::joined(&pool).await;
            let handle = pool.call(call());
            let (_, id, _) = peer.recv().await.unwrap();
            peer.send(kind, id, body).await;
            let lost = timeout(BOUND, handle).await.unwrap().unwrap_err();
            assert!(matches!(lost, CallError::Lost(_)), "{lost:?}");
            peer.is_ended().await;
            leaves(&mut events).await;
        }
        // A result of an unexpected type is an error of the caller; the host stays.
        let mut peer = FramePeer::joined(&pool).await;
        for result in ["\"a text\"", "[[[[", "", "\u{0}"] {
            let handle = pool.call(call());
            peer.answers(result).await;
            let CallError::Rejected(error) = timeout(BOUND, handle).await.unwrap().unwrap_err()
            else {
                panic!("an error")
            };
            assert_eq!(error.kind(), ErrorKind::Decode);
        }
        let handle = pool.call(call());
        peer.answers("42").await;
        assert_eq!(handle.await.unwrap(), 42);
    });
}

#[test]
fn bad_use_progress_of_unknown_calls_and_beats_without_end_cost_nothing() {
    alone("beats_without_end");
}

pub(super) async fn beats_without_end() {
    let pool = fleet().await;
    let mut peer = FramePeer::joined(&pool).await;
    let before = facts::peak_bytes(std::process::id());
    let progress: Vec<u8> = (0..1000)
        .flat_map(|id| [header(10, PROGRESS, id), vec![0; 10]].concat())
        .collect();
    for _ in 0..50 {
        peer.writing.write_all(&progress).await.unwrap();
    }
    // Nothing is read while a million are asked to be answered.
    let beats: Vec<u8> = (0..10_000).flat_map(|id| header(0, BEAT, id)).collect();
    for _ in 0..count(100, 1000) {
        peer.writing.write_all(&beats).await.unwrap();
    }
    peer.writing.flush().await.unwrap();
    let handle = pool.call(call());
    peer.answers("42").await;
    assert_eq!(timeout(BOUND, handle).await.unwrap().unwrap(), 42);
    let grown = facts::peak_bytes(std::process::id()) - before;
    assert!(grown < 8 << 20, "{grown} bytes more than before");
}

#[test]
fn bad_use_long_messages_that_never_end_take_a_bounded_room() {
    alone("messages_without_end");
}

pub(super) async fn messages_without_end() {
    let pool = fleet().await;
    let mut events = pool.events();
    let before = facts::peak_bytes(std::process::id());
    let mut peer = FramePeer::joined_with(&pool, Join { slots: 8, ..join() }).await;
    // As many as may be under way, each announced as large as one may be, and a byte of it.
    let part = |length: u32| [&[ANSWER][..], &length.to_le_bytes(), &[0]].concat();
    let mut held = Vec::new();
    for _ in 0..=MOST {
        held.push(pool.call(call()));
        let (_, id, _) = peer.recv().await.unwrap();
        peer.send(PART, id, &part(64 << 20)).await;
    }
    assert!(leaves(&mut events).await.contains("unfinished"));
    drop(held);
    // About a call that runs elsewhere, or nowhere.
    let mut peer = FramePeer::joined(&pool).await;
    peer.send(PART, 12_345, &part(1 << 20)).await;
    assert!(leaves(&mut events).await.contains("nothing is expected"));
    let mut peer = FramePeer::joined(&pool).await;
    peer.send(PART, 1, &part(u32::MAX)).await;
    assert!(leaves(&mut events).await.contains("announced"));
    let mut peer = FramePeer::joined(&pool).await;
    peer.writing
        .write_all(&header(u32::MAX, ANSWER, 1))
        .await
        .unwrap();
    peer.writing.flush().await.unwrap();
    assert!(leaves(&mut events).await.contains("announced"));
    let grown = facts::peak_bytes(std::process::id()) - before;
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    still_works(&pool).await;
}

#[test]
fn bad_use_a_pool_that_asks_for_absurd_beats_is_left_alone() {
    run(async {
        let mut listener = TestListener::plain().await;
        let host = brigade::remote::serve(listener.url.clone(), key()).workers(1);
        let handle = host.handle();
        let serving = tokio::spawn(host.run());
        let second = Duration::from_secs(1);
        // A host gives up at what it meets first; later it goes on trying.
        for (beat, keep) in [
            (second, second),
            (Duration::ZERO, second),
            (Duration::MAX, second),
            (second, Duration::MAX),
            (second, second),
        ] {
            let mut peer = FramePeer::new(listener.next().await.stream);
            assert_eq!(peer.recv().await.unwrap().0, JOIN);
            let (magic, pool) = (*b"BRGR", [9; 16]);
            let welcome = Welcome {
                magic,
                version: 4,
                brigade: "0.1.0".to_owned(),
                build: 7,
                pool,
                worker: 1,
                resumed: false,
                drop: vec![1, 2, 3],
                payload_bytes_max: u64::MAX,
                beat,
                keep,
            };
            peer.send(WELCOME, 0, &packed(&welcome)).await;
            if beat == keep {
                // This one is a pool as any other, until it talks nonsense.
                peer.send(BEAT, 7, &[]).await;
                peer.send(200, 0, &[]).await;
            }
            peer.is_ended().await;
        }
        // It goes on trying.
        listener.next().await;
        handle.kill();
        timeout(BOUND, serving).await.unwrap().unwrap().ok();
    });
}
