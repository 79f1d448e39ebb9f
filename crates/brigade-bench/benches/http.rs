//! What HTTP costs: clients push and lease over it, and by the library, in one run on SQLite files.
//!
//!     cargo bench -p brigade-bench --bench http [-- --seconds S] [--clients N]
//!
//! It prints both rates (a job is a push, a lease and an ack), their ratio, and the resident memory
//! of the process after each quarter of the time. Server and clients share the process and its
//! cores, so the ratio is worse than with clients elsewhere. A client of HTTP is a connection that
//! sends one request after another.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brigade::{Broker, Settled};
use brigade_server::{Auth, Server, ServerOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LEASE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    // Run among the tests: only whether it works.
    let (mut time, mut clients, mut wanted) = (Duration::from_millis(50), 4, true);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => (time, clients) = (time.max(Duration::from_secs(5)), clients.max(64)),
            "--seconds" => {
                let seconds = arguments.next().ok_or("--seconds needs a number")?;
                time = Duration::try_from_secs_f64(seconds.parse()?)?;
            }
            "--clients" => {
                clients = arguments
                    .next()
                    .ok_or("--clients needs a number")?
                    .parse()?;
            }
            // A test runner that asks for the tests there are, or for some of them: this is none.
            _ => wanted = false,
        }
    }
    if !wanted {
        return Ok(());
    }
    let runtime = Runtime::new()?;
    let library = runtime.block_on(by_library(clients, time))?;
    println!("library: {library:.0} jobs/s, {clients} clients");
    let http = runtime.block_on(by_http(clients, time))?;
    println!(
        "HTTP:    {http:.0} jobs/s, {:.2} of the library",
        http / library
    );
    Ok(())
}

async fn broker(directory: &tempfile::TempDir) -> Result<Broker> {
    let url = format!("sqlite:{}/jobs.db", directory.path().display());
    Ok(Broker::connect(&url).await?)
}

/// Jobs per second that these clients push, lease and ack through the library.
async fn by_library(clients: usize, time: Duration) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let broker = broker(&directory).await?;
    let job = move |client: usize| {
        let queue = broker.queue(format!("q{client}"));
        async move {
            queue.push("hello").await?;
            let lease = queue.lease(LEASE, WAIT).await?.ok_or("the job is there")?;
            match lease.ack().await? {
                Settled::Accepted(_) => Ok::<(), Box<dyn Error + Send + Sync>>(()),
                Settled::Stale => Err("the lease ran out".into()),
            }
        }
    };
    let done = Arc::new(AtomicU64::new(0));
    let mut all = JoinSet::new();
    let began = Instant::now();
    for client in 0..clients {
        let (job, done) = (job.clone(), Arc::clone(&done));
        all.spawn(async move {
            while began.elapsed() < time {
                job(client).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    ended(all, &done, began).await
}

/// The same over HTTP.
async fn by_http(clients: usize, time: Duration) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let stop = CancellationToken::new();
    let options = ServerOptions::new(Auth::none()).stop(stop.clone());
    let app = brigade_server::router(broker(&directory).await?, options);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut server = JoinSet::new();
    server.spawn(Server::new(listener).run(app, stop.clone()));
    let done = Arc::new(AtomicU64::new(0));
    let mut all = JoinSet::new();
    let began = Instant::now();
    for client in 0..clients {
        let done = Arc::clone(&done);
        all.spawn(async move {
            let mut client = Client::connect(address, client).await?;
            while began.elapsed() < time {
                client.job().await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    for quarter in 1..=4_u32 {
        tokio::time::sleep_until((began + time * quarter / 4).into()).await;
        println!(
            "         {} KiB resident after {:?}",
            resident()?,
            began.elapsed()
        );
    }
    let rate = ended(all, &done, began).await?;
    stop.cancel();
    server.join_all().await;
    Ok(rate)
}

async fn ended(all: JoinSet<Result<()>>, done: &AtomicU64, began: Instant) -> Result<f64> {
    all.join_all().await.into_iter().collect::<Result<()>>()?;
    #[expect(clippy::cast_precision_loss, reason = "jobs of a minute")]
    let jobs = done.load(Ordering::Relaxed) as f64;
    Ok(jobs / began.elapsed().as_secs_f64())
}

/// Resident memory of this process in KiB.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    Ok(words.ok_or("no VmRSS")?.parse()?)
}

/// A connection that is kept.
struct Client {
    stream: TcpStream,
    queue: String,
    answer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr, number: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            queue: format!("q{number}"),
            answer: Vec::new(),
        })
    }

    /// Pushes a job, leases one, and acks it.
    async fn job(&mut self) -> Result<()> {
        let queue = self.queue.clone();
        self.send(
            &format!("/v1/queues/{queue}/jobs"),
            "{\"payload\":\"hello\"}",
        )
        .await?;
        self.send(&format!("/v1/queues/{queue}/lease?wait=1s"), "")
            .await?;
        let text = std::str::from_utf8(&self.answer)?;
        let (_, rest) = text.split_once("\"lease\":\"").ok_or("a lease")?;
        let lease = rest.split('"').next().unwrap_or_default();
        let path = format!("/v1/leases/{lease}/ack");
        self.send(&path, "").await
    }

    /// Sends a request and reads the whole answer.
    async fn send(&mut self, path: &str, body: &str) -> Result<()> {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err("the server closed the connection".into());
            }
            let text = std::str::from_utf8(&self.answer)?;
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(Ok(0), str::parse::<usize>)?;
            if body.len() < length {
                continue;
            }
            match head.starts_with("HTTP/1.1 2") {
                true => return Ok(()),
                false => return Err(text.to_owned().into()),
            }
        }
    }
}
