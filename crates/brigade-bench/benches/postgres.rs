//! Jobs in PostgreSQL, and raw SQL that does the same: one JSON line per result.
//!
//!     cargo bench -p brigade-bench --bench postgres -- [--seconds S] [--turns N] \
//!         [--peer PROGRAM] [workload ...]
//!
//! Without a workload all but `held-snapshot` take turns. The server is the machine's own, with its
//! defaults (`fsync` on), in `BENCH_DIR` or the directory for temporary files. With each rate comes the
//! CPU time of a job, which other programs of the machine move less. A peer's program
//! (`scripts/bench.d/peers --program graphile`) runs at the end of each turn, with the URL of a
//! fresh database.
//!
//! `held-snapshot` lets jobs flow through a consumer at full rate while another transaction holds
//! an old snapshot for most of `--seconds` (600 for the picture in docs/benchmarks), and prints the
//! rate of each fiftieth part of the time.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark spawns as its user would"
)]

mod postgres_jobs;
mod raw_postgres;

use std::process::Command;
use std::time::Duration;

use tokio::runtime::Runtime;

use self::postgres_jobs::{CpuTimes, Done, Result, Served};

/// Jobs that a consumer holds, and rows of the raw transactions.
const PREFETCH: usize = 100;
const BULK: usize = 1000;
const PUSHERS: usize = 64;

/// What takes turns, each after what it is compared with.
const WORKLOADS: [(&str, &str); 9] = [
    ("raw", "push-64"),
    ("brigade", "push-64"),
    ("raw", "push-bulk"),
    ("brigade", "push-bulk"),
    ("raw", "cycle"),
    ("brigade", "cycle-pool"),
    ("brigade", "cycle-in-process"),
    ("brigade", "idle-start"),
    ("brigade", "jobs-10 and jobs-1000000"),
];
const HELD: &str = "held-snapshot";

fn main() -> Result<()> {
    brigade::init();
    let Some(options) = Options::parse()? else {
        return Ok(());
    };
    let runtime = Runtime::new()?;
    let served = Served::start()?;
    if options.wanted.iter().any(|wanted| wanted == HELD) {
        runtime.block_on(postgres_jobs::held_snapshot(&served, options.time))?;
    }
    for _ in 0..options.turns {
        for (peer, workload) in WORKLOADS {
            let is_wanted =
                options.wanted.is_empty() || options.wanted.iter().any(|wanted| wanted == workload);
            if is_wanted {
                for line in runtime.block_on(run(&served, peer, workload, options.time))? {
                    line.print(peer);
                }
            }
        }
        if let Some(program) = &options.peer {
            let seconds = options.time.as_secs_f64().to_string();
            let peer = Command::new(program)
                .args([&served.database()?, "--seconds", &seconds])
                .status()?;
            if !peer.success() {
                return Err(format!("{program}: {peer}").into());
            }
        }
    }
    Ok(())
}

async fn run(
    served: &Served,
    peer: &str,
    workload: &'static str,
    time: Duration,
) -> Result<Vec<Line>> {
    let before = served.cpu_times()?;
    let done = match (peer, workload) {
        ("raw", "push-64") => raw_postgres::push(&served.database()?, PUSHERS, time).await?,
        ("raw", "push-bulk") => raw_postgres::push(&served.database()?, 2 * BULK, time).await?,
        ("raw", _) => raw_postgres::cycle(&served.database()?, PREFETCH, time).await?,
        (_, "push-64") => postgres_jobs::push(served, PUSHERS, time).await?,
        (_, "push-bulk") => postgres_jobs::push_bulk(served, BULK, time).await?,
        (_, "cycle-pool") => postgres_jobs::cycle(served, PREFETCH, true, time).await?,
        (_, "cycle-in-process") => postgres_jobs::cycle(served, PREFETCH, false, time).await?,
        (_, "idle-start") => {
            let took = postgres_jobs::idle_start(served, time).await?;
            return Ok(vec![Line::new(workload, took.as_secs_f64() * 1e6, "us")]);
        }
        _ => {
            let [few, many] = postgres_jobs::growth(served, time).await?;
            let line = |workload, cost| Line::new(workload, cost, "us");
            return Ok(vec![line("jobs-10", few), line("jobs-1000000", many)]);
        }
    };
    Ok(vec![Line::of(workload, done, before, served.cpu_times()?)])
}

/// One result.
struct Line {
    workload: &'static str,
    value: f64,
    unit: &'static str,
    /// CPU time of a job, in us: of this process with its workers, and of the server.
    cpu: Option<CpuTimes>,
}

impl Line {
    fn new(workload: &'static str, value: f64, unit: &'static str) -> Self {
        Self {
            workload,
            value,
            unit,
            cpu: None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
    fn of(workload: &'static str, done: Done, before: CpuTimes, after: CpuTimes) -> Self {
        let jobs = done.jobs.max(1) as f64;
        let cpu = CpuTimes {
            own: (after.own - before.own) / jobs,
            server: (after.server - before.server) / jobs,
        };
        Self {
            cpu: Some(cpu),
            ..Self::new(workload, jobs / done.took.as_secs_f64(), "jobs/s")
        }
    }

    fn print(&self, peer: &str) {
        let Self {
            workload,
            value,
            unit,
            cpu,
        } = self;
        let cpu = cpu.map_or_else(String::new, |CpuTimes { own, server }| {
            format!(r#","own_cpu_us":{own:.2},"server_cpu_us":{server:.2}"#)
        });
        println!(
            r#"{{"peer":"{peer}","workload":"postgres-{workload}","value":{value:.3},"unit":"{unit}"{cpu}}}"#
        );
    }
}

struct Options {
    time: Duration,
    turns: u32,
    peer: Option<String>,
    wanted: Vec<String>,
}

impl Options {
    /// `None`: run among the tests, of which this is none.
    fn parse() -> Result<Option<Self>> {
        let mut options = Self {
            time: Duration::from_secs(3),
            turns: 3,
            peer: None,
            wanted: Vec::new(),
        };
        if !std::env::args().any(|argument| argument == "--bench") {
            return Ok(None);
        }
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or("a value is missing");
            match argument.as_str() {
                "--bench" => {}
                "--seconds" => options.time = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--turns" => options.turns = value()?.parse()?,
                "--peer" => options.peer = Some(value()?),
                name if name == HELD || WORKLOADS.iter().any(|(_, known)| *known == name) => {
                    options.wanted.push(name.to_owned());
                }
                other => return Err(format!("there is no workload {other}").into()),
            }
        }
        Ok(Some(options))
    }
}
