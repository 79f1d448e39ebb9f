//! Workers on other hosts: a master that listens, hosts that join, calls that do not care where
//! they run.
//!
//! Without arguments all of it runs on this machine. `fleet master URL`, `fleet host URL NAME` and
//! `fleet key` are its parts; `fleet.sh` starts them in network namespaces of their own, and cuts
//! one host off for a while. Both sides read their key from the variable `FLEET_KEY`.

use std::time::{Duration, Instant};

use brigade::remote::{self, Credentials};
use brigade::{Bytes, Event, Pool, task};
use futures_util::{StreamExt as _, stream};
use md5::{Digest as _, Md5};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// It may run twice: a host that is lost takes no call with it.
#[task(idempotent)]
fn digest(bytes: Bytes) -> (Bytes, [u8; 16]) {
    let digest = Md5::digest(&bytes).into();
    (bytes, digest)
}

/// A host with this key may join and is sent work. Here each fleet has a new one; yours comes from
/// a file: `Credentials::key_file`.
fn credentials() -> Result<Credentials> {
    Ok(Credentials::key(std::env::var("FLEET_KEY")?)?)
}

#[brigade::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["host", url, name] => host(url, name).await,
        ["master", url] => master(url, credentials()?).await,
        ["key"] => {
            println!("{}", remote::generate_key()?);
            Ok(())
        }
        [] => all_here().await,
        _ => Err("fleet [master URL | host URL NAME | key]".into()),
    }
}

/// Ends at SIGTERM or Ctrl-C, when what it runs is finished.
async fn host(url: &str, name: &str) -> Result<()> {
    Ok(remote::serve(url, credentials()?)
        .workers(2)
        .slots(10)
        .name(name)
        .run()
        .await?)
}

/// Keeps the fleet busy for a few seconds and says what happens to it.
async fn master(url: &str, credentials: Credentials) -> Result<()> {
    // Impatient, so that there is something to see.
    let second = Duration::from_secs(1);
    let fleet = Pool::builder()
        .workers(0)
        .listen(url, credentials)
        .heartbeat(second / 4)
        .lost_after(2 * second)
        .start()
        .await?;
    println!("listening at {}", fleet.listening().join(", "));
    let mut events = fleet.events();
    fleet.ready(2).await?;
    work(&fleet, Instant::now() + 12 * second, &mut events).await?;
    fleet.shutdown().await;
    Ok(())
}

async fn work(fleet: &Pool, end: Instant, events: &mut brigade::Events) -> Result<()> {
    let (mut done, mut made) = (0, 0_u32);
    let inputs = stream::iter(std::iter::from_fn(|| {
        made += 1;
        (Instant::now() < end).then(|| Bytes::from(vec![made.to_le_bytes()[0]; 3072]))
    }));
    let mut results = std::pin::pin!(fleet.map(inputs, digest).in_flight(20).unordered());
    loop {
        tokio::select! {
            biased;
            Some(event) = events.next() => match event {
                Event::HostJoined { host, resumed, slots, .. } => println!("{host} joined with \
                    {slots} slots{}", if resumed { ", again" } else { "" }),
                Event::HostAway { host, reason, .. } => println!("{host} is away: {reason}"),
                Event::HostLeft { host, lost, .. } => println!("{host} left; {lost} calls lost"),
                _ => {}
            },
            result = results.next() => match result {
                Some(result) => {
                    let (bytes, digest) = result?;
                    assert_eq!(digest, <[u8; 16]>::from(Md5::digest(&bytes)));
                    done += 1;
                }
                None => break,
            },
        }
    }
    for worker in fleet.workers() {
        println!("{}: {} done", worker.host.unwrap_or_default(), worker.done);
    }
    println!(
        "{done} digests, all right; failed: {}",
        fleet.stats().failed
    );
    Ok(())
}

/// A master and two hosts on one machine.
#[expect(
    clippy::disallowed_methods,
    reason = "the hosts are programs of their own"
)]
async fn all_here() -> Result<()> {
    let key = remote::generate_key()?;
    let fleet = Pool::builder()
        .workers(0)
        .listen("tcp://127.0.0.1:0", Credentials::key(&key)?)
        .start()
        .await?;
    let mut events = fleet.events();
    let host = |name| {
        let mut program = std::process::Command::new("/proc/self/exe");
        program
            .args(["host", &fleet.listening()[0], name])
            .env("FLEET_KEY", &key)
            .spawn()
    };
    let mut hosts = [host("one")?, host("two")?];
    fleet.ready(2).await?;
    println!("hosts: {}", fleet.workers().len());
    work(
        &fleet,
        Instant::now() + Duration::from_millis(500),
        &mut events,
    )
    .await?;
    fleet.shutdown().await;
    for host in &mut hosts {
        host.kill()?;
        host.wait()?;
    }
    Ok(())
}
