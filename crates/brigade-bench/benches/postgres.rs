//! Jobs in PostgreSQL, and raw SQL that does the same: one JSON line per result.
//!
//!     cargo bench -p brigade-bench --bench postgres -- [--seconds S] [--turns N] \
//!         [--peer PROGRAM] [workload ...]
//!
//! Without a workload all but `held-snapshot` take turns. The server is the machine's own, with its
//! defaults (`fsync` on), in `BENCH_DIR` or the directory for temporary files. A peer's program
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

use self::postgres_jobs::{Result, Served};

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
                for (workload, value, unit) in
                    runtime.block_on(run(&served, peer, workload, options.time))?
                {
                    println!(
                        r#"{{"peer":"{peer}","workload":"postgres-{workload}","value":{value:.3},"unit":"{unit}"}}"#
                    );
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
) -> Result<Vec<(&'static str, f64, &'static str)>> {
    let rate = |rate: f64| Ok(vec![(workload, rate, "jobs/s")]);
    match (peer, workload) {
        ("raw", "push-64") => {
            rate(raw_postgres::push_rate(&served.database()?, PUSHERS, time).await?)
        }
        ("raw", "push-bulk") => {
            rate(raw_postgres::push_rate(&served.database()?, 2 * BULK, time).await?)
        }
        ("raw", _) => rate(raw_postgres::cycle_rate(&served.database()?, PREFETCH, time).await?),
        (_, "push-64") => rate(postgres_jobs::push_rate(served, PUSHERS, time).await?),
        (_, "push-bulk") => rate(postgres_jobs::bulk_rate(served, BULK, time).await?),
        (_, "cycle-pool") => rate(postgres_jobs::cycle_rate(served, PREFETCH, true, time).await?),
        (_, "cycle-in-process") => {
            rate(postgres_jobs::cycle_rate(served, PREFETCH, false, time).await?)
        }
        (_, "idle-start") => {
            let took = postgres_jobs::idle_start(served, time).await?;
            Ok(vec![(workload, took.as_secs_f64() * 1e6, "us")])
        }
        _ => {
            let [few, many] = postgres_jobs::growth(served, time).await?;
            Ok(vec![("jobs-10", few, "us"), ("jobs-1000000", many, "us")])
        }
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
