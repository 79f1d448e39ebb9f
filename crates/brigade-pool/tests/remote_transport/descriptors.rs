//! G47: no descriptors are left.

use brigade_testkit::program::Program;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::*;

const UNKNOWN_PEERS: usize = 200;

/// A listener with 64 descriptors: first 200 unknown peers get a bounded part of them, then
/// the program's own files take all.
pub(super) async fn few_descriptors() {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            maximum: hard,
        },
    )
    .unwrap();
    let mut listener = TestListener::plain().await;
    let mut ours = connect(&listener.url, &key()).await.unwrap();
    let mut theirs = listener.next().await;
    println!("listens at {}", listener.url);
    listener
        .until(|counts| counts.total() == UNKNOWN_PEERS as u64)
        .await;
    assert_eq!(
        listener.refusals.get().pauses,
        0,
        "unknown peers did not take them all"
    );
    talk(&mut ours, &mut theirs).await;

    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    println!("is full");
    listener.until(|counts| counts.pauses > 2).await;
    let (before, pauses) = (cpu(), listener.refusals.get().pauses);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pauses = listener.refusals.get().pauses - pauses;
    println!("pauses {pauses}");
    println!("spins {}", (cpu() - before).as_millis());
    talk(&mut ours, &mut theirs).await;
    drop(files);
    let mut late = listener.next().await;
    talk(&mut ours, &mut theirs).await;
    late.stream.write_all(b"welcome").await.unwrap();
    late.stream.shutdown().await.unwrap();
    println!("let in");
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap()
}

#[test]
fn g47_without_descriptors_it_waits_and_does_not_spin() {
    let mut program = Program::start("few_descriptors").unwrap();
    let line = |beginning: &str| {
        program
            .line(beginning, BOUND)
            .unwrap_or_else(|| panic!("no {beginning}: {}", program.log()))
    };
    let url = line("listens at ");
    let address: SocketAddr = url.strip_prefix("tcp://").unwrap().parse().unwrap();
    let mut unknown: Vec<_> = (0..UNKNOWN_PEERS)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    unknown.clear();
    line("is full");
    run(async {
        // It is let in late, so within the deadline of its handshake at the latest.
        let mut peer = connect(&url, &key())
            .await
            .unwrap_or_else(|error| panic!("{error:?}: {}", program.log()));
        let mut received = Vec::new();
        peer.stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"welcome");
    });
    let (pauses, spins): (u64, u64) = (
        line("pauses ").parse().unwrap(),
        line("spins ").parse().unwrap(),
    );
    assert!((1..20).contains(&pauses), "{pauses} pauses in a second");
    assert!(spins < 500, "{spins} ms of CPU in a second of waiting");
    line("let in");
    assert!(program.wait(BOUND).unwrap().success(), "{}", program.log());
}
