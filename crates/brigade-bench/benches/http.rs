//! What HTTP costs: clients push and lease over it, and by the library, in one run on SQLite files.
//!
//!     cargo bench -p brigade-bench --bench http [-- --seconds S] [--clients N] [--only library|http]
//!
//! The two take turns, so that other programs on the machine disturb both alike. It prints both
//! rates (a job is a push, a lease and an ack), their ratio, the CPU time of a job by the threads
//! that spent it, and the resident memory of the process after each turn of HTTP.
//!
//! Server and clients share the process and its cores, so the ratio is worse than with clients
//! elsewhere; the CPU time of the clients is shown apart. A client of HTTP is a connection that
//! sends one request after another. One thread has all of them, because that costs least.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use brigade::{Broker, Queue, Settled};
use brigade_server::{Auth, Server, ServerOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LEASE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(1);
/// Turns of each of the two.
const TURNS: u32 = 4;

/// What is measured.
struct Plan {
    turn: Duration,
    clients: usize,
    library: bool,
    http: bool,
}

fn main() -> Result<()> {
    let Some(plan) = plan()? else {
        return Ok(());
    };
    let library = ByLibrary::new(&plan)?;
    let mut http = ByHttp::new(&plan)?;
    let (mut of_library, mut of_http) = (Spent::default(), Spent::default());
    for _ in 0..TURNS {
        if plan.library {
            of_library.measure(|| library.turn(plan.turn))?;
        }
        if plan.http {
            of_http.measure(|| http.turn(plan.turn))?;
            println!("         {} KiB resident", resident()?);
        }
    }
    http.end();
    println!("library: {of_library}, {} clients", plan.clients);
    println!("HTTP:    {of_http}");
    println!("ratio:   {:.2}", of_http.rate() / of_library.rate());
    Ok(())
}

/// The plan that the arguments describe; none if a test runner asks for tests, which are not here.
fn plan() -> Result<Option<Plan>> {
    let mut arguments = std::env::args().skip(1);
    // Run among the tests: only whether it works.
    let (mut time, mut clients, mut only) = (Duration::from_millis(50), 4, String::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => (time, clients) = (time.max(Duration::from_secs(5)), clients.max(64)),
            "--seconds" => {
                let seconds = arguments.next().ok_or("--seconds needs a number")?;
                time = Duration::try_from_secs_f64(seconds.parse()?)?;
            }
            "--clients" => {
                let number = arguments.next().ok_or("--clients needs a number")?;
                clients = number.parse()?;
            }
            "--only" => only = arguments.next().ok_or("--only needs library or http")?,
            _ => return Ok(None),
        }
    }
    Ok(Some(Plan {
        turn: time / TURNS,
        clients,
        library: only != "http",
        http: only != "library",
    }))
}

/// A broker on a file of its own.
fn broker(runtime: &Runtime, directory: &tempfile::TempDir) -> Result<Broker> {
    let url = format!("sqlite:{}/jobs.db", directory.path().display());
    Ok(runtime.block_on(Broker::connect(&url))?)
}

/// Clients that call the library.
struct ByLibrary {
    queues: Vec<Queue>,
    runtime: Runtime,
    _directory: tempfile::TempDir,
}

impl ByLibrary {
    fn new(plan: &Plan) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.thread_name("library").enable_all().build()?;
        let broker = broker(&runtime, &directory)?;
        let queues = (0..plan.clients).map(|client| broker.queue(format!("q{client}")));
        Ok(Self {
            queues: queues.collect(),
            runtime,
            _directory: directory,
        })
    }

    /// Jobs that the clients push, lease and ack in this time.
    fn turn(&self, time: Duration) -> Result<u64> {
        let mut all = JoinSet::new();
        let began = Instant::now();
        for queue in self.queues.clone() {
            let client = async move {
                let mut done = 0;
                while began.elapsed() < time {
                    job(&queue).await?;
                    done += 1;
                }
                Ok(done)
            };
            all.spawn_on(client, self.runtime.handle());
        }
        self.runtime.block_on(all.join_all()).into_iter().sum()
    }
}

