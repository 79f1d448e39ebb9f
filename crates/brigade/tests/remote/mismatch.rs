//! Programs that do not fit: both sides say what it is that does not.

use brigade::__private::{Invocation, Returned, TASKS, TaskEntry, linkme, signature};
use brigade::remote::transport::{Authenticated, Listener, ListenerLimits, connect};
use brigade::{Codec, Event, Events};
use brigade_testkit::program::{Program, ROLE_VARIABLE};
use linkme::distributed_slice;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stage::{BOUND, credentials, event, fleet, host, soon, url_of};

/// The role of a program that is built from another source: one of its tasks has other types.
pub(crate) const OTHER_SOURCE: &str = "other source";

#[distributed_slice(TASKS)]
#[linkme(crate = linkme)]
static WEIGH: TaskEntry = TaskEntry {
    name: "weigh",
    aliases: &[],
    path: || "",
    queue: "",
    place: "",
    codec: Codec::Postcard,
    idempotent: false,
    signature: || {
        let is_other = std::env::var(ROLE_VARIABLE).is_ok_and(|role| role == OTHER_SOURCE);
        if is_other {
            signature::<(u8, String), u8>()
        } else {
            signature::<(i64,), i64>()
        }
    },
    body: || "",
    options: |call| call,
    invoke: |_, _, _| Invocation::Now(Returned::Passed(String::new())),
};

/// Kinds of frames, as `docs/wire-protocol.md` has them.
const JOIN: u8 = 64;
const WELCOME: u8 = 80;
const TURNED_AWAY: u8 = 81;
const RUN: u8 = 82;
const ANSWER: u8 = 65;
/// A version that does not exist, and the version of its Brigade.
const VERSION: u16 = 60_000;
const BRIGADE: &str = "99.1.2";

/// Why the pool refused a host.
async fn refused(events: &mut Events) -> String {
    event(events, |event| match event {
        Event::HostRefused { reason, .. } => Some(reason.to_string()),
        _ => None,
    })
    .await
}

