//! Everything at once, at random, from a seed: pools of many shapes whose workers are killed,
//! stopped, recycled and sent home while calls of all kinds run, are cancelled and dropped. No
//! model says what each call comes to; each must come to something, and nothing may be left.

use std::time::{Duration, Instant};

use brigade::{CallError, CallHandle, Neighbours, Pool, Retry};
use brigade_testkit::facts::{self, signal_child};
use brigade_testkit::{count, random::Random};
use rustix::process::Signal;

use crate::stage::{assert_childless, end, millis, scenarios, until, within};
use crate::tasks::{How, add, misbehave, polite};

scenarios! {
    x_everything_at_once => everything,
    x_shutdown_at_a_random_moment => shutdowns,
    x_cancels_race_with_completions_in_shared_workers => shared_race,
}

fn shape(random: &mut Random) -> brigade::Builder {
    let slots = u32::try_from(random.within(1..4)).unwrap();
    let neighbours = *random
        .pick(&[Neighbours::Spare, Neighbours::Lose, Neighbours::RunAgain])
        .unwrap();
    let mut builder = Pool::builder()
        .workers(1..=4)
        .slots(slots)
        .neighbours(neighbours)
        .check_interval(millis(20));
    builder = builder
        .kill_after(millis(20), millis(20))
        .retry(Retry::exponential(millis(1), millis(10)));
    if random.within(0..2) == 0 {
        builder = builder.spares(1);
    }
    match random.within(0..4) {
        0 => builder.recycle_after(5),
        1 => builder.recycle_age(millis(60)),
        2 => builder.idle_timeout(millis(30)),
        _ => builder,
    }
}

enum Made {
    Value(CallHandle<i64>),
    Nothing(CallHandle<()>),
}

fn make(pool: &Pool, random: &mut Random) -> Made {
    let number = i64::try_from(random.within(0..1000)).unwrap();
    let hows = [
        How::Segv,
        How::Abort,
        How::Exit(0),
        How::Panic,
        How::CloseAllDescriptors,
        How::StopSelf,
    ];
    match random.within(0..20) {
        0 => Made::Value(
            pool.call(
                misbehave(random.pick(&hows).unwrap().clone())
                    .timeout(millis(200))
                    .retries(1),
            ),
        ),
        1 => Made::Value(pool.call(misbehave(How::Spin).timeout(millis(20)))),
        2..4 => Made::Nothing(pool.call(polite().timeout(millis(10)))),
        4 => Made::Value(pool.call(add(number, 42 - number).delay(millis(5)))),
        5 => Made::Value(pool.call(add(number, 42 - number).queue_timeout(millis(500)))),
        6 => Made::Value(pool.call(add(number, 42 - number).alone().priority(1))),
        _ => Made::Value(pool.call(add(number, 42 - number).retries(2))),
    }
}

/// Waits for the end of a call, cancels it at some moment, or drops it.
async fn see_through(made: Made, choice: u64, pause: Duration) {
    match made {
        Made::Value(mut handle) => match choice {
            0 => {
                tokio::time::timeout(pause, &mut handle).await.ok();
            }
            1 => {
                tokio::time::timeout(pause, std::future::pending::<()>())
                    .await
                    .ok();
                within("a receipt", handle.cancel("chance")).await;
                check(within("an outcome", handle).await);
            }
            _ => check(within("an outcome", handle).await),
        },
        Made::Nothing(handle) => drop(within("an outcome", handle).await),
    }
}

fn check(outcome: Result<i64, CallError>) {
    match outcome {
        Ok(value) => assert_eq!(value, 42, "the result of another call"),
        Err(CallError::Rejected(error)) => panic!("nothing here is to be rejected: {error}"),
        Err(_) => {}
    }
}

