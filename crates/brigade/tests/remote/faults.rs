//! The seeded fault test: connections are delayed, starved, frozen and cut, hosts killed and
//! started again, while twenty callers go on.
//!
//! Each call ends exactly once, with its right value or a typed outcome that a fault explains; none
//! that may not run twice is begun twice; in the end memory and descriptors are what they were. It
//! runs in a program of its own, so that those can be counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brigade::{Bytes, CallError, Pool};
use brigade_testkit::facts;
use brigade_testkit::program::Program;
use brigade_testkit::proxy::{BOTH, Cut, Faults, Proxy, Target, Way};
use brigade_testkit::random::Random;
use rustix::process::Signal;

use crate::stage::{BOUND, fleet, host, is_there, millis, url_of};
use crate::tasks::{add, append_id, append_id_again, crash, echo, fail, fail_first};

const CALLERS: usize = 20;
const HOSTS: usize = 3;
/// Longer than any fault but a kill, so that only a kill may lose a call.
const LOST_AFTER: Duration = Duration::from_secs(3);
const SCENARIO_BOUND: Duration = Duration::from_secs(110);
const SCENARIO_BOUND_FULL: Duration = Duration::from_secs(1800);

#[test]
fn g43_seeded_faults_of_links_and_hosts_lose_no_call_and_run_none_twice() {
    let mut program = Program::start("seeded").unwrap();
    let bound = if brigade_testkit::full() {
        SCENARIO_BOUND_FULL
    } else {
        SCENARIO_BOUND
    };
    let status = program.wait(bound);
    print!("{}", program.log());
    assert!(status.expect("it hangs").success());
    let gone = facts::wait_until(BOUND, || program.descendants().is_empty());
    assert!(gone.is_some(), "left behind: {:?}", program.descendants());
}

/// What the callers saw.
#[derive(Default)]
struct Seen {
    right: AtomicU64,
    failed: AtomicU64,
    crashed: AtomicU64,
    lost: AtomicU64,
}

/// A host and what stands between it and the pool.
struct Far {
    proxy: Proxy,
    program: Program,
    name: String,
}

impl Far {
    fn new(pool: &Pool, number: usize, seed: u64) -> Self {
        let proxy = Proxy::start(Target::of(&url_of(pool)).unwrap(), seed).unwrap();
        let name = format!("host {number}");
        let program = start(&proxy, &name);
        Self {
            proxy,
            program,
            name,
        }
    }
}

fn start(proxy: &Proxy, name: &str) -> Program {
    let url = format!("tcp://{}", proxy.address());
    host(&[
        &url,
        "workers=2",
        "slots=4",
        "ladder=200",
        &format!("name={name}"),
    ])
}

pub(crate) async fn seeded() {
    let mut random = Random::from_env();
    let calls = brigade_testkit::count(8_000, 100_000);
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger").to_str().unwrap().to_owned();
    let at_once = brigade::Retry::exponential(millis(1), millis(1));
    let pool = fleet()
        .heartbeat(millis(100))
        .lost_after(LOST_AFTER)
        .retry(at_once)
        .start()
        .await
        .unwrap();
    let mut hosts: Vec<Far> = (0..HOSTS)
        .map(|number| Far::new(&pool, number, random.draw()))
        .collect();
    all_there(&pool).await;
    // Whatever is made once is there when the baseline is taken.
    let seen = Arc::new(Seen::default());
    make_calls(&pool, &ledger, 0..200, &seen).await;
    let own = std::process::id();
    let before = (facts::open_descriptors(own), facts::resident_bytes(own));

    let began = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let mut calling = tokio::task::JoinSet::new();
    {
        let (pool, ledger, seen, over) = (
            pool.clone(),
            ledger.clone(),
            Arc::clone(&seen),
            Arc::clone(&over),
        );
        calling.spawn(async move {
            make_calls(&pool, &ledger, 200..calls, &seen).await;
            over.store(true, Ordering::Release);
        });
    }
    let mut kills = 0;
    while !over.load(Ordering::Acquire) && calling.try_join_next().is_none() {
        kills += usize::from(hurt(&mut random, &mut hosts).await);
    }
    calling.join_all().await;
    println!(
        "{calls} calls in {:.1?}, {kills} hosts killed",
        began.elapsed()
    );

    all_there(&pool).await;
    check_counts(&pool, &seen, calls, kills);
    check(&ledger, calls);
    settle(own, before).await;
    pool.shutdown().await;
    drop(hosts);
}

