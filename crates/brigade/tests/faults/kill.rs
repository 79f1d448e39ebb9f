//! Workers killed or stopped from outside: A1, A3.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use brigade::{AttemptOutcome, CallError, Event, Exit, Neighbours, Pool, Retry, Step, TimedOut};
use brigade_testkit::facts::{self, signal_child};
use brigade_testkit::ledger::{self, Bounds, Ledger};
use brigade_testkit::random::Random;
use brigade_testkit::{count, facts::children};
use rustix::process::Signal;

use crate::stage::{
    BOUND, end, event, file, millis, scenarios, until, within, worker_pid, written,
};
use crate::tasks::{add, await_file, hold, job};

scenarios! {
    a1_kill_9_at_random => kill_at_random,
    a1_kill_9_at_random_with_many_slots => kill_at_random_with_slots,
    a1_kill_9_at_random_where_neighbours_run_again => kill_at_random_run_again,
    a1_order_is_kept_without_faults => in_order,
    a3_a_stopped_running_worker_ends_at_its_deadline => stopped_while_running,
    a3_a_stopped_idle_worker_is_noticed_by_ping => stopped_while_idle,
    a3_a_worker_stopped_at_its_start_is_given_up => stopped_at_start,
}

/// How a call ended, as the ledger names it.
pub(crate) fn name<T>(outcome: &Result<T, CallError>) -> ledger::Event {
    let name = match outcome {
        Ok(_) => "done",
        Err(CallError::Failed(_)) => "failed",
        Err(CallError::Panicked(_)) => "panicked",
        Err(CallError::Crashed(_)) => "crashed",
        Err(CallError::TimedOut(_)) => "timed-out",
        Err(CallError::Cancelled(_)) => "cancelled",
        Err(CallError::Lost(_)) => "lost",
        Err(_) => "rejected",
    };
    ledger::Event::Outcome(name.to_owned())
}

/// Kills a random worker every 5 to 50 ms until it is to stop. Returns how many it hit.
async fn killer(pool: Pool, book: Arc<Ledger>, mut random: Random, over: Arc<AtomicBool>) -> usize {
    let (own, mut hits) = (std::process::id(), 0);
    while !over.load(Ordering::Acquire) {
        tokio::time::sleep(random.time(millis(5)..millis(50))).await;
        let pids: Vec<u32> = pool
            .workers()
            .iter()
            .filter_map(|worker| worker.pid)
            .collect();
        if let Some(pid) = random.pick(&pids).copied() {
            // Noted first: an attempt that begins again must find its fault in the ledger.
            book.fault(pid).unwrap();
            hits += usize::from(signal_child(own, pid, Signal::KILL));
        }
    }
    hits
}

async fn kill_at_random() {
    killing(1, Neighbours::Spare).await;
}

async fn kill_at_random_with_slots() {
    killing(4, Neighbours::Spare).await;
}

async fn kill_at_random_run_again() {
    killing(4, Neighbours::RunAgain).await;
}

/// "Every handle resolves; starts beyond the first are at most the kills times the slots; four
/// workers at the end."
async fn killing(slots: u32, neighbours: Neighbours) {
    let (mut random, path) = (Random::from_env(), file("ledger"));
    let seed = random.seed();
    let pool = Pool::builder()
        .workers(4)
        .slots(slots)
        .neighbours(neighbours)
        .retry(Retry::exponential(millis(1), millis(20)));
    let pool = pool.start().await.unwrap();
    let mut events = pool.events();
    let book = Arc::new(Ledger::open(&path).unwrap());
    let descriptors = facts::open_descriptors(std::process::id());

    let over = Arc::new(AtomicBool::new(false));
    let killing = tokio::task::JoinSet::from_iter([killer(
        pool.clone(),
        Arc::clone(&book),
        Random::new(random.draw()),
        Arc::clone(&over),
    )]);
    let unresolved = run_jobs(&pool, &path, &book, &mut random).await;
    over.store(true, Ordering::Release);
    let hits: usize = killing.join_all().await.into_iter().sum();
    assert_eq!(unresolved, 0, "handles never resolved, seed {seed}");
    book.job(0, &ledger::Event::Healed).unwrap();

    let counts = ledger::check(
        &path,
        Bounds {
            dup_start: hits * slots as usize,
            reorder: usize::MAX,
            stuck_after: BOUND,
        },
        seed,
    );
    assert_eq!(counts.jobs, jobs());
    assert!(hits > 0, "nothing was killed");
    until("four workers again", || pool.stats().idle == 4).await;
    until("no zombies", || {
        !children(std::process::id())
            .iter()
            .any(facts::Process::is_zombie)
    })
    .await;
    assert_eq!(children(std::process::id()).len(), 4);
    until("descriptors as before", || {
        facts::open_descriptors(std::process::id()) <= descriptors + 1
    })
    .await;
    report_respawns(&pool, &mut events).await;
    end(pool).await;
}

fn jobs() -> usize {
    count(1_500, 10_000)
}

