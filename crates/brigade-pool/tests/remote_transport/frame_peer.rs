//! One side of a connection, frame by frame: a host that tests write themselves, and the pool that
//! it joins. The types repeat the wire protocol, so that a change of it shows in a test.

use brigade::{Call, Event, Pool};
use serde::Serialize;
use tokio::io::{ReadHalf, WriteHalf, split};

use super::*;

// Kinds of frames.
pub(super) const JOIN: u8 = 64;
pub(super) const ANSWER: u8 = 65;
pub(super) const PROGRESS: u8 = 66;
pub(super) const WELCOME: u8 = 80;
pub(super) const TURNED_AWAY: u8 = 81;
pub(super) const RUN: u8 = 82;
pub(super) const ACK: u8 = 84;
pub(super) const BEAT: u8 = 96;
pub(super) const ECHO: u8 = 97;
pub(super) const PART: u8 = 98;
/// Long messages that may be under way at once.
pub(super) const MOST: usize = 4;

type Stream = Box<dyn brigade::remote::transport::TransportStream>;

/// One side of a connection, frame by frame.
pub(super) struct FramePeer {
    reading: ReadHalf<Stream>,
    pub(super) writing: WriteHalf<Stream>,
}

/// How a host introduces itself.
#[derive(Clone, Serialize)]
pub(super) struct Join {
    pub(super) magic: [u8; 4],
    pub(super) version: u16,
    pub(super) brigade: String,
    pub(super) build: u64,
    pub(super) session: [u8; 16],
    pub(super) pool: Option<[u8; 16]>,
    pub(super) held: Vec<(u64, u32)>,
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) slots: u32,
    pub(super) labels: Vec<String>,
    pub(super) functions: bool,
    pub(super) leaving: bool,
    pub(super) tasks: Vec<TaskLine>,
}

/// Name, signature, whether it may run twice, retries and their pauses.
pub(super) type TaskLine = (String, String, bool, Option<u32>, Option<()>);

pub(super) fn task_line(name: &str) -> TaskLine {
    (
        name.to_owned(),
        "of another language".to_owned(),
        false,
        None,
        None,
    )
}

pub(super) fn join() -> Join {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = u128::from(COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    Join {
        magic: *b"BRGR",
        version: 4,
        brigade: "0.1.0".to_owned(),
        build: 7,
        session: number.to_le_bytes(),
        pool: None,
        held: Vec::new(),
        name: "stranger".to_owned(),
        pid: 7,
        slots: 4,
        labels: Vec::new(),
        functions: false,
        leaving: false,
        tasks: vec![task_line("double")],
    }
}

/// The body of an answer: a head of three bytes, which says that ending 0 is done and that there is
/// no output and no cost, and the result.
pub(super) fn done(result: &[u8]) -> Vec<u8> {
    [&[3, 0, 0, 0, 0, 0, 0][..], result].concat()
}

pub(super) fn packed(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

pub(super) fn header(length: u32, kind: u8, id: u64) -> Vec<u8> {
    [
        &length.to_le_bytes()[..],
        &[kind, 0, 0, 0],
        &id.to_le_bytes(),
    ]
    .concat()
}

impl FramePeer {
    pub(super) fn new(stream: Stream) -> Self {
        let (reading, writing) = split(stream);
        Self { reading, writing }
    }

    pub(super) async fn at(pool: &Pool) -> Self {
        Self::new(connect(&pool.listening()[0], &key()).await.unwrap().stream)
    }

    /// A host that was accepted.
    pub(super) async fn joined(pool: &Pool) -> Self {
        Self::joined_with(pool, join()).await
    }

    pub(super) async fn joined_with(pool: &Pool, join: Join) -> Self {
        let mut peer = Self::at(pool).await;
        peer.send(JOIN, 0, &packed(&join)).await;
        assert_eq!(peer.recv().await.unwrap().0, WELCOME);
        peer
    }

    /// The other side may have gone already.
    pub(super) async fn send(&mut self, kind: u8, id: u64, body: &[u8]) {
        let frame = [
            &header(u32::try_from(body.len()).unwrap(), kind, id)[..],
            body,
        ]
        .concat();
        self.writing.write_all(&frame).await.ok();
        self.writing.flush().await.ok();
    }

    /// The next frame that is no heartbeat and no receipt; `None` at the end of the connection.
    pub(super) async fn recv(&mut self) -> Option<(u8, u64, Vec<u8>)> {
        loop {
            let mut head = [0; 16];
            timeout(BOUND, self.reading.read_exact(&mut head))
                .await
                .expect("it answers or ends")
                .ok()?;
            let [l0, l1, l2, l3, kind, _, _, _, id @ ..] = head;
            let mut body = vec![0; u32::from_le_bytes([l0, l1, l2, l3]) as usize];
            timeout(BOUND, self.reading.read_exact(&mut body))
                .await
                .expect("it says all of it")
                .ok()?;
            let id = u64::from_le_bytes(id);
            match kind {
                BEAT => self.send(ECHO, id, &[]).await,
                ECHO | ACK => {}
                _ => return Some((kind, id, body)),
            }
        }
    }

    /// All that still comes is received, until the connection ends.
    pub(super) async fn is_ended(&mut self) {
        while self.recv().await.is_some() {}
    }

    /// Waits for a call and answers it as `result` says, in JSON.
    pub(super) async fn answers(&mut self, result: &str) {
        let (kind, id, _) = self.recv().await.unwrap();
        assert_eq!(kind, RUN);
        self.send(ANSWER, id, &done(result.as_bytes())).await;
    }
}

pub(super) async fn fleet() -> Pool {
    Pool::builder()
        .workers(0)
        .listen("tcp://127.0.0.1:0", key())
        .start()
        .await
        .unwrap()
}

pub(super) fn call() -> Call<i64> {
    Call::json("double", &[21])
}

/// The pool still works: an honest host comes and answers.
pub(super) async fn still_works(pool: &Pool) {
    let mut honest = FramePeer::joined(pool).await;
    let handle = pool.call(call());
    honest.answers("42").await;
    assert_eq!(timeout(BOUND, handle).await.unwrap().unwrap(), 42);
}

/// Why the next host goes.
pub(super) async fn leaves(events: &mut brigade::Events) -> String {
    let leaving = async {
        loop {
            if let Event::HostLeft { reason, .. } = events.next().await.unwrap() {
                return reason.to_string();
            }
        }
    };
    timeout(BOUND, leaving).await.expect("it leaves")
}

/// The answer of a pool to a host that it accepts.
#[derive(Serialize)]
pub(super) struct Welcome {
    pub(super) magic: [u8; 4],
    pub(super) version: u16,
    pub(super) brigade: String,
    pub(super) build: u64,
    pub(super) pool: [u8; 16],
    pub(super) worker: u32,
    pub(super) resumed: bool,
    pub(super) drop: Vec<u64>,
    pub(super) payload_bytes_max: u64,
    pub(super) beat: Duration,
    pub(super) keep: Duration,
}