/// Pushes a job, leases one, and acks it.
async fn job(queue: &Queue) -> Result<()> {
    queue.push("hello").await?;
    let lease = queue.lease(LEASE, WAIT).await?.ok_or("the job is there")?;
    match lease.ack().await? {
        Settled::Accepted(_) => Ok(()),
        Settled::Stale => Err("the lease ran out".into()),
    }
}

/// A server, and the connections of its clients.
struct ByHttp {
    clients: Vec<Client>,
    /// Of the main thread.
    runtime: Runtime,
    stop: CancellationToken,
    serving: JoinSet<()>,
    server: Runtime,
    _directory: tempfile::TempDir,
}

impl ByHttp {
    fn new(plan: &Plan) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut builder = Builder::new_multi_thread();
        let server = builder.thread_name("server").enable_all().build()?;
        let stop = CancellationToken::new();
        let options = ServerOptions::new(Auth::none()).stop(stop.clone());
        let app = brigade_server::router(broker(&server, &directory)?, options);
        let listener = server.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        let run = Server::new(listener).run(app, stop.clone());
        serving.spawn_on(run, server.handle());
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let clients = runtime.block_on(async {
            let mut clients = Vec::new();
            for number in 0..plan.clients {
                clients.push(Client::connect(address, number).await?);
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(clients)
        })?;
        Ok(Self {
            clients,
            runtime,
            stop,
            serving,
            server,
            _directory: directory,
        })
    }

    /// Jobs that the clients push, lease and ack in this time.
    fn turn(&mut self, time: Duration) -> Result<u64> {
        let mut all = JoinSet::new();
        let began = Instant::now();
        for mut client in self.clients.drain(..) {
            let jobs = async move {
                let mut done = 0;
                while began.elapsed() < time {
                    client.job().await?;
                    done += 1;
                }
                Ok((client, done))
            };
            all.spawn_on(jobs, self.runtime.handle());
        }
        let ended: Result<Vec<_>> = self.runtime.block_on(all.join_all()).into_iter().collect();
        let (clients, done): (Vec<Client>, Vec<u64>) = ended?.into_iter().unzip();
        self.clients = clients;
        Ok(done.iter().sum())
    }

    fn end(self) {
        drop(self.clients);
        self.stop.cancel();
        self.server.block_on(self.serving.join_all());
    }
}

/// What the turns of one way came to.
#[derive(Default)]
struct Spent {
    jobs: u64,
    time: Duration,
    /// CPU time by the names of the threads.
    cpu: BTreeMap<String, Duration>,
}

impl Spent {
    fn measure(&mut self, turn: impl FnOnce() -> Result<u64>) -> Result<()> {
        let (before, began) = (cpu_times()?, Instant::now());
        self.jobs += turn()?;
        self.time += began.elapsed();
        for (name, time) in cpu_times()? {
            let earlier = before.get(&name).copied().unwrap_or_default();
            *self.cpu.entry(name).or_default() += time.saturating_sub(earlier);
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "jobs of a minute")]
    fn rate(&self) -> f64 {
        self.jobs as f64 / self.time.as_secs_f64()
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} jobs/s; CPU of a job:", self.rate())?;
        for (name, time) in &self.cpu {
            let share = time.as_nanos() / u128::from(self.jobs.max(1));
            if share >= 100 {
                write!(f, " {name} {}.{} us", share / 1_000, share / 100 % 10)?;
            }
        }
        Ok(())
    }
}

/// CPU time of this process by the names of its threads; the main thread has the clients of HTTP.
fn cpu_times() -> Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::<String, Duration>::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        let is_main = thread.file_name() == *std::process::id().to_string();
        let read = |file: &str| fs::read_to_string(thread.path().join(file));
        let (Ok(name), Ok(statistics)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let name = if is_main { "clients" } else { name.trim() };
        let time = statistics.split_whitespace().next().unwrap_or_default();
        *times.entry(name.to_owned()).or_default() += Duration::from_nanos(time.parse()?);
    }
    Ok(times)
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
