//! Calls and jobs over RabbitMQ, compared with plain `lapin` and a pair of `amqplib` programs on
//! the same server: one JSON line per result.
//!
//!     cargo bench -p brigade-bench --bench rabbitmq -- [--seconds S] [--rounds N]
//!     [--peers DIRECTORY] [workload ...]
//!
//! `--peers` names the directory of the Node programs of `scripts/bench.d`, with their modules;
//! without it there is no `amqplib`. Each side of a workload is a process of its own: the one that
//! serves starts first and is stopped when the other has finished. The peers take turns, each for
//! its part of the time.

#![expect(
    clippy::disallowed_methods,
    reason = "each side of a workload is a process of its own"
)]

mod lines;
mod raw_rabbitmq;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brigade::{Broker, Task, task};
use brigade_testkit::rabbitmq::RabbitMq;
use tokio::runtime::Runtime;

use self::lines::{Figure, Window};
use self::raw_rabbitmq::Promise;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Calls and pushes under way.
const IN_FLIGHT: usize = 256;
/// Prefetch of a consumer.
const PREFETCH: usize = 250;
/// Parts of the time of each.
const TURNS: u32 = 5;
const WORKLOADS: [&str; 4] = ["rpc-256", "rpc-1", "push-256", "consume-250"];
const PEERS: [&str; 6] = [
    "brigade",
    "lapin",
    "brigade-durable",
    "lapin-durable",
    "lapin-light",
    "amqplib",
];

#[task]
fn sum(a: i64, b: i64) -> i64 {
    a + b
}

#[task(queue = "consumed")]
fn consumed(_number: i64) {
    lines::count();
}

const SUM: Task<(i64, i64), i64> = Task::new("sum");

fn main() -> Result<()> {
    brigade::init();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, peer, workload, url, seconds] = &arguments[..]
        && matches!(role.as_str(), "--serve" | "--drive")
    {
        let time = Duration::try_from_secs_f64(seconds.parse()?)?;
        return Runtime::new()?.block_on(side(role, peer, workload, url, time));
    }
    let Some(options) = Options::parse(arguments)? else {
        return Ok(());
    };
    for _ in 0..options.rounds {
        for workload in WORKLOADS.iter().filter(|workload| options.wants(workload)) {
            for _ in 0..TURNS {
                PEERS
                    .iter()
                    .filter(|peer| options.has(peer) && Options::is_for(peer, workload))
                    .try_for_each(|peer| options.run(peer, workload))?;
            }
        }
    }
    Ok(())
}

struct Options {
    time: Duration,
    rounds: u32,
    peers: Option<String>,
    wanted: Vec<String>,
    server: RabbitMq,
}

impl Options {
    /// `None` if this is run among the tests: the tests have their own.
    fn parse(arguments: Vec<String>) -> Result<Option<Self>> {
        if !arguments.iter().any(|argument| argument == "--bench") {
            return Ok(None);
        }
        let server = RabbitMq::start(&[])?;
        let mut options = Self {
            time: Duration::from_secs(3),
            rounds: 1,
            peers: None,
            wanted: Vec::new(),
            server,
        };
        let mut arguments = arguments.into_iter().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {}
                "--seconds" => {
                    options.time = Duration::try_from_secs_f64(
                        arguments
                            .next()
                            .ok_or("--seconds needs a number")?
                            .parse()?,
                    )?
                }
                "--rounds" => {
                    options.rounds = arguments.next().ok_or("--rounds needs a number")?.parse()?
                }
                "--peers" => {
                    options.peers = Some(arguments.next().ok_or("--peers needs a directory")?)
                }
                name if WORKLOADS.contains(&name) || PEERS.contains(&name) => {
                    options.wanted.push(name.to_owned())
                }
                other => return Err(format!("there is no workload {other}").into()),
            }
        }
        Ok(Some(options))
    }

    fn names(&self, all: &[&str], name: &str) -> bool {
        !self
            .wanted
            .iter()
            .any(|wanted| all.contains(&wanted.as_str()))
            || self.wanted.iter().any(|wanted| wanted == name)
    }

    fn wants(&self, workload: &str) -> bool {
        self.names(&WORKLOADS, workload)
    }

    fn has(&self, peer: &str) -> bool {
        self.names(&PEERS, peer) && (peer != "amqplib" || self.peers.is_some())
    }

    /// Jobs are durable for everybody.
    fn is_for(peer: &str, workload: &str) -> bool {
        workload.starts_with("rpc") || matches!(peer, "brigade" | "lapin" | "amqplib")
    }

    /// Runs both sides in processes of their own.
    fn run(&self, peer: &str, workload: &str) -> Result<()> {
        if workload.starts_with("consume") {
            let url = self.server.url();
            Runtime::new()?.block_on(raw_rabbitmq::fill(
                &url,
                "consumed",
                lines::enough(self.time / TURNS),
            ))?;
        }
        let spent = Spent::until_now(&self.server)?;
        let serves = workload.starts_with("rpc");
        let server = if serves {
            Some(Side(
                self.side("--serve", peer, workload)?
                    .stdin(Stdio::piped())
                    .spawn()?,
            ))
        } else {
            None
        };
        let mut driver = self
            .side("--drive", peer, workload)?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut count = 0.0;
        for line in BufReader::new(driver.stdout.take().ok_or("no output")?).lines() {
            let line = line?;
            match line.strip_prefix(lines::MADE) {
                Some(made) => count = made.parse()?,
                None => println!("{line}"),
            }
        }
        let ended = driver.wait()?;
        drop(server);
        if count > 0.0 {
            Spent::until_now(&self.server)?
                .since(&spent)
                .print(&Figure::new(peer, workload), count);
        }
        for queue in ["sum", "pushed", "consumed"] {
            // It may not be there.
            self.server.ctl(&["delete_queue", queue]).ok();
        }
        if ended.success() {
            Ok(())
        } else {
            Err(format!("{peer} {workload} failed").into())
        }
    }

    fn side(&self, role: &str, peer: &str, workload: &str) -> Result<Command> {
        let mut command = match &self.peers {
            Some(peers) if peer == "amqplib" => {
                let mut command = Command::new("node");
                command.arg(format!("{peers}/amqplib.mjs"));
                command
            }
            _ => Command::new(std::env::current_exe()?),
        };
        let seconds = (self.time / TURNS).as_secs_f64().to_string();
        command.args([role, peer, workload, &self.server.url(), &seconds]);
        Ok(command)
    }
}