/// Each call ended once, as the pool counts, too.
fn check_counts(pool: &Pool, seen: &Seen, calls: usize, kills: usize) {
    let made = |count: &AtomicU64| count.load(Ordering::Acquire);
    let (right, failed, crashed, lost) = (
        made(&seen.right),
        made(&seen.failed),
        made(&seen.crashed),
        made(&seen.lost),
    );
    println!("right {right}, failed {failed}, crashed {crashed}, lost {lost}");
    let stats = pool.stats();
    println!("{stats:?}");
    assert_eq!(
        right + failed + crashed + lost,
        calls as u64,
        "each call ended once"
    );
    assert_eq!(
        (stats.done, stats.failed, stats.running, stats.waiting),
        (right, failed + crashed + lost, 0, 0)
    );
    // A host holds as many as it has slots, and the sixteen that may go ahead of their turn.
    let held = (2 * 4 + 16) * kills as u64;
    assert!(lost <= held, "{kills} kills explain at most {held}");
}

async fn all_there(pool: &Pool) {
    let began = Instant::now();
    while pool
        .workers()
        .iter()
        .filter(|worker| is_there(worker))
        .count()
        < HOSTS
        || pool.workers().len() > HOSTS
    {
        assert!(began.elapsed() < BOUND, "{:?}", pool.workers());
        tokio::time::sleep(millis(10)).await;
    }
}

/// Makes the calls of these numbers, each with its own right outcome.
async fn make_calls(pool: &Pool, ledger: &str, numbers: std::ops::Range<usize>, seen: &Arc<Seen>) {
    let next = Arc::new(AtomicU64::new(numbers.start as u64));
    let end = numbers.end as u64;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (pool, ledger, next, seen) = (
            pool.clone(),
            ledger.to_owned(),
            Arc::clone(&next),
            Arc::clone(seen),
        );
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::AcqRel);
                if number >= end {
                    return;
                }
                make_call(&pool, &ledger, number, &seen).await;
            }
        });
    }
    callers.join_all().await;
}

async fn make_call(pool: &Pool, ledger: &str, number: u64, seen: &Seen) {
    let signed = i64::try_from(number).unwrap();
    let outcome = match number % 100 {
        0 => pool.call(crash(String::new())).await,
        1 => {
            let bytes = Bytes::from(vec![number.to_le_bytes()[0]; 300 << 10]);
            pool.call(echo(bytes.clone()))
                .await
                .map(|answer| assert!(answer == bytes, "other bytes came back"))
        }
        // The second attempt may end with a neighbour that crashes; so may the first, before it
        // fails.
        2..10 => pool
            .call(fail_first(ledger.to_owned(), number).retries(2))
            .await
            .map(|attempt| assert!(attempt == 2 || attempt == 3)),
        60..64 => pool.call(fail(number.to_string())).await,
        10..50 => pool
            .call(append_id(ledger.to_owned(), number))
            .await
            .map(|answer| assert_eq!(answer, number)),
        50..60 => pool
            .call(append_id_again(ledger.to_owned(), number))
            .await
            .map(|answer| assert_eq!(answer, number)),
        _ => pool
            .call(add(signed, 1))
            .await
            .map(|sum| assert_eq!(sum, signed + 1)),
    };
    let count = match outcome {
        Ok(()) => &seen.right,
        Err(CallError::Failed(failure)) => {
            assert!(
                (60..64).contains(&(number % 100)) && failure.message == number.to_string(),
                "call {number}: {failure}"
            );
            &seen.failed
        }
        Err(CallError::Crashed(report)) => {
            assert_eq!(report.task, "crash", "{report}");
            &seen.crashed
        }
        // A host was lost with it, or a neighbour in its worker crashed.
        Err(CallError::Lost(report)) if report.ended == brigade::AttemptOutcome::Neighbour => {
            &seen.crashed
        }
        Err(CallError::Lost(_)) => &seen.lost,
        Err(other) => panic!("call {number}: {other:?}"),
    };
    count.fetch_add(1, Ordering::AcqRel);
}

