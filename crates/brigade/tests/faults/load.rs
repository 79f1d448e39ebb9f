//! Many calls with crashes among them: the load test, and the poison jobs of I51.

use std::time::{Duration, Instant};

use brigade::{AttemptOutcome, CallError, Pool, Retry, TimedOut};
use brigade_testkit::ledger::{self, Bounds, Ledger};
use brigade_testkit::{count, random::Random};

use crate::kill::name;
use crate::stage::{BOUND, end, file, millis, scenarios, until, within};
use crate::tasks::{How, add, job, misbehave, poison};

scenarios! {
    load_ten_thousand_calls_with_one_in_a_hundred_crashing => one_in_a_hundred,
    i51_one_poison_job_among_many_good_ones => one_poison,
    i51_many_different_poison_jobs => many_poisons,
}

async fn one_in_a_hundred() {
    let mut random = Random::from_env();
    let pool = Pool::builder()
        .workers(4)
        .kill_after(millis(50), millis(50))
        .start()
        .await
        .unwrap();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let ways = [How::Segv, How::Abort, How::Exit(5), How::Spin];
    let began = Instant::now();
    for number in 0..10_000 {
        if random.within(0..100) > 0 {
            good.push((number, pool.call(add(number, 7))));
            continue;
        }
        let how = random.pick(&ways).unwrap().clone();
        let call = misbehave(how.clone());
        let call = if matches!(how, How::Spin) {
            call.timeout(millis(200))
        } else {
            call
        };
        bad.push((how, pool.call(call)));
    }
    let total = (good.len(), bad.len());
    for (number, handle) in good {
        assert_eq!(
            within("a good call", handle).await.unwrap(),
            number + 7,
            "seed {}",
            random.seed()
        );
    }
    for (how, handle) in bad {
        let error = within("a bad call", handle).await.unwrap_err();
        let fits = match (&how, &error) {
            (How::Segv, CallError::Crashed(_)) => error.signal() == Some(libc::SIGSEGV),
            (How::Abort, CallError::Crashed(_)) => error.signal() == Some(libc::SIGABRT),
            (How::Exit(_), CallError::Crashed(report)) => {
                report.ended == AttemptOutcome::Exited
                    && report.exit == Some(brigade::Exit::Code(5))
            }
            (How::Spin, CallError::TimedOut(TimedOut::Run(_))) => true,
            _ => false,
        };
        assert!(fits, "{how:?} ended as {error}, seed {}", random.seed());
    }
    println!(
        "{} good and {} bad calls in {:.1?}",
        total.0,
        total.1,
        began.elapsed()
    );
    until("full size", || pool.stats().idle == 4).await;
    let stats = pool.stats();
    assert_eq!((stats.done, stats.failed), (total.0 as u64, total.1 as u64));
    assert_eq!((stats.running, stats.waiting), (0, 0));
    end(pool).await;
}

/// Returns the good jobs' outcomes in the ledger and how long they took.
async fn good_jobs(
    pool: &Pool,
    path: &str,
    book: &Ledger,
    numbers: std::ops::Range<u64>,
) -> Duration {
    let began = Instant::now();
    let handles: Vec<_> = numbers
        .map(|number| {
            let handle = pool.call(job(path.to_owned(), number, 200));
            book.job(number, &ledger::Event::Enqueued).unwrap();
            (number, handle)
        })
        .collect();
    for (number, handle) in handles {
        let outcome = within("a good job", handle).await;
        book.job(number, &name(&outcome)).unwrap();
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    began.elapsed()
}

async fn one_poison() {
    let (path, jobs) = (file("ledger"), count(1_000, 10_000) as u64);
    let pool = Pool::builder()
        .workers(2)
        .retry(Retry::exponential(millis(1), millis(5)))
        .start()
        .await
        .unwrap();
    let book = Ledger::open(&path).unwrap();
    let alone = good_jobs(&pool, &path, &book, 1..jobs).await;
    let bad = 10 * jobs;
    let poison = pool.call(poison(path.clone(), bad).retries(100));
    book.job(bad, &ledger::Event::Enqueued).unwrap();
    let during = good_jobs(&pool, &path, &book, jobs..2 * jobs).await;
    let outcome = within("the poison", poison).await;
    book.job(bad, &name(&outcome)).unwrap();
    assert!(matches!(outcome, Err(CallError::Crashed(_))), "{outcome:?}");
    println!("{jobs} good jobs alone {alone:.1?}, during the poison {during:.1?}");
    // Its second crash is its last, whatever its retries say.
    let counts = ledger::check(
        &path,
        Bounds {
            dup_start: 1,
            reorder: usize::MAX,
            stuck_after: 3 * BOUND,
        },
        0,
    );
    assert_eq!((counts.dup_start, counts.faults), (1, 2));
    assert_eq!(pool.stats().crashed, 2);
    end(pool).await;
}

async fn many_poisons() {
    let (path, poisons) = (file("ledger"), count(100, 1_000) as u64);
    let pool = Pool::builder()
        .workers(2)
        .retry(Retry::exponential(millis(1), millis(5)))
        .start()
        .await
        .unwrap();
    let book = Ledger::open(&path).unwrap();
    let bad: Vec<_> = (0..poisons)
        .map(|number| {
            let handle = pool.call(poison(path.clone(), 100_000 + number).retries(3));
            book.job(100_000 + number, &ledger::Event::Enqueued)
                .unwrap();
            (100_000 + number, handle)
        })
        .collect();
    let took = good_jobs(&pool, &path, &book, 1..5 * poisons).await;
    for (number, handle) in bad {
        let outcome = within("a poison", handle).await;
        book.job(number, &name(&outcome)).unwrap();
        assert!(matches!(outcome, Err(CallError::Crashed(_))), "{outcome:?}");
    }
    println!(
        "{} good jobs among {poisons} poisons in {took:.1?}",
        5 * poisons
    );
    let bound = usize::try_from(poisons).unwrap();
    let counts = ledger::check(
        &path,
        Bounds {
            dup_start: bound,
            reorder: usize::MAX,
            stuck_after: 3 * BOUND,
        },
        0,
    );
    assert_eq!((counts.dup_start, counts.faults), (bound, 2 * bound));
    assert_eq!(
        pool.stats().degraded,
        None,
        "tasks that crash are no failure to start"
    );
    until("full size", || pool.stats().idle == 2).await;
    end(pool).await;
}
