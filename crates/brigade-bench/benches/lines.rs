//! What the sides of a workload count, and the lines that report it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(300);

/// In front of how many were made in all, which is no figure.
pub(crate) const MADE: &str = "made ";

pub(crate) struct Figure {
    peer: String,
    workload: String,
}

impl Figure {
    pub(crate) fn new(peer: &str, workload: &str) -> Self {
        Self {
            peer: peer.to_owned(),
            workload: workload.to_owned(),
        }
    }

    fn print(&self, workload: &str, value: f64, unit: &str) {
        println!(
            r#"{{"peer":"{}","workload":"{workload}","value":{value:.3},"unit":"{unit}"}}"#,
            self.peer
        );
    }

    /// Something else of the same.
    pub(crate) fn part(&self, part: &str, value: f64, unit: &str) {
        self.print(&format!("{}-{part}", self.workload), value, unit);
    }

    pub(crate) fn rate(&self, rate: f64) {
        self.print(&self.workload, rate, "jobs/s");
    }

    /// The rate, and the median of the times.
    pub(crate) fn calls(&self, (rate, median): (f64, Duration)) {
        self.print(&self.workload, rate, "calls/s");
        self.part("median", median.as_secs_f64() * 1e6, "us");
    }
}

/// Calls in flight.
pub(crate) struct Window {
    size: usize,
    time: Duration,
}

impl Window {
    pub(crate) fn new(size: usize, time: Duration) -> Self {
        Self { size, time }
    }

    /// Calls per second, awaited in order, and the median of how long they took.
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
    pub(crate) async fn run<
        T: PartialEq<i64>,
        E: std::fmt::Debug,
        F: Future<Output = Result<T, E>> + Unpin,
    >(
        self,
        mut call: impl FnMut(i64) -> F,
    ) -> (f64, Duration) {
        let begin = Instant::now() + WARM_UP;
        let end = begin + self.time;
        let mut next = 0;
        let mut made = |flying: &mut VecDeque<(i64, Instant, F)>| {
            flying.push_back((next, Instant::now(), call(next)));
            next += 1;
        };
        let mut flying = VecDeque::new();
        (0..self.size).for_each(|_| made(&mut flying));
        let mut times = Vec::new();
        let mut count = 0_u64;
        while let Some((n, began, first)) = flying.pop_front() {
            let sum = first.await.expect("a call is answered");
            assert!(sum == n + 1, "it is the right answer");
            count += 1;
            let now = Instant::now();
            if now < end {
                made(&mut flying);
                if now >= begin {
                    times.push(now - began);
                }
            }
        }
        println!("{MADE}{count}");
        times.sort_unstable();
        (
            times.len() as f64 / self.time.as_secs_f64(),
            times.get(times.len() / 2).copied().unwrap_or_default(),
        )
    }
}

/// How often that many do something, one after the other each: per second.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark spawns as its user would"
)]
pub(crate) async fn rate<F: Future<Output = ()> + Send + 'static>(
    size: usize,
    time: Duration,
    what: impl Fn(i64) -> F + Clone + Send + Sync + 'static,
) -> f64 {
    let begin = Instant::now() + WARM_UP;
    let end = begin + time;
    let tasks: Vec<_> = (0..size)
        .map(|_| {
            let what = what.clone();
            tokio::spawn(async move {
                let (mut count, mut all) = (0_u64, 0_u64);
                for n in 0.. {
                    what(n).await;
                    all += 1;
                    let now = Instant::now();
                    if now >= end {
                        break;
                    }
                    count += u64::from(now >= begin);
                }
                (count, all)
            })
        })
        .collect();
    let (mut count, mut all) = (0, 0);
    for task in tasks {
        let made = task.await.expect("a task ends");
        count += made.0;
        all += made.1;
    }
    println!("{MADE}{all}");
    count as f64 / time.as_secs_f64()
}

static COUNT: AtomicU64 = AtomicU64::new(0);

pub(crate) fn count() {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// As many as take about that time.
pub(crate) fn enough(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 50) * 50
}

/// Waits until so many were counted, bounded.
pub(crate) async fn counted(wanted: u64, bound: Duration) {
    let end = Instant::now() + bound + Duration::from_secs(5);
    while COUNT.load(Ordering::Relaxed) < wanted && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Of what was counted by now.
#[expect(clippy::cast_precision_loss, reason = "a count of seconds' worth")]
pub(crate) fn rate_since(began: Instant) -> f64 {
    COUNT.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// Waits for the end of standard input.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark spawns as its user would"
)]
pub(crate) async fn end_of_input() {
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await
        .expect("it is read")
        .expect("it ends");
}
