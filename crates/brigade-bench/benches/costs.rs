//! CPU time and context switches of a call in each process that takes part. They depend less on
//! other programs of the machine than the time of a call does.
//!
//!     cargo bench -p brigade-bench --bench costs [-- --seconds S] [--rounds N]
//!     [--slots N]
//!
//! The workload, local and over TCP in turns: twenty callers, 3 KiB and its MD5, two workers.

mod elsewhere;
#[expect(dead_code, reason = "workloads of other benches")]
mod load;
mod tasks;

use std::fs;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use self::load::{Result, digest, together, two_workers};

const CALLERS: usize = 20;
const WARM_UP: Duration = Duration::from_millis(300);

fn main() -> Result<()> {
    brigade::init();
    elsewhere::enter_if_host()?;
    let mut arguments = std::env::args().skip(1);
    // Run among the tests: only whether it works.
    let (mut time, mut rounds, mut all_slots, mut wanted) =
        (Duration::from_millis(20), 1, vec![10, 1], true);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => time = time.max(Duration::from_secs(2)),
            "--seconds" => {
                time = Duration::try_from_secs_f64(
                    arguments
                        .next()
                        .ok_or("--seconds needs a number")?
                        .parse()?,
                )?
            }
            "--slots" => {
                all_slots = vec![arguments.next().ok_or("--slots needs a number")?.parse()?]
            }
            "--rounds" => rounds = arguments.next().ok_or("--rounds needs a number")?.parse()?,
            // A test runner that asks for the tests there are, or for some of them: this is none.
            _ => wanted = false,
        }
    }
    let runtime = Runtime::new()?;
    for _ in 0..if wanted { rounds } else { 0 } {
        for slots in &all_slots {
            runtime.block_on(measure(*slots, false, time))?;
            runtime.block_on(measure(*slots, true, time))?;
        }
    }
    Ok(())
}

async fn measure(slots: u32, away: bool, time: Duration) -> Result<()> {
    let (pool, host) = match away {
        true => {
            let (pool, host) = elsewhere::two_workers(slots).await?;
            (pool, Some(host))
        }
        false => (two_workers().slots(slots).start().await?, None),
    };
    let warm = Instant::now() + WARM_UP.min(time);
    together(CALLERS, digest(&pool), move |_| Instant::now() < warm).await;
    let own = std::process::id();
    let parent = host.as_ref().map_or(own, std::process::Child::id);
    let mut parts = vec![("master", vec![own])];
    parts.extend(host.as_ref().map(|host| ("host", vec![host.id()])));
    parts.push(("workers", children(parent)?));
    let before: Vec<Used> = parts
        .iter()
        .map(|(_, pids)| Used::by(pids))
        .collect::<Result<_>>()?;
    let (began, end) = (Instant::now(), Instant::now() + time);
    let calls = together(CALLERS, digest(&pool), move |_| Instant::now() < end).await;
    let each = |sum: f64| sum / f64::from(u32::try_from(calls).unwrap_or(u32::MAX).max(1));
    print!(
        "{slots:>2} slots, {:<8} {:6.2} us;",
        if away { "over TCP" } else { "local" },
        each(began.elapsed().as_secs_f64() * 1e6)
    );
    for ((part, pids), before) in parts.iter().zip(before) {
        let after = Used::by(pids)?;
        let [user, system, switches] = [
            after.user - before.user,
            after.system - before.system,
            after.switches - before.switches,
        ]
        .map(each);
        print!(
            "  {part} {:5.2} (user {user:5.2}, system {system:5.2}, switches {switches:4.2})",
            user + system
        );
    }
    println!();
    pool.shutdown().await;
    if let Some(mut host) = host {
        host.kill()?;
        host.wait()?;
    }
    Ok(())
}

/// What processes have used, in us, and how often their threads waited or were put off.
#[derive(Default)]
struct Used {
    user: f64,
    system: f64,
    switches: f64,
}

impl Used {
    fn by(pids: &[u32]) -> Result<Self> {
        let mut used = Self::default();
        let tick = 1e6 / f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?);
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let fields: Vec<&str> = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .collect();
            used.user += fields.get(11).ok_or("a field of stat")?.parse::<f64>()? * tick;
            used.system += fields.get(12).ok_or("a field of stat")?.parse::<f64>()? * tick;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let status = fs::read_to_string(task?.path().join("status"))?;
                let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
                used.switches += counts
                    .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
                    .sum::<f64>();
            }
        }
        Ok(used)
    }
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        pids.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
    }
    Ok(pids)
}
