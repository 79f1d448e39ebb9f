//! A host that attacks its pool and a pool that attacks its host, both with the key: the other side
//! goes on serving its other peers, within bounds.

use std::time::Instant;

use brigade::{Call, CallError, Pool, task};
use brigade_testkit::mutate::Mutator;
use brigade_testkit::random::Random;
use brigade_testkit::{count, facts};
use tokio::sync::mpsc;

use super::frame_peer::{
    ACK, ANSWER, FramePeer, JOIN, Join, PART, PROGRESS, RUN, WELCOME, Welcome, call, done, fleet,
    join, leaves, packed, still_works, task_line,
};
use super::*;

/// What both sides promise to hold of unfinished messages, and some room for everything else.
const HELD_BYTES_MAX: u64 = (256 << 20) + (64 << 20);

fn head(head: &[u8]) -> Vec<u8> {
    [&u32::try_from(head.len()).unwrap().to_le_bytes()[..], head].concat()
}

#[test]
fn a_host_with_very_many_slots_gets_room_only_for_results_of_its_calls() {
    alone("many_slots");
}

pub(super) async fn many_slots() {
    let pool = fleet().await;
    let mut events = pool.events();
    let before = facts::peak_bytes(std::process::id());
    // Each with as much as fits into a frame, about calls that it was never given.
    for _ in 0..50 {
        let mut liar = FramePeer::joined_with(
            &pool,
            Join {
                slots: 65_536,
                ..join()
            },
        )
        .await;
        let part = [&[ANSWER][..], &(64_u32 << 20).to_le_bytes(), &[7; 60 << 10]].concat();
        for call in 0..100 {
            liar.send(PART, call, &part).await;
        }
        assert!(leaves(&mut events).await.contains("nothing is expected"));
    }
    let grown = facts::peak_bytes(std::process::id()) - before;
    assert!(grown < 32 << 20, "{grown} bytes more than before");
    still_works(&pool).await;
}

#[test]
fn a_result_that_would_become_much_more_when_read_is_refused_unread() {
    alone("bomb");
}

pub(super) async fn bomb() {
    let pool = fleet().await;
    let mut events = pool.events();
    let before = facts::peak_bytes(std::process::id());
    // Ending 6 is passed, with 15 million reasons of no length; then the same within the limit of a
    // head.
    let reasons =
        |count: u32| [&[6][..], &packed(&count), &vec![0; count as usize], &[0, 0]].concat();
    for (count, is_refused) in [(15_000_000, true), (300_000, true), (200_000, false)] {
        let mut peer = FramePeer::joined(&pool).await;
        let handle = pool.call(call());
        let (_, id, _) = peer.recv().await.unwrap();
        let body = head(&reasons(count));
        let length = u32::try_from(body.len()).unwrap();
        for bytes in body.chunks(60 << 10) {
            peer.send(
                PART,
                id,
                &[&[ANSWER][..], &length.to_le_bytes(), bytes].concat(),
            )
            .await;
        }
        if is_refused {
            assert!(leaves(&mut events).await.contains("its head has"));
            assert!(matches!(
                timeout(BOUND, handle).await.unwrap(),
                Err(CallError::Lost(_))
            ));
        } else {
            let Err(CallError::Passed(reasons)) = timeout(BOUND, handle).await.unwrap() else {
                panic!("passed")
            };
            assert!(reasons.len() <= 64);
            drop(peer);
            leaves(&mut events).await;
        }
    }
    let grown = facts::peak_bytes(std::process::id()) - before;
    assert!(grown < 96 << 20, "{grown} bytes more than before");
    still_works(&pool).await;
}

/// Messages that a host might send, to be damaged.
fn from_hosts() -> Vec<Vec<u8>> {
    let frame = |kind: u8, body: &[u8]| [&[kind][..], body].concat();
    let failed = packed(&(1_u8, "no", Vec::<String>::new(), None::<String>));
    vec![
        frame(ANSWER, &done(b"42")),
        frame(ANSWER, &head(&[failed, vec![0]].concat())),
        frame(
            ANSWER,
            &head(&[&[6, 2, 1, b'a', 1, b'b'][..], &[1, 3, 0, 2, 0]].concat()),
        ),
        frame(PROGRESS, &[0; 10]),
        frame(JOIN, &packed(&join())),
        frame(
            PART,
            &[&[ANSWER][..], &100_u32.to_le_bytes(), b"some"].concat(),
        ),
        frame(67, &[]),
        frame(96, &[]),
    ]
}