async fn everything() {
    let mut random = Random::from_env();
    let own = std::process::id();
    let bound = Duration::from_secs(count(3, 300) as u64);
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < bound {
        let pool = within("a start", shape(&mut random).start()).await.unwrap();
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..150 {
            let made = make(&pool, &mut random);
            running.spawn(see_through(
                made,
                random.within(0..8),
                random.time(millis(0)..millis(15)),
            ));
            let pids: Vec<u32> = pool
                .workers()
                .iter()
                .filter_map(|worker| worker.pid)
                .collect();
            match random.within(0..40) {
                0 => drop(
                    random
                        .pick(&pids)
                        .map(|pid| signal_child(own, *pid, Signal::KILL)),
                ),
                // An idle one is noticed by ping. One that is given a call in the same moment is
                // not, hence it goes on later.
                1 => {
                    if let Some(pid) = random
                        .pick(&pids)
                        .copied()
                        .filter(|pid| signal_child(own, *pid, Signal::STOP))
                    {
                        tokio::time::sleep(millis(5)).await;
                        signal_child(own, pid, Signal::CONT);
                    }
                }
                2 => {
                    let pool = pool.clone();
                    running.spawn(async move { drop(within("recycling", pool.recycle()).await) });
                }
                3..10 => tokio::time::sleep(random.time(millis(0)..millis(3))).await,
                _ => {}
            }
        }
        while let Some(ended) = within("the calls", running.join_next()).await {
            ended.unwrap_or_else(|error| panic!("{error}, seed {}", random.seed()));
        }
        until("nothing runs", || {
            pool.stats().running + pool.stats().waiting == 0
        })
        .await;
        assert_eq!(
            within("a last call", pool.call(add(1, 2))).await.unwrap(),
            3,
            "seed {}",
            random.seed()
        );
        end(pool).await;
        rounds += 1;
    }
    println!("{rounds} rounds");
    assert!(!facts::children(own).iter().any(facts::Process::is_zombie));
}

async fn shutdowns() {
    let mut random = Random::from_env();
    for _ in 0..count(12, 500) {
        let pool = within(
            "a start",
            shape(&mut random).shutdown_timeout(millis(300)).start(),
        )
        .await
        .unwrap();
        let made: Vec<Made> = (0..80).map(|_| make(&pool, &mut random)).collect();
        tokio::time::sleep(random.time(millis(0)..millis(20))).await;
        match random.within(0..3) {
            0 => drop(within("the shutdown", pool.shutdown()).await),
            1 => drop(within("the kill", pool.kill()).await),
            _ => {
                let both = async { tokio::join!(pool.shutdown(), pool.kill()) };
                within("both", both).await;
            }
        }
        assert_childless();
        drop(pool);
        for made in made {
            match made {
                Made::Value(handle) => drop(within("an outcome", handle).await),
                Made::Nothing(handle) => drop(within("an outcome", handle).await),
            }
        }
    }
}

/// As with one slot, but other calls share the worker and must not be hurt.
async fn shared_race() {
    let mut random = Random::from_env();
    let pool = Pool::builder()
        .workers(2)
        .slots(16)
        .kill_after(Duration::from_secs(10), millis(100))
        .start()
        .await
        .unwrap();
    let mut counts = (0, 0);
    for _ in 0..count(60, 5_000) {
        let mut handles: Vec<(i64, CallHandle<i64>)> = (0..32)
            .map(|number| (number, pool.call(add(number, 1))))
            .collect();
        let asked: Vec<CallHandle<()>> = (0..4).map(|_| pool.call(polite())).collect();
        for _ in 0..random.within(0..20) {
            tokio::task::yield_now().await;
        }
        for handle in asked {
            let receipt = within("a receipt", handle.cancel("asked")).await.unwrap();
            assert!(receipt.step <= brigade::Step::Asked, "{receipt:?}");
        }
        for (number, handle) in &mut handles {
            let receipt = (*number % 3 == 0).then(|| handle.cancel("raced"));
            let was_asked = receipt.is_some();
            match within("an outcome", handle).await {
                Ok(value) => {
                    assert_eq!(value, *number + 1, "seed {}", random.seed());
                    counts.0 += 1;
                }
                Err(CallError::Cancelled(_)) if was_asked => counts.1 += 1,
                Err(error) => panic!("{error}, seed {}", random.seed()),
            }
        }
    }
    println!("done {} cancelled {}", counts.0, counts.1);
    assert_eq!(
        (
            pool.stats().running,
            pool.stats().waiting,
            pool.stats().crashed,
            pool.stats().started
        ),
        (0, 0, 0, 2)
    );
    end(pool).await;
}