/// CPU time, which other programs on the same CPUs change little.
struct Spent {
    /// Of both sides.
    sides: Duration,
    broker: Duration,
}

impl Spent {
    fn until_now(server: &RabbitMq) -> Result<Self> {
        Ok(Self {
            sides: cpu_time("self", 15)?,
            broker: cpu_time(&server.pid().to_string(), 13)?,
        })
    }

    fn since(self, before: &Self) -> Self {
        Self {
            sides: self.sides.saturating_sub(before.sides),
            broker: self.broker.saturating_sub(before.broker),
        }
    }

    fn print(&self, figure: &Figure, count: f64) {
        figure.part("cpu", self.sides.as_secs_f64() * 1e6 / count, "us");
        figure.part("broker-cpu", self.broker.as_secs_f64() * 1e6 / count, "us");
    }
}

/// Of a process: two fields of its line, see proc(5), counted from zero: 13 and 14 are its own, 15
/// and 16 those of its ended children.
fn cpu_time(process: &str, first_field: usize) -> Result<Duration> {
    let line = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Its name may have spaces.
    let (_, fields) = line.rsplit_once(')').ok_or("no name")?;
    let ticks = fields
        .split_whitespace()
        .skip(first_field - 2)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<std::result::Result<u64, _>>()?;
    // A hundred per second, on all platforms of Linux.
    Ok(Duration::from_millis(ticks * 10))
}

/// Ends with its standard input.
struct Side(Child);

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

async fn side(role: &str, peer: &str, workload: &str, url: &str, time: Duration) -> Result<()> {
    let figure = Figure::new(peer, workload);
    match (role, peer, workload) {
        ("--serve", "brigade" | "brigade-durable", _) => {
            let broker = Broker::connect(url).await?;
            broker
                .consumer()
                .task(sum)
                .prefetch(IN_FLIGHT)
                .in_process()
                .run_until(lines::end_of_input())
                .await?;
        }
        ("--serve", kind, _) => raw_rabbitmq::serve(url, Promise::of(kind)).await?,
        (_, "brigade" | "brigade-durable", "rpc-256" | "rpc-1") => {
            let calls = if peer == "brigade" {
                "transient"
            } else {
                "durable"
            };
            let broker = Broker::connect(&format!("{url}/?calls={calls}")).await?;
            let window = if workload == "rpc-1" { 1 } else { IN_FLIGHT };
            let call = |n: i64| broker.call(SUM.call((n, 1)));
            figure.calls(Window::new(window, time).run(call).await);
        }
        (_, kind, "rpc-256" | "rpc-1") => {
            let window = if workload == "rpc-1" { 1 } else { IN_FLIGHT };
            let caller = raw_rabbitmq::Caller::connect(url, Promise::of(kind)).await?;
            figure.calls(Window::new(window, time).run(|n| caller.call(n)).await);
        }
        (_, "brigade", "push-256") => {
            let queue = Broker::connect(url).await?.queue("pushed");
            figure.rate(
                lines::rate(IN_FLIGHT, time, move |n| {
                    let queue = queue.clone();
                    async move { drop(queue.push(&n).await.expect("it is pushed")) }
                })
                .await,
            );
        }
        (_, _, "push-256") => figure.rate(raw_rabbitmq::push(url, IN_FLIGHT, time).await?),
        (_, "brigade", _) => {
            let broker = Broker::connect(url).await?;
            let worker = broker
                .consumer()
                .task(consumed)
                .prefetch(PREFETCH)
                .in_process();
            let began = Instant::now();
            worker
                .run_until(lines::counted(lines::enough(time), time * 4))
                .await?;
            figure.rate(lines::rate_since(began));
            println!("{}{}", lines::MADE, lines::enough(time));
        }
        _ => {
            figure
                .rate(raw_rabbitmq::consume(url, "consumed", PREFETCH, lines::enough(time)).await?);
            println!("{}{}", lines::MADE, lines::enough(time));
        }
    }
    Ok(())
}