/// What a host program says that gives up.
fn error_of(host: &Program) -> String {
    tokio::task::block_in_place(|| host.line("error ", BOUND)).expect("it gives up")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_task_has_other_types_is_refused_and_both_sides_name_the_task_and_both_types()
{
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let mut events = fleet.events();
        let other = Program::start_with(OTHER_SOURCE, &[&url_of(&fleet)]).unwrap();
        let (there, here) = (error_of(&other), refused(&mut events).await);
        assert!(there.starts_with("Refused "), "{there}");
        for words in [&there, &here] {
            assert!(
                words.contains("\"weigh\"")
                    && words.contains("(u8, alloc::string::String)")
                    && words.contains("(i64,)"),
                "{words}"
            );
        }
        assert!(fleet.workers().is_empty());
        // One of the same source is as welcome as ever.
        let _same = host(&[&url_of(&fleet)]);
        fleet.ready(1).await.unwrap();
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_host_of_another_version_is_refused_and_both_sides_name_both_versions() {
    soon(async {
        let fleet = fleet().start().await.unwrap();
        let mut events = fleet.events();
        let mut newer = connect(&url_of(&fleet), &credentials()).await.unwrap();
        say(
            &mut newer,
            JOIN,
            &(*b"BRGR", VERSION, BRIGADE, "all else is new"),
        )
        .await;
        let (kind, body) = hear(&mut newer).await;
        let ((magic, own, _, there), _) =
            postcard::take_from_bytes::<([u8; 4], u16, String, String)>(&body).unwrap();
        assert_eq!((kind, magic), (TURNED_AWAY, *b"BRGR"));
        let here = refused(&mut events).await;
        for words in [&there, &here] {
            assert!(
                words.contains(&VERSION.to_string())
                    && words.contains(BRIGADE)
                    && words.contains(&format!("this pool {own} ")),
                "{words}"
            );
        }
        assert!(fleet.workers().is_empty());
        fleet.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_another_version_is_not_joined_and_the_host_names_both_versions() {
    soon(async {
        let mut listener = Listener::bind(
            "tcp://127.0.0.1:0",
            &credentials(),
            ListenerLimits::default(),
        )
        .await
        .unwrap();
        let host = host(&[listener.url()]);
        let mut peer = listener.accept().await;
        let (kind, body) = hear(&mut peer).await;
        let ((_, own, _), _) = postcard::take_from_bytes::<([u8; 4], u16, String)>(&body).unwrap();
        assert_eq!(kind, JOIN);
        say(
            &mut peer,
            WELCOME,
            &(*b"BRGR", VERSION, BRIGADE, "all else is new"),
        )
        .await;
        let words = error_of(&host);
        assert!(
            words.starts_with("Refused ") && words.contains(&format!("this host {own} ")),
            "{words}"
        );
        assert!(
            words.contains(&VERSION.to_string()) && words.contains(BRIGADE),
            "{words}"
        );
    })
    .await;
}

/// As a master writes it.
#[derive(serde::Serialize)]
enum Target {
    #[expect(dead_code, reason = "it comes before the others")]
    Task(String),
    Function(u64),
    Listed(u32),
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_asks_for_code_by_an_address_or_beyond_the_list_is_cut_off_and_nothing_runs()
{
    soon(async {
        // It says that it is the same build, which anybody can.
        for target in [
            Target::Function(0),
            Target::Function(64),
            Target::Listed(u32::MAX),
        ] {
            let mut listener = Listener::bind(
                "tcp://127.0.0.1:0",
                &credentials(),
                ListenerLimits::default(),
            )
            .await
            .unwrap();
            let host = host(&[listener.url(), "functions=yes"]);
            let mut peer = listener.accept().await;
            let (kind, body) = hear(&mut peer).await;
            let ((_, version, _, build), _) =
                postcard::take_from_bytes::<([u8; 4], u16, String, u64)>(&body).unwrap();
            assert_eq!(kind, JOIN);
            let (beat, keep) = ((60_u64, 0_u32), (60_u64, 0_u32));
            let drop = Vec::<u64>::new();
            say(
                &mut peer,
                WELCOME,
                &(
                    (*b"BRGR", version, BRIGADE, build),
                    [7_u8; 16],
                    1_u32,
                    false,
                    drop,
                    1_u64 << 20,
                    beat,
                    keep,
                ),
            )
            .await;
            let nothing = (None::<(u64, u32)>, None::<u64>, None::<u64>);
            let rest = ([false; 3], None::<(u64, u32)>, None::<u8>, None::<u8>);
            say(&mut peer, RUN, &(target, 1_u64, 1_u32, 2_u8, nothing, rest)).await;
            // Whatever it says, it is no answer, and then it is gone.
            let mut header = [0; 16];
            while peer.stream.read_exact(&mut header).await.is_ok() {
                assert_ne!(header[4], ANSWER);
                let [l0, l1, l2, l3, ..] = header;
                let mut body = vec![0; u32::from_le_bytes([l0, l1, l2, l3]) as usize];
                if peer.stream.read_exact(&mut body).await.is_err() {
                    break;
                }
            }
            assert!(brigade_testkit::facts::is_alive(host.pid()));
        }
    })
    .await;
}

// -- a peer that speaks for itself

async fn say(peer: &mut Authenticated, kind: u8, message: &impl serde::Serialize) {
    let body = postcard::to_stdvec(message).unwrap();
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    let frame = [&length[..], &[kind, 0, 0, 0], &[0; 8], &body].concat();
    peer.stream.write_all(&frame).await.unwrap();
    peer.stream.flush().await.unwrap();
}

async fn hear(peer: &mut Authenticated) -> (u8, Vec<u8>) {
    let mut header = [0; 16];
    peer.stream.read_exact(&mut header).await.unwrap();
    let [l0, l1, l2, l3, kind, ..] = header;
    let mut body = vec![0; u32::from_le_bytes([l0, l1, l2, l3]) as usize];
    peer.stream.read_exact(&mut body).await.unwrap();
    (kind, body)
}