/// Makes all calls and writes their outcomes into the book. Returns how many handles had not
/// resolved when the time was over.
async fn run_jobs(pool: &Pool, path: &str, book: &Arc<Ledger>, random: &mut Random) -> usize {
    let (slowest, bound) = if brigade_testkit::full() {
        (20_000, Duration::from_secs(600))
    } else {
        (5_000, 2 * BOUND)
    };
    let open = Arc::new(AtomicUsize::new(0));
    let mut running = tokio::task::JoinSet::new();
    for number in 1..=jobs() as u64 {
        let call = job(path.to_owned(), number, random.within(1_000..slowest));
        let handle = pool.call(call.retries(5));
        book.job(number, &ledger::Event::Enqueued).unwrap();
        open.fetch_add(1, Ordering::Relaxed);
        let (book, open) = (Arc::clone(book), Arc::clone(&open));
        running.spawn(async move {
            let outcome = handle.await;
            book.job(number, &name(&outcome)).unwrap();
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    tokio::time::timeout(bound, async {
        while running.join_next().await.is_some() {}
    })
    .await
    .ok();
    open.load(Ordering::Relaxed)
}

/// Prints how long replacements took.
async fn report_respawns(pool: &Pool, events: &mut brigade::Events) {
    let mut took = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(millis(1), events.next()).await {
        if let Event::WorkerReady { took: time, .. } = event {
            took.push(time);
        }
    }
    took.sort_unstable();
    let at = |share: usize| {
        took.get((took.len() * share / 100).min(took.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    println!(
        "respawns {} p50 {:.1?} p99 {:.1?}; workers started {}",
        took.len(),
        at(50),
        at(99),
        pool.stats().started
    );
}

/// First in, first out, on one worker.
async fn in_order() {
    let path = file("ledger");
    let pool = Pool::builder().workers(1).start().await.unwrap();
    let book = Ledger::open(&path).unwrap();
    let call = |number| {
        let handle = pool.call(job(path.clone(), number, 100));
        book.job(number, &ledger::Event::Enqueued).unwrap();
        handle
    };
    let handles: Vec<_> = (1..=500).map(call).collect();
    for (number, handle) in (1..).zip(handles) {
        let outcome = within("a job", handle).await;
        book.job(number, &name(&outcome)).unwrap();
    }
    ledger::check(
        &path,
        Bounds {
            dup_start: 0,
            reorder: 0,
            stuck_after: BOUND,
        },
        0,
    );
    end(pool).await;
}

async fn stopped_while_running() {
    let pool = Pool::builder()
        .workers(1)
        .kill_after(millis(50), millis(50))
        .start()
        .await
        .unwrap();
    let handle = pool.call(
        hold(file("runs"), file("never"))
            .timeout(millis(300))
            .retries(3),
    );
    let pid: u32 = written("runs").await.parse().unwrap();
    assert!(signal_child(std::process::id(), pid, Signal::STOP));
    let Err(CallError::TimedOut(TimedOut::Run(report))) = within("the deadline", handle).await
    else {
        panic!("it timed out")
    };
    println!("{report}");
    assert_eq!(report.ended, AttemptOutcome::TimedOut);
    assert_eq!(
        report.exit,
        Some(Exit::Signal(libc::SIGKILL)),
        "a stopped process heeds no SIGTERM"
    );
    assert_eq!(report.step, Some(Step::Killed));
    assert_eq!(report.attempt, 1, "a call that timed out is not run again");
    assert!(!facts::is_alive(pid));
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

async fn stopped_while_idle() {
    let interval = millis(200);
    let pool = Pool::builder()
        .workers(1)
        .check_interval(interval)
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    let pid = worker_pid(&pool);
    let began = std::time::Instant::now();
    assert!(signal_child(std::process::id(), pid, Signal::STOP));
    let gone = event(
        &mut events,
        "the stopped worker is gone",
        |event| match event {
            Event::WorkerGone {
                pid,
                exit,
                expected,
                ..
            } => Some((*pid, *exit, *expected)),
            _ => None,
        },
    );
    assert_eq!(gone.await, (pid, Exit::Signal(libc::SIGKILL), false));
    println!(
        "noticed after {:.1?}, the interval is {interval:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < 2 * interval + Duration::from_secs(2));
    assert_eq!(
        within("the next call", pool.call(add(1, 2))).await.unwrap(),
        3
    );
    end(pool).await;
}

fn slow_start(told: String, go: String) -> Result<(), std::io::Error> {
    // Only the first worker waits.
    if !std::fs::exists(&told)? {
        crate::tasks::tell(&told, std::process::id());
        await_file(&go);
    }
    Ok(())
}

async fn stopped_at_start() {
    let pool = Pool::builder()
        .workers(0..=1)
        .init(slow_start, &(file("starts"), file("never")))
        .start_timeout(millis(1500));
    let pool = pool.start().await.unwrap();
    let mut events = pool.events();
    let handle = pool.call(add(1, 2));
    let pid: u32 = written("starts").await.parse().unwrap();
    assert!(signal_child(std::process::id(), pid, Signal::STOP));
    let reason = event(&mut events, "the start is given up", |event| match event {
        Event::WorkerStartFailed { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    assert!(reason.await.contains("not ready within 1.5s"));
    assert_eq!(within("the call", handle).await.unwrap(), 3);
    assert!(!facts::is_alive(pid));
    end(pool).await;
}