/// Well formed and absurd.
fn absurd(number: u64) -> (u8, Vec<u8>) {
    let max = u64::MAX;
    let written = |bytes: u64| head(&[vec![0, 1], packed(&(bytes, max, bytes, max))].concat());
    match number % 8 {
        0 => (ANSWER, written(max)),
        1 => (ANSWER, written(0)),
        2 => (
            ANSWER,
            head(
                &[
                    vec![6],
                    packed(&vec!["\u{1b}[31m\r\nforged"; 1000]),
                    vec![0],
                ]
                .concat(),
            ),
        ),
        3 => (
            PROGRESS,
            [&f64::NAN.to_le_bytes()[..], &[1], &vec![b'['; 50_000]].concat(),
        ),
        4 => (ANSWER, done(&vec![b'['; 60_000])),
        5 => (ANSWER, head(&[vec![8], vec![0]].concat())),
        6 => (
            PART,
            [&[ANSWER][..], &u32::MAX.to_le_bytes(), b"x"].concat(),
        ),
        _ => (ACK, vec![0xff; 8 * 1000]),
    }
}

/// Attacks until all was sent: a new session whenever the last one was ended, about calls that it
/// was given, where there are any.
async fn attack_pool(pool: Pool, seed: Random) {
    let (mutated, absurds) = (count(3_000, 100_000), count(500, 10_000));
    let mut mutator = Mutator::new(seed, from_hosts());
    let mut messages =
        (0..mutated)
            .map(|_| mutator.draw())
            .map(|bytes| match bytes.split_first() {
                Some((kind, body)) => (*kind, body.to_vec()),
                None => (0, Vec::new()),
            });
    let mut absurds = (0..absurds as u64).map(absurd);
    loop {
        let mut peer = FramePeer::joined_with(
            &pool,
            Join {
                tasks: vec![task_line("bait")],
                ..join()
            },
        )
        .await;
        let mut bait = pool.call(Call::<i64>::json("bait", &[1]));
        let received = tokio::select! {
            received = peer.recv() => received,
            // It went to the session before this one, which was ending.
            _ = &mut bait => continue,
        };
        let Some((RUN, id, _)) = received else {
            continue;
        };
        // The pool drops what came before the session ended, so little at a time.
        for _ in 0..8 {
            let Some((kind, body)) = messages.next().or_else(|| absurds.next()) else {
                return;
            };
            peer.send(kind, id, &body).await;
        }
        drop(peer);
        bait.await.ok();
    }
}

#[test]
fn a_hostile_host_keeps_the_pool_from_no_other_host() {
    alone("hostile_host");
}

pub(super) async fn hostile_host() {
    let pool = fleet().await;
    let before = facts::peak_bytes(std::process::id());
    let mut honest = FramePeer::joined(&pool).await;
    let (calls, stop) = (pool.clone(), mpsc::channel::<()>(1));
    let serving = tokio::spawn(async move {
        loop {
            honest.answers("42").await;
        }
    });
    let (stop, mut stopped) = stop;
    let caller = tokio::spawn(async move {
        let (mut longest, mut answered) = (Duration::ZERO, 0_u32);
        while stopped.try_recv().is_err() {
            let began = Instant::now();
            assert_eq!(
                timeout(BOUND, calls.call(call()))
                    .await
                    .expect("it is answered")
                    .unwrap(),
                42
            );
            longest = longest.max(began.elapsed());
            answered += 1;
        }
        (longest, answered)
    });
    attack_pool(pool.clone(), Random::from_env()).await;
    stop.send(()).await.unwrap();
    let (longest, answered) = caller.await.unwrap();
    serving.abort();
    println!(
        "{answered} calls of another host were answered meanwhile, the slowest after {longest:?}"
    );
    // The promise is a second; a busy machine adds to it.
    assert!(
        answered > 0 && longest < Duration::from_secs(10),
        "{longest:?}"
    );
    let grown = facts::peak_bytes(std::process::id()) - before;
    assert!(grown < HELD_BYTES_MAX, "{grown} bytes more than before");
    pool.kill().await;
}

