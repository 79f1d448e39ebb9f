//! The server is killed while jobs are pushed and run, and calls are made (F36).
//!
//! - A push that returned is in its queue after the restart, and its job runs.
//! - A settlement that was accepted counts once.
//! - Each call ends: with its answer, or with an error that is uncertain.
//! - Consumption resumes soon after the server is back. `probe` measures when it is back for any
//!   client, and only the time beyond that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use brigade_testkit::ledger::{self, Bounds, Event, Ledger};
use brigade_testkit::rabbitmq::RabbitMq;
use brigade_testkit::random::Random;

use crate::load::{Load, Resumed};
use crate::probe::{self, Back};
use crate::stage::{BOUND, millis, until};

/// From when the broker is back until something was run. Asserted where the machine is known to be
/// quiet.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);

/// Pushed, and without an outcome.
fn missing(lines: &[ledger::Line]) -> Vec<u64> {
    let with = |is: fn(&Event) -> bool| {
        lines
            .iter()
            .filter(move |line| is(&line.event))
            .map(|line| line.job)
    };
    let done: BTreeSet<u64> = with(|event| matches!(event, Event::Outcome(_))).collect();
    with(|event| *event == Event::Enqueued)
        .filter(|job| !done.contains(job))
        .collect()
}

/// What was run for the first time since the kill, and how long after the broker was back.
async fn resumed(what: &str, resumed: &Resumed, back: Instant) -> Duration {
    until(what, async || resumed.when().is_some()).await;
    resumed.when().unwrap().saturating_duration_since(back)
}

/// Kills the server and starts it again; how long it took until each was run again, at the longest.
async fn kill(
    server: &mut RabbitMq,
    loads: &[Arc<Load>],
    ledger: &Ledger,
    number: u64,
) -> Duration {
    tokio::task::block_in_place(|| server.kill()).unwrap();
    ledger.fault(std::process::id()).unwrap();
    loads.iter().for_each(|load| load.killed());
    let watching = tokio::spawn(probe::watch(server.url()));
    tokio::task::block_in_place(|| server.start_again()).unwrap();
    let Back {
        open,
        classic,
        quorum,
    } = watching.await.unwrap();
    let (mut line, mut longest) = (String::new(), Duration::ZERO);
    for load in loads {
        for (what, of) in [("jobs", &load.jobs), ("calls", &load.calls)] {
            let took = resumed(what, of, open).await;
            longest = longest.max(took);
            write!(line, "{} {what} {took:.2?}, ", load.kind).unwrap();
        }
    }
    let (classic, quorum) = (classic - open, quorum - open);
    println!(
        "kill {number}: {line}and a plain client on a classic queue {classic:.2?}, on a quorum \
            queue {quorum:.2?} after the server was back"
    );
    longest
}

/// Each call was answered, or its end is uncertain.
fn every_call_ended(load: &Load) {
    let [done, uncertain, called, answered, failed] = [
        &load.done,
        &load.uncertain,
        &load.called,
        &load.answered,
        &load.failed,
    ]
    .map(|count| count.load(Ordering::Relaxed));
    println!(
        "{}: jobs done {done}, uncertain {uncertain}; calls {called}, answered {answered}, \
            uncertain {failed}",
        load.kind
    );
    assert_eq!(called, answered + failed);
}

/// Waits until the ledger says of each job that was pushed that it is done.
async fn all_jobs_end(server: &RabbitMq, path: &std::path::Path, began: Instant) {
    let left = || missing(&ledger::read(path).unwrap());
    while !left().is_empty() {
        if began.elapsed() > BOUND {
            let columns = [
                "list_queues",
                "name",
                "messages_ready",
                "messages_unacknowledged",
                "consumers",
                "type",
            ];
            let queues = tokio::task::block_in_place(|| server.ctl(&columns)).unwrap();
            let lines = ledger::read(path).unwrap();
            let of_it: Vec<_> = lines
                .iter()
                .filter(|line| left().contains(&line.job))
                .collect();
            panic!("these are not done: {of_it:#?}; the broker has\n{queues}");
        }
        tokio::time::sleep(millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_a_broker_killed_under_load_loses_nothing_takes_nothing_twice_and_is_soon_used_again() {
    let mut random = Random::from_env();
    let kills = brigade_testkit::count(2, 10);
    let mut server = tokio::task::block_in_place(|| RabbitMq::start(&[])).unwrap();
    probe::prepare(&server).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let ledger = Ledger::open(file.path()).unwrap();
    let mut loads = Vec::new();
    for (number, kind) in ["classic", "quorum"].into_iter().enumerate() {
        let ledger = Ledger::open(file.path()).unwrap();
        loads.push(Load::new(&server, kind, number as u64, ledger).await);
    }
    let (mut asking, mut working) = (Vec::new(), Vec::new());
    for load in &loads {
        let (asks, works) = load.start();
        asking.extend(asks);
        working.extend(works);
    }
    let all = |enough: &dyn Fn(&Load) -> bool| loads.iter().all(|load| enough(load));
    until("the load has begun", async || {
        all(&|load| {
            load.done.load(Ordering::Relaxed) > 50 && load.answered.load(Ordering::Relaxed) > 50
        })
    })
    .await;
    let mut longest = Duration::ZERO;
    for number in 1..=kills as u64 {
        for load in &loads {
            load.push_stock(100 + number).await;
        }
        tokio::time::sleep(random.time(millis(50)..millis(400))).await;
        longest = longest.max(kill(&mut server, &loads, &ledger, number).await);
    }
    loads.iter().for_each(|load| load.stop_asking());
    for task in asking {
        tokio::time::timeout(BOUND, task).await.unwrap().unwrap();
    }
    assert!(all(&|load| load.open_calls() == 0));
    ledger.job(0, &Event::Healed).unwrap();
    let began = Instant::now();
    all_jobs_end(&server, file.path(), began).await;
    loads.iter().for_each(|load| load.stop());
    for task in working {
        tokio::time::timeout(BOUND, task).await.unwrap().unwrap();
    }
    loads.iter().for_each(|load| every_call_ended(load));
    println!(
        "kills {kills}, all drained {:.2?} after the last, resumed within {longest:.2?} each time",
        began.elapsed()
    );
    check_ledger(file.path(), random.seed());
    let resumes_within = if brigade_testkit::full() {
        RESUMES_WITHIN
    } else {
        BOUND
    };
    assert!(longest < resumes_within, "{longest:?}");
}

fn check_ledger(ledger: &std::path::Path, seed: u64) {
    // In hand when the server died: 4 of each at a time; and one of each that was pushed twice
    // because its confirm was lost.
    let bounds = Bounds {
        dup_start: usize::MAX,
        reorder: usize::MAX,
        stuck_after: BOUND,
    };
    // Those that are wrong, with all that is known of them.
    let lines = ledger::read(ledger).unwrap();
    let mut done: BTreeMap<u64, usize> = BTreeMap::new();
    for line in &lines {
        let is_done = matches!(&line.event, Event::Outcome(how) if how == "done");
        *done.entry(line.job).or_default() += usize::from(is_done);
    }
    for line in lines.iter().filter(|line| done[&line.job] > 1) {
        println!("{line:?}");
    }
    let counts = ledger::check(ledger, bounds, seed);
    assert!(counts.jobs > 50, "{counts}");
}
