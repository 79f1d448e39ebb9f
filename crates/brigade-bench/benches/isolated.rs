//! What one isolated call costs: a process of its own for each call, by what people use for that
//! and by `Builder::fresh_per_call`. Prints one table.
//!
//!     cargo bench -p brigade-bench --bench isolated [-- --seconds S] [--procspawn PROGRAM]
//!
//! `p50` and `p90` are from making the call to its answer, one call at a time, each after a pause
//! in which what stands by is complete again ("paced"). `to start` is from making the call to the
//! first line of the task, by the clock of the machine, which both processes read. `calls/s` is
//! what one caller and what eight get through without a pause; then spares run out, and what counts
//! is what a process costs.
//!
//! `bwrap` is run if it is installed. procspawn is a program of its own
//! (`scripts/bench.d/procspawn`, built by `cargo build --release` there): its workload `isolated`.

#[expect(dead_code, reason = "workloads of other benches")]
mod load;
mod tasks;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brigade::{Builder, Call, Pool, WorkerState, task};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use self::load::Result;

/// The argument with which this program is started to be a fresh program that ends at once.
const FRESH: &str = "--brigade-fresh";
const SPARES: usize = 8;
const CALLERS: usize = 8;
/// Between two paced calls, and the pause after which what stands by has settled.
const PACE: Duration = Duration::from_millis(5);

/// The time of the machine in nanoseconds.
fn moment() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Says when it began.
#[task]
fn began() -> u64 {
    moment()
}

/// What one way to isolate a call costs.
struct Row {
    name: String,
    /// From the call to its answer, paced.
    answers: Vec<Duration>,
    /// From the call to the task's first line, paced.
    starts: Vec<Duration>,
    alone: f64,
    together: f64,
}

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some(FRESH) {
        println!("{}", moment());
        return Ok(());
    }
    brigade::init();
    let mut arguments = std::env::args().skip(1);
    // Run among the tests: only whether it works.
    let (mut time, mut procspawn, mut wanted) = (Duration::from_millis(20), None, true);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => time = time.max(Duration::from_secs(2)),
            "--seconds" => {
                let seconds = arguments.next().ok_or("--seconds needs a number")?;
                time = Duration::try_from_secs_f64(seconds.parse()?)?;
            }
            "--procspawn" => {
                procspawn = Some(arguments.next().ok_or("--procspawn needs a program")?);
            }
            // A test runner that asks for the tests there are, or for some of them: this is none.
            _ => wanted = false,
        }
    }
    if wanted {
        Runtime::new()?.block_on(measure_all(time, procspawn.as_deref()))?;
    }
    Ok(())
}

async fn measure_all(time: Duration, procspawn: Option<&str>) -> Result<()> {
    println!(
        "{:<52} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "a process of its own for each call", "p50 ms", "p90 ms", "to start", "calls/s", "by eight"
    );
    programs("fork+exec of /bin/true", &["/bin/true"], time)
        .await?
        .print();
    let own = std::env::current_exe()?;
    let own = own.to_str().ok_or("a path that is text")?;
    let own = [own, FRESH];
    programs("fork+exec of this program, answer read", &own, time)
        .await?
        .print();
    let bwrap = "bwrap --unshare-all --die-with-parent --ro-bind / / --proc /proc --dev /dev";
    let bwrap: Vec<&str> = bwrap.split(' ').chain(["/bin/true"]).collect();
    match programs("bubblewrap (all namespaces) of /bin/true", &bwrap, time).await {
        Ok(row) => row.print(),
        Err(error) => println!("{:<52} {error}", "bubblewrap"),
    }
    if let Some(program) = procspawn {
        print_procspawn(program, time)?;
    }
    let fresh = || Pool::builder().workers(2).fresh_per_call();
    pool("Brigade, no spares", fresh(), |call| call, time)
        .await?
        .print();
    let spared = || fresh().spares(SPARES);
    let name = format!("Brigade, {SPARES} spares");
    pool(&name, spared(), |call| call, time).await?.print();
    let name = format!("Brigade, {SPARES} spares, memory and time limits");
    pool(&name, spared(), limited, time).await?.print();
    let warm = Pool::builder().workers(2);
    pool(
        "for comparison: Brigade, processes used again",
        warm,
        |call| call,
        time,
    )
    .await?
    .print();
    Ok(())
}

fn limited(call: Call<u64>) -> Call<u64> {
    call.memory(256 << 20).timeout(Duration::from_secs(10))
}

// -- programs