#[task]
fn square(number: i64) -> i64 {
    number * number
}

/// What a pool might send to a host.
fn from_pools() -> Vec<Vec<u8>> {
    let frame = |kind: u8, body: &[u8]| [&[kind][..], body].concat();
    let run = packed(&(
        (0_u8, "an unknown task"),
        1_u64,
        1_u32,
        1_u8,
        None::<Duration>,
        (None::<u64>, None::<u64>),
        [false; 3],
        (None::<u64>, None::<u64>, None::<u64>),
    ));
    vec![
        frame(RUN, &[&run[..], b"[1]"].concat()),
        frame(83, &packed(&("stop", true))),
        frame(ACK, &[7; 32]),
        frame(
            PART,
            &[&[RUN][..], &100_u32.to_le_bytes(), b"some"].concat(),
        ),
        frame(96, &[]),
        frame(85, b"bye"),
    ]
}

/// A master that attacks its host, of which another one is served all the time.
#[test]
fn a_hostile_master_keeps_the_host_from_no_other_master() {
    alone("hostile_master");
}

pub(super) async fn hostile_master() {
    let honest = fleet().await;
    let mut listener = TestListener::plain().await;
    let before = facts::peak_bytes(std::process::id());
    let host = brigade::remote::serve(honest.listening()[0].clone(), key())
        .also(listener.url.clone(), key())
        .workers(1);
    let (handle, serving) = (host.handle(), tokio::spawn(host.run()));
    honest.ready(1).await.unwrap();
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let calls = honest.clone();
    let caller = tokio::spawn(async move {
        let (mut longest, mut answered) = (Duration::ZERO, 0_u32);
        while stopped.try_recv().is_err() {
            let began = Instant::now();
            assert_eq!(
                timeout(BOUND, calls.call(square(7)))
                    .await
                    .expect("it is answered")
                    .unwrap(),
                49
            );
            longest = longest.max(began.elapsed());
            answered += 1;
        }
        (longest, answered)
    });
    let mut mutator = Mutator::new(Random::from_env(), from_pools());
    let mut left = count(1_000, 100_000) + count(200, 10_000);
    while left > 0 {
        let mut peer = FramePeer::new(listener.next().await.stream);
        if peer.recv().await.is_none_or(|(kind, ..)| kind != JOIN) {
            continue;
        }
        peer.send(WELCOME, 0, &packed(&welcome())).await;
        for _ in 0..50 {
            left = left.saturating_sub(1);
            match left % 10 {
                // More than it has room for, and nothing is ever acknowledged or read.
                0 => peer.send(RUN, left as u64, &from_pools()[0][1..]).await,
                _ => {
                    if let Some((kind, body)) = mutator.draw().split_first() {
                        peer.send(*kind, left as u64, body).await;
                    }
                }
            }
        }
    }
    stop.send(()).await.unwrap();
    let (longest, answered) = caller.await.unwrap();
    println!(
        "{answered} calls of another master were answered meanwhile, the slowest after {longest:?}"
    );
    assert!(
        answered > 0 && longest < Duration::from_secs(10),
        "{longest:?}"
    );
    let grown = facts::peak_bytes(std::process::id()) - before;
    assert!(grown < HELD_BYTES_MAX, "{grown} bytes more than before");
    handle.kill();
    drop(listener);
    timeout(BOUND, serving).await.unwrap().unwrap().ok();
    honest.kill().await;
}

fn welcome() -> Welcome {
    Welcome {
        magic: *b"BRGR",
        version: 4,
        brigade: "0.1.0".to_owned(),
        build: 7,
        pool: [9; 16],
        worker: 1,
        resumed: false,
        drop: Vec::new(),
        payload_bytes_max: u64::MAX,
        beat: Duration::from_secs(1),
        keep: Duration::from_secs(2),
    }
}