/// One fault, and its mend. Whether it killed a host.
async fn hurt(random: &mut Random, hosts: &mut [Far]) -> bool {
    let far = &mut hosts[usize::try_from(random.within(0..HOSTS as u64)).unwrap()];
    let (proxy, time) = (&far.proxy, random.time(millis(5)..millis(150)));
    match random.within(0..20) {
        0..4 => {
            let delay = Faults {
                delay: millis(0)..time,
                ..Faults::default()
            };
            proxy.set(BOTH, &delay);
            tokio::time::sleep(time).await;
            proxy.set(BOTH, &Faults::default());
        }
        4..6 => {
            let slow = Faults {
                bytes_per_second: Some(200_000),
                chunk_bytes: 1000,
                ..Faults::default()
            };
            proxy.set([Way::Back], &slow);
            tokio::time::sleep(time).await;
            proxy.set([Way::Back], &Faults::default());
        }
        6..12 => {
            proxy.cut(if random.draw().is_multiple_of(2) {
                Cut::Reset
            } else {
                Cut::Finish
            });
            tokio::time::sleep(time).await;
        }
        12..15 => {
            // In the middle of whatever is under way.
            let cut = Faults {
                cut_after: Some((random.within(1..20_000), Cut::Reset)),
                ..Faults::default()
            };
            proxy.set(BOTH, &cut);
            tokio::time::sleep(time).await;
            proxy.set(BOTH, &Faults::default());
        }
        15..18 => {
            // Long enough to be noticed, at times.
            proxy.freeze(if random.draw().is_multiple_of(2) {
                vec![Way::There]
            } else {
                BOTH.to_vec()
            });
            tokio::time::sleep(5 * time).await;
            proxy.thaw();
        }
        18 => {
            proxy.close_to_new(true);
            proxy.cut(Cut::Reset);
            tokio::time::sleep(2 * time).await;
            proxy.close_to_new(false);
        }
        _ if random.draw().is_multiple_of(2) => {
            far.program.signal(Signal::KILL);
            far.program = start(&far.proxy, &far.name);
            tokio::time::sleep(time).await;
            return true;
        }
        _ => tokio::time::sleep(time).await,
    }
    false
}

/// What ran: nothing twice that may not, nothing that was not asked for.
fn check(ledger: &str, calls: usize) {
    let mut begun: HashMap<u64, u32> = HashMap::new();
    for line in std::fs::read_to_string(ledger).unwrap().lines() {
        *begun.entry(line.parse().unwrap()).or_default() += 1;
    }
    for (number, times) in &begun {
        assert!(*number < calls as u64, "{number} was never asked for");
        let most = match number % 100 {
            2..10 => 3,
            50..60 => u32::MAX,
            _ => 1,
        };
        assert!(*times <= most, "call {number} was begun {times} times");
    }
    println!(
        "{} of those in the ledger were begun, {} more than once",
        begun.len(),
        begun.values().filter(|times| **times > 1).count()
    );
}

/// Waits, bounded, until descriptors and memory are what they were.
async fn settle(own: u32, before: (usize, u64)) {
    let began = Instant::now();
    loop {
        let now = (facts::open_descriptors(own), facts::resident_bytes(own));
        if now.0 <= before.0 + HOSTS && now.1 < before.1 + (48 << 20) {
            return println!(
                "descriptors {} -> {}, memory {} -> {} MiB",
                before.0,
                now.0,
                before.1 >> 20,
                now.1 >> 20
            );
        }
        assert!(
            began.elapsed() < BOUND,
            "descriptors {} -> {}, memory {} -> {} MiB",
            before.0,
            now.0,
            before.1 >> 20,
            now.1 >> 20
        );
        tokio::time::sleep(millis(20)).await;
    }
}
