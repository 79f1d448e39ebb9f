//! What is refused before a host is a worker of the pool.
//!
//! Each test introduces a host over a stream in memory: versions, signatures of tasks, absurd
//! numbers and texts. Both sides say why a host is refused. What a host may do once it has joined
//! is tested with real connections in `tests/remote`.

use linkme::distributed_slice;

use super::super::super::core::{HostArrival, HostInfo};
use super::introduction::{LABELS_MAX, introduce};
use super::*;
use crate::error::{Error, ErrorKind};
use crate::invocation::{Invocation, Returned};
use crate::registry::{TASKS, TaskEntry};
use crate::remote::FrameConnection;
use crate::wire::remote::{Join, TaskLine};

/// A task of this program.
#[distributed_slice(TASKS)]
static SQUARE: TaskEntry = TaskEntry {
    name: "square of these tests",
    aliases: &[],
    path: || "",
    queue: "",
    place: "",
    codec: Codec::Postcard,
    idempotent: false,
    signature: crate::signature::signature::<(i64,), i64>,
    body: || "",
    options: |call| call,
    invoke: |_, _, _| Invocation::Now(Returned::Passed(String::new())),
};

fn join() -> Join {
    Join {
        magic: MAGIC,
        version: VERSION,
        brigade: "0.9.9".to_owned(),
        build: 7,
        session: [7; 16],
        pool: None,
        held: Vec::new(),
        name: "far".to_owned(),
        pid: 7,
        slots: 4,
        labels: vec!["gpu".to_owned()],
        functions: true,
        leaving: false,
        tasks: Vec::new(),
    }
}

/// What a pool makes of a host that introduces itself so.
async fn introduced(
    kind: u8,
    join: &impl serde::Serialize,
) -> Result<(HostInfo, HostArrival), Error> {
    let (ours, theirs) = tokio::io::duplex(2 << 20);
    let mut host = FrameConnection::new(Box::new(theirs));
    host.send(kind, join).await.unwrap();
    introduce(&mut FrameConnection::new(Box::new(ours)), "key").await
}

async fn refused(join: &impl serde::Serialize) -> String {
    let Err(error) = introduced(kind::JOIN, join).await else {
        panic!("it was let in")
    };
    assert_eq!(error.kind(), ErrorKind::Refused);
    error.to_string()
}

fn task(signature: &str) -> TaskLine {
    TaskLine {
        name: SQUARE.name.to_owned(),
        signature: signature.to_owned(),
        idempotent: true,
        retries: None,
        retry: None,
    }
}

#[tokio::test]
async fn who_fits_is_let_in() {
    let own = (SQUARE.signature)();
    let (info, arrival) = introduced(
        kind::JOIN,
        &Join {
            held: vec![(3, 1)],
            tasks: vec![task(own)],
            ..join()
        },
    )
    .await
    .unwrap();
    assert_eq!(
        (
            info.slots,
            info.tasks.get(SQUARE.name).map(|task| task.idempotent),
            &*arrival.held
        ),
        (4, Some(true), &[(CallId::from_wire(3), 1)][..])
    );
    assert!(!info.functions, "its build is another");
}

#[tokio::test]
async fn other_versions_and_other_signatures_are_refused_and_named() {
    let text = refused(&Join {
        version: VERSION + 1,
        ..join()
    })
    .await;
    assert!(
        text.contains(&format!("version {}", VERSION + 1))
            && text.contains("0.9.9")
            && text.contains(&VERSION.to_string()),
        "{text}"
    );
    // Of a later version only the first fields are known.
    let text = refused(&(MAGIC, VERSION + 7, "9.0.0", "all else is new")).await;
    assert!(text.contains("9.0.0"), "{text}");
    let text = refused(&Join {
        tasks: vec![task("fn((u8,)) -> u8")],
        ..join()
    })
    .await;
    assert!(
        text.contains(SQUARE.name) && text.contains("fn((u8,)) -> u8") && text.contains("i64"),
        "{text}"
    );
}

#[tokio::test]
async fn bad_use_absurd_introductions_are_refused() {
    assert!(
        refused(&Join { slots: 0, ..join() })
            .await
            .contains("0 slots")
    );
    assert!(
        refused(&Join {
            slots: 1_000_000,
            ..join()
        })
        .await
        .contains("1000000 slots")
    );
    assert!(
        refused(&Join {
            labels: vec![String::new(); LABELS_MAX + 1],
            ..join()
        })
        .await
        .contains("too many")
    );
    assert!(
        refused(&Join {
            magic: *b"HTTP",
            ..join()
        })
        .await
        .contains("introduce")
    );
    assert!(introduced(kind::ANSWER, &join()).await.is_err());
}