/// A program that is started for each call.
async fn programs(name: &str, command: &[&str], time: Duration) -> Result<Row> {
    let command: Arc<[String]> = command.iter().map(|part| (*part).to_owned()).collect();
    let one = move || run(&command);
    one()?;
    let (mut answers, mut starts) = (Vec::new(), Vec::new());
    let end = Instant::now() + time;
    while Instant::now() < end {
        sleep(PACE).await;
        let (since, began) = (moment(), Instant::now());
        let started = one()?;
        answers.push(began.elapsed());
        starts.extend(started.map(|at| Duration::from_nanos(at.saturating_sub(since))));
    }
    Ok(Row {
        name: name.to_owned(),
        answers,
        starts,
        alone: rate(1, time, one.clone()),
        together: rate(CALLERS, time, one),
    })
}

/// Runs a program to its end. The moment at which it began, if it says that.
#[expect(
    clippy::disallowed_methods,
    reason = "measures what the library is compared with"
)]
fn run(command: &[String]) -> Result<Option<u64>> {
    let output = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{} is not here: {error}", command[0]))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("does not run here: {reason}").into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse().ok())
}

/// Programs per second that threads run, each one after the other.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
fn rate(
    threads: usize,
    time: Duration,
    one: impl Fn() -> Result<Option<u64>> + Clone + Send,
) -> f64 {
    let (began, end) = (Instant::now(), Instant::now() + time);
    let made: u64 = std::thread::scope(|scope| {
        let caller = || {
            let one = one.clone();
            scope.spawn(move || {
                let mut made = 0;
                while Instant::now() < end {
                    one().expect("it ran before");
                    made += 1;
                }
                made
            })
        };
        let callers: Vec<_> = (0..threads).map(|_| caller()).collect();
        let made = callers
            .into_iter()
            .map(|caller| caller.join().expect("a caller ends well"));
        made.sum()
    });
    made as f64 / began.elapsed().as_secs_f64()
}

// -- procspawn

#[expect(
    clippy::disallowed_methods,
    reason = "measures what the library is compared with"
)]
fn print_procspawn(program: &str, time: Duration) -> Result<()> {
    let seconds = time.as_secs_f64().to_string();
    let output = Command::new(program)
        .args(["--seconds", &seconds, "isolated", "isolated-8"])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let value = |workload: &str, part: &str| {
        text.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|line| line["workload"] == workload && line["unit"] == part)
            .and_then(|line| line["value"].as_f64())
            .unwrap_or(f64::NAN)
    };
    println!(
        "{:<52} {:>9.2} {:>9} {:>9} {:>9.0} {:>9.0}",
        "procspawn::spawn",
        value("isolated", "ms"),
        "",
        "",
        value("isolated", "calls/s"),
        value("isolated-8", "calls/s")
    );
    Ok(())
}

// -- pools

async fn pool(
    name: &str,
    builder: Builder,
    options: fn(Call<u64>) -> Call<u64>,
    time: Duration,
) -> Result<Row> {
    let pool = builder.start().await?;
    let (mut answers, mut starts) = (Vec::new(), Vec::new());
    let end = Instant::now() + time;
    while Instant::now() < end {
        stand_by(&pool).await?;
        let (since, made) = (moment(), Instant::now());
        let at = pool.call(options(began())).await?;
        answers.push(made.elapsed());
        starts.push(Duration::from_nanos(at.saturating_sub(since)));
    }
    let alone = calls_per_second(&pool, 1, options, time).await;
    let together = calls_per_second(&pool, CALLERS, options, time).await;
    pool.shutdown().await;
    Ok(Row {
        name: name.to_owned(),
        answers,
        starts,
        alone,
        together,
    })
}

/// Waits until all processes of a pool are ready, and a little longer.
async fn stand_by(pool: &Pool) -> Result<()> {
    let mut events = pool.events();
    let is_there = |state: WorkerState| matches!(state, WorkerState::Idle | WorkerState::Spare);
    while !pool.workers().iter().all(|worker| is_there(worker.state)) {
        events.next().await.ok_or("the pool is there")?;
    }
    sleep(PACE).await;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
async fn calls_per_second(
    pool: &Pool,
    callers: usize,
    options: fn(Call<u64>) -> Call<u64>,
    time: Duration,
) -> f64 {
    let (since, end) = (Instant::now(), Instant::now() + time);
    let pool = pool.clone();
    let call = move |_| {
        let call = pool.call(options(began()));
        async move { call.await.map(drop) }
    };
    let made = load::together(callers, call, move |_| Instant::now() < end).await;
    made as f64 / since.elapsed().as_secs_f64()
}

// -- the table

impl Row {
    fn print(mut self) {
        let start = match self.starts.is_empty() {
            true => String::new(),
            false => format!("{:.2}", at(&mut self.starts, 50)),
        };
        println!(
            "{:<52} {:>9.2} {:>9.2} {start:>9} {:>9.0} {:>9.0}",
            self.name,
            at(&mut self.answers, 50),
            at(&mut self.answers, 90),
            self.alone,
            self.together
        );
    }
}

/// A percentile in milliseconds.
fn at(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let index = times.len() * percent / 100;
    times
        .get(index)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
