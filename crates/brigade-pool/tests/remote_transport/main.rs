//! Connections between hosts: which peers are accepted, which are refused, and what the stream
//! between them withstands.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a test spawns as its user would")]
#![expect(
    unsafe_code,
    reason = "a constructor takes the place of the harness where this binary is a program of its \
        own"
)]

#[cfg(feature = "tls")]
mod authority;
mod descriptors;
mod frame_peer;
mod hostile;
mod logs;
mod overload;
mod peers;
mod streams;
#[cfg(feature = "tls")]
mod tls;
mod unix;
mod unknown_peers;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use brigade::remote::transport::{Authenticated, Listener, ListenerLimits, RefusalCount, connect};
use brigade::remote::{Credentials, Refusals};
use brigade_testkit::program::{Program, ROLE_VARIABLE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

brigade::test_workers!();

/// Programs of their own, since they count descriptors or memory.
const ROLES: [(&str, fn()); 7] = [
    ("few_descriptors", || run(descriptors::few_descriptors())),
    ("beats_without_end", || run(peers::beats_without_end())),
    (
        "messages_without_end",
        || run(peers::messages_without_end()),
    ),
    ("many_slots", || run(hostile::many_slots())),
    ("bomb", || run(hostile::bomb())),
    ("hostile_host", || run(hostile::hostile_host())),
    ("hostile_master", || run(hostile::hostile_master())),
];

const _: () = {
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ENTER: extern "C" fn() = enter;

    /// Takes the place of the test harness if this process was started in a role.
    extern "C" fn enter() {
        let Ok(role) = std::env::var(ROLE_VARIABLE) else {
            return;
        };
        let Some((_, act)) = ROLES.iter().find(|(name, _)| *name == role) else {
            std::process::exit(2)
        };
        brigade::init();
        let ended = std::panic::catch_unwind(act);
        std::process::exit(if ended.is_ok() { 0 } else { 101 });
    }
};

/// Runs a role to its end.
fn alone(role: &str) {
    let mut program = Program::start(role).unwrap();
    let ended = program.wait(role_bound());
    assert!(
        ended.is_some_and(|status| status.success()),
        "{ended:?}: {}",
        program.log()
    );
}

/// Far beyond what a role takes; with the full counts of messages that is many minutes.
fn role_bound() -> Duration {
    BOUND * if brigade_testkit::full() { 30 } else { 2 }
}

/// Far beyond what anything here takes.
const BOUND: Duration = Duration::from_secs(60);
const KEY: &str = "brigade-key-WYMOvDpBhBEFZr8aKQ0IRz39y9SSzkmLFM0aXi-i5EHbLvbq";
/// Another one.
const OTHER_KEY: &str = "brigade-key-AduR0GAyzGQWLBb441clsOYyvuvd6LLCRZl50E-x4gyZpKZE";

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(role_bound(), test).await.expect("it ends in time") })
}

fn key() -> Credentials {
    Credentials::key(KEY).unwrap()
}

/// A listener whose accepted peers are handed out.
struct TestListener {
    url: String,
    refusals: RefusalCount,
    peers: mpsc::Receiver<Authenticated>,
    task: JoinHandle<()>,
}

impl TestListener {
    async fn open(url: &str, credentials: &Credentials, limits: ListenerLimits) -> Self {
        let mut listener = Listener::bind(url, credentials, limits).await.unwrap();
        let (url, refusals) = (listener.url().to_owned(), listener.refusals());
        let (sender, peers) = mpsc::channel(64);
        let task = tokio::spawn(async move {
            loop {
                let peer = listener.accept().await;
                if sender.send(peer).await.is_err() {
                    return;
                }
            }
        });
        Self {
            url,
            refusals,
            peers,
            task,
        }
    }

    /// On a port of this host, with a key.
    async fn plain() -> Self {
        Self::open("tcp://127.0.0.1:0", &key(), ListenerLimits::default()).await
    }

    fn address(&self) -> SocketAddr {
        self.url.split_once("://").unwrap().1.parse().unwrap()
    }

    /// A connection that sends nothing.
    async fn connect_silently(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    async fn next(&mut self) -> Authenticated {
        timeout(BOUND, self.peers.recv())
            .await
            .expect("a peer comes")
            .unwrap()
    }

    /// Waits until the refusals are as wanted.
    async fn until(&self, wanted: impl Fn(Refusals) -> bool) -> Refusals {
        let counts = timeout(BOUND, async {
            loop {
                let counts = self.refusals.get();
                if wanted(counts) {
                    return counts;
                }
                // A count has no event.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        counts
            .await
            .unwrap_or_else(|_| panic!("refusals stay at {:?}", self.refusals.get()))
    }

    /// A peer with these credentials is accepted, and both can talk.
    async fn accepts(&mut self, credentials: &Credentials) -> Authenticated {
        let url = self.url.clone();
        let mut ours = connect(&url, credentials).await.unwrap();
        let mut theirs = self.next().await;
        talk(&mut ours, &mut theirs).await;
        theirs
    }
}

impl Drop for TestListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Both receive from each other.
async fn talk(ours: &mut Authenticated, theirs: &mut Authenticated) {
    sends(ours, theirs, b"ping").await;
    sends(theirs, ours, b"pong").await;
}

async fn sends(from: &mut Authenticated, to: &mut Authenticated, word: &[u8; 4]) {
    from.stream.write_all(word).await.unwrap();
    from.stream.flush().await.unwrap();
    let mut received = [0; 4];
    timeout(BOUND, to.stream.read_exact(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&received, word);
}

/// All that comes until the other side ends the connection, in whichever way.
async fn rest_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    timeout(BOUND, stream.read_to_end(&mut received))
        .await
        .expect("the connection is ended")
        .ok();
    received
}
